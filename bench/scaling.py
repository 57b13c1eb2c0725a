"""The cost model of `plan --gpus A..B` against CPU processes over gloo: predicted and measured seconds a step.

    PYTHONPATH=.:kernels:engines python -m bench.scaling [--config crafter] [--ranks 2 4] [--steps 12] [settings]

What it is given: seconds of one process alone with a rank's rows, and of a sum over the ranks. What it predicts:
processes that each hold the model, and such that shard it; on a CPU nothing is sent while something is multiplied, and
more processes than cores share them. Rounds go through the ways in turn, and medians count; other work is in them.
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
from fastdreamer.system.cores import count_cores
from fastdreamer.tools.planning.cost import REACHED, Rates, sizes_of, step_seconds

WAYS = ("data parallel", "sharded")


def main(given: Sequence[str] | None = None) -> int:
    """Prints a line a way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="crafter")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("words", nargs="*", help="settings")
    chosen = parser.parse_args(given)
    words = [chosen.config, "device=cpu", *chosen.words]
    config = load_config(words[0], words[1:])
    rows = config.phase1.batch_size
    ways = [(way, ranks) for ranks in chosen.ranks for way in ("one", *WAYS)]
    seconds: dict[tuple[str, int], list[float]] = {way: [] for way in ways}
    sums: dict[int, list[float]] = {ranks: [] for ranks in chosen.ranks}
    with tempfile.TemporaryDirectory(prefix="fastdreamer-scaling-") as folder:
        for _ in range(chosen.rounds):
            for way, ranks in ways:
                is_one = way == "one"
                own = [*words, f"phase1.batch_size={rows // ranks}"] if is_one else words
                found = launched(way, own, chosen.steps, Path(folder), 1 if is_one else ranks)
                seconds[way, ranks].append(found["seconds"])
                if not is_one:
                    sums[ranks].append(found["bytes_per_s"])
    sizes = replace(sizes_of(config, 1), width=4)
    for ranks in chosen.ranks:
        summed, one = statistics.median(sums[ranks]), statistics.median(seconds["one", ranks])
        sent = summed * 2 * (ranks - 1) / ranks / REACHED  # by each over a ring
        flops = rows // ranks * sizes.flops / one * min(1.0, count_cores() / ranks)
        machine = Rates(flops, float("inf"), sent, sent)
        print(f"{ranks} processes: one alone takes {one:.3f} s for {rows // ranks} rows, a sum {summed / 1e6:.0f} MB/s")
        for way in WAYS:
            is_sharded = way == "sharded"
            predicted = step_seconds(sizes, machine, rows // ranks, 1, ranks, is_sharded, 1.0, overlaps=False)
            measured = statistics.median(seconds[way, ranks])
            print(f"  {way}: predicted {predicted:.3f} s, measured {measured:.3f} s, {measured / predicted:.2f} of it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
