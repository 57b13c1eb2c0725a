"""`fastdreamer record`: play real Crafter, well, badly and at random, and write recordings in MineRL's layout."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastdreamer.config import Config, RecordConfig
from fastdreamer.envs.crafter import CrafterEnv, import_crafter
from fastdreamer.envs.expert import Expert
from fastdreamer.envs.mix import KINDS, Chance, player_of
from fastdreamer.envs.workers import map_unordered
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.counters import total_gain
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.system.advice import plain
from fastdreamer.system.cores import count_cores
from fastdreamer.system.json_files import COUNT, NUMBER, TEXT, Every, read_object
from fastdreamer.system.progress import track

NAME = re.compile(r"v3_.+_crafter-(\d+)_0-\d+")
METADATA = {"total_reward": NUMBER, "duration_steps": COUNT, "achievements": [TEXT], "gains?": Every(NUMBER)}
SHOWN = ("wood", "sapling", "drink", "stone")  # gains in the table of players


def record(config: Config, out: Path) -> dict[str, Any]:
    """Play `config.record.episodes` episodes, one world each, and write them under `out`.

    Seeds count up from `config.record.seed`; an episode depends on its seed and the settings alone, not on the
    number of processes. An episode lies in `Crafter-<policy>/v3_<kind>_crafter-<seed>_0-<steps>` (`mix.player_of` says
    of which kind it is), appears whole or not at all, and is kept if it is there already, so that an interrupted
    recording goes on where it stopped, and two that write to one folder both end well.

    Returns:
        episodes, frames, return_mean, return_std, achievements {name: share of episodes}, players (a row a kind:
        episodes, mean return, and how often the counters in `SHOWN` rose an episode), seconds, out.

    Raises:
        UserError: if `out` cannot be written, holds episodes of other settings, or crafter is not installed.
    """
    began, settings = time.monotonic(), config.record
    if config.data.env != "crafter":
        raise UserError(f"data.env is {config.data.env!r}: only crafter can be recorded here")
    if settings.policy == "human":
        human = plain("record", policy="human", out=out)
        raise UserError(f"record.policy is human, and a person plays in the browser: {human}")
    import_crafter()
    root = out / f"Crafter-{settings.policy}"
    _check_writable(root)
    done = _finished(root, settings, _seeds(settings))
    missing = [seed for seed in _seeds(settings) if seed not in done]
    workers = min(count_cores(), len(missing))
    with track("record", total=settings.episodes, unit="episodes", start=len(done)) as bar:
        for seed, metadata in map_unordered(_Recorder, (root, settings), missing, workers):
            done[seed] = metadata
            returns = [episode["total_reward"] for episode in done.values()]
            bar.advance(1, return_mean=float(np.mean(returns)))
    episodes = [done[seed] for seed in _seeds(settings)]
    uncounted = sum("gains" not in episode for episode in episodes)
    if uncounted:
        print(f"note: {uncounted} episodes in {root} have no counters, for an older version recorded them", flush=True)
    players = _players(episodes, settings)
    return {**_summary(episodes), "players": players, "seconds": time.monotonic() - began, "out": str(out)}


def play(env: CrafterEnv, settings: RecordConfig) -> Trajectory:
    """Play one whole episode in `env`, as the settings have its world played; its seed is that of all chance."""
    player = player_of(env.seed, settings)
    chance = Chance(player.chance, random.Random(env.seed), env.action_names)
    expert = Expert(player.noise, env.seed, player.chance)
    frames, actions, rewards = [env.reset()], list[int](), list[float]()
    counted = [env.counters]
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(env) if player.policy == "expert" else chance.act()
        assert action is not None, "all steps are random play's"
        frame, reward, terminated, truncated, _ = env.step(action)
        frames.append(frame)
        actions.append(action)
        rewards.append(reward)
        counted.append(env.counters)
    terminals = np.zeros(len(actions), bool)
    terminals[-1] = terminated
    counters = {name: np.array([values[name] for values in counted], np.int32) for name in counted[0]}
    gains = {name: total_gain(values) for name, values in counters.items()}
    return Trajectory(
        name=f"v3_{player.kind}_crafter-{env.seed}_0-{len(actions)}",
        frames=np.stack(frames),
        actions=np.array(actions, np.uint8)[:, None],
        rewards=np.array(rewards, np.float32),
        terminals=terminals,
        valid=np.ones(len(frames), bool),
        metadata={
            "success": not terminated,
            "terminated": terminated,
            **_identity(env.seed, settings),
            "achievements": env.unlocked,
            "gains": {name: gain for name, gain in gains.items() if gain},
        },
        counters=counters,
    )


class _Recorder:
    """Plays and writes the episode of a seed, in a worker."""

    def __init__(self, root: Path, settings: RecordConfig) -> None:
        self.root, self.settings = root, settings

    def __call__(self, seed: int) -> tuple[int, dict[str, Any]]:
        from fastdreamer.recordings.writer import write_recording  # PyAV: only where videos are written

        found = _finished(self.root, self.settings, [seed])
        if found:  # by another `record` meanwhile
            return seed, found[seed]
        env, space = CrafterEnv(seed, self.settings.max_steps), action_space("crafter")
        assert space.components[0].labels == env.action_names, "crafter's actions have changed"
        episode = play(env, self.settings)
        try:
            write_recording(self.root / episode.name, episode, space, episode.metadata)
        except (UserError, OSError):
            if not (self.root / episode.name).is_dir():  # else another one was faster: its episode is kept
                raise
        return seed, _finished(self.root, self.settings, [seed])[seed]


def _seeds(settings: RecordConfig) -> range:
    return range(settings.seed, settings.seed + settings.episodes)


def _identity(seed: int, settings: RecordConfig) -> dict[str, Any]:
    """The figures that determine an episode."""
    player = player_of(seed, settings)
    identity = {"seed": seed, "policy": player.policy, "noise": player.noise, "max_steps": settings.max_steps}
    return identity | ({} if player.chance == "uniform" else {"chance": player.chance})


def _check_writable(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write recordings to {root} ({error.strerror}): choose another --out") from error
    if not os.access(root, os.W_OK | os.X_OK):
        raise UserError(f"cannot write recordings to {root} (no permission): choose another --out")


def _finished(root: Path, settings: RecordConfig, seeds: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Metadata of the wanted episodes that are there already, by seed."""
    finished, asked = {}, set(seeds)
    try:
        folders = sorted(root.iterdir())
    except OSError as error:
        raise UserError(f"{root} cannot be read ({error.strerror}): choose another --out") from error
    for folder in folders:
        name = NAME.fullmatch(folder.name)
        if name is None or (seed := int(name[1])) not in asked:
            continue
        metadata, wanted = _read_metadata(folder), _identity(seed, settings)
        found = {key: metadata.get(key) for key in wanted}
        if found != wanted:
            key = next(key for key in wanted if found[key] != wanted[key])
            differs = f"{key} {found[key]}, not {wanted[key]}"
            raise UserError(f"{folder} was recorded with {differs}: choose another --out")
        finished[seed] = metadata
    return finished


