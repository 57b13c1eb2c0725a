"""The runner's parts: what they are given parses, what they print is read, and they start without what they lack."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import plan
from bench.gpu.parts import PARTS, Part
from bench.gpu.process import Ended
from bench.gpu.reading import Figure, read
from bench.gpu.table import PartRow, table
from bench.suites.command import parser_of
from fastdreamer.config import load_config


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
        ("suite", "", [{"row": "a", "arm": "b", "reason": "not offered: off by 22/255"}], True, "starts"),
        ("suite", "", [{"row": "a", "arm": "b", "reason": "off by 1.02/255"}], True, "failed"),
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


def test_a_part_for_two_gpus_says_so_where_there_is_one() -> None:
    (part,) = [part for part in PARTS if part.gpus == 2]
    assert part.name == "two-gpus" and plan.too_few(part, {"gpus": 1}) == "needs 2 GPUs, 1 here"
    assert plan.too_few(part, {"gpus": 2}) == "" and plan.too_few(PARTS[0], {"gpus": 1}) == ""


def imports(modules: str, *forbidden: str) -> str:
    """What stops modules from being imported where some libraries are not installed; "" for nothing."""
    code = f"import sys\nfor name in {forbidden!r}: sys.modules[name] = None\nimport {modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


TRAINING = ("numpy", "yaml", "safetensors")
TRAINING_PARTS = (
    "bench.gpu.phases", "bench.gpu.memory", "bench.suites.training_step", "bench.suites.imagination",
    "bench.suites.naive", "bench.gate.__main__", "bench.gpu.two_ranks",
)  # fmt: skip
HEAVY = ("av", "crafter", "diffusers", "rich", "tensorboard", "PIL", "huggingface_hub", "nvidia.dali")


@pytest.mark.parametrize(
    ("modules", "forbidden"),
    [
        ("bench.gpu.__main__", ("torch", "triton", "pytest", "jaxtyping", *TRAINING, *HEAVY)),
        ("bench.suites.kernels", ("pytest", *TRAINING, *HEAVY)),
        ("bench.gpu.about", ("pytest", "jaxtyping", *TRAINING, *HEAVY)),
        (",".join(TRAINING_PARTS), ("pytest", *HEAVY)),
    ],
)  # fmt: skip
def test_parts_start_without_what_they_do_not_name(modules: str, forbidden: tuple[str, ...]) -> None:
    assert imports(modules, *forbidden) == ""


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


TESTS = """
import pytest, torch

@pytest.fixture
def gpu():
    return torch.zeros(1, device="cuda")

@pytest.mark.gpu
@pytest.mark.parametrize("number", [1, 2, 3])
def test_in_a_fixture(gpu, number): pass

@pytest.mark.gpu
def test_itself():
    torch.zeros(1).cuda()

def test_named_whole(): pass

def test_not_asked_for(): assert False
"""
BROKEN = """
@pytest.mark.gpu
def test_broken():
    torch.zeros(1).rashape(1)
    torch.zeros(1).cuda()
"""


@pytest.mark.parametrize(("more", "said"), [("", "1 passed, 4 skipped"), (BROKEN, "1 failed, 1 passed, 4 skipped")])
def test_a_dry_test_passes_where_it_comes_as_far_as_the_driver_and_fails_before(
    more: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "test_some.py").write_text(TESTS + more)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\naddopts = -m 'not gpu' -ra\n")
    words = ["-q", "-p", "no:cacheprovider", "-p", "bench.gpu.driverless", "-m", "", "--whole", "named_whole"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, str(tmp_path)], env=environment, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert said in done.stdout.splitlines()[-1], done.stdout
    log = tmp_path / "log"
    log.write_text(done.stdout)
    found = read(Part("a", "", "tests", "pytest", (), (), 1.0), Ended(done.returncode, 1.0), log, log, True, False)
    assert found.verdict == ("failed" if more else "starts")
    assert "1 ran whole, 4 as far as the driver" in [figure.text for figure in found.figures]
