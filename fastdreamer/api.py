"""A trained run as the plain objects of a notebook: modules that are called with tensors and answer with dictionaries.

    parts = open_run("runs/demo")
    parts.tokenizer.encode(frames)["latents"]          # (b, l, 16, 16)
    parts.policy_head(latents.flatten(2))["probs"]     # (b, l, labels)
    parts.imagination(latents[:, :4])["advantages"]    # (b, h)

The latents here are the raw, pooled ones of the store; normalising is the world model's own business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.policy import Policy
from fastdreamer.heads.reward import TwoHotHead
from fastdreamer.health.checks import Check, check
from fastdreamer.imagination.returns import lambda_returns
from fastdreamer.imagination.rollout import imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.run.directory import RunDirectory
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tools.diagnosis.inputs import output
from fastdreamer.training.models import agent_from, world_model_from


class Tokenizer(nn.Module):
    """The frozen tokenizer."""

    def __init__(self, frozen: FrozenTokenizer) -> None:
        super().__init__()
        self.frozen, self.clock = frozen, frozen.clock
        self.encoder, self.decoder = frozen.graphs["encoder"], frozen.graphs["decoder"]

    def encode(self, frames: Tensor) -> dict[str, Tensor]:
        """Clips (b,3,t,h,w) or (b,t,3,h,w), uint8 or in [0, 1], to {"latents": (b, l, 16, 16)}."""
        return {"latents": self.frozen.encode(frames)}

    def decode(self, latents: Float[Tensor, "b l n z"]) -> Float[Tensor, "b 3 t h w"]:
        """Pictures in [0, 1]; pooled latents are lossy."""
        return self.frozen.decode_pooled(latents)


class PolicyHead(nn.Module):
    """The policy on flattened latents."""

    def __init__(self, policy: Policy, normalise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.policy, self._normalise = policy, normalise

    def forward(self, latents: Float[Tensor, "*b f"]) -> dict[str, Any]:
        """{"logits" (*b, c, sum of sizes), "components": [probabilities (*b, c, size)] and "probs"}.

        `probs` are those of the action's only component at the chunk's first frame, or of all components side by side.
        """
        logits = self.policy(self._normalise(latents))
        components = [part.exp() for part in self.policy.log_softmax(logits)]
        return {"logits": logits, "components": components, "probs": torch.cat(components, -1)[..., 0, :]}


class ScalarHead(nn.Module):
    """The reward or value head on flattened latents."""

    def __init__(
        self, head: TwoHotHead, normalise: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.head, self._normalise, self._logits = head, normalise, logits

    def forward(self, latents: Float[Tensor, "*b f"]) -> Float[Tensor, "*b"]:
        """The expected scalar."""
        return self.head.decode(self._logits(self._normalise(latents)))


class Imagination(nn.Module):
    """Dreams from raw latents; frozen parts get no gradient, nothing here has one."""

    def __init__(self, config: Config, world: WorldModel, agent: Agent, seed: int = 0) -> None:
        super().__init__()
        self.config, self.world, self.agent = config, world, agent
        self.generator = torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def forward(
        self, latents: Float[Tensor, "b l n z"], horizon: int = 0, lambda_: float | None = None
    ) -> dict[str, Tensor]:
        """Rolls out from the last of `l` real steps whose actions are unknown.

        Returns:
            latents (b, h+1, n, z) normalised, actions (b, h, c, k), rewards, continues, values, returns and advantages
            (b, h).
        """
        settings = self.config.imagination
        first = start(latents, self.world, self.config.evaluation.task)
        rollout = imagine(self.world, self.agent, first, horizon or settings.horizon, self.generator)
        values = self.agent.returns_decoded(rollout.features)
        gamma = settings.gamma**self.world.clock.frames_per_latent
        mixing = settings.lambda_ if lambda_ is None else lambda_
        returns = lambda_returns(rollout.rewards, rollout.continues, values[:, 1:], gamma, mixing)
        return {
            "latents": rollout.latents,
            "actions": rollout.actions,
            "rewards": rollout.rewards,
            "continues": rollout.continues,
            "values": values[:, :-1],
            "returns": returns,
            "advantages": returns - values[:, :-1],
        }


def start(latents: Float[Tensor, "b l n z"], world: WorldModel, task: int = 0) -> Batch:
    """Real steps without their actions, from an episode's beginning, as a batch of one task."""
    count, steps = latents.shape[:2]
    chunk, device = world.clock.frames_per_latent, latents.device
    return replace(
        Batch.blank(count, steps, chunk, len(world.sizes), device, known=False),
        latents=latents.float(),
        positions=torch.tensor([world.clock.position(s) for s in range(steps)], device=device).expand(count, -1),
        task=torch.full((count,), task, dtype=torch.int64, device=device),
    )


