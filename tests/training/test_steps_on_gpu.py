"""On a GPU: whole optimisation steps never wait for it, keep no memory, compile to the same, and survive its end.

The same bodies run on a CPU where they mean something there.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bench.phases import Optimisation, loader_of, made_up_phase
from fastdreamer.config import (
    CloningConfig,
    Config,
    DynamicsConfig,
    EvaluationConfig,
    ForcingConfig,
    HeadsConfig,
    ImaginationConfig,
    TokenizerConfig,
    TrainConfig,
)
from fastdreamer.device import Backend, random_states, set_random_states
from fastdreamer.latents.loader import Loader
from fastdreamer.training.imagination_phase import ImaginationPhase

CPU = torch.device("cpu")
READOUTS = ("latents", "agent_tokens")
PHASES = [(1, "latents"), (2, "latents"), (2, "agent_tokens"), (3, "latents"), (3, "agent_tokens")]


def config_of(
    readout: str = "latents", dim: int = 32, window: int = 4, batch: int = 4, layers: int = 3, horizon: int = 2
) -> Config:
    """Made in code, for where no YAML can be read. A quarter of every batch of 4 is bootstrap: shapes never change."""
    train = TrainConfig(steps=10_000, batch_size=batch, warmup_steps=0)
    return Config(
        tokenizer=TokenizerConfig(frames_per_latent=8, window=33),
        dynamics=DynamicsConfig(
            dim=dim, layers=layers, heads=2, kv_heads=1, time_every=2, registers=2, window=window, context=window,
            agent_tokens=2,
        ),
        forcing=ForcingConfig(finest_steps=8, sample_steps=4, boot_fraction=0.25),
        heads=HeadsConfig(hidden=32, layers=1, bins=41, reward_range=3.0, value_range=4.0, readout=readout),
        imagination=ImaginationConfig(horizon=horizon, start_context=1),
        evaluation=EvaluationConfig(context=1),
        phase1=replace(train, optimizer="muon"),
        phase2=CloningConfig(steps=10_000, batch_size=batch, warmup_steps=0),
        phase3=train,
    )  # fmt: skip


def optimisation(config: Config, number: int, backend: Backend) -> Optimisation:
    return Optimisation(made_up_phase(config, number, backend), config.phase(number), backend)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    yield torch.device(request.param)
    gc.collect()
    if request.param == "cuda":
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.empty_cache()


@contextmanager
def held_to(size_bytes: float) -> Iterator[None]:
    """What torch may take meanwhile; afterwards as much as before."""
    total = torch.cuda.get_device_properties(0).total_memory
    before = torch.cuda.get_per_process_memory_fraction()
    torch.cuda.set_per_process_memory_fraction(size_bytes / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before)


@contextmanager
def waits_are_errors(device: torch.device) -> Iterator[None]:
    """Whatever makes the host wait for the GPU raises."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def gradients(one: Optimisation) -> dict[str, Tensor]:
    """The next batch's gradients by parameter; nothing is updated."""
    one.phase.model.zero_grad()
    one.micro_batches.gradients(5)
    return {n: p.grad.clone() for n, p in one.phase.model.named_parameters() if p.grad is not None}


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Norm of the difference of whole gradients, over the norm of the second."""
    assert a.keys() == b.keys() and len(a) > 3
    difference = torch.stack([(a[name] - b[name]).norm() for name in a]).norm()
    return float(difference / torch.stack([value.norm() for value in b.values()]).norm())


@pytest.mark.parametrize(
    ("device", "number", "readout", "precision"),
    [("cpu", *phase, "fp32") for phase in PHASES]
    + [pytest.param("cuda", *phase, p, marks=pytest.mark.gpu) for phase in PHASES for p in ("fp32", "bf16")],
    indirect=["device"],
)
def test_a_whole_step_never_waits_for_the_card(device: torch.device, number: int, readout: str, precision: str) -> None:
    backend = Backend(device, precision)  # type: ignore[arg-type]
    one = optimisation(config_of(readout), number, backend)
    assert one.phase.loader is not None and one.phase.loader.sampler.table.device == device
    for _ in range(2):  # makes what later steps keep: programs, states of the optimisers, compiled kernels
        one.step()
    before = {name: p.detach().clone() for name, p in one.phase.model.named_parameters() if p.requires_grad}
    with waits_are_errors(device):
        for _ in range(3):
            figures = one.step()
    assert all(bool(value.isfinite()) for value in figures.values())
    assert any(not torch.equal(before[name], p) for name, p in one.phase.model.named_parameters() if name in before)


def test_what_dropout_draws_from_is_put_back(device: torch.device) -> None:
    states = random_states(device)
    first = torch.nn.functional.dropout(torch.ones(1000, device=device))
    assert not torch.equal(torch.nn.functional.dropout(torch.ones(1000, device=device)), first)
    set_random_states(states, device)
    assert torch.equal(torch.nn.functional.dropout(torch.ones(1000, device=device)), first)


def test_a_step_that_is_left_out_changes_nothing_and_waits_for_nothing(device: torch.device) -> None:
    one = optimisation(config_of(), 1, Backend(device, "fp32"))
    one.step()
    assert len(one.optimizers) == 2, "AdamW and Muon"

    def state() -> list[Tensor]:
        moments = [value for o in one.optimizers for entry in o.state.values() for value in entry.values()]
        return [tensor.clone() for tensor in (*one.phase.model.state_dict().values(), *moments)]

    before, plain = state(), one.phase.loss
    one.phase.loss = lambda work, step: (plain(work, step)[0] * float("nan"), plain(work, step)[1])  # type: ignore[method-assign]
    with waits_are_errors(device):
        one.step()
    assert one.skips.read() == (1, 1) and all(map(torch.equal, state(), before))


@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_thousand_steps_take_no_more_memory(number: int) -> None:
    one = optimisation(config_of(), number, Backend(torch.device("cuda"), "bf16"))
    for _ in range(5):
        one.step()
    gc.collect()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    for _ in range(1000):
        one.step()
    gc.collect()
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= before


@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_captured_rollout_can_be_made_while_a_thread_makes_batches(number: int) -> None:
    """The store lies in host memory, so batches come from a thread that allocates page-locked memory."""
    gpu = torch.device("cuda")
    one = optimisation(config_of(), number, Backend(gpu, "fp32"))
    loader = Loader(loader_of(config_of(), number, CPU).sampler, gpu, ahead=2)
    one.phase.loader = loader
    with loader:
        losses = [float(one.step()["loss"]) for _ in range(5)]
    assert torch.tensor(losses).isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize(("number", "readout"), PHASES)
def test_a_compiled_step_is_the_eager_one(number: int, readout: str) -> None:
    if "beartype" in sys.modules:
        pytest.skip("run-time shape checks and torch.compile do not mix: make gpu runs this without them")
    torch._dynamo.reset()
    gpu, config = torch.device("cuda"), config_of(readout)
    found = []
    for compiles in (False, True):
        one = optimisation(config, number, Backend(gpu, "fp32", compiles))
        found.append((gradients(one), one.phase, one))
    assert apart(found[1][0], found[0][0]) <= 1e-4
    eager, compiled = (phase.loss(phase.draw(), 5)[0] for _, phase, _ in found)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-5)
    one = found[1][2]
    one.step()
    with torch._dynamo.config.patch(error_on_recompile=True), waits_are_errors(gpu):
        one.step()


def test_a_batch_in_pieces_has_the_gradient_of_the_whole(device: torch.device) -> None:
    for number in (1, 2, 3):
        whole, halves = (optimisation(config_of(), number, Backend(device, "fp32")) for _ in range(2))
        halves.micro_batches.micro_batches = 2
        assert apart(gradients(halves), gradients(whole)) < 1e-4


@pytest.mark.gpu
@pytest.mark.parametrize(("number", "batch"), [(1, 32), (2, 512)])
def test_where_a_batch_does_not_fit_it_goes_on_in_halves_with_the_same_gradient(
    number: int, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = torch.device("cuda")
    config = config_of(dim=256, window=32, batch=batch, layers=4)
    config = replace(config, heads=replace(config.heads, hidden=1024, layers=2))
    backend = Backend(gpu, "fp32")

    def peak(micro_batches: int) -> tuple[int, dict[str, Tensor]]:
        """Bytes reserved at most, and the gradient (on the host)."""
        one = optimisation(config, number, backend)
        one.micro_batches.micro_batches = micro_batches
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        found = {name: value.cpu() for name, value in gradients(one).items()}
        return torch.cuda.max_memory_reserved(), found

    (whole, expected), (halves, again) = peak(1), peak(2)
    gc.collect()
    torch.cuda.empty_cache()
    assert apart(again, expected) < 1e-4
    if halves > 0.8 * whole:
        pytest.fail(f"the batch hardly matters: {whole / 2**20:.0f} MiB whole, {halves / 2**20:.0f} MiB in halves")
    one = optimisation(config, number, backend)
    with held_to((whole + halves) / 2):
        found = {name: value.cpu() for name, value in gradients(one).items()}
        assert one.micro_batches.micro_batches == 2 and one.micro_batches.is_halved
        said = capsys.readouterr().err
        assert f"phase{number}: out of memory at step 6; going on with 2 micro-batches (the same gradient)" in said
        assert apart(found, expected) < 1e-4
        one.step()
    assert one.micro_batches.micro_batches == 2


@pytest.mark.gpu
@pytest.mark.parametrize("captures", ["off", "step", "horizon"])
def test_where_dreams_do_not_fit_they_are_dreamt_in_halves(captures: str) -> None:
    """Memory runs out while a rollout's buffers, its warm-up or its graph are made, and what was made is given back."""
    config = config_of(dim=256, window=32, batch=512, layers=4)
    config = replace(config, imagination=replace(config.imagination, capture=captures))

    def dreaming(micro_batches: int) -> Optimisation:
        one = optimisation(config, 3, Backend(torch.device("cuda"), "fp32"))
        if micro_batches > 1:
            one.micro_batches.micro_batches = micro_batches
            one.phase.shrink(micro_batches)
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return one

    def peak(micro_batches: int) -> int:
        one = dreaming(micro_batches)
        for _ in range(2):
            one.step()
        return torch.cuda.max_memory_reserved()

    whole, halves = peak(1), peak(2)
    if halves > 0.8 * whole:
        pytest.fail(f"the dreams hardly matter: {whole / 2**20:.0f} MiB whole, {halves / 2**20:.0f} MiB in halves")
    one = dreaming(1)
    with held_to((whole + halves) / 2):
        figures = [one.step() for _ in range(3)][-1]
        assert all(bool(value.isfinite()) for value in figures.values())
    assert isinstance(one.phase, ImaginationPhase) and one.micro_batches.micro_batches == 2
    assert [program.task.shape[0] for program in one.phase.programs] == [256]


@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2])
def test_a_step_with_thousands_of_actions_never_waits_for_the_card_either(number: int) -> None:
    """From 3073 look-ups on, an embedding's backward pass sorts them, which a tiny batch never sees."""
    gpu, config = torch.device("cuda"), config_of("agent_tokens", window=16, batch=32)
    one = optimisation(config, number, Backend(gpu, "bf16"))
    actions = one.phase.loader.draw().actions if one.phase.loader is not None else torch.zeros(0)
    assert actions.numel() > 3072
    for _ in range(2):
        one.step()
    with waits_are_errors(gpu):
        one.step()
