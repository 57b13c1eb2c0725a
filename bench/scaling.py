"""The cost model of `plan --gpus A..B` against two CPU processes over gloo: predicted and measured seconds a step.

    PYTHONPATH=.:kernels:engines python -m bench.scaling [--config crafter] [--steps 12] [--rounds 3] [settings]

What it is given: seconds of one process, and of a sum over two. What it predicts: two processes that each hold the
model, and two that shard it; on a CPU nothing is sent while something is multiplied. Rounds go through the ways in
turn, and medians count; other work on the machine is in them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.gpu.two_ranks import launched
from fastdreamer.config import load_config
from fastdreamer.tools.planning.cost import REACHED, Rates, sizes_of, step_seconds

WAYS = ("one", "data parallel", "sharded")


def main(given: Sequence[str] | None = None) -> int:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="crafter")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="settings")
    chosen = parser.parse_args(given)
    words = [chosen.config, "device=cpu", *chosen.words]
    config = load_config(words[0], words[1:])
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    rates = []
    with tempfile.TemporaryDirectory(prefix="fastdreamer-scaling-") as folder:
        for _ in range(chosen.rounds):
            for way in WAYS:
                found = launched(way, words, chosen.steps, Path(folder))
                seconds[way].append(found["seconds"])
                rates += [found["bytes_per_s"]] if "bytes_per_s" in found else []
    one, rows = statistics.median(seconds["one"]), config.phase1.batch_size
    sizes = replace(sizes_of(config, 1), width=4)
    sent = statistics.median(rates) / REACHED
    machine = Rates(rows * sizes.flops / one, float("inf"), sent, sent)
    print(f"one process: {one:.3f} s a step of {rows} rows; a sum over two: {REACHED * sent / 1e6:.0f} MB/s")
    for way in WAYS[1:]:
        is_sharded = way == "sharded"
        predicted = step_seconds(sizes, machine, rows // 2, 1, 2, is_sharded, 1.0, overlaps=False)
        measured = statistics.median(seconds[way])
        print(f"{way}: predicted {predicted:.3f} s, measured {measured:.3f} s, {measured / predicted:.2f} of it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
