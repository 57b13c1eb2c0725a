"""Two and four processes against one: the same gradients, the same training, and what is wrong goes red."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.run.metrics import read_metrics

from . import acts

pytestmark = pytest.mark.slow
BANDS = {1: 1e-5, 2: 1e-5, 3: 2e-3}
"""How far a step's loss may be from one process's, relative, over 50 steps. In phase 3 PMPO's objective is what large
terms leave of one another, and an advantage that is zero but for rounding changes sides."""
SMALLEST = 1e-3  # figures below are compared as if they were this large
CASES = [("debug", case, world) for case in acts.CASES for world in (2, 4)] + [
    ("crafter", case, 2) for case in acts.SHORT
]

Left = tuple[dict[str, torch.Tensor], dict[str, float], dict[str, int]]


def left(folder: Path, preset: str, case: str, world: int) -> Left:
    found: Left = torch.load(folder / f"gradients-{preset}-{case}-{world}.pt")
    return found


def apart(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over that of the gradient."""
    assert found.keys() == right.keys()
    difference = sum((found[name] - right[name]).double().square().sum() for name in right)
    return float((difference / sum(x.double().square().sum() for x in right.values())).sqrt())


def losses(run: Path, phase: int) -> list[float]:
    return [row["loss"] for row in read_metrics(run) if row["phase"] == phase]


@pytest.mark.parametrize(("preset", "case", "world"), CASES)
def test_a_steps_gradients_are_those_of_one_process(acted: Path, preset: str, case: str, world: int) -> None:
    gradients, figures, counts = left(acted, preset, case, world)
    right = left(acted, preset, case, 1)
    if "dropout" in case:  # each rank draws its own, so one process goes through the ranks' pieces and seeds
        reference = acts.gradients(preset, case, acted / f"one-{preset}", world)
        assert apart(reference[0], right[0]) > 0.1
        right = (*reference, {})
    assert apart(gradients, right[0]) < 1e-6
    for name, value in right[1].items():
        assert abs(figures[name] - value) <= 1e-5 * max(abs(value), SMALLEST), name
    riders = len(figures) * (2 if "accumulated" in case else 1) + world
    sent = 4 * (sum(x.numel() for x in gradients.values()) + riders)
    config = acts.settings(preset)
    dreams = config.phase3.batch_size // world * config.imagination.horizon if case[0] == "3" else 0
    assert counts == {"calls": 2 if dreams else 1, "bytes": sent + 4 * 4 * dreams}


@pytest.mark.parametrize(("preset", "world"), [("debug", 2), ("debug", 4), ("crafter", 2)])
@pytest.mark.parametrize("phase", [1, 2, 3])
def test_training_stays_within_the_band(acted: Path, phase: int, preset: str, world: int) -> None:
    one, several = losses(acted / f"one-{preset}", phase), losses(acted / f"{world}-{preset}", phase)
    assert len(one) == len(several) == acts.settings(preset).phase(phase).steps
    worst = max(abs(a - b) / max(abs(a), SMALLEST) for a, b in zip(one, several, strict=True))
    assert worst < BANDS[phase]


def test_a_checkpoint_knows_no_number_of_ranks(acted: Path) -> None:
    for phase in (1, 2, 3):
        one, two, four = (
            load_checkpoint(acted / f"{name}-debug" / "checkpoints" / f"phase{phase}") for name in ("one", "2", "4")
        )
        for other in (two, four):
            assert one.state.keys() == other.state.keys() and one.tensors.keys() == other.tensors.keys()
            for group, tensors in one.tensors.items():
                shapes = {name: (x.shape, x.dtype) for name, x in tensors.items()}
                assert shapes == {name: (x.shape, x.dtype) for name, x in other.tensors[group].items()}
            for name in ("data", "noise"):
                assert torch.equal(one.tensors["random"][name], other.tensors["random"][name])


def test_the_main_rank_looks_for_the_best_averages_and_all_count_with_it(acted: Path) -> None:
    one, two = (load_checkpoint(acted / f"{name}-debug" / "checkpoints" / "phase2") for name in ("one", "2"))
    assert one.state["best"][1:] == two.state["best"][1:] and one.state["best"][1] > 0
    assert abs(one.state["best"][0] - two.state["best"][0]) < 1e-5


def test_two_ranks_then_one_then_four_go_on_as_one_run(acted: Path) -> None:
    """SIGTERM to the last rank alone ends a part: all stop after the same step, which is saved."""
    assert [(acted / f"third-17-{rank}").read_text() for rank in range(2)] == ["143"] * 2
    assert (acted / "third-34-0").read_text() == "143"
    one, thirds = losses(acted / "one-debug", 1), losses(acted / "thirds", 1)
    assert len(thirds) == acts.STEPS
    assert max(abs(a - b) / max(abs(a), SMALLEST) for a, b in zip(one, thirds, strict=True)) < BANDS[1]


def test_memory_that_runs_out_on_one_rank_halves_the_pieces_of_all(acted: Path) -> None:
    gradients, _, counts = torch.load(acted / "memory-debug-2.pt")
    assert counts["calls"] == 2
    assert apart(gradients, left(acted, "debug", "3", 1)[0]) < 1e-6


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("no sum", "model world."),
        ("another seed", "model world."),
        ("a skipped step", "model world."),
        ("an own loss scale", "model scale.square"),
    ],
)
def test_what_makes_ranks_differ_is_seen(acted: Path, fault: str, said: str) -> None:
    found = json.loads((acted / "faults.json").read_text())
    assert found["nothing"] == ""
    assert found["another store"].startswith("the store of rank 1 of 2 (process ")
    assert found[fault].startswith(f"{fault} after step 2: {said}") and "of rank 1 of 2" in found[fault]
