"""A run directory as one object."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.api.tensor_modules import Imagination, Player, PolicyHead, ScalarHead, Tokenizer
from fastdreamer.device import choose_device
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import Checkpoint, steps_in
from fastdreamer.run.directory import RunDirectory
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock
from fastdreamer.tools.diagnosis.inputs import output
from fastdreamer.training.models import agent_from, world_model_from

PHASES = (1, 2, 3)
MODELS = ("tokenizer", "dynamics", "policy_head", "reward_head", "value_head", "imagination")


class Run:
    """A run directory, as `open_run` gives it. What is asked for is loaded then, and kept.

    Attributes:
        path: the run's folder.
        config: its resolved configuration.
        phase: the phase whose weights these are: 2 or 3; 0 stands for the newest of them.
        device: the modules' device, chosen by the configuration.

    Raises:
        UserError: where a part is asked for that is not trained there, or is damaged.
    """

    def __init__(self, path: Path, phase: int = 0) -> None:
        self._run = RunDirectory(path)
        self.path, self.config = path, self._run.config()
        self.phase = phase or (3 if self._run.has_phase(3) else 2)
        self.device = choose_device(self.config).device

    @property
    def checkpoints(self) -> dict[int, list[Path]]:
        """The folders of the checkpoints that are kept, oldest first, for every phase that has some."""
        return {phase: steps_in(self._run.checkpoints(phase)) for phase in PHASES if self._run.has_phase(phase)}

    def load_checkpoint(self, phase: int = 0) -> Checkpoint:
        """A phase's newest checkpoint: named groups of tensors, and the state of its training."""
        return self._run.load(phase or self.phase, self.config)

    @cached_property
    def store(self) -> LatentStore:
        """The latents that it was trained on, with their actions and rewards."""
        return LatentStore.open(self._run.store(self.config), memory_limit_gb=self.config.data.memory_limit_gb)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The frozen tokenizer, which encodes and decodes."""
        from fastdreamer.tokenizer.engines.installed import open_tokenizer

        return Tokenizer(open_tokenizer(self.config, self.device, decodes=True))

    @cached_property
    def world_model(self) -> WorldModel:
        """The dynamics; that of phase 1 where nothing else is trained yet."""
        trained = [phase for phase in (self.phase, 1) if self._run.has_phase(phase)]
        return world_model_from(self.load_checkpoint(next(iter(trained), 1)), self.config, self.device)

    @property
    def dynamics(self) -> WorldModel:
        """The world model, by the name of its room."""
        return self.world_model

    @cached_property
    def agent(self) -> Agent:
        """Policy, reward, continuation and value heads."""
        return agent_from(self.load_checkpoint(), self.config, self.device).eval()

    @cached_property
    def policy_head(self) -> PolicyHead:
        """The policy head, called with flattened latents."""
        return PolicyHead(self._readable.policy, self._features)

    @cached_property
    def reward_head(self) -> ScalarHead:
        """The reward head, called with flattened latents."""
        return ScalarHead(self._readable.reward, self._features, self._reward_logits)

    @cached_property
    def value_head(self) -> ScalarHead:
        """The value head, called with flattened latents."""
        return ScalarHead(self._readable.value, self._features, self._readable.value)

    @cached_property
    def imagination(self) -> Imagination:
        """Rollouts of the policy in the world model."""
        return Imagination(self.config, self.world_model, self._readable)

    def imagine(
        self, latents: Float[Tensor, "b l n z"], horizon: int = 0, lambda_: float | None = None
    ) -> dict[str, Tensor]:
        """A rollout of the policy from real steps; see `Imagination`."""
        found: dict[str, Tensor] = self.imagination(latents, horizon, lambda_)
        return found

    def player(self, is_greedy: bool = False, seed: int = 0) -> Player:
        """The agent, ready to play environments in lockstep for evaluation.task."""
        return Player(
            self.tokenizer.frozen, Actor(self.world_model, self.agent, self.config.evaluation.task), is_greedy, seed
        )

    def models(self) -> dict[str, nn.Module]:
        """The models by name, as `diagnose_phase` takes them."""
        return {name: getattr(self, name) for name in MODELS}

    @property
    def _readable(self) -> Agent:
        """The agent, whose heads read latents."""
        if self.config.heads.readout != "latents":
            raise UserError(
                "heads.readout is agent_tokens: these heads do not read latents; use run.agent or run.player()"
            )
        return self.agent

    def _features(self, flat: Tensor) -> Tensor:
        """Features of a step in the middle of a window, nothing done before, with the TASK token of evaluation.task."""
        world, agent = self.world_model, self.agent
        latents = flat.unflatten(-1, (TOKENS, CHANNELS))
        positions = torch.full(latents.shape[:-2], world.clock.positions - 1, device=flat.device)
        seen = world.normalise(latents, positions).flatten(-2)
        if agent.history is not None:
            seen = torch.cat([seen, seen.new_zeros(*seen.shape[:-1], agent.history.width)], -1)
        if agent.tasks is None:
            return seen
        token = agent.tasks(torch.tensor(self.config.evaluation.task, device=flat.device))
        return torch.cat([token.expand(*seen.shape[:-1], -1), seen], -1)

    def _reward_logits(self, features: Tensor) -> Tensor:
        """Reward logits of a step that follows one like it, after an unknown action, where the head reads those."""
        world = self.world_model
        pair = torch.stack([features, features], -2).flatten(0, -3)
        chunk = torch.zeros(len(pair), 2, world.clock.frames_per_latent, len(world.sizes), dtype=torch.int64)
        known = torch.zeros_like(chunk[..., 0], dtype=torch.bool)
        logits = self.agent.reward_logits(pair, chunk.to(pair.device), known)
        return logits[:, 1].unflatten(0, features.shape[:-1])


def open_run(run_dir: Path | str, phase: int = 0) -> Run:
    """A run, with the newest trained parts or those of phase 2 or 3.

    Raises:
        UserError: if the folder is no run, or its configuration is not what was written.
    """
    return Run(Path(run_dir), phase)


def diagnose_phase(
    phase: int, model_dict: Mapping[str, nn.Module], sample_batch: Mapping[str, Tensor], device: torch.device
) -> list[Check]:
    """A quick look at a phase: where models are, what the tokenizer gives for `sample_batch["frames"]`, memory.

    Prints a line a check and returns them; what fails is a red check, never an exception.
    """
    from fastdreamer.tools.diagnosis.loaded_phase import devices

    print(f"=== Phase {phase} Diagnostics ===")
    checks = list(devices(model_dict, device))
    try:
        tokenizer: Any = model_dict["tokenizer"]
        frames = sample_batch["frames"].to(device)
        count = frames.shape[2] if frames.shape[1] == 3 else frames.shape[1]
        clock = getattr(tokenizer, "clock", LatentClock(8, 33))
        with torch.no_grad():
            checks += output(tokenizer.encode(frames)["latents"], count, clock)
    except Exception as error:  # a diagnosis outlives what it diagnoses
        checks.append(
            check("latents", "forward pass", f"{type(error).__name__}: {error}", "latents",
                  "the tokenizer refuses these frames: give (b,3,t,h,w) or (b,t,3,h,w)", red=True)
        )  # fmt: skip
    if device.type == "cuda":
        used, total = torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        full = used > total * 11 / 12
        checks.append(
            check("memory", "memory", f"{used / 2**30:.2f} of {total / 2**30:.1f} GiB", "at most 92%",
                  "lower the batch size, or accumulate", red=full)
        )  # fmt: skip
    for found in checks:
        print(f"{found.verdict:<9} {found.name}: {found.value} (expected {found.expected})")
    return checks
