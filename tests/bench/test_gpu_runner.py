"""The runner of a GPU's ten minutes: nothing that a part does ends the run, and every part is accounted for."""

from __future__ import annotations

import json
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as command
from bench.gpu import plan
from bench.gpu.parts import Part
from bench.gpu.plan import Work
from bench.gpu.reading import Figure
from bench.gpu.runner import Runner
from bench.gpu.table import NAME, PartRow

ABOUT = {"memory_gb": 0.0, "free_gb": 0.0, "processor": "one", "commit": "abc", "libraries": {"torch": "2"}}
Make = Callable[..., Runner]

FAILS = "raise SystemExit('the driver is on fire')"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
HOLDS = "print('holds: speed 2, at least 1')"
MISSES = "print('FAILS: speed 0.5, at least 1')"
SLEEPS = "import time; print('here', flush=True); time.sleep(300)"
SPINS = "print('here', flush=True)\nwhile True: pass"
CHILD = """
import subprocess, sys
own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'], start_new_session=True)
print(own.pid, flush=True)
"""
BREEDS = """
import os, time
print('here', flush=True)
for _ in range(3):
    if os.fork() == 0:
        end = time.monotonic() + 60
        while time.monotonic() < end:  # goes on in a child and a session of its own
            os.setsid()
            time.sleep(0.02)
            if os.fork():
                os._exit(0)
while True: time.sleep(1)
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A runner of scripts, each a module of its own."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def made(scripts: dict[str, str], minutes: float = 1.0, limit_s: float = 30.0, **options: Any) -> Runner:
        for name, text in scripts.items():
            (tmp_path / f"part_{name}.py").write_text(textwrap.dedent(text))
        parts = tuple(
            Part(name, "about", "lines", f"part_{name}", ("{out}",), (), limit_s) for name in scripts
        )  # fmt: skip
        work = Work(parts, {}, dict(ABOUT), tmp_path / "out", minutes, is_dry=False)
        return Runner(work, say=lambda _: None, **options)

    return made


def verdicts(rows: list[PartRow]) -> dict[str, str]:
    return {row.part: row.verdict for row in rows}


def said(row: PartRow) -> str:
    return " ".join(figure.text for figure in row.figures)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_part_that_fails_or_crashes_is_a_row_and_the_next_begins(make: Make) -> None:
    rows = make({"a": FAILS, "b": CRASHES, "c": MISSES, "d": HOLDS}).run()
    assert verdicts(rows) == {"a": "failed", "b": "failed", "c": "missed", "d": "passed"}
    assert "exit code 1" in said(rows[0]) and "the driver is on fire" in said(rows[0])
    assert "SIGSEGV" in said(rows[1])
    assert rows[2].figures == [Figure("MISSED speed 0.5", "at least 1")]
    assert rows[3].figures == [Figure("speed 2", "at least 1")]


def test_a_part_that_says_nothing_has_not_passed(make: Make) -> None:
    (row,) = make({"a": "pass"}).run()
    assert row.verdict == "failed" and "nothing was measured" in said(row)


def test_a_hanging_part_is_killed_with_what_it_started_even_in_sessions_of_their_own(make: Make) -> None:
    rows = make({"a": CHILD + SPINS, "b": HOLDS}, limit_s=6.0).run()
    assert verdicts(rows) == {"a": "timed out", "b": "passed"} and rows[0].seconds < 60
    assert "killed after 6 s; last: here" in said(rows[0])
    assert not is_alive(int(rows[0].log[0]))


def test_a_part_that_does_nothing_at_all_is_ended_before_its_time(make: Make) -> None:
    rows = make({"a": SLEEPS, "b": HOLDS}, limit_s=120.0, silent_s=3.0).run()
    assert verdicts(rows) == {"a": "hung", "b": "passed"} and rows[0].seconds < 60


def test_a_silent_part_that_works_is_left_alone(make: Make) -> None:
    works = "import time\nend = time.process_time() + 4\nwhile time.process_time() < end: pass\n"
    (row,) = make({"a": works + HOLDS}, limit_s=120.0, silent_s=3.0).run()
    assert row.verdict == "passed" and row.seconds > 3.5


def test_what_a_part_leaves_behind_is_killed_and_told(make: Make) -> None:
    rows = make({"a": CHILD + HOLDS, "b": HOLDS}).run()
    assert verdicts(rows) == {"a": "passed", "b": "passed"}
    assert "left 1 processes behind" in said(rows[0])
    log = next(path for path in (rows_folder(rows) / "logs").glob("a.log"))
    assert not is_alive(int(log.read_text().split()[0]))


def rows_folder(rows: list[PartRow]) -> Path:
    return Path(rows[0].command[-1]).parent


def test_a_part_whose_children_have_children_all_the_time_ends(make: Make, tmp_path: Path) -> None:
    rows = make({"a": BREEDS, "b": HOLDS}, limit_s=3.0).run()
    assert verdicts(rows) == {"a": "timed out", "b": "passed"}
    end, looks = time.monotonic() + 20, [True]
    while any(looks[-3:]) and time.monotonic() < end:  # a breeder can slip through one look
        time.sleep(0.1)
        looks.append(any(bytes(tmp_path) in _bytes(path) for path in Path("/proc").glob("[0-9]*/cmdline")))
    assert not any(looks[-3:])


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_when_the_minutes_are_over_the_rest_is_left_out_for_time(make: Make) -> None:
    rows = make({"a": SPINS, "b": HOLDS, "c": HOLDS}, minutes=3 / 60, least_s=1.0).run()
    assert verdicts(rows) == {"a": "cut off", "b": "left out for time", "c": "left out for time"}
    assert rows[0].limit_s < 3.1 and "at the end of the minutes" in said(rows[0])


def test_a_stopped_run_kills_its_part_and_accounts_for_the_others(make: Make, tmp_path: Path) -> None:
    runner = make({"a": CHILD + SPINS, "b": HOLDS}, minutes=5.0, limit_s=300.0)

    def stop_once_it_spins() -> None:
        while b"here" not in _bytes(tmp_path / "out" / "logs" / "a.log"):
            time.sleep(0.05)
        runner.stop.set()

    threading.Thread(target=stop_once_it_spins, daemon=True).start()
    rows = runner.run()
    assert verdicts(rows) == {"a": "stopped", "b": "left out"}
    assert not is_alive(int(rows[0].log[0]))


def test_results_are_there_after_every_part(make: Make, tmp_path: Path) -> None:
    looks = """
    import json, pathlib, sys
    found = json.loads((pathlib.Path(sys.argv[1]).parent / "gpu.json").read_text())
    pathlib.Path(sys.argv[1]).write_text('{"rows": [1]}')
    print("holds: " + " ".join(part["verdict"] for part in found["parts"]) + " 1, at least 1")
    """
    rows = make({"a": FAILS, "b": looks, "c": HOLDS}).run()
    assert said(rows[1]) == "failed running not begun 1"
    found = json.loads((tmp_path / "out" / NAME).read_text())
    assert found["machine"]["commit"] == "abc" and [part["verdict"] for part in found["parts"]][1:] == ["passed"] * 2
    assert found["parts"][1]["measured"] == {"rows": [1]} and found["parts"][0]["log"][-1] == "the driver is on fire"
    assert found["parts"][2]["figures"] == [{"text": "speed 2", "target": "at least 1"}]


def test_a_result_of_an_earlier_run_is_not_taken_for_this_one(make: Make, tmp_path: Path) -> None:
    runner = make({"a": FAILS})
    (tmp_path / "out" / "a.json").write_text('{"rows": [1]}')
    (row,) = runner.run()
    assert row.measured is None


def test_what_is_not_installed_is_named_once_and_its_parts_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "is_there", lambda library: library not in ("av", "nvidia.dali"))
    monkeypatch.setattr(plan, "_about", lambda is_dry: dict(ABOUT))
    given = ["--dry-run", "--out", str(tmp_path / "out"), "--parts", "dali,alignment,data-path"]
    assert command.main(given) == 0
    printed = capsys.readouterr().out
    assert "av is not installed: pip install av; left out: dali, alignment, data-path" in printed
    assert printed.count("nvidia.dali is not installed") == 1 and "[cuda]" in printed
    table_lines = printed[printed.rindex("part ") :].splitlines()
    assert len(table_lines) == 4 and all("left out" in line and "needs" in line for line in table_lines[1:])


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--parts", "kernel"], "known are kernels, phases"),
        (["--minutes", "-1"], "give a number above 0"),
        (["--minutes", "nan"], "give a number above 0"),
        ([], "sees no GPU here"),
        (["--dry-run", "--out", "OUT"], "has results already"),
    ],
)
def test_mistakes_are_one_line(
    given: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_text("{}")
    monkeypatch.setattr(plan, "_about", lambda is_dry: {**ABOUT, "versions": {"torch": "2"}})
    assert command.main([str(tmp_path) if word == "OUT" else word for word in given]) == 2
    out, err = capsys.readouterr()
    assert line in err and len(err.splitlines()) == 1 and out == ""
