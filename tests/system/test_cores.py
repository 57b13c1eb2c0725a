"""A container may have many cores and little time on them: workers follow the time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fastdreamer.system import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """64 cores, and control groups that say nothing yet."""
    monkeypatch.setattr(os, "process_cpu_count", lambda: 64, raising=False)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_GROUP", tmp_path / "own")
    return tmp_path


def say(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({}, 64),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "10000 100000\n"}, 1),
        ({"own": "0::/job/step\n", "job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({"own": "3:cpu,cpuacct:/a\n", "cpu/a/cpu.cfs_quota_us": "500000", "cpu/a/cpu.cfs_period_us": "100000"}, 5),
        ({"own": "0::/../../x\n", "cpu.max": "what"}, 64),
    ],
)
def test_workers_are_as_many_as_the_time_of_the_container(groups: Path, files: dict[str, str], count: int):
    for name, text in files.items():
        say(groups / name, text)
    assert cores.count_cores() == count
