"""The kernels as dispatcher ops: registration, torch.compile without a break, and bad input in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from fastdreamer_kernels import latent_pool, symexp_bins, two_hot_decode, two_hot_loss
from fastdreamer_kernels.decode import two_hot_decode_op
from fastdreamer_kernels.latent_pool import latent_pool_backward_op, latent_pool_op
from fastdreamer_kernels.launch import HAS_TRITON, IS_INTERPRETED
from fastdreamer_kernels.two_hot import two_hot_op, two_hot_scale_op
from torch._library.triton import get_triton_kernels_for_op

CENTRES = symexp_bins(41, 3.0)


def _logits() -> torch.Tensor:
    return torch.randn(6, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()


OPS = {
    "latent_pool": (latent_pool_op, lambda: (torch.randn(2, 16, 2, 4, 8), 4, None, None, torch.float32, False)),
    "latent_pool affine": (
        latent_pool_op,
        lambda: (
            torch.randn(1, 16, 2, 4, 4, requires_grad=True),
            2,
            torch.rand(2, 16),
            torch.rand(2, 16),
            torch.float32,
            False,
        ),
    ),
    "latent_pool_backward": (
        latent_pool_backward_op,
        lambda: (torch.randn(2, 2, 2, 16), 4, torch.rand(2, 16), [2, 16, 2, 4, 8], torch.float32, True, False),
    ),
    "two_hot": (two_hot_op, lambda: (_logits(), torch.randn(6), CENTRES, torch.rand(6), True, True, False)),
    "two_hot_decode": (two_hot_decode_op, lambda: (_logits(), CENTRES, False)),
    "two_hot_scale_": (two_hot_scale_op, lambda: (torch.randn(6, 48), torch.rand(6), False)),
}

KERNELS = [
    (name, f"{name.rstrip('_')}_kernel")
    for name in ("latent_pool", "latent_pool_backward", "two_hot", "two_hot_scale_", "two_hot_decode")
]


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", OPS)
def test_ops_are_registered_as_torch_expects(name: str, where: str) -> None:
    if where == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    op, arguments = OPS[name]
    *values, _ = arguments()
    moved = [v.detach().to(where).requires_grad_(v.requires_grad) if isinstance(v, torch.Tensor) else v for v in values]
    torch.library.opcheck(op, (*moved, where == "cuda"))


@pytest.mark.skipif(IS_INTERPRETED or not HAS_TRITON, reason="an interpreted kernel is no kernel to torch")
@pytest.mark.parametrize(("op", "kernel"), KERNELS)
def test_torch_finds_the_kernel_of_an_op_under_whose_source_it_caches_what_it_compiles(op: str, kernel: str) -> None:
    found: Any = get_triton_kernels_for_op(f"fastdreamer::{op}")
    assert [one.fn.__name__ for one in found] == [kernel]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def compiling(request: pytest.FixtureRequest) -> str:
    """A device to compile for: on a GPU the graph holds the kernels, on a CPU plain PyTorch."""
    if IS_INTERPRETED:
        pytest.skip("torch.compile cannot see through Triton's interpreter")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    return str(request.param)


def test_a_loss_compiles_as_one_graph_and_agrees(compiling: str) -> None:
    logits, targets, centres = _logits().detach().to(compiling).requires_grad_(), torch.randn(6), CENTRES.to(compiling)
    targets, shares = targets.to(compiling), torch.full((6,), 1 / 6, device=compiling)

    def loss(x: torch.Tensor) -> torch.Tensor:
        rows, decoded = two_hot_loss(2 * x, targets, centres, shares, expectation=True)
        return rows.sum() + 0 * decoded.sum() + two_hot_decode(x, centres).square().mean()

    _assert_compiled_equals_eager(loss, logits)


def test_an_encoder_head_compiles_as_one_graph_and_agrees(compiling: str) -> None:
    head = torch.nn.Conv3d(3, 16, 3, padding=1).to(compiling)
    scale, shift = torch.rand(2, 16, device=compiling), torch.rand(2, 16, device=compiling)

    def encode(frames: torch.Tensor) -> torch.Tensor:
        return latent_pool(head(frames), 4, scale, shift).square().mean()

    x = torch.randn(2, 3, 2, 8, 8, device=compiling, requires_grad=True)
    with torch.backends.cudnn.flags(allow_tf32=False):
        _assert_compiled_equals_eager(encode, x, 1e-5 if compiling == "cpu" else 1e-4)


HEAD = """
import torch
from fastdreamer.config import HeadsConfig
from fastdreamer.heads.reward import TwoHotHead

