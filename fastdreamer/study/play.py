"""Every arm of a seed in the real game: the same worlds, the same draws, in every task's reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from fastdreamer.config import Config
from fastdreamer.envs.pool import EnvPool
from fastdreamer.evaluation import environments as acting
from fastdreamer.evaluation.calibration import calibrate
from fastdreamer.evaluation.closed_loop import AgentPolicy, Encoder, Episodes, Policy, RandomPolicy, play
from fastdreamer.evaluation.evaluate import evaluation_seeds
from fastdreamer.evaluation.payments import Task, Trace, tasks_of
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.study.parts import Parts, fingerprint
from fastdreamer.training.models import load_agent

JUDGED = ("phase2", "phase3")  # arms whose predicted rewards are compared with what was paid


@dataclass(frozen=True)
class Arm:
    """A policy under test: what is trained in a run directory after a phase, or random play (phase 0)."""

    name: str
    run: Path
    phase: int


@dataclass(frozen=True)
class Played:
    """What an arm did for a task, and its reward head against what was paid (empty where it is not compared)."""

    episodes: Episodes
    calibration: Mapping[str, Any]


def acting_encoder(config: Config, count: int, device: torch.device) -> Encoder:
    """The frozen tokenizer for `count` games in lockstep."""
    from fastdreamer.tokenizer.acting import ActingEncoder
    from fastdreamer.tokenizer.engines.installed import open_tokenizer

    return ActingEncoder(open_tokenizer(config, device), count)


def play_arms(
    config: Config, parts: Parts, name: str, arms: Sequence[Arm], device: torch.device
) -> dict[str, dict[str, Played]]:
    """What every arm did, by task and arm; those that were played before are read."""
    made_with, tasks = fingerprint(config), tasks_of(config)
    found: dict[str, dict[str, Played]] = {task.name: {} for task in tasks}
    with _Stage(config, device) as stage:
        for arm in arms:
            turns = [(f"play-{arm.name}", tasks)]  # random play is played once and paid by every task
            if arm.phase and len(tasks) > 1:
                turns = [(f"play-{arm.name}-{task.number}", [task]) for task in tasks]
            for turn, judged in turns:
                part = parts.run(f"{name}/{turn}", made_with, partial(_play, stage, arm, judged), again=True)
                for task in judged:
                    found[task.name][arm.name] = _read(part, task)
    return found


class _Stage:
    """Worlds and tokenizer, which are opened once something is played."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.worlds = evaluation_seeds(config)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def pool(self) -> EnvPool:
        return self._open.enter_context(acting.open_pool(self.config, self.worlds))

    @cached_property
    def encoder(self) -> Encoder:
        return acting_encoder(self.config, len(self.worlds), self.device)


def _play(stage: _Stage, arm: Arm, tasks: Sequence[Task]) -> dict[str, Any]:
    config, settings, chunk = stage.config, stage.config.evaluation, stage.config.tokenizer.frames_per_latent
    names, execute = [task.name for task in tasks], settings.execute or chunk
    policy: Policy = RandomPolicy(action_space(config.data.env).sizes, chunk, stage.worlds)
    encoder, trace, calibration = None, None, dict[str, Any]()
    if arm.phase:
        actor = load_agent(RunDirectory(arm.run), config, arm.phase, stage.device, tasks[0].number)
        policy, encoder = AgentPolicy(actor, False, settings.seed, stage.device), stage.encoder
        is_judged = arm.name in JUDGED and execute == chunk and actor.agent.reward.is_trained
        trace = Trace() if is_judged else None
    episodes = play(policy, stage.pool, encoder, chunk, execute, settings.max_steps, arm.name, trace, names)
    if trace:
        calibration = calibrate(actor.world, actor.agent, trace.episodes(arm.name, tasks[0].number), config)
    return {
        "returns": episodes.by_task,
        "lengths": episodes.lengths,
        "achievements": [sorted(unlocked) for unlocked in episodes.achievements],
        "calibration": calibration,
    }


def _read(part: Mapping[str, Any], task: Task) -> Played:
    returns = np.array(part["returns"][task.name], np.float64)
    unlocked = [frozenset(names) for names in part["achievements"]]
    return Played(Episodes(returns, np.array(part["lengths"], np.int64), unlocked), part["calibration"])