@dataclass(frozen=True)
class Parts:
    """What `open_run` gives."""

    tokenizer: Tokenizer
    dynamics: WorldModel
    policy_head: PolicyHead
    reward_head: ScalarHead
    value_head: ScalarHead
    imagination: Imagination

    def models(self) -> dict[str, nn.Module]:
        """By name, as `diagnose_phase` takes them."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def open_run(run_dir: Path | str, phase: int = 0) -> Parts:
    """The newest trained parts of a run, or those of phase 2 or 3.

    Raises:
        UserError: if phase 2 is not trained there, the heads read agent tokens, or a part is damaged.
    """
    from fastdreamer.tokenizer.engines.installed import open_tokenizer

    run = RunDirectory(Path(run_dir))
    config = run.config()
    if config.heads.readout != "latents":
        raise UserError(
            "heads.readout is agent_tokens: these heads do not read latents, use training.models.load_agent"
        )
    device = choose_device(config).device
    checkpoint = run.load(phase or (3 if run.has_phase(3) else 2), config)
    world, agent = world_model_from(checkpoint, config, device), agent_from(checkpoint, config, device).eval()

    def normalise(flat: Tensor) -> Tensor:
        """Of a step in the middle of a window, nothing done before, with the TASK token of evaluation.task."""
        latents = flat.unflatten(-1, (TOKENS, CHANNELS))
        positions = torch.full(latents.shape[:-2], world.clock.positions - 1, device=flat.device)
        seen = world.normalise(latents, positions).flatten(-2)
        if agent.history is not None:
            seen = torch.cat([seen, seen.new_zeros(*seen.shape[:-1], agent.history.width)], -1)
        if agent.tasks is None:
            return seen
        token = agent.tasks(torch.tensor(config.evaluation.task, device=flat.device))
        return torch.cat([token.expand(*seen.shape[:-1], -1), seen], -1)

    def reward_logits(features: Tensor) -> Tensor:
        """Of a step that follows one like it, after an unknown action, where the head reads those."""
        pair = torch.stack([features, features], -2).flatten(0, -3)
        chunk = torch.zeros(len(pair), 2, world.clock.frames_per_latent, len(world.sizes), dtype=torch.int64)
        logits = agent.reward_logits(pair, chunk.to(pair.device), torch.zeros_like(chunk[..., 0], dtype=torch.bool))
        return logits[:, 1].unflatten(0, features.shape[:-1])

    return Parts(
        Tokenizer(open_tokenizer(config, device, decodes=True)),
        world,
        PolicyHead(agent.policy, normalise),
        ScalarHead(agent.reward, normalise, reward_logits),
        ScalarHead(agent.value, normalise, agent.value),
        Imagination(config, world, agent),
    )


def diagnose_phase(
    phase: int, model_dict: Mapping[str, nn.Module], sample_batch: Mapping[str, Tensor], device: torch.device
) -> list[Check]:
    """The plan's quick script: where models are, what the tokenizer gives for `sample_batch["frames"]`, memory.

    Prints a line a check and returns them; what fails is a red check, never an exception.
    """
    from fastdreamer.tools.diagnosis.model_checks import devices

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