def _read_metadata(folder: Path) -> dict[str, Any]:
    path, remedy = folder / "metadata.json", "move its folder elsewhere and record again, or choose another --out"
    metadata = read_object(path, METADATA, remedy)
    if not metadata:
        raise UserError(f"{path} is missing: {remedy}")
    return metadata


def _summary(episodes: list[dict[str, Any]]) -> dict[str, Any]:
    returns = np.array([episode["total_reward"] for episode in episodes])
    unlocked = Counter(name for episode in episodes for name in episode["achievements"])
    return {
        "episodes": len(episodes),
        "frames": sum(episode["duration_steps"] + 1 for episode in episodes),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "achievements": {name: count / len(episodes) for name, count in unlocked.most_common()},
    }


def _players(episodes: list[dict[str, Any]], settings: RecordConfig) -> list[dict[str, Any]]:
    """A row a kind of player; recordings of before counters were kept have no gains."""
    rows = []
    for kind in KINDS:
        played = [episode for episode in episodes if player_of(episode["seed"], settings).kind == kind]
        counted = [episode["gains"] for episode in played if "gains" in episode]
        row = {"player": kind, "episodes": len(played)}
        if played:
            row["return_mean"] = float(np.mean([episode["total_reward"] for episode in played]))
            row |= {
                name: float(np.mean([gains.get(name, 0) for gains in counted])) if counted else "" for name in SHOWN
            }
            rows.append(row)
    return rows
