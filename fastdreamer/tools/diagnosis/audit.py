"""`diagnose --audit`: does imagination say of an action what the game says, where the policy really goes?

Saved states of recorded and of the policy's own play are played on from, in the game and in the world model. Where
imagination does not agree with the game, phase 3 makes the policy better in imagination alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.envs.branching import BranchPool
from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import Interval
from fastdreamer.evaluation.closed_loop import AgentPolicy, Encoder, check_worlds
from fastdreamer.evaluation.environments import open_encoder
from fastdreamer.evaluation.evaluate import evaluation_seeds, recorded_seeds
from fastdreamer.evaluation.payments import tasks_of
from fastdreamer.heads.actor import Actor
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, worst
from fastdreamer.latents.store import Episode, LatentStore
from fastdreamer.recordings.actions import action_space
from fastdreamer.report.flags_section import FIGURES, KINDS, said
from fastdreamer.run.directory import RunDirectory
from fastdreamer.run.run_files import AUDIT
from fastdreamer.system.advice import command
from fastdreamer.system.json_files import COUNT, read_loosely
from fastdreamer.system.output import in_columns
from fastdreamer.system.progress import track
from fastdreamer.tools.diagnosis.advantages import Figures, advantages, measure
from fastdreamer.tools.diagnosis.moments import Live, Moment, Player, Reach, Replay, collect, encode
from fastdreamer.tools.diagnosis.tries import Trial, Tried, stacked
from fastdreamer.training.models import load_agent


@dataclass(frozen=True)
class Effort:
    """How much is tried: states of each kind, and tries of every action from each of them.

    Raises:
        UserError: for fewer than anything can be told from.
    """

    states: int = 16
    tries: int = 8

    def __post_init__(self) -> None:
        for name, value in (("states", self.states), ("tries", self.tries)):
            if value < 2:
                raise UserError(f"--{name} is {value}; an audit needs at least 2")


def check_auditable(config: Config, run: RunDirectory) -> int:
    """The phase whose policy is audited: the last one that is trained.

    Raises:
        UserError: where the environment cannot be put back into a state, or there is no policy.
    """
    if config.data.env != "crafter":
        raise UserError(
            f"data.env is {config.data.env}, which cannot be put back into a saved state: leave --audit out"
        )
    phase = max((phase for phase in (2, 3) if run.has_phase(phase)), default=0)
    if not phase:
        train = command("train", run_dir=run.path, phase=2)
        raise UserError(f"{run.path} has no policy to audit; train one first with: {train}")
    return phase


def audit(config: Config, run: RunDirectory, backend: Backend, effort: Effort) -> dict[str, Any]:
    """Tries every action from states of both kinds; writes RUN/diagnosis/audit.json and returns what it holds.

    Raises:
        UserError: see `check_auditable`; if the reward head never learned, or a world to be played was recorded.
    """
    from fastdreamer.tokenizer.acting import ActingEncoder

    phase, settings, clock = check_auditable(config, run), config.imagination, config.tokenizer.clock
    actor = load_agent(run, config, phase, backend.device)
    if not actor.agent.reward.is_trained:
        raise UserError(f"{run.path} was trained on recordings without rewards: there is nothing to audit")
    reach, task, (actions,) = Reach(clock, settings.start_context), rewarded_task(config), action_space("crafter").sizes
    encoder = open_encoder(config, run, effort.states, backend.device)
    moments, notes = moments_of(config, run, actor, encoder, reach, effort.states)
    branches, found, kinds = actions * effort.tries, dict[str, Figures](), dict[str, Any]()
    total = sum(map(len, moments.values())) * branches * settings.horizon
    with (
        BranchPool(branches, task, config.evaluation.workers) as pool,
        track("try actions", total=total, unit="steps") as bar,
    ):
        trial = Trial(
            actor, pool, ActingEncoder(encoder.tokenizer, branches), reach, backend, actions, effort.tries,
            settings.horizon, settings.gamma, bar.advance,
        )  # fmt: skip
        for kind, those in moments.items():
            if len(those) < 2:
                continue
            latents, positions = encode(ActingEncoder(encoder.tokenizer, len(those)), those, reach)
            seeds = range(config.evaluation.seed, config.evaluation.seed + len(those))
            tried = stacked([trial.run(m, z, positions, s) for m, z, s in zip(those, latents, seeds, strict=True)])
            found[kind] = figures(tried, config)
            kinds[kind] = {"states": len(those), "figures": found[kind].to_dict(), "points": points(tried, config)}
    checks = list(checks_of(found))
    result = {
        "phase": phase, "task": task, "tries": effort.tries, "horizon": settings.horizon, "gamma": settings.gamma,
        "context": settings.start_context, "kinds": kinds, "notes": notes, "verdict": worst(checks),
        "checks": [check.to_dict() for check in checks],
    }  # fmt: skip
    AUDIT.write(run.path, result)
    return result


def figures(tried: Tried, config: Config) -> Figures:
    """Figures of all states of a kind."""
    pair = tried.real, tried.imagined
    real, imagined = (discounted(rewards, config) for rewards in pair)
    sums = tried.real.sum(-1), tried.imagined.sum(-1)
    return measure(real, imagined, sums, tried.policy, config.evaluation.bootstrap, config.evaluation.seed)


def discounted(rewards: Float[ndarray, "*b h"], config: Config) -> Float[ndarray, "*b"]:
    """Sum of rewards, discounted by `imagination.gamma`, which is a frame's."""
    gamma = config.imagination.gamma**config.tokenizer.frames_per_latent
    return np.asarray(rewards @ gamma ** np.arange(rewards.shape[-1]))


