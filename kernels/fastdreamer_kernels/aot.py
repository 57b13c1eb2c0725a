"""Compiles every kernel variant for every architecture, with no GPU and no driver, and holds the machine code to it.

    python -m fastdreamer_kernels.aot            compare with kernels/aot_expected.json; exit 1 when something differs
    python -m fastdreamer_kernels.aot --update   write what this Triton gives into that file, for a person to commit

A spill, a narrower load or store, more registers than the margin or a missing row is red. So is an improvement: the
file then says less than the code does.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastdreamer_kernels.launch import HAS_TRITON, INSTALL, IS_INTERPRETED
from fastdreamer_kernels.specs import SPECS, Variant

ARCHITECTURES = (80, 86, 89, 90, 120)
EXPECTED = Path(__file__).parents[1] / "aot_expected.json"
REGISTER_MARGIN = 1.1
FIELDS = ("registers", "stack_bytes", "shared_bytes", "load_bits", "store_bits", "loads", "stores", "instructions")
GATED = {
    "stack_bytes": 1,
    "load_bits": -1,
    "store_bits": -1,
    "loads": 1,
    "stores": 1,
    "registers": 1,
}  # 1: more is worse
PROGRAM = ("python", "-m", "fastdreamer_kernels.aot")
UPDATE = shlex.join([*PROGRAM, "--update"])

Row = dict[str, int]


def compile_variant(variant: Variant, architecture: int, **options: Any) -> Row:
    """Compiles, with more of Triton's options where given, and reads the machine code: see FIELDS.

    `load_bits` and `store_bits` are the widest global access of one thread, `loads` and `stores` how many there are in
    the listing (eight narrow ones in the place of a wide one show there), `instructions` all of the listing.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = variant.kernel.arg_names
    signature = {name: variant.types.get(name, "constexpr") for name in names}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in variant.aligned if name in names}
    source = ASTSource(variant.kernel, signature, variant.constants, aligned)
    target = GPUTarget("cuda", architecture, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": variant.warps, **options})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _tool("cuobjdump", "--dump-resource-usage", file.name)
        listing = _tool("nvdisasm", "-c", file.name)
    return parse_usage(usage) | parse_listing(listing)


def parse_usage(text: str) -> Row:
    """Registers, stack and shared memory from cuobjdump's resource usage."""
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", text)}
    return {"registers": found["REG"], "stack_bytes": found["STACK"], "shared_bytes": found["SHARED"]}


def parse_listing(text: str) -> Row:
    """Widest global load and store in bits, and the number of instructions, from nvdisasm's listing."""
    instructions = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)
    widths: dict[str, int] = {"LDG": 0, "STG": 0}
    counts = {kind: sum(name.split(".")[0] == kind for name in instructions) for kind in widths}
    for name in instructions:
        kind, *parts = name.split(".")
        if kind in widths:
            bits = [int(p) for p in parts if p in ("64", "128", "256")] + [int(p[1:]) for p in parts if p in _NARROW]
            widths[kind] = max(widths[kind], *bits, 0) if bits else max(widths[kind], 32)
    count = sum(name != "NOP" for name in instructions)
    return {
        "load_bits": widths["LDG"],
        "store_bits": widths["STG"],
        "loads": counts["LDG"],
        "stores": counts["STG"],
        "instructions": count,
    }


_NARROW = ("U8", "S8", "U16", "S16")


def compare(measured: dict[str, Row], expected: dict[str, Row]) -> list[str]:
    """What differs, a line each; empty when all is as expected."""
    problems = [f"{name}: expected but not compiled" for name in expected.keys() - measured.keys()]
    for name, row in measured.items():
        if name not in expected:
            problems.append(f"{name}: no expected row; {UPDATE}")
            continue
        known = expected[name]
        for field, worse in GATED.items():
            change = (row[field] - known[field]) * worse
            margin = known[field] * (REGISTER_MARGIN - 1) if field == "registers" else 0
            if change > margin:
                problems.append(f"{name}: {field} {known[field]} -> {row[field]}, worse")
            elif change < -margin:
                problems.append(f"{name}: {field} {known[field]} -> {row[field]}, better; {UPDATE}")
    return sorted(problems)


def table(rows: dict[str, Row]) -> str:
    """The rows as text."""
    lines = [f"{'variant':46}" + "".join(f"{field:>14}" for field in FIELDS)]
    lines += [f"{name:46}" + "".join(f"{row[field]:14}" for field in FIELDS) for name, row in rows.items()]
    return "\n".join(lines)


def measure(architectures: Iterable[int], only: str = "") -> dict[str, Row]:
    """Every variant whose name contains `only`, for every architecture: {"name sm_90": row}."""
    variants = [variant for spec in SPECS for variant in spec.variants if only in variant.name]
    return {f"{v.name} sm_{a}": compile_variant(v, a) for v in variants for a in architectures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 0 as expected, 1 something differs, 2 it cannot be run so."""
    parser = argparse.ArgumentParser(prog=shlex.join(PROGRAM), description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--update", action="store_true", help="write the expected file for this Triton")
    parser.add_argument("--expected", type=Path, default=EXPECTED)
    parser.add_argument("--arch", type=int, action="append", choices=ARCHITECTURES, help="only this one; repeatable")
    parser.add_argument("--only", default="", help="only variants whose name contains this")
    chosen = parser.parse_args(arguments)
    if not HAS_TRITON or IS_INTERPRETED:
        why = "TRITON_INTERPRET is set: unset it" if HAS_TRITON else f"no Triton: {INSTALL}"
        print(f"aot: error: nothing can be compiled, {why}", file=sys.stderr)
        return 2
    import triton

    is_part = bool(chosen.arch or chosen.only)
    if chosen.update and is_part:
        print("aot: error: --update writes the whole table; leave --arch and --only out", file=sys.stderr)
        return 2
    try:
        everything: dict[str, Any] = json.loads(chosen.expected.read_text()) if chosen.expected.exists() else {}
    except ValueError as error:
        print(f"aot: error: {chosen.expected} is no JSON ({error}); name another --expected", file=sys.stderr)
        return 2
    if not chosen.update and triton.__version__ not in everything:
        known = ", ".join(everything) or "none"
        print(f"aot: {chosen.expected} has no rows for Triton {triton.__version__} (it has: {known}); {UPDATE}")
        return 1
    measured = measure(chosen.arch or ARCHITECTURES, chosen.only)
    print(table(measured))
    if chosen.update:
        everything[triton.__version__] = measured
        chosen.expected.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
        print(f"aot: wrote {len(measured)} rows for Triton {triton.__version__} to {chosen.expected}")
        return 0
    expected = everything[triton.__version__]
    kept = {name: row for name, row in expected.items() if name in measured} if is_part else expected
    problems = compare(measured, kept)
    print("\n".join([*problems, f"aot: {len(measured)} rows, {len(problems)} differ from {chosen.expected.name}"]))
    return 1 if problems else 0


def _tool(name: str, *arguments: str) -> str:
    import triton

    path = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([path, *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    raise SystemExit(main())
