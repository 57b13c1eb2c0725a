"""Ahead-of-time compiles: what is read from the machine code, and what the gate says of a change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastdreamer_kernels import aot
from fastdreamer_kernels.launch import HAS_TRITON, IS_INTERPRETED
from fastdreamer_kernels.specs import SPECS

ROW = {
    "registers": 40,
    "stack_bytes": 0,
    "shared_bytes": 0,
    "load_bits": 128,
    "store_bits": 128,
    "loads": 4,
    "stores": 2,
    "instructions": 300,
}


def test_usage_and_listing_are_read() -> None:
    usage = "Function k:\n REG:72 STACK:16 SHARED:1024 LOCAL:0 CONSTANT[0]:984 TEXTURE:0 SURFACE:0 SAMPLER:0"
    assert aot.parse_usage(usage) == {"registers": 72, "stack_bytes": 16, "shared_bytes": 1024}
    listing = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128 R4, [R2.64] ;
        /*0020*/                   LDG.E.U16 R5, [R2.64] ;
        /*0030*/              @P1  STG.E [R2.64], R4 ;
        /*0040*/                   NOP ;
    """
    read = aot.parse_listing(listing)
    assert read == {"load_bits": 128, "store_bits": 32, "loads": 2, "stores": 1, "instructions": 4}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"registers": 44}, []),  # within the margin
        ({"registers": 45}, ["registers 40 -> 45, worse"]),
        ({"registers": 30}, ["registers 40 -> 30, better"]),
        ({"stack_bytes": 8}, ["stack_bytes 0 -> 8, worse"]),
        ({"load_bits": 16, "loads": 32}, ["load_bits 128 -> 16, worse", "loads 4 -> 32, worse"]),
        ({"store_bits": 64}, ["store_bits 128 -> 64, worse"]),
    ],
)
def test_the_gate_names_what_changed(change: dict[str, int], said: list[str]) -> None:
    problems = aot.compare({"k sm_80": ROW | change}, {"k sm_80": ROW})
    assert len(problems) == len(said)
    assert all(word in problem for word, problem in zip(said, problems, strict=True))
    assert all((aot.UPDATE in problem) == ("better" in problem) for problem in problems)


def test_missing_and_new_rows_are_red() -> None:
    (missing,) = aot.compare({}, {"k sm_80": ROW})
    (new,) = aot.compare({"k sm_80": ROW}, {})
    assert "not compiled" in missing and "no expected row" in new


def page_table(rows: dict[str, aot.Row], architecture: int = 86) -> str:
    """A line a kernel: its least bytes and its launches on its first benchmarked size, and its first machine code."""
    lines = ["| kernel | size, bf16 | launches | least bytes | registers | spilled | widest load |", "|" + "---|" * 7]
    for spec in SPECS:
        size, shape = next(iter(spec.sizes.items()))
        floor = spec.floor(shape, torch.bfloat16)
        row = rows[f"{spec.variants[0].name} sm_{architecture}"]
        launches = ", ".join(f"{direction} {count}" for direction, count in spec.launches.items())
        least = ", ".join(f"{direction} {count / 1e6:.2f} MB" for direction, count in floor.items())
        code = f"{row['registers']} | {row['stack_bytes']} bytes | {row['load_bits']} bits"
        lines.append(f"| `{spec.name}` | {size} | {launches} | {least} | {code} |")
    return "\n".join(lines)


def test_the_page_shows_the_table_of_the_committed_figures() -> None:
    rows = json.loads(aot.EXPECTED.read_text())
    newest = max(rows, key=lambda version: tuple(map(int, version.split("."))))
    table = page_table(rows[newest])
    assert table in (aot.EXPECTED.parents[1] / "docs/kernels.md").read_text(), f"put into docs/kernels.md:\n{table}"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "fastdreamer_kernels.aot", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.skipif(not HAS_TRITON, reason="needs Triton")
def test_an_unknown_triton_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "expected.json"
    file.write_text('{"0.1": {}}')
    unknown = _run("--expected", str(file))
    assert unknown.returncode == 1 and aot.UPDATE in unknown.stdout and "0.1" in unknown.stdout
    file.write_text("{")
    broken = _run("--expected", str(file))
    assert broken.returncode == 2 and broken.stderr.count("\n") == 1 and "no JSON" in broken.stderr


@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="needs Triton, not its interpreter")
@pytest.mark.parametrize(
    "options",
    [pytest.param(("--arch", "86"), marks=pytest.mark.slow), pytest.param((), marks=pytest.mark.long)],
    ids=["sm_86", "all"],
)
def test_every_variant_compiles_as_expected(options: tuple[str, ...]) -> None:
    done = _run(*options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TRITON or IS_INTERPRETED, reason="needs Triton, not its interpreter")
def test_a_planted_spill_and_a_narrow_load_are_red(tmp_path: Path) -> None:
    import dataclasses

    import triton
    from fastdreamer_kernels.specs import SPECS

    variant = next(v for spec in SPECS for v in spec.variants if v.name == "two_hot/bf16/255 of 256")
    expected = {"k": aot.compile_variant(variant, 86)}
    unaligned = dataclasses.replace(variant, aligned=variant.aligned - {"stride"})
    said = aot.compare({"k": aot.compile_variant(unaligned, 86)}, expected)
    assert any("loads" in line and "worse" in line for line in said), said
    said = aot.compare({"k": aot.compile_variant(variant, 86, maxnreg=32)}, expected)
    assert any("stack_bytes" in line and "worse" in line for line in said), said
    file = tmp_path / "expected.json"
    file.write_text(json.dumps({triton.__version__: {"gone sm_86": ROW}}))
    assert aot.main(["--expected", str(file), "--arch", "86", "--only", "latent_pool/bf16/p8"]) == 1
