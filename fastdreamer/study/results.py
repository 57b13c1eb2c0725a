"""What a study found: figures of every seed, intervals over all of them, and the verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy import ndarray

from fastdreamer.config import Config, EvaluationConfig
from fastdreamer.envs.mix import EXPERT, kind_of
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Estimate, Interval, hierarchical_mean, hierarchical_ratio, mean_interval
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.latents.relabel import relabelled
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.report.verdict import say
from fastdreamer.settings import config_hash
from fastdreamer.study.play import Played

SHUFFLED_REWARDS, SHUFFLED_ACTIONS, REAL_GAME = "shuffled_rewards", "shuffled_actions", "real_game"
ALWAYS = ("phase2", "phase3")
ARMS = ("random", *ALWAYS, SHUFFLED_REWARDS, SHUFFLED_ACTIONS, REAL_GAME)
MUST_NOT_GAIN = (SHUFFLED_REWARDS, SHUFFLED_ACTIONS)
POSITIVE = 0.8  # share of the seeds


@dataclass(frozen=True)
class Seed:
    """What one seed's arms did, by task and arm, and its world model's figures."""

    seed: int
    worlds: range
    played: Mapping[str, Mapping[str, Played]]
    world_model: Mapping[str, Any]


def chosen_arms(text: str) -> tuple[str, ...]:
    """The arms of a list such as `random,real_game`; phases 2 and 3 are always among them.

    Raises:
        UserError: for an arm that does not exist.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words:
        if word not in ARMS:
            raise UserError(f"--arms names {word!r}; there are {', '.join(ARMS)}")
    return tuple(arm for arm in ARMS if arm in words or arm in ALWAYS)