def points(tried: Tried, config: Config) -> list[list[float]]:
    """(real, imagined) advantage of every action of every state."""
    pair = [advantages(discounted(rewards, config)).ravel() for rewards in (tried.real, tried.imagined)]
    return [[round(float(x), 4), round(float(y), 4)] for x, y in zip(*pair, strict=True)]


def checks_of(found: Mapping[str, Figures]) -> Iterator[Check]:
    """Whether imagination can be learned from: advantages where the policy goes, rewards everywhere."""
    if "own" in found:
        own = found["own"]
        without_noise = span(own.disattenuated) if own.disattenuated is not None else None
        yield flags.advantage_agreement(own.real_reliability.mean, span(own.correlation), without_noise)
    for kind, of in found.items():
        ratio = span(of.optimism) if of.optimism is not None else None
        yield flags.optimism(KINDS[kind], of.imagined.mean, span(of.real), ratio)


def span(interval: Interval) -> tuple[float, float, float]:
    """An interval as (mean, low, high)."""
    return interval.mean, interval.low, interval.high


def render(result: Mapping[str, Any]) -> list[str]:
    """The table, a line a figure and a column a kind of states, and the checks."""
    kinds = result["kinds"]
    rows = [["", *(f"{KINDS[kind]} ({of['states']} states)" for kind, of in kinds.items())]]
    rows += [[title, *(said(of["figures"][name]) for of in kinds.values())] for name, title in FIGURES.items()]
    lines = [
        f"audit of phase {result['phase']}'s policy, {result['tries']} tries an action over {result['horizon']} latent "
        f"steps: {result['verdict']}"
    ]
    lines += [f"  {line}" for line in in_columns(rows)]
    for check in result["checks"]:
        lines.append(f"  {check['name']}: {check['value']}; expected {check['expected']}; {check['verdict']}")
    lines += [f"  {c['verdict'].upper()} {c['name']}: {c['remedy']}" for c in result["checks"] if c["remedy"]]
    return lines + [f"  note: {note}" for note in result["notes"]]


def rewarded_task(config: Config) -> str:
    """The task that the policy is after, as `recordings.tasks` names it: what the real game pays in an audit.

    Of several it is the one that evaluation.task numbers, whose TASK token the policy acts with.
    """
    tasks = tasks_of(config)
    return tasks[config.evaluation.task if len(tasks) > 1 else 0].name


def own_seeds(config: Config, run: RunDirectory, count: int) -> range:
    """Worlds behind those of the evaluation; UserError if one was recorded."""
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
