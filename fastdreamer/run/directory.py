"""A run directory: where its parts are, and loading trained parts from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from fastdreamer.config import Config, load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import Checkpoint, check_architecture, load_checkpoint, steps_in
from fastdreamer.run.checkpoint import strip_compiled_prefix as strip
from fastdreamer.run.kept_config import run_config
from fastdreamer.system.advice import command
from fastdreamer.system.folders import expanded


@dataclass(frozen=True)
class RunDirectory:
    """Paths of one run; nothing is created by asking."""

    path: Path

    def config(self) -> Config:
        """The run's resolved configuration.

        Raises:
            UserError: if the directory is no run, or its configuration is not what was written.
        """
        return load_config(str(run_config(self.path)))

    def recordings(self, config: Config) -> Path:
        return expanded(config.data.recordings) if config.data.recordings else self.path / "recordings"

    def store(self, config: Config) -> Path:
        return expanded(config.data.store) if config.data.store else self.path / "store"

    def checkpoints(self, phase: int) -> Path:
        return self.path / "checkpoints" / f"phase{phase}"

    def has_phase(self, phase: int) -> bool:
        return bool(steps_in(self.checkpoints(phase)))

    def step(self, phase: int) -> int:
        """Of a phase's newest checkpoint."""
        return int(steps_in(self.checkpoints(phase))[-1].name.removeprefix("step-"))

    def load(self, phase: int, config: Config) -> Checkpoint:
        """A phase's newest checkpoint, checked against the configuration.

        Raises:
            UserError: if there is none, it is damaged, or it belongs to another configuration.
        """
        if not self.has_phase(phase):
            train = command("train", run_dir=self.path, phase=phase)
            raise UserError(f"{self.path} has no phase {phase} checkpoint; train it first with: {train}")
        checkpoint = load_checkpoint(self.checkpoints(phase))
        if checkpoint.phase != phase:
            raise UserError(f"{checkpoint.path} is a checkpoint of phase {checkpoint.phase}: put back what was there")
        check_architecture(checkpoint, config)
        return checkpoint


def world_model_from(checkpoint: Checkpoint, config: Config, device: torch.device) -> WorldModel:
    """The averaged world model inside a checkpoint of any phase, frozen."""
    world = WorldModel.build(config, action_space(config.data.env).sizes)
    if checkpoint.phase == 1:
        _fill(world, checkpoint, "ema", "world.")
    else:
        _fill(world, checkpoint, "frozen-world", "")
    return world.to(device).eval().requires_grad_(False)


def agent_from(checkpoint: Checkpoint, config: Config, device: torch.device) -> Agent:
    """The averaged agent inside a phase 2 or 3 checkpoint."""
    agent = Agent(config, action_space(config.data.env).sizes)
    if checkpoint.phase == 2:
        _fill(agent, checkpoint, "ema", "agent.")
    else:
        _fill(agent, checkpoint, "frozen-agent", "")
        _fill(agent.policy, checkpoint, "ema", "policy.")
        _fill(agent.value, checkpoint, "ema", "value.")
    return agent.to(device)


def prior_from(checkpoint: Checkpoint, config: Config, device: torch.device) -> Policy:
    """The phase 2 policy that phase 3 stays close to: the agent's own at its start, the saved one when resuming."""
    prior = Agent(config, action_space(config.data.env).sizes).policy
    if checkpoint.phase == 2:
        _fill(prior, checkpoint, "ema", "agent.policy.")
    else:
        _fill(prior, checkpoint, "frozen-prior", "")
    return prior.to(device)


def load_world_model(run: RunDirectory, config: Config, device: torch.device) -> WorldModel:
    """The run's world model."""
    return world_model_from(run.load(1, config), config, device)


def load_agent(run: RunDirectory, config: Config, phase: int, device: torch.device, task: int | None = None) -> Actor:
    """The run's policy after phase 2 or 3, ready to act for a task: one of the named ones, or evaluation.task."""
    checkpoint = run.load(phase, config)
    world, agent = world_model_from(checkpoint, config, device), agent_from(checkpoint, config, device)
    return Actor(world, agent, config.evaluation.task if task is None else task)


def _fill(module: nn.Module, checkpoint: Checkpoint, group: str, prefix: str) -> None:
    tensors = strip(checkpoint.averages if group == "ema" else checkpoint.tensors.get(group, {}))
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{checkpoint.path} does not fit this version's {type(module).__name__}: {reason}") from None
