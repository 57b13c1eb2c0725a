"""Two GPUs against one: phase 1 by one process, by two that each hold the model, and by two that shard it.

    PYTHONPATH=.:kernels:engines python -m bench.gpu.two_ranks [--device cuda|cpu] [--config debug] [--steps 10]

In fp32 the losses must be one GPU's; in bf16, compiled, sharded steps must train. Without GPUs two processes over gloo
stand for them. Made-up episodes; no dataset, no weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.phases import made_up_phase
from bench.suites.results import at_least, at_most
from fastdreamer.config import load_config
from fastdreamer.device import choose_device
from fastdreamer.ranks import membership
from fastdreamer.ranks.group import Group
from fastdreamer.ranks.torchrun import place
from fastdreamer.tools.planning.gpus import sized_gpu
from fastdreamer.tools.planning.layout import of_one_rank
from fastdreamer.tools.planning.plan import Planner
from fastdreamer.training.loop import shards_of
from fastdreamer.training.step import Update

FP32 = ("precision=fp32", "compile=off")
WAYS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one": (1, FP32),
    "data parallel": (2, FP32),
    "sharded": (2, (*FP32, "ranks.shard=true")),
    "sharded, as by default": (2, ("precision=auto", "compile=auto", "ranks.shard=true")),
}
APART = 1e-3
"""How far losses may be apart, relative: a GPU adds in no fixed order."""
NEAR = 1.10
PROBE = 2**22
"""Numbers in a sum that is timed."""


def steps(words: Sequence[str], count: int, out: Path) -> None:
    """One rank's steps; the main one leaves losses, seconds a step and bytes reserved."""
    config = load_config(words[0], words[1:])
    if place().world > 1:
        from fastdreamer.ranks.joining import joined

        membership.join(joined)
    backend = choose_device(config)
    backend.ranks.begin({}, config.ranks.timeout_s, 0, backend.device)
    phase = made_up_phase(config, 1, backend)
    update = Update(phase, config.phase1, backend, config.seed, shards_of(phase, config, backend))
    losses, seconds = [], []
    for step in range(count):
        began_s = time.perf_counter()
        losses.append(float(update(step)[0]["loss"]))  # waits for the device
        seconds.append(time.perf_counter() - began_s)
    reserved = torch.cuda.max_memory_reserved() if backend.device.type == "cuda" else 0
    probe_s, group = [], backend.ranks
    for _ in range(5):
        if not isinstance(group, Group):
            break
        began_s = time.perf_counter()
        float(group.total(torch.zeros(PROBE, device=backend.device))[0])
        probe_s.append(time.perf_counter() - began_s)
    if backend.ranks.is_main:
        found = {"losses": losses, "seconds": statistics.median(seconds[count // 2 :]), "reserved": reserved}
        found |= {"bytes_per_s": 4 * PROBE / statistics.median(probe_s)} if probe_s else {}
        out.write_text(json.dumps(found))
    membership.leave()


def launched(way: str, words: Sequence[str], count: int, folder: Path, world: int | None = None) -> dict[str, Any]:
    """What came of a way, in processes of their own, as many as it says or `world`.

    Raises:
        RuntimeError: with the last line that they printed, where one failed.
    """
    ranks, more = WAYS[way]
    ranks = world or ranks
    out = folder / f"{way}.json"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    inner = ["-m", "bench.gpu.two_ranks", "--inner", str(out), "--steps", str(count), *words, *more]
    done = subprocess.run([sys.executable, *launch, *inner], capture_output=True, text=True, check=False)
    print(done.stderr[-4000:], end="", flush=True)
    if done.returncode or not out.exists():
        said = [line for line in done.stderr.splitlines() if "rror" in line] or ["no reason given"]
        raise RuntimeError(f"exit code {done.returncode}: {said[-1].strip()}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def main(given: Sequence[str] | None = None) -> int:
    """Prints a verdict a figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--config", default="debug")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help="settings")
    chosen = parser.parse_args(given)
    if chosen.inner:
        steps(chosen.words, chosen.steps, chosen.inner)
        return 0
    words, lines, found = [chosen.config, f"device={chosen.device}", *chosen.words], [], {}
    with tempfile.TemporaryDirectory(prefix="fastdreamer-gpu-") as folder:
        for way in WAYS:
            try:
                found[way] = launched(way, words, chosen.steps, Path(folder))
            except RuntimeError as error:  # the other ways are worth having
                print(f"failed: {way}: {error}", flush=True)
                continue
            losses, one = found[way]["losses"], found.get("one", {}).get("losses", [])
            trained = sum(map(math.isfinite, losses))
            lines.append(at_least(f"steps that train, {way},", trained, chosen.steps))
            if way in ("data parallel", "sharded") and one:
                apart = max(abs(a / b - 1) for a, b in zip(losses, one, strict=True))
                lines.append(at_most(f"losses apart from one GPU's, {way},", apart, APART))
                speed = found["one"]["seconds"] / found[way]["seconds"]
                print(f"{way}: {speed:.2f} times one's speed", flush=True)
                if chosen.device == "cuda":
                    lines.append(at_least(f"times one GPU's speed, {way},", speed, 1.0))
        if "sharded" in found and chosen.device == "cuda":
            config = load_config(words[0], [*words[1:], *WAYS["sharded"][1]])
            plan = Planner(of_one_rank(config, 1, 2), 1, sized_gpu(config, "80GiB"), 0, 2, True).configured()
            lines.append(at_most("reserved over planned, sharded,", found["sharded"]["reserved"] / plan.reserved, NEAR))
    print("\n".join(lines))
    return 1 if len(found) < len(WAYS) or any(line.startswith("FAILS") for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
