"""Every arm of a seed in the real game: the same worlds, the same draws, in every task's reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from fastdreamer.config import Config
from fastdreamer.data.actions import action_space
from fastdreamer.data.tasks import RECORDED
from fastdreamer.envs.games import Games, SameWorlds
from fastdreamer.evaluation.closed_loop import AgentPolicy, Encoder, Episodes, Policy, RandomPolicy, play
from fastdreamer.evaluation.evaluate import evaluation_seeds
from fastdreamer.study.parts import Parts, fingerprint
from fastdreamer.training.runs import RunDirectory, load_agent


@dataclass(frozen=True)
class Arm:
    """A policy under test: what is trained in a run directory after a phase, or random play (phase 0)."""

    name: str
    run: Path
    phase: int


def task_names(config: Config) -> tuple[str, ...]:
    """What is trained for and paid, by number; the recorded reward where no task is named."""
    section = getattr(config, "tasks", None)
    return tuple(getattr(section, "names", ())) or (RECORDED,)


def acting_encoder(config: Config, count: int, device: torch.device) -> Encoder:
    """The frozen tokenizer for `count` games in lockstep."""
    from fastdreamer.tokenizer.acting import ActingEncoder
    from fastdreamer.tokenizer.engines import open_tokenizer

    return ActingEncoder(open_tokenizer(config, device), count)


def play_arms(
    config: Config, parts: Parts, name: str, arms: Sequence[Arm], device: torch.device
) -> dict[str, dict[str, Episodes]]:
    """The episodes of every arm, by task and arm; those that were played before are read."""
    made_with = fingerprint(config)
    played: dict[str, dict[str, Episodes]] = {}
    with _Stage(config, device) as stage:
        for number, task in enumerate(task_names(config)):
            played[task] = {}
            for arm in arms:
                work = partial(_play, stage, arm, number, task)
                part = parts.run(f"{name}/play-{number}-{arm.name}", made_with, work, again=True)
                played[task][arm.name] = _episodes(part)
    return played


class _Stage:
    """Games and tokenizer, which are opened once something is played."""

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.worlds = evaluation_seeds(config)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open.close()

    @cached_property
    def games(self) -> Games:
        settings = self.config.evaluation
        return self._open.enter_context(Games(len(self.worlds), settings.max_steps, settings.workers))

    @cached_property
    def encoder(self) -> Encoder:
        return acting_encoder(self.config, len(self.worlds), self.device)


def _play(stage: _Stage, arm: Arm, number: int, task: str) -> dict[str, Any]:
    config, settings, chunk = stage.config, stage.config.evaluation, stage.config.tokenizer.frames_per_latent
    policy: Policy
    if arm.phase:
        actor = load_agent(RunDirectory(arm.run), config, arm.phase, stage.device)
        actor.task = number
        policy = AgentPolicy(actor, False, settings.seed, stage.device)
    else:
        policy = RandomPolicy(action_space(config.data.env).sizes, chunk, stage.worlds)
    worlds = SameWorlds(stage.games, stage.worlds, task)
    encoder = stage.encoder if policy.uses_latents else None
    episodes = play(policy, worlds, encoder, chunk, settings.execute or chunk, settings.max_steps, arm.name)
    return {
        "returns": episodes.returns,
        "lengths": episodes.lengths,
        "achievements": [sorted(names) for names in episodes.achievements],
    }


def _episodes(part: Mapping[str, Any]) -> Episodes:
    return Episodes(
        np.array(part["returns"], np.float64),
        np.array(part["lengths"], np.int64),
        [frozenset(names) for names in part["achievements"]],
    )
