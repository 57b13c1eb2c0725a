"""Sources of an audit's moments: held-out recordings played again, and the policy in worlds it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastdreamer.config import Config
from fastdreamer.envs.branching import BranchPool
from fastdreamer.evaluation.closed_loop import AgentPolicy, Encoder, check_worlds
from fastdreamer.evaluation.evaluate import evaluation_seeds, recorded_seeds
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.heads.actor import Actor
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.system.json_files import COUNT, read_loosely
from fastdreamer.system.progress import track
from fastdreamer.tools.diagnosis.moments import Live, Moment, Player, Reach, Replay, collect


def rewarded_task(config: Config) -> str:
    """The task that the policy is after, as `recordings.tasks` names it: what the real game pays in an audit.

    Of several it is the one that evaluation.task numbers, whose TASK token the policy acts with.
    """
    tasks = tasks_of(config)
    return tasks[config.evaluation.task if len(tasks) > 1 else 0].name


def own_seeds(config: Config, run: RunDirectory, count: int) -> range:
    """Worlds behind those of the evaluation.

    Raises:
        UserError: if one was recorded.
    """
    first = evaluation_seeds(config).stop
    seeds = range(first, first + count)
    check_worlds(seeds, recorded_seeds(config, run))
    return seeds


def recorded_worlds(config: Config, run: RunDirectory) -> list[tuple[int, Episode]]:
    """Held-out episodes with the seeds of their worlds, as far as the recordings still tell them."""
    store = LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    episodes = {episode.name: episode for episode in store.split("held_out") if episode.labelled and episode.rewarded}
    worlds = []
    for path in sorted(run.recordings(config).glob("*/*/metadata.json")):
        episode, seed = episodes.get(path.parent.name), _seed(path)
        if episode is not None and seed is not None:
            worlds.append((seed, episode))
    return worlds


def moments_of(
    config: Config, run: RunDirectory, actor: Actor, encoder: Encoder, reach: Reach, count: int
) -> tuple[dict[str, list[Moment]], list[str]]:
    """Find up to `count` moments of each kind that can be played here, and what a reader must know about them.

    Raises:
        UserError: if a world of the policy's own play was recorded.
    """
    chunk, notes = config.tokenizer.frames_per_latent, list[str]()
    seeds = list(own_seeds(config, run, count))
    policy = AgentPolicy(actor, False, config.evaluation.seed, actor.world.mean.device)
    steps = max(1 + reach.pushes + reach.every, config.evaluation.max_steps // chunk)
    players: dict[str, tuple[Player, list[int], int]] = {"own": (Live(policy, encoder, chunk, steps), seeds, steps)}
    known = recorded_worlds(config, run)
    if known:
        worlds = [known[i % len(known)] for i in range(count)]
        replay = Replay([(e.actions.numpy(), e.rewards.numpy()) for _, e in worlds], chunk)
        longest = max(len(episode.actions) // chunk for _, episode in worlds)
        players = {"recorded": (replay, [seed for seed, _ in worlds], longest), **players}
    else:
        notes.append("Recorded play was left out: no held-out recording is there with the seed of its world.")
    moments: dict[str, list[Moment]] = {}
    with BranchPool(count, rewarded_task(config), config.evaluation.workers) as pool:
        for kind, (player, worlds_of, most) in players.items():
            with track(f"play to {kind} states", total=count * most, unit="steps") as bar:
                chance = np.random.default_rng(config.evaluation.seed)
                found = collect(pool, worlds_of, player, reach, chance, bar.advance)
            moments[kind] = _usable(found, player)
            if len(moments[kind]) < count:
                notes.append(f"{count - len(moments[kind])} of {count} worlds gave no state of {kind} play.")
    return moments, notes


def _usable(found: Sequence[Moment | None], player: Player) -> list[Moment]:
    """The moments without those of worlds that went another way than their recording."""
    kept = player.is_true if isinstance(player, Replay) else np.ones(len(found), bool)
    return [moment for moment, is_true in zip(found, kept, strict=True) if moment is not None and is_true]


def _seed(path: Path) -> int | None:
    seed = (read_loosely(path) or {}).get("seed")
    return seed if COUNT.holds(seed) else None
