"""The runner of a GPU's ten minutes: nothing that a part does ends the run, and every part is accounted for."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import __main__ as command
from bench.gpu import plan
from bench.gpu.parts import PARTS, Part
from bench.gpu.plan import Work
from bench.gpu.process import Ended
from bench.gpu.reading import Figure, read
from bench.gpu.runner import Runner
from bench.gpu.table import NAME, PartRow, table
from bench.suites.command import parser_of
from fastdreamer.config import load_config

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
    began = time.monotonic()
    rows = make({"a": CHILD + SPINS, "b": HOLDS}, limit_s=3.0).run()
    assert verdicts(rows) == {"a": "timed out", "b": "passed"} and time.monotonic() - began < 20
    assert "killed after 3 s; last: here" in said(rows[0])
    assert not is_alive(int(rows[0].log[0]))


def test_a_part_that_does_nothing_at_all_is_ended_before_its_time(make: Make) -> None:
    began = time.monotonic()
    rows = make({"a": SLEEPS, "b": HOLDS}, silent_s=1.0).run()
    assert verdicts(rows) == {"a": "hung", "b": "passed"} and time.monotonic() - began < 15


def test_a_silent_part_that_works_is_left_alone(make: Make) -> None:
    works = "import time\nend = time.process_time() + 4\nwhile time.process_time() < end: pass\n"
    (row,) = make({"a": works + HOLDS}, silent_s=3.0).run()
    assert row.verdict == "passed" and row.seconds > 3.5


def test_what_a_part_leaves_behind_is_killed_and_told(make: Make) -> None:
    rows = make({"a": CHILD + HOLDS, "b": HOLDS}).run()
    assert verdicts(rows) == {"a": "passed", "b": "passed"}
    assert "left 1 processes behind" in said(rows[0])
    log = next(path for path in (rows_folder(rows) / "logs").glob("a.log"))
    assert not is_alive(int(log.read_text().split()[0]))


def rows_folder(rows: list[PartRow]) -> Path:
    return Path(rows[0].command[-1]).parent


def test_a_part_whose_children_have_children_all_the_time_ends(make: Make) -> None:
    rows = make({"a": BREEDS, "b": HOLDS}, limit_s=2.0).run()
    assert verdicts(rows) == {"a": "timed out", "b": "passed"}
    time.sleep(0.3)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"part_a" in _bytes(path)]
    assert left == []


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_when_the_minutes_are_over_the_rest_is_left_out_for_time(make: Make) -> None:
    rows = make({"a": SPINS, "b": HOLDS, "c": HOLDS}, minutes=3 / 60, least_s=1.0).run()
    assert verdicts(rows) == {"a": "cut off", "b": "left out for time", "c": "left out for time"}
    assert rows[0].limit_s < 3.1 and "at the end of the minutes" in said(rows[0])


def test_a_stopped_run_kills_its_part_and_accounts_for_the_others(make: Make) -> None:
    runner = make({"a": CHILD + SPINS, "b": HOLDS})
    timer = threading.Timer(2.0, runner.stop.set)
    timer.start()
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


def test_the_table_has_a_line_a_figure_and_wraps_what_is_long() -> None:
    rows = [
        PartRow("kernels", "", "passed", [Figure("speed 2", "at least 1"), Figure("x " * 60)], 61.2),
        PartRow("gate", "", "left out for time"),
    ]
    lines = table(rows).splitlines()
    assert lines[0].split() == ["part", "verdict", "s", "figure", "target"]
    assert lines[1].split() == ["kernels", "passed", "61", "speed", "2", "at", "least", "1"]
    assert lines[2].startswith(" " * 20) and lines[-1].split() == ["gate", "left", "out", "for", "time", "0"]
    assert len(lines) == 5 and max(map(len, lines)) < 140


@pytest.mark.parametrize(
    ("kind", "text", "rows", "is_dry", "verdict"),
    [
        ("tests", "3 passed, 1 skipped in 2.00s", None, False, "passed"),
        ("tests", "SKIPPED [3] a.py:1: needs a CUDA GPU\n3 skipped in 2.00s", None, False, "failed"),
        ("tests", "SKIPPED [3] a.py:1: needs a CUDA GPU\n3 skipped in 2.00s", None, True, "starts"),
        ("tests", "SKIPPED [3] a.py:1: needs the moon\n3 skipped in 2.00s", None, True, "failed"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "RuntimeError: wrong"}], False, "failed"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "RuntimeError: wrong"}], True, "failed"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "Found no NVIDIA driver on"}], False, "failed"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "Found no NVIDIA driver on"}], True, "starts"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "does not fit in one piece"}], False, "passed"),
        ("suite", "all is well", None, False, "failed"),
        ("lines", "failed: phase 1: no", None, False, "failed"),
        ("lines", "FAILS: a 1, at least 2", None, True, "starts"),
    ],
)
def test_what_a_part_printed_is_read_as_it_is_meant(
    kind: Any, text: str, rows: list[Any] | None, is_dry: bool, verdict: str, tmp_path: Path
) -> None:
    log, out = tmp_path / "log", tmp_path / "out.json"
    log.write_text(text)
    if rows is not None:
        out.write_text(json.dumps({"rows": rows}))
    part = Part("a", "about", kind, "module", (), (), 1.0)
    assert read(part, Ended(0, 1.0), log, out, is_dry, is_cut=False).verdict == verdict


def test_a_large_gpu_is_held_to_twelve_and_a_small_one_to_what_it_has() -> None:
    held = next(part for part in PARTS if part.memory_gb)
    free = next(part for part in PARTS if not part.memory_gb)
    assert plan.memory_of(held, {"memory_gb": 79.6}) == 12 and plan.memory_of(held, {"memory_gb": 11.757}) == 11.75
    assert plan.memory_of(free, {"memory_gb": 80.0}) == 76 and plan.memory_of(free, {"memory_gb": 0.0}) == 0


def imports(module: str, *forbidden: str) -> str:
    """What stops `module` from being imported where some libraries are not installed; "" for nothing."""
    code = f"import sys\nfor name in {forbidden!r}: sys.modules[name] = None\nimport {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


TRAINING = ("numpy", "yaml", "safetensors")
HEAVY = ("av", "crafter", "diffusers", "rich", "tensorboard", "PIL", "huggingface_hub", "nvidia.dali")


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("bench.gpu.__main__", ("torch", "triton", "pytest", "jaxtyping", *TRAINING, *HEAVY)),
        ("bench.suites.kernels", ("pytest", *TRAINING, *HEAVY)),
        ("bench.gpu.about", ("pytest", "jaxtyping", *TRAINING, *HEAVY)),
        *((name, ("pytest", *HEAVY)) for name in (
            "bench.gpu.phases", "bench.gpu.memory", "bench.suites.training_step", "bench.suites.imagination",
            "bench.suites.naive", "bench.gate.__main__",
        )),
    ],
)  # fmt: skip
def test_parts_start_without_what_they_do_not_name(module: str, forbidden: tuple[str, ...]) -> None:
    assert imports(module, *forbidden) == ""


def test_a_library_that_is_needed_is_missed() -> None:
    assert "jaxtyping" in imports("bench.gpu.phases", "jaxtyping")


@pytest.mark.parametrize("part", [part for part in PARTS if part.module == "bench.suites"], ids=lambda part: part.name)
def test_what_a_gpu_is_given_parses_as_what_a_dry_run_is(part: Part) -> None:
    for is_dry in (False, True):
        _, name, *words = part.command(is_dry, "cpu" if is_dry else "cuda", 0 if is_dry else 11.75, "out.json")
        chosen = parser_of(name).parse_intermixed_args(words)
        load_config(getattr(chosen, "config", "") or "minerl_cosmos", getattr(chosen, "overrides", None) or [])


def test_every_part_has_a_file_or_module_and_its_own_name() -> None:
    assert len({part.name for part in PARTS}) == len(PARTS) > 12
    for part in PARTS:
        assert importlib.util.find_spec(part.module) is not None
        assert part.kind != "tests" or (plan.ROOT / part.words[-1]).exists()
