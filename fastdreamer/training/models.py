"""Trained models out of a run's checkpoints."""

from __future__ import annotations

import torch
from torch import nn

from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.checkpoint import Checkpoint, strip_compiled_prefix
from fastdreamer.run.directory import RunDirectory


def load_world_model(run: RunDirectory, config: Config, device: torch.device) -> WorldModel:
    """The run's world model."""
    return world_model_from(run.load(1, config), config, device)


def load_agent(run: RunDirectory, config: Config, phase: int, device: torch.device, task: int | None = None) -> Actor:
    """The run's policy after phase 2 or 3, ready to act for a task: one of the named ones, or evaluation.task."""
    checkpoint = run.load(phase, config)
    world, agent = world_model_from(checkpoint, config, device), agent_from(checkpoint, config, device)
    return Actor(world, agent, config.evaluation.task if task is None else task)


def world_model_from(
    checkpoint: Checkpoint, config: Config, device: torch.device, recomputes: bool = False
) -> WorldModel:
    """The averaged world model inside a checkpoint of any phase, frozen."""
    world = WorldModel.build(config, action_space(config.data.env).sizes, recomputes)
    fill(world, checkpoint, *(("ema", "world.") if checkpoint.phase == 1 else ("frozen-world", "")))
    return world.to(device).eval().requires_grad_(False)


def agent_from(checkpoint: Checkpoint, config: Config, device: torch.device) -> Agent:
    """The averaged agent inside a phase 2 or 3 checkpoint."""
    agent = Agent(config, action_space(config.data.env).sizes)
    if checkpoint.phase == 2:
        fill(agent, checkpoint, "ema", "agent.")
    else:
        fill(agent, checkpoint, "frozen-agent", "")
        fill(agent.policy, checkpoint, "ema", "policy.")
        fill(agent.value, checkpoint, "ema", "value.")
    return agent.to(device)


def prior_from(checkpoint: Checkpoint, config: Config, device: torch.device) -> Policy:
    """The phase 2 policy that phase 3 stays close to: the agent's own at its start, the saved one when resuming."""
    prior = Agent(config, action_space(config.data.env).sizes).policy
    fill(prior, checkpoint, *(("ema", "agent.policy.") if checkpoint.phase == 2 else ("frozen-prior", "")))
    return prior.to(device)


def fill(module: nn.Module, checkpoint: Checkpoint, group: str = "ema", prefix: str = "") -> None:
    """Puts a checkpoint's tensors, by default the averaged weights, into a module of the same architecture.

    Raises:
        UserError: if they do not fit.
    """
    tensors = strip_compiled_prefix(checkpoint.averages if group == "ema" else checkpoint.tensors.get(group, {}))
    own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    try:
        module.load_state_dict(own)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{checkpoint.path} does not fit this version's {type(module).__name__}: {reason}") from None
