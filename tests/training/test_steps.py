"""A step of a phase: its pieces add up, memory that runs out halves them, and nothing in it waits for the device."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.metrics import read_metrics
from fastdreamer.training.build import build_phase
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.phase import Phase, bounds
from fastdreamer.training.step import Update
from fastdreamer.training.train import train

from .conftest import BACKEND

TOKENS = ("heads.readout=agent_tokens", "dynamics.agent_tokens=2")
BATCH = ("phase1.batch_size=7", "phase2.batch_size=7", "phase3.batch_size=7", "forcing.boot_warmup=0")
Build = Callable[..., Phase[Any]]


@pytest.fixture
def build(small: Callable[..., Config], new_run: Callable[..., Path]) -> Build:
    """Phase `number`, its heads and read-out far from their zero start, with one running scale behind it."""

    def built(number: int, *overrides: str) -> Phase[Any]:
        config = small("imagination.critic_steps=0", *BATCH, *overrides)
        run = RunDirectory(new_run(config, f"run{number}"))
        for phase in range(1, number):
            train(config, run.path, phase)
        parent = run.load(number - 1, config) if number > 1 else None
        torch.manual_seed(0)
        phase = build_phase(config, number, LatentStore.open(run.path / "store"), parent, BACKEND)
        torch.manual_seed(1)
        for name, parameter in phase.model.named_parameters():
            if name.endswith(("out.weight", "readout.weight")):
                nn.init.normal_(parameter, std=0.1)
        assert phase.scale is not None
        phase.scale.update({name: torch.tensor(0.5 + i) for i, name in enumerate(phase.scale.names)})
        return phase

    return built


CASES = [
    (1, ()),
    (1, ("phase1.recompute=true",)),
    (2, ()),
    (2, TOKENS),
    (2, (*TOKENS, "phase2.recompute=true")),
    (3, ()),
]


@pytest.mark.parametrize(("number", "overrides"), CASES)
def test_a_batch_in_pieces_has_the_loss_figures_and_gradient_of_the_whole(
    build: Build, number: int, overrides: tuple[str, ...]
) -> None:
    phase = build(number, *overrides)
    work = phase.draw()
    found = []
    for micro_batches in (1, 2, 3, 7):
        parts = work.split(micro_batches)
        assert len(parts) == micro_batches
        phase.model.zero_grad()
        total, sums = torch.zeros(()), dict[str, Tensor]()
        for part in parts:
            loss, figures = phase.loss(part, 5)
            loss.backward()
            total = total + loss.detach()
            sums = {name: sums.get(name, torch.zeros(())) + value for name, value in figures.items()}
        gradients = {n: p.grad.clone() for n, p in phase.model.named_parameters() if p.grad is not None}
        found.append((total, phase.figures(sums, 5), gradients))
    whole = found[0]
    assert sum(bool(g.any()) for g in whole[2].values()) > 8
    for total, figures, gradients in found[1:]:
        torch.testing.assert_close(total, whole[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(figures, whole[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradients, whole[2], rtol=1e-4, atol=1e-6)


def test_every_piece_of_phase_one_has_its_part_of_the_bootstrap_rows(build: Build) -> None:
    work = build(1, "phase1.batch_size=8", "forcing.boot_fraction=0.5").draw()
    assert [(part.levels.boots, len(part.clean)) for part in work.split(4)] == [(1, 2)] * 4
    rows = torch.cat([part.clean for part in work.split(3)])
    assert sorted(map(float, rows.sum((1, 2, 3)))) == sorted(map(float, work.clean.sum((1, 2, 3))))
    assert bounds(7, 3) == [(0, 2), (2, 4), (4, 7)] and bounds(2, 9) == [(0, 1), (1, 2)]


def test_recomputing_gives_the_same_gradient_and_keeps_less(build: Build) -> None:
    kept, gradients = [], []
    for recompute in ("false", "true"):
        phase = build(1, f"phase1.recompute={recompute}")
        total = 0

        def pack(x: Tensor) -> Tensor:
            nonlocal total
            total += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            loss, _ = phase.loss(phase.draw(), 5)
        loss.backward()
        kept.append(total)
        gradients.append({n: p.grad for n, p in phase.model.named_parameters()})
    assert kept[1] < 0.4 * kept[0]
    torch.testing.assert_close(gradients[1], gradients[0])


def test_the_share_of_bootstrap_rows_is_exact_in_the_long_run_and_starts_after_the_warm_up(
    small: Callable[..., Config], new_run: Callable[..., Path]
) -> None:
    config = small("phase1.batch_size=3", "forcing.boot_fraction=0.25", "forcing.boot_warmup=0.5", "phase1.steps=16")
    run = new_run(config)
    phase = build_phase(config, 1, LatentStore.open(run / "store"), None, BACKEND)
    boots = [phase.draw().levels.boots for _ in range(48)]
    assert boots[:8] == [0] * 8 and set(boots[8:]) == {0, 1} and sum(boots[8:]) == 0.25 * 3 * 40


# --- memory that runs out


def run_out(monkeypatch: pytest.MonkeyPatch, at_step: int, times: int = 1) -> list[int]:
    """Every loss of a batch of more than half the rows runs out of memory from `at_step` on, at most `times` times."""
    left = [times]
    for phase in (*Phase.__subclasses__(),):
        plain = phase.loss

        def loss(self: Any, work: Any, step: int, plain: Any = plain) -> Any:
            out = plain(self, work, step)
            if step >= at_step and left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
            return out

        monkeypatch.setattr(phase, "loss", loss)
    return left


@pytest.mark.parametrize("readout", [(), TOKENS])
def test_memory_that_runs_out_halves_the_pieces_once_says_so_and_changes_nothing_else(
    small: Callable[..., Config],
    new_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    readout: tuple[str, ...],
) -> None:
    config = small("phase1.log_every=1", "phase2.log_every=1", "phase1.accumulate=2", *readout)
    straight, short = new_run(config, "straight"), new_run(config, "short")
    for phase in (1, 2, 3):
        train(config, straight, phase)
        capsys.readouterr()
        with monkeypatch.context() as patch:
            left = run_out(patch, at_step=2)
            train(config, short, phase)
        assert left == [0]
        said = [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]
        assert said == [f"phase{phase}: out of memory at step 3; going on with 2 micro-batches (the same gradient)"]
    expected, got = read_metrics(straight), read_metrics(short)
    assert len(expected) == len(got) > 12
    for one, other in zip(expected, got, strict=True):
        names = [name for name in one if name.startswith(("loss", "grad", "imagined", "boot"))]
        assert names and [one[n] for n in names] == pytest.approx([other[n] for n in names], rel=2e-3, abs=1e-4)
        if "bc_accuracy" in one:  # a share of some 150 choices: where two logits are alike, rounding takes the other
            assert one["bc_accuracy"] == pytest.approx(other["bc_accuracy"], abs=1 / 100)


def test_memory_that_runs_out_lets_go_of_the_rollouts_that_did_not_fit(
    build: Build, small: Callable[..., Config]
) -> None:
    phase = build(3)
    assert isinstance(phase, ImaginationPhase)
    update = Update(phase, small().phase3, BACKEND)
    update(0)
    (program,) = map(ref, phase.programs)
    gc.collect()
    gc.disable()  # it may come much too late for the smaller ones
    try:
        phase.shrink(2)
        assert program() is None
    finally:
        gc.enable()


def test_memory_that_runs_out_again_is_one_line(
    small: Callable[..., Config], new_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    run = new_run(config)
    run_out(monkeypatch, at_step=1, times=2)
    with pytest.raises(
        UserError, match=r"phase1: out of memory at step 2 with 2 micro-batches.*2 GiB.*batch_size"
    ) as caught:
        train(config, run, 1)
    assert "\n" not in str(caught.value)


# --- nothing waits


class WaitsForTheDevice(AssertionError):
    pass


class NoWaiting(TorchDispatchMode):
    """Raises where the host would have to know a tensor's value, or copies from the host's memory in the middle.

    Attributes:
        seen: names of all operations.
    """

    FORBIDDEN = (
        "_local_scalar_dense", "item", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "lift_fresh",
        "repeat_interleave.Tensor", "_unique2", "bincount",
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.seen.add(name)
        if name.startswith(self.FORBIDDEN):
            raise WaitsForTheDevice(name)
        if name.startswith(("index.Tensor", "index_put")):
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                raise WaitsForTheDevice(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


def test_the_watcher_sees_what_waits() -> None:
    x = torch.arange(4.0)
    waits: list[Callable[[], Any]] = [
        lambda: float(x.sum()),
        lambda: x[x > 1],
        lambda: bool(x.any()),
        lambda: torch.tensor(1.0),
        lambda: x.nonzero(),
        lambda: x.__setitem__(x > 1, 0.0),
    ]
    for wait in waits:
        with pytest.raises(WaitsForTheDevice), NoWaiting():
            wait()


@pytest.mark.parametrize(
    ("number", "overrides"), [(1, ()), (1, ("phase1.optimizer=muon",)), (2, ()), (2, TOKENS), (3, ()), (3, TOKENS)]
)
def test_a_whole_step_waits_for_nothing(build: Build, number: int, overrides: tuple[str, ...]) -> None:
    phase = build(number, f"phase{number}.accumulate=2", *overrides)
    train = phase.config.phase(number)  # type: ignore[attr-defined]
    phase.model.train()
    update = Update(phase, train, BACKEND)
    batch, position = phase.loader.draw(), phase.loader.get_state()  # type: ignore[union-attr]
    phase.loader.draw, phase.loader.get_state = lambda: batch, lambda: position  # type: ignore  # the host's own affairs

    update(0)  # the first one makes what later ones keep
    if isinstance(phase, ImaginationPhase):
        assert phase._programs
    with NoWaiting() as watcher:
        update(1)
    assert "_fused_adamw_.default" in watcher.seen and "_foreach_lerp_.Scalar" in watcher.seen
