"""What a run learned from, in numbers: read from its latent store and, where they are still there, its recordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastdreamer.config import Config
from fastdreamer.envs.mix import KINDS, kind_of
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import mean_interval
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.recordings.tasks import RECORDED
from fastdreamer.run.directory import RunDirectory
from fastdreamer.system.json_files import read_loosely

ACTIONS_SHOWN = 24


def summarise_recordings(run_dir: Path) -> dict[str, Any]:
    """Episodes, frames, returns, achievements and action shares; {"missing": why} where they cannot be read."""
    try:
        return _summary(RunDirectory(run_dir))
    except (UserError, OSError) as error:
        return {"missing": f"The recordings are not summarised: {error}"}


def _summary(run: RunDirectory) -> dict[str, Any]:
    config = run.config()
    store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    episodes = {split: store.split(split) for split in ("train", "held_out")}
    everything = [episode for split in episodes.values() for episode in split]
    players = {kind: [episode for episode in everything if kind_of(episode.name) == kind] for kind in KINDS}
    if sum(map(bool, players.values())) > 1:  # more than one: recordings were mixed
        episodes |= {f"{kind}_play": played for kind, played in players.items()}
    if not everything:
        return {"missing": "The latent store is empty."}
    cap = config.evaluation.max_steps
    returns = _returns(config, store, everything, cap)
    summary: dict[str, Any] = {
        "episodes": len(everything),
        "splits": {name.replace("_", " "): _split(split) for name, split in episodes.items() if split},
        "return_capped": next(iter(returns.values()), None),
        "length_capped": float(np.mean([min(len(episode.rewards), cap) for episode in everything])),
        "actions": action_shares([np.asarray(episode.actions) for episode in everything], store.space),
        "achievements": _achievements(run.recordings(config)),
    }
    if len(returns) > 1:
        summary["tasks"] = {task: {"return_capped": found} for task, found in returns.items()}
    return summary


def _returns(config: Config, store: LatentStore, episodes: Sequence[Episode], cap: int) -> dict[str, dict[str, float]]:
    """Mean return of `cap` frames by task, of the episodes in which it is known; without tasks, of all as recorded."""
    try:
        views = dict(zip(config.tasks.names, relabelled(store, episodes, config.tasks.names), strict=False))
    except UserError:
        views = {}
    found = {}
    for task, view in (views or {RECORDED: list(episodes)}).items():
        known = [episode for episode in view if episode.rewarded or not views]
        if known:
            capped = np.array([np.asarray(episode.rewards)[:cap].sum() for episode in known], dtype=np.float64)
            found[task] = mean_interval(capped, config.evaluation.bootstrap, config.seed).to_dict()
    return found


def _split(episodes: Sequence[Any]) -> dict[str, float]:
    returns = np.asarray([np.asarray(episode.rewards).sum() for episode in episodes], dtype=np.float64)
    return {
        "episodes": len(episodes),
        "frames": int(sum(episode.length for episode in episodes)),
        "return_mean": float(returns.mean()),
        "return_min": float(returns.min()),
        "return_max": float(returns.max()),
    }


def action_shares(actions: Sequence[np.ndarray], space: ActionSpace) -> dict[str, float]:
    """Share of steps in which each action was taken, commonest first.

    With one component these are its labels; with several, every component's labels other than doing nothing.
    """
    taken = np.concatenate([a.reshape(-1, len(space.components)) for a in actions])
    if not len(taken):
        return {}
    shares: dict[str, float] = {}
    for column, component in enumerate(space.components):
        counts = np.bincount(taken[:, column], minlength=component.size) / len(taken)
        for index, label in enumerate(component.labels):
            if len(space.components) == 1:
                shares[label] = float(counts[index])
            elif index != space.noop[column]:
                shares[component.name if component.size == 2 else f"{component.name} {label}"] = float(counts[index])
    return dict(sorted(shares.items(), key=lambda item: -item[1])[:ACTIONS_SHOWN])


def _achievements(folder: Path) -> dict[str, float]:
    """Share of recorded episodes that unlocked each achievement; empty where no recording names any."""
    counts: Counter[str] = Counter()
    episodes = 0
    for path in sorted(folder.glob("*/*/metadata.json")):
        names = (read_loosely(path) or {}).get("achievements")
        if isinstance(names, list):
            episodes += 1
            counts.update({str(name) for name in names})
    return {name: count / episodes for name, count in sorted(counts.items())}
