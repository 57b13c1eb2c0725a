"""A container may have many cores and little time on them: workers follow the time."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

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


def test_cores_that_others_use_are_not_spare(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5}, raising=False)
    monkeypatch.setattr(cores, "STAT", groups / "stat")
    monkeypatch.setattr(cores, "time", SimpleNamespace(monotonic=lambda: 9.0, sleep=time.sleep))
    tick = os.sysconf("SC_CLK_TCK")

    def spare(busy: dict[int, int], own: float) -> int:
        """Cores left where each core counts that much more in two seconds, of which the process itself had `own`."""
        head = "cpu  9999 9999 9999 0 0 0 0 0 0 0\n"
        say(groups / "stat", head + "".join(f"cpu{n} 100 50 7 9 9 1 1 1 0 0\n" for n in range(8)))
        before = cores.Clock.now()
        text = "".join(f"cpu{n} {100 + busy.get(n, 0)} {50 + 500} 7 9 9 1 1 1 0 0\n" for n in range(8))
        say(groups / "stat", head + text)
        return cores.Clock(before.everybody, before.own - own, before.at - 2).spare_cores()

    assert spare({}, 0) == 4
    assert spare({0: 2 * tick, 3: 2 * tick}, 0) == 3, "core 3 is not ours, and low priority gives way"
    assert spare({0: 2 * tick, 5: round(1.2 * tick)}, 0) == 2
    assert spare({0: 2 * tick}, 2) == 4, "what the process did itself is not others' work"
    assert spare({n: 2 * tick for n in range(8)}, 0) == 1, "there is always one"
    say(groups / "cpu.max", "150000 100000")
    assert spare({}, 0) == 2


def test_without_the_kernels_figures_all_cores_are_spare(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "STAT", groups / "none")
    assert cores.Clock.now().spare_cores() == 64
