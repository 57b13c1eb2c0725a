"""How a fit is repeated: the command itself, and those that made its recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastdreamer.config import Config, load_config
from fastdreamer.settings import differences
from fastdreamer.system.advice import PROGRAM, plain, shell


def refit_command(config: Config, recordings: Path, out: Path) -> str:
    """The command line that repeats a fit: the crafter preset and every setting of the fit that differs from it."""
    sections = ("tokenizer", "tokenizer_fit", "seed", "precision", "data.held_out")
    changed = differences(load_config("crafter"), config)
    overrides = [
        f"{path}={json.dumps(value, separators=(',', ':')) if isinstance(value, list) else value}"
        for path, (_, value) in changed.items()
        if path.startswith(sections)
    ]
    return plain("fit-tokenizer", *overrides, config="crafter", recordings=recordings, out=out)


def recorded_by(origins: list[dict[str, Any]]) -> list[str]:
    """How recordings with this metadata were made: the commands for our own, folder and number for others."""
    groups: dict[str, list[int]] = {}
    for origin in origins:
        kind = f"{origin['env']}"
        seed = origin.get("seed")
        if {"policy", "noise", "max_steps"} <= set(origin) and isinstance(seed, int):
            noise = [f"record.noise={origin['noise']}"] if origin["policy"] == "expert" else []
            how = ["--policy", origin["policy"], f"record.max_steps={origin['max_steps']}", *noise]
            kind = shell(PROGRAM, "record", *how)
        groups.setdefault(kind, []).append(seed if isinstance(seed, int) else 0)
    return [f"{kind}{_how_many(seeds, kind.startswith(PROGRAM))}" for kind, seeds in groups.items()]


def _how_many(seeds: list[int], is_ours: bool) -> str:
    if not is_ours:
        return f": {len(seeds)} episodes"
    if max(seeds) - min(seeds) < len(seeds):
        return f" --seed {min(seeds)} --episodes {len(seeds)}"
    return f": {len(seeds)} of the seeds {min(seeds)} to {max(seeds)}"  # others of them were played otherwise
