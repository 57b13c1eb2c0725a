"""Losses of the first steps of each phase, as they were when the figures were committed: a change that moves code moves
none of them.

    python tests/golden/losses.py [--write]

trains the `debug` preset for 20 steps a phase in fp32 on one thread, on made-up latents, and prints what differs from
`losses.json`; with --write the file is written anew. Exit code 1 where something differs. Libraries are held to AVX2,
so that CPUs with wider vectors add up in the same order as those without.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

FILE = Path(__file__).with_name("losses.json")
STEPS = 20
TOLERANCE = 2e-5  # relative: sums of floating-point numbers are ordered otherwise on CPUs with other vector units
VECTORS = {
    "OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2",
}  # fmt: skip
SETTINGS = (
    "device=cpu", "precision=fp32", "compile=off", "data.recordings=/nonexistent",
    *(f"phase{phase}.{name}" for phase in (1, 2, 3) for name in (f"steps={STEPS}", "log_every=1", "warmup_steps=4")),
)  # fmt: skip
KEPT = ("loss", "grad_norm")


def measured(folder: Path) -> dict[str, list[float]]:
    """Every logged loss and gradient norm of the three phases, by phase and name; one figure a step."""
    import torch

    from fastdreamer.config import load_config
    from fastdreamer.latents.synthetic import write_synthetic_store
    from fastdreamer.recordings.actions import action_space
    from fastdreamer.training.train import PHASES, train

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = load_config("debug", SETTINGS)
        write_synthetic_store(folder / "store", config.tokenizer.clock, action_space(config.data.env), 6, 16, seed=0)
        for phase in PHASES:
            train(config, folder, phase, draws=False)
    finally:
        torch.set_num_threads(threads)
    found: dict[str, list[float]] = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name in KEPT or name.startswith("loss/"):
                found.setdefault(f"phase {entry['phase']}: {name}", []).append(value)
    return found


def differences(before: dict[str, list[float]], now: dict[str, list[float]]) -> list[str]:
    """A line a figure that is not what it was, with the first step at which it differs."""
    lines = [f"{name}: {'no longer there' if name in before else 'new'}" for name in sorted(before.keys() ^ now.keys())]
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if len(old) != len(new):
            lines.append(f"{name}: {len(new)} figures, not {len(old)}")
            continue
        floor = 0.01 * max(map(abs, old), default=0.0)  # a loss near zero is what large terms leave of one another
        apart = [
            i for i, (a, b) in enumerate(zip(old, new, strict=True)) if not abs(a - b) <= TOLERANCE * max(abs(a), floor)
        ]
        if apart:
            first = apart[0]
            lines.append(f"{name}: {new[first]:.9g}, not {old[first]:.9g}, at figure {first + 1} of {len(old)}")
    return lines


def committed() -> dict[str, list[float]]:
    """The figures of `losses.json`; none where there is no such file."""
    return dict(json.loads(FILE.read_text())) if FILE.is_file() else {}


def main() -> int:
    """Prints the differences and, with --write, makes the figures of today the committed ones."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write losses.json anew")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        now = measured(Path(folder))
    lines = differences(committed(), now)
    print("\n".join(lines) or f"{len(now)} figures are as they were")
    if given.write:
        FILE.write_text(json.dumps(now, indent=0) + "\n")
    return 1 if lines and not given.write else 0


if __name__ == "__main__":
    root = Path(__file__).parents[2]
    sys.path[:0] = [str(root), str(root / "kernels"), str(root / "engines")]
    os.environ.update(VECTORS)  # read when torch is loaded
    raise SystemExit(main())