torch._dynamo.config.error_on_recompile = False
head = TwoHotHead(HeadsConfig(hidden=16, layers=1, bins=41), 8, 3.0)
compiled = torch.compile(lambda x, t, w: head.loss(head(x), t, w) + head.decode(head(x)).mean(), fullgraph=True)
for rows in (5, 7, 9, 12, 13, 16, 20, 24, 31, 40, 63):
    x, t, w = torch.randn(rows, 8), torch.randn(rows), torch.rand(rows)
    gradients = []
    for run in (compiled, lambda x, t, w: head.loss(head(x), t, w) + head.decode(head(x)).mean()):
        head.zero_grad()
        run(x, t, w).backward()
        gradients.append([p.grad.clone() for p in head.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.skipif(IS_INTERPRETED, reason="torch.compile cannot see through Triton's interpreter")
def test_the_value_head_compiles_whole_and_for_any_number_of_rows() -> None:
    # In a process of its own: run-time shape checks, which the tests switch on, do not compile.
    done = subprocess.run([sys.executable, "-c", HEAD], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) <= 3, f"{done.stdout} graphs for 11 numbers of rows"


def _assert_compiled_equals_eager(function: Any, x: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch._dynamo.reset()
    explained = torch._dynamo.explain(function)(x)
    assert explained.graph_break_count == 0, explained.break_reasons
    results = []
    for run in (function, torch.compile(function, fullgraph=True)):
        x.grad = None
        out = run(x)
        out.backward()
        assert x.grad is not None
        results.append((out.detach(), x.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager, atol=tolerance, rtol=tolerance)


def test_a_second_backward_is_refused_not_wrong() -> None:
    logits = _logits()
    loss = two_hot_loss(logits, torch.zeros(6), CENTRES).sum() * 2
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


LATENTS = torch.zeros(1, 16, 2, 8, 8)
BAD = {
    "float64": lambda: latent_pool(LATENTS.double(), 4),
    r"\(1, 8, 2, 8, 8\)": lambda: latent_pool(LATENTS[:, :8], 4),
    "8x6 do not divide into 4x4": lambda: latent_pool(LATENTS[..., :6], 4),
    "pool is one of": lambda: latent_pool(LATENTS, 3),
    "scale and shift come together": lambda: latent_pool(LATENTS, 4, torch.ones(2, 16)),
    r"scale has shape \(16,\)": lambda: latent_pool(LATENTS, 4, torch.ones(16), torch.ones(16)),
    "takes no gradient": lambda: latent_pool(LATENTS, 4, torch.ones(2, 16, requires_grad=True), torch.ones(2, 16)),
    "int64": lambda: two_hot_decode(torch.zeros(2, 41, dtype=torch.long), CENTRES),
    "do not fit 41 bins": lambda: two_hot_loss(torch.zeros(2, 43), torch.zeros(2), CENTRES),
    "bins are 3 to 512": lambda: two_hot_decode(torch.zeros(2, 601), symexp_bins(601, 3.0)),
    "centres are torch.float64": lambda: two_hot_decode(torch.zeros(2, 41), CENTRES.double()),
    r"targets have shape \(3,\)": lambda: two_hot_loss(torch.zeros(2, 41), torch.zeros(3), CENTRES),
    r"weights have shape \(2, 1\)": lambda: two_hot_loss(torch.zeros(2, 41), torch.zeros(2), CENTRES, torch.ones(2, 1)),
    "pass detached floats": lambda: two_hot_loss(torch.zeros(2, 41), torch.zeros(2).long(), CENTRES),
    r"40 bins, logits of shape \(2, 40\)": lambda: two_hot_decode(torch.zeros(2, 40), torch.linspace(-1, 1, 40)),
    r"logits of shape \(\)": lambda: two_hot_decode(torch.zeros(()), CENTRES),
    "bins is 40": lambda: symexp_bins(40, 3.0),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused_in_one_line_that_names_it(message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        BAD[message]()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter runs on a CPU")
def test_a_forced_kernel_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a CUDA tensor, not one on cpu"):
        latent_pool(LATENTS, 4, kernel=True)


def test_a_machine_without_triton_is_told_nothing_of_it() -> None:
    script = "import sys; sys.modules['triton'] = None; import fastdreamer_kernels"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
