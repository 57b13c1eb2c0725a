"""Ranks that share out the world model against one process that holds it: the same steps, checkpoints, and resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdreamer.device import Backend
from fastdreamer.run.checkpoint import load_checkpoint
from fastdreamer.tools.planning.layout import of_one_rank
from fastdreamer.tools.planning.measure import measure

from . import sharded_acts
from .conftest import act
from .test_same_training import BANDS, SMALLEST, losses

pytestmark = pytest.mark.slow
LIMIT = 1e-5


@pytest.fixture(scope="session")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what one process and two did."""
    folder = tmp_path_factory.mktemp("sharded")
    act(folder, 1, "steps", "whole", script="sharded_acts.py")
    two = ("steps", "planted", "third=17", "memory=adamw", "memory=muon")
    act(folder, 2, *two, script="sharded_acts.py")
    return folder


@pytest.fixture(scope="session")
def by_four(sharded: Path) -> Path:
    """The same folder once one process and four have gone on."""
    act(sharded, 1, "third=34", script="sharded_acts.py")
    act(sharded, 4, "steps", "third=50", script="sharded_acts.py")
    return sharded


WORLDS = pytest.mark.parametrize(
    ("folder", "world"), [("sharded", 2), pytest.param("by_four", 4, marks=pytest.mark.long)]
)


Tensors = dict[str, dict[str, torch.Tensor]]


def left(folder: Path, name: str, world: int) -> tuple[dict[str, Any], Tensors]:
    """What a rank measured, and the tensors of all shares."""
    found = [torch.load(folder / f"steps-{name}-{rank}-{world}.pt") for rank in range(world)]
    whole: Tensors = {}
    for _, groups in found:
        for group, tensors in groups.items():
            assert not whole.setdefault(group, {}).keys() & tensors.keys(), "a tensor in two shares"
            whole[group] |= tensors
    return found[0][0], whole


def apart(found: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    """The norm of the difference over that of all tensors together."""
    assert {k: x.shape for k, x in found.items()} == {k: x.shape for k, x in right.items()}
    names = [name for name, value in right.items() if value.is_floating_point()]
    difference = sum((found[name] - right[name]).double().square().sum() for name in names)
    return float((difference / sum(right[name].double().square().sum() for name in names)).sqrt())


def differences(folder: Path, name: str, case: str, world: int) -> dict[str, float]:
    """How far the ranks' steps are from those of one process, relative, the worst of each kind."""
    (found, groups), (right, whole) = left(folder, name, world), left(folder, case, 1)
    figures = {
        what: max(abs(a / b - 1) for a, b in zip(found[what], right[what], strict=True)) for what in ("losses", "norms")
    }
    return figures | {group: apart(groups[group], whole[group]) for group in ("model", "ema", "optimizer")}


@WORLDS
@pytest.mark.parametrize("case", sharded_acts.CASES)
def test_steps_are_those_of_one_process(request: pytest.FixtureRequest, folder: str, case: str, world: int) -> None:
    found = differences(request.getfixturevalue(folder), case, case, world)
    print(case, world, found)
    assert max(found.values()) < LIMIT, found


@pytest.mark.parametrize("planted", ["matrices that were not gathered", "norms of parts"])
def test_what_is_planted_goes_red(sharded: Path, planted: str) -> None:
    assert max(differences(sharded, planted, "muon", 2).values()) > 10 * LIMIT


@WORLDS
def test_a_rank_holds_its_part(request: pytest.FixtureRequest, folder: str, world: int) -> None:
    """Blocks are divided; what lies outside of them is whole everywhere."""
    sharded: Path = request.getfixturevalue(folder)
    whole = left(sharded, "adamw", 1)[1]["model"]
    blocks = sum(x.numel() for name, x in whole.items() if ".blocks." in name)
    rest = sum(x.numel() for name, x in whole.items() if ".blocks." not in name)
    for rank in range(world):
        held = json.loads((sharded / f"held-adamw-{rank}-{world}.json").read_text())
        assert held["model"] == held["ema"] == pytest.approx(4 * (blocks / world + rest), rel=0.01)
        assert held["optimizer"] == pytest.approx(2 * held["model"], rel=0.01)


@WORLDS
def test_shares_of_a_checkpoint_are_about_as_large(request: pytest.FixtureRequest, folder: str, world: int) -> None:
    sharded: Path = request.getfixturevalue(folder)
    shares = []
    for rank in range(world):
        groups: Tensors = torch.load(sharded / f"steps-adamw-{rank}-{world}.pt")[1]
        shares.append([x.nbytes for group in groups.values() for x in group.values()])
    assert max(map(sum, shares)) - min(map(sum, shares)) <= max(map(max, shares))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_rank_holds_what_was_planned(sharded: Path, optimizer: str) -> None:
    config = sharded_acts.settings("debug", *sharded_acts.WIDE, f"phase1.optimizer={optimizer}")
    backend = Backend(torch.device("cpu"), "fp32")
    planned = measure(of_one_rank(config, 1, 2), 1, backend, is_gpu=False, shards=2)
    for rank in range(2):
        found = json.loads((sharded / f"memory-{optimizer}-{rank}.json").read_text())
        print(optimizer, rank, found, planned.parts)
        for name, part in (("model", "parameters"), ("optimizer", "optimizer"), ("ema", "average")):
            assert planned.parts[part] == pytest.approx(found[name], rel=0.01)


@pytest.mark.long
def test_a_checkpoint_is_that_of_one_process_and_ranks_go_on_in_any_number(by_four: Path) -> None:
    """2 sharded ranks, then 1, then 4: SIGTERM to the last rank alone ends a part, after a step that is saved."""
    assert [(by_four / f"third-17-{rank}").read_text() for rank in range(2)] == ["143"] * 2
    one, thirds = losses(by_four / "whole", 1), losses(by_four / "thirds", 1)
    assert len(one) == len(thirds) == sharded_acts.acts.STEPS
    assert max(abs(a - b) / max(abs(a), SMALLEST) for a, b in zip(one, thirds, strict=True)) < BANDS[1]
    a, b = (load_checkpoint(by_four / run / "checkpoints" / "phase1") for run in ("whole", "thirds"))
    assert a.state.keys() == b.state.keys() and a.tensors.keys() == b.tensors.keys()
    assert a.state["format"] == 1 and b.state["format"] == 2
    files = {path.name for path in b.path.iterdir()}
    assert {"model.safetensors", *(f"model-part{rank:04d}.safetensors" for rank in range(1, 4))} <= files
    for group, tensors in a.tensors.items():
        assert {k: (x.shape, x.dtype) for k, x in tensors.items()} == {
            k: (x.shape, x.dtype) for k, x in b.tensors[group].items()
        }
    assert apart(a.tensors["model"], b.tensors["model"]) < 1e-4
