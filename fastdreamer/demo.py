"""`fastdreamer demo`: every stage in order, from recording to report, in one run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.settings import dump_config
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import read_object


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
    from fastdreamer.run.directory import RunDirectory
    from fastdreamer.run.summary import write_summary
    from fastdreamer.tools.diagnosis.diagnose import diagnose
    from fastdreamer.tools.diagnosis.gates import Gates
    from fastdreamer.tools.planning.run_memory import RunMemory
    from fastdreamer.training.train import train

    run = RunDirectory(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    dump_config(config, run_dir / "config.yaml")
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
    timings = _timings(run_dir / "timings.json", say)
    for name, what, stage in stages:
        say(f"[{name}] {what}")
        started = time.perf_counter()
        result = stage()
        seconds = time.perf_counter() - started
        timings[name] = round(max(seconds, timings.get(name, 0.0)), 2)  # a resumed stage took at least what it took
        write_atomic(run_dir / "timings.json", json.dumps(timings, indent=1).encode())
        if name == "record":
            write_atomic(run_dir / "recordings.json", json.dumps(result, indent=1).encode())
        say(f"[{name}] done in {seconds:.1f} s")
    summary = write_summary(run_dir)
    report = write_report(run_dir)
    return summary | {"report": str(report["path"])}


def _timings(path: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Seconds of the stages so far; what cannot be read is said, and measured anew."""
    try:
        from fastdreamer.run import contents

        return read_object(path, contents.FILES["timings.json"], "measured anew")
    except UserError as error:
        say(f"note: {error}")
        return {}
