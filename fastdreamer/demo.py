"""`fastdreamer demo`: every stage in order, from recording to report, in one run directory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError


def run_demo(config: Config, run_dir: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Records play, encodes it, trains all three phases, evaluates, and writes the report.

    Stages that are already complete in `run_dir` (same configuration) are not repeated, so an interrupted demo goes on
    where it stopped.
    Where a gate between phases would refuse, it goes on and says so: it shows every part, however short it trains.

    Returns:
        What summary.json holds, with the report's path.

    Raises:
        UserError: if the environment cannot be recorded here, or a stage refuses its input.
    """
    if config.data.env != "crafter":
        raise UserError(f"the demo plays crafter itself; with {config.data.env} recordings run encode, train and eval")
    from fastdreamer.encoding.pipeline import encode_recordings
    from fastdreamer.envs.record import record
    from fastdreamer.evaluation.evaluate import evaluate
    from fastdreamer.report.page import write_report
    from fastdreamer.run import run_files
    from fastdreamer.run.directory import RunDirectory
    from fastdreamer.run.metrics import write_summary
    from fastdreamer.tools.diagnosis.diagnose import diagnose
    from fastdreamer.tools.diagnosis.gates import Gates
    from fastdreamer.tools.planning.run_memory import RunMemory
    from fastdreamer.training.train import train

    run = RunDirectory(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    run.write_config(config)
    recordings, store = run.recordings(config), run.store(config)

    def phase(number: int) -> dict[str, Any]:
        return train(config, run_dir, number, resume=run.has_phase(number), memory=RunMemory(), gate=Gates(force=True))

    stages: list[tuple[str, str, Callable[[], Any]]] = [
        ("record", f"record {config.record.episodes} episodes of real play", lambda: record(config, recordings)),
        ("encode", "encode them with the frozen tokenizer", lambda: encode_recordings(config, recordings, store)),
        ("phase1", "phase 1: the world model learns to predict latents", lambda: phase(1)),
        ("phase2", "phase 2: behaviour cloning and reward", lambda: phase(2)),
        ("phase3", "phase 3: the policy improves in imagination", lambda: phase(3)),
        ("eval", "evaluate in the real environment and open loop", lambda: evaluate(config, run_dir)),
        ("diagnose", "look for what is wrong with any of it", lambda: diagnose(config, run_dir)),
    ]
    timings = run_files.TIMINGS.read_or_note(run_dir, "measured anew", say)
    for name, what, stage in stages:
        say(f"[{name}] {what}")
        started = time.perf_counter()
        result = stage()
        seconds = time.perf_counter() - started
        timings[name] = round(max(seconds, timings.get(name, 0.0)), 2)  # a resumed stage took at least what it took
        run_files.TIMINGS.write(run_dir, timings)
        if name == "record":
            run_files.RECORDED.write(run_dir, result)
        say(f"[{name}] done in {seconds:.1f} s")
    summary = write_summary(run_dir)
    report = write_report(run_dir)
    return summary | {"report": str(report["path"])}
