"""The command line, with one fault planted in one rank: FAULT is kind:rank:step, the step counted from 1.

torchrun ... faulty.py train ...
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

from fastdreamer.cli import run
from fastdreamer.errors import UserError
from fastdreamer.ranks.torchrun import place, restarts
from fastdreamer.run import rank_files
from fastdreamer.training import keeping
from fastdreamer.training.step import MicroBatches, Skips


def plant(kind: str, rank: int, step: int) -> None:
    plain, save, write_part = MicroBatches._gradients, keeping.Keeper._save, rank_files.write_part
    calls: list[int] = []
    began = os.environ.get("BEGAN")

    def gradients(self: MicroBatches, now: int) -> object:
        nonlocal began
        if began and place().rank == 0:
            with open(began, "a", encoding="utf-8") as file:
                file.write(f"{now}\n")
        began = None
        if os.environ.get("SLOW_S"):
            time.sleep(float(os.environ["SLOW_S"]))
        if place().rank == rank and now + 1 == step and restarts() == 0:
            calls.append(now)
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif kind == "hang":
                time.sleep(3600)
            elif kind == "freeze":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif kind == "raise":
                raise KeyError("a bug of ours")
            elif kind == "refuse":
                raise UserError("the store is gone")
            elif kind == "oom" or (kind == "oom-once" and len(calls) == 1):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        batches = plain(self, now)
        if kind == "nan" and place().rank == rank and now + 1 >= step:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.fill_(float("nan"))
        return batches

    def slow_save(self: keeping.Keeper, now: int, *rest: Any) -> None:
        if kind == "slow-save":
            time.sleep(step)
        if kind == "full" and rank == 0 and now == step:
            raise OSError(28, "No space left on device", str(self.run_dir))
        save(self, now, *rest)

    def full_part(folder: Path, of: int, groups: Any) -> dict[str, str]:
        if kind == "full" and of == rank and f"step-{step:08d}" in folder.name:
            raise OSError(28, "No space left on device", str(folder))
        return write_part(folder, of, groups)

    keeping.write_part = full_part  # type: ignore[attr-defined]
    MicroBatches._gradients = gradients  # type: ignore[method-assign]
    keeping.Keeper._save = slow_save  # type: ignore[method-assign]
    if kind == "skip" and place().rank == rank:
        judge, judgements = Skips.judge, list[int]()

        def judged(self: Skips, norm: torch.Tensor, losses: object = ()) -> torch.Tensor:
            judgements.append(1)
            return judge(self, norm * float("nan") if len(judgements) == step else norm, losses)  # type: ignore[arg-type]

        Skips.judge = judged  # type: ignore[method-assign]


if __name__ == "__main__":
    if fault := os.environ.get("FAULT"):
        name, of, at = fault.split(":")
        plant(name, int(of), int(at))
    sys.argv[0] = "fastdreamer"
    run()
