"""The card of a packed run: what it was trained on, what it can do, and how it was made."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastdreamer import __version__
from fastdreamer.config import Config
from fastdreamer.envs.mix import KINDS, kind_of
from fastdreamer.latents.store import LatentStore
from fastdreamer.run import run_files
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.settings import config_hash, to_dict
from fastdreamer.system.advice import again
from fastdreamer.system.files import sha256_file, write_atomic
from fastdreamer.system.json_files import COUNT, NUMBER, TEXT, Every, read_object

CARD = "card.json"
LICENCES = {"crafter": "MIT: recordings of Crafter (Danijar Hafner), played by FastDreamer's own players"}
UNSTATED = "not stated: whoever packed it did not say (--licence)"
NAMES = {0: "pixel decoder", 1: "world model", 2: "cloned agent", 3: "agent trained in imagination"}
FIGURES = (
    "horizons", "one_sample", "copy_last", "one_sample_over_copy", "shuffled_actions", "noop_actions", "one_step",
    "reward_correlation", "context", "crops",
)  # fmt: skip
"""What the card says of world_model.json."""
_SHARE = {"episodes": COUNT, "frames": COUNT}
SHAPE = {
    "env": TEXT, "tasks": [TEXT], "recordings": [TEXT], "command": TEXT, "versions": Every(TEXT),
    "data": {"licence": TEXT, "train?": _SHARE, "held_out?": _SHARE, "players?": Every(_SHARE)},
    "phases": Every({"what": TEXT, "steps": COUNT}),
    "open_loop": {"one_sample_over_copy?": [{"mean": NUMBER}]},
    "returns": Every(Every({"return_mean": NUMBER, "return_low": NUMBER, "return_high": NUMBER})),
}  # fmt: skip
"""What must stand in a card (see `json_files`)."""
RETURNS = ("return_mean", "return_low", "return_high", "length_mean", "episodes")


def write_card(
    out: Path,
    config: Config,
    checkpoints: Mapping[int, Checkpoint],
    store: LatentStore | None,
    recordings: Sequence[str],
    half: bool,
    licence: str,
) -> dict[str, Any]:
    """Writes the card of what lies in `out`, whose figures are those of its own files, and returns it."""
    evaluation, world_model = run_files.EVALUATION.read(out), run_files.WORLD_MODEL.read(out)
    card: dict[str, Any] = {
        "env": config.data.env,
        "tasks": list(config.tasks.names),
        "data": _data(config, store) | {"licence": licence or LICENCES.get(config.data.env, UNSTATED)},
        "recordings": list(recordings),
        "tokenizer": config.tokenizer.weights,
        "phases": {str(phase): _phase(checkpoint) for phase, checkpoint in checkpoints.items()},
        "precision": "float16 where it is stored, full in use" if half else "float32",
        "open_loop": {name: world_model[name] for name in FIGURES if name in world_model},
        "returns": _returns(evaluation),
        "versions": {"fastdreamer": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "configuration": config_hash(config),
        "command": again(),
    }
    card["sha256"] = {
        path.relative_to(out).as_posix(): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()
    }
    write_atomic(out / CARD, (json.dumps(card, indent=1, allow_nan=False) + "\n").encode())
    return card


def read_card(run_dir: Path) -> dict[str, Any]:
    """The card of a packed run; empty for a run that is not packed.

    Raises:
        UserError: if it is damaged.
    """
    return read_object(run_dir / CARD, SHAPE, "pack the run again")


def told(card: Mapping[str, Any]) -> dict[str, str]:
    """What a card says, for people: a line a name."""
    data, lines = card["data"], dict[str, str]()
    if "train" in data:
        kinds = ", ".join(f"{played['episodes']} {kind}" for kind, played in data.get("players", {}).items())
        held_out = f"{data['held_out']['episodes']} episodes ({data['held_out']['frames']:,} frames)"
        trained = f"{data['train']['episodes']} episodes ({data['train']['frames']:,} frames)"
        lines["data"] = f"{trained}; held out: {held_out}{f'; by player: {kinds}' if kinds else ''}"
    lines["training"] = ", ".join(f"{phase['what']} {phase['steps']:,} steps" for phase in card["phases"].values())
    if over := [found["mean"] for found in card["open_loop"].get("one_sample_over_copy", ())]:
        lines["error"] = (
            f"of one dream over copying's, at steps 1 to {len(over)}: {' '.join(f'{ratio:.2f}' for ratio in over)}"
        )
    for task, rows in card["returns"].items():
        lines[f"returns, {task}"] = "; ".join(
            f"{name.replace('_', ' ')} {row['return_mean']:.2f} [{row['return_low']:.2f}, {row['return_high']:.2f}]"
            for name, row in rows.items()
        )
    versions = " ".join(f"{name} {version}" for name, version in card["versions"].items())
    return lines | {"licence of the data": data["licence"], "made by": f"{card['command']} ({versions})"}


def _data(config: Config, store: LatentStore | None) -> dict[str, Any]:
    """Episodes and frames, by split and by player; how they were recorded, where we recorded them."""
    if store is None:
        return {}
    splits = {split: store.split(split) for split in ("train", "held_out")}
    told: dict[str, Any] = {
        split: {"episodes": len(episodes), "frames": sum(len(e.valid) for e in episodes)}
        for split, episodes in splits.items()
    }
    if config.data.env == "crafter":
        kinds = {kind: [e for e in store.episodes if kind_of(e.name) == kind] for kind in KINDS}
        told["players"] = {
            kind: {"episodes": len(episodes), "frames": sum(len(e.valid) for e in episodes)}
            for kind, episodes in kinds.items()
            if episodes
        }
        told["recorded"] = to_dict(config.record)
    return told


def _phase(checkpoint: Checkpoint) -> dict[str, Any]:
    training = checkpoint.state["training"]
    told = {"what": NAMES[checkpoint.phase], "steps": checkpoint.step, "batch_size": training.get("batch_size")}
    told["parameters"] = sum(x.numel() for x in checkpoint.averages.values() if x.is_floating_point())
    forced = [gate["name"] for gate in checkpoint.state.get("forced", ())]
    return told | ({"forced": forced} if forced else {})


def _returns(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What every policy earned, a task an entry, with 95 % intervals; empty where nobody evaluated."""
    tasks = evaluation.get("tasks") or {evaluation.get("task", "") or "reward": evaluation}
    told = {
        task: {
            name: {key: row[key] for key in RETURNS if key in row} for name, row in entry.get("policies", {}).items()
        }
        for task, entry in tasks.items()
    }
    return {task: rows for task, rows in told.items() if rows}