def summarise(
    config: Config,
    seeds: Sequence[Seed],
    wanted: int,
    beyond: Sequence[str],
    recordings: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Sum up the seeds that are finished, of `wanted` (those `beyond` are not counted): the contents of study.json."""
    settings = config.evaluation
    tasks = {
        task: _task([seed.played[task] for seed in seeds], settings) | {"recordings": recordings[task]}
        for task in seeds[0].played
    }
    verdicts = [_every_seed(seeds, wanted, beyond)]
    for task, found in tasks.items():
        verdicts += [verdict | {"task": task} for verdict in _verdicts(found)]
    return {
        "configuration": config_hash(config),
        "env": config.data.env,
        "max_steps": settings.max_steps,
        "seeds": len(seeds),
        "wanted": wanted,
        "worlds": settings.episodes,
        "tasks": tasks,
        "by_seed": [_seed(seed, settings) for seed in seeds],
        "verdicts": verdicts,
        "red": sum(verdict["verdict"] == "red" for verdict in verdicts),
        "seconds": dict(seconds),
    }


def demonstrated(config: Config, store: LatentStore) -> dict[str, dict[str, Any]]:
    """What the recordings earned an episode in each task, cut where an evaluation ends; empty where it is unknown.

    Returns:
        Figures by task, for the demonstrator (all episodes where no expert is known): player, return_mean,
        return_low, return_high, episodes, length_mean; `players` has the mean return of each.
    """
    views = relabelled(store, store.episodes, config.tasks.names)
    names = [task.name for task in tasks_of(config)]
    return {name: _demonstrated(view, config.evaluation) for name, view in zip(names, views, strict=True)}


def _demonstrated(episodes: Sequence[Episode], settings: EvaluationConfig) -> dict[str, Any]:
    paid: dict[str, list[ndarray]] = {}
    for episode in (episode for episode in episodes if episode.rewarded):
        paid.setdefault(kind_of(episode.name) or "unknown", []).append(
            np.asarray(episode.rewards)[: settings.max_steps]
        )
    if not paid:
        return {}
    chosen = [EXPERT] if EXPERT in paid else list(paid)
    own = [rewards for player in chosen for rewards in paid[player]]
    interval = mean_interval(np.array([rewards.sum() for rewards in own]), settings.bootstrap, settings.seed)
    return {
        "player": chosen[0] if len(chosen) == 1 else "all",
        "return_mean": interval.mean,
        "return_low": interval.low,
        "return_high": interval.high,
        "episodes": len(own),
        "length_mean": float(np.mean([len(rewards) for rewards in own])),
        "players": {player: float(np.mean([r.sum() for r in found])) for player, found in paid.items()},
    }


def pairs_of(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of arms that are compared: cloning with random play, all that train from the clone with the clone."""
    later = [arm for arm in arms if arm not in ("random", "phase2")]
    return [*([("phase2", "random")] if "random" in arms else []), *((arm, "phase2") for arm in later)]


def _task(seeds: Sequence[Mapping[str, Played]], settings: EvaluationConfig) -> dict[str, Any]:
    returns = {arm: [seed[arm].episodes.returns for seed in seeds] for arm in seeds[0]}
    draws, seed = settings.bootstrap, settings.seed

    def mean(values: Sequence[ndarray]) -> dict[str, object]:
        return hierarchical_mean(values, draws, seed).to_dict()

    ratio: Estimate | None = hierarchical_ratio(returns["phase3"], returns["phase2"], draws, seed)
    return {
        "arms": {arm: mean(values) for arm, values in returns.items()},
        "differences": {
            f"{one}_minus_{other}": mean([a - b for a, b in zip(returns[one], returns[other], strict=True)])
            for one, other in pairs_of(list(returns))
        },
        "phase3_over_phase2": None if ratio is None else ratio.to_dict(),
    }


def _seed(seed: Seed, settings: EvaluationConfig) -> dict[str, Any]:
    how = settings.bootstrap, settings.seed

    def difference(one: Played, other: Played) -> dict[str, float]:
        return mean_interval(one.episodes.returns - other.episodes.returns, *how).to_dict()

    return {
        "seed": seed.seed,
        "worlds": {"first": seed.worlds[0], "count": len(seed.worlds)},
        "tasks": {
            task: {
                "arms": {name: arm.episodes.to_dict(*how) for name, arm in arms.items()},
                "differences": {f"{a}_minus_{b}": difference(arms[a], arms[b]) for a, b in pairs_of(list(arms))},
                "reward_calibration": {name: dict(arm.calibration) for name, arm in arms.items() if arm.calibration},
            }
            for task, arms in seed.played.items()
        },
        "world_model": dict(seed.world_model),
    }


def _every_seed(seeds: Sequence[Seed], wanted: int, beyond: Sequence[str]) -> dict[str, str]:
    value = f"{len(seeds)} of {wanted} finished"
    if beyond:
        value += f", and {', '.join(beyond)} not counted"
    return _verdict("no seed left out", value, f"{wanted} of {wanted}", len(seeds) == wanted and not beyond)


def _verdicts(found: Mapping[str, Any]) -> list[dict[str, str]]:
    gain = found["differences"]["phase3_minus_phase2"]
    interval, count = Interval.of(gain), len(gain["by_seed"])
    asked = math.ceil(POSITIVE * count)
    verdicts = [
        _verdict("gain of phase 3", say(interval, sign=True), "the interval above 0", interval.low > 0),
        _verdict("seeds that gain", f"{gain['positive']} of {count}", f"at least {asked}", gain["positive"] >= asked),
    ]
    for arm in MUST_NOT_GAIN:
        if f"{arm}_minus_phase2" in found["differences"]:
            beside = Interval.of(found["differences"][f"{arm}_minus_phase2"])
            name = f"control: {arm.replace('_', ' ')}"
            verdicts.append(
                _verdict(name, say(beside, sign=True), "the interval includes 0", beside.low <= 0 <= beside.high)
            )
    return verdicts


def _verdict(name: str, value: str, expected: str, is_well: bool) -> dict[str, str]:
    return {"name": name, "value": value, "expected": expected, "verdict": "ok" if is_well else "red"}


def render(result: Mapping[str, Any]) -> str:
    """The summary as text to print."""
    lines = [f"{result['seeds']} of {result['wanted']} seeds, {result['worlds']} worlds each"]
    for task, found in result["tasks"].items():
        lines.append(f"\ntask {task}, over {found['arms']['phase3']['over']}")
        lines += [f"  {name:<34}{say(Interval.of(row))}" for name, row in found["arms"].items()]
        if found["recordings"]:
            lines.append(f"  {'the recordings':<34}{found['recordings']['return_mean']:.2f}")
        for name, row in found["differences"].items():
            seeds = ", ".join(f"{value:+.2f}" for value in row["by_seed"])
            lines.append(f"  {name.replace('_minus_', ' - '):<34}{say(Interval.of(row), sign=True)}  seeds: {seeds}")
        if found["phase3_over_phase2"]:
            lines.append(f"  {'phase3 / phase2':<34}{say(Interval.of(found['phase3_over_phase2']))}")
    lines.append("")
    for verdict in result["verdicts"]:
        task = f" ({verdict['task']})" if "task" in verdict else ""
        lines.append(
            f"{verdict['verdict']:<5}{verdict['name']}{task}: {verdict['value']} (expected {verdict['expected']})"
        )
    return "\n".join([*lines, f"page: {result['page']}"])
