"""Counters of VPT recordings: summed, named by the rule, and aligned with frames through all that drops lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_aligned, read_recording
from fastdreamer.recordings.tasks import task_rewards
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.vpt_counters import Tally
from recordings.fixtures import read_barcode
from recordings.vpt_fixtures import vpt_line, write_vpt_recording

SPACE = action_space("vpt")
MINED = "minecraft.mine_block:minecraft.oak_log"
Lines = list[Any]


def counting(lines: Lines) -> None:
    """Line i has i logs in two slots and i + 100 mined ones."""
    for number, line in enumerate(lines):
        slots = [{"type": "oak_log", "quantity": number // 2}, {"type": "oak_log", "quantity": number - number // 2}]
        line["inventory"] = [*slots, {"type": "minecraft:stick", "quantity": 2}]
        line["stats"] = {
            MINED: number + 100,
            "minecraft.custom:minecraft.jump": 5,
            "minecraft.custom:fly_one_cm": number,
        }


def check(trajectory: Trajectory) -> list[int]:
    """That every frame has the counters of its own line; returns the lines."""
    numbers = [read_barcode(frame) for frame in trajectory.frames]
    assert trajectory.counters["oak_log"].tolist() == numbers
    assert trajectory.counters["mine_block.oak_log"].tolist() == [number + 100 for number in numbers]
    assert set(trajectory.counters["stick"]) == {2}
    assert set(trajectory.counters) == {"oak_log", "stick", "mine_block.oak_log"}  # jump is constant, distances go
    return numbers


def read(root: Path, change: Callable[[Lines], object], how: dict[str, bool] | None = None, **files: Any) -> Trajectory:
    write_vpt_recording(root, change=lambda lines: (counting(lines), change(lines)), **files)
    return read_recording(find_recordings(root)[0], SPACE, **(how or {}))


def test_every_frame_has_its_lines_counters_and_a_task_pays(tmp_path: Path) -> None:
    read_all = read(tmp_path, lambda lines: None)
    assert check(read_all) == list(range(40)) and not read_all.rewarded
    for task in ("oak_log", "mine_block.oak_log"):
        assert task_rewards(task, read_all.rewards, read_all.counters).tolist() == [1.0] * 39
    assert task_rewards("first:mine_block.oak_log", read_all.rewards, read_all.counters).tolist() == [1.0] + [0.0] * 38


def test_skipped_frames_take_their_counters_with_them_and_no_gain_is_lost(tmp_path: Path) -> None:
    def idle(lines: Lines) -> None:
        for number in (0, 3, 4, 20):
            nothing = vpt_line()
            lines[number] = nothing | {key: lines[number][key] for key in ("inventory", "stats")}

    trajectory = read(tmp_path, idle, {"skip_null": True})
    assert check(trajectory) == [number for number in range(40) if number not in (0, 3, 4, 20)]
    assert task_rewards("oak_log", trajectory.rewards, trajectory.counters).sum() == 38


@pytest.mark.parametrize(("lines", "frames", "kept"), [(40, 37, 37), (38, 40, 38)])
def test_counters_end_where_lines_or_frames_end(tmp_path: Path, lines: int, frames: int, kept: int) -> None:
    assert check(read(tmp_path, lambda _: None, lines=lines, frames=frames)) == list(range(kept))


def test_counters_end_before_a_broken_line(tmp_path: Path) -> None:
    def break_line(lines: Lines) -> None:
        lines[30] = "{"

    assert check(read(tmp_path, break_line)) == list(range(30))


def test_counters_that_cannot_be_read_are_told_and_stay_as_they_were(tmp_path: Path) -> None:
    def break_counters(lines: Lines) -> None:
        lines[7]["inventory"] = "full"
        lines[8]["inventory"] = [{"type": "oak_log"}]
        lines[9]["stats"] = {MINED: -1}

    write_vpt_recording(tmp_path, change=lambda lines: (counting(lines), break_counters(lines)))
    aligned = read_aligned(find_recordings(tmp_path)[0], SPACE)
    assert aligned.trajectory.counters["oak_log"].tolist() == [*range(7), 6, 6, 6, *range(10, 40)]
    assert aligned.mended == ("inventory or stats of 3 lines cannot be read: counters stay as before them",)


def test_early_recordings_without_either_have_no_counters(tmp_path: Path) -> None:
    def strip(lines: Lines) -> None:
        for line in lines:
            del line["inventory"], line["stats"]

    assert read(tmp_path, strip).counters == {}


def tallied(*lines: dict[str, Any]) -> dict[str, list[int]]:
    tally = Tally()
    for line in lines:
        tally.add(line)
    return {name: values.tolist() for name, values in tally.counters().items()}


def slot(kind: str, quantity: int) -> dict[str, Any]:
    return {"type": kind, "quantity": quantity}


def test_what_no_line_said_yet_is_no_gain() -> None:
    said = {"inventory": [slot("log", 5)], "stats": {MINED: 50}}
    more = {"inventory": [slot("log", 6)], "stats": {MINED: 51}}
    found = tallied({}, {"inventory": None, "stats": {}}, said, {}, more)
    assert found == {"log": [5, 5, 5, 5, 6], "mine_block.oak_log": [50, 50, 50, 50, 51]}


def test_a_missing_item_is_gone_and_a_missing_statistic_is_as_it_was() -> None:
    first = {"inventory": [], "stats": {"minecraft.custom:minecraft.play_one_minute": 1}}
    found = tallied(first, {"inventory": [slot("log", 1)], "stats": {MINED: 3}}, {"inventory": [], "stats": {"b:a": 2}})
    assert found == {"log": [0, 1, 0], "b.a": [0, 0, 2], "mine_block.oak_log": [0, 3, 3]}


def test_large_counts_keep_their_digits() -> None:
    tally = Tally()
    for count in (70_000, 70_001):
        tally.add({"stats": {"minecraft.custom:minecraft.damage_dealt": count}})
    (values,) = tally.counters().values()
    assert values.dtype == np.int32 and values.tolist() == [70_000, 70_001]
