"""Closed loop: policies play the real environment, all episodes in lockstep with one batched encoder and policy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.evaluation.bootstrap import mean_interval
from fastdreamer.evaluation.payments import Payments, Trace
from fastdreamer.recordings.tasks import RECORDED
from fastdreamer.system.progress import track


class Environments(Protocol):
    """Parallel environments, as `envs.pool.EnvPool`: one world an episode; inactive ones are left alone."""

    @property
    def counters(self) -> Sequence[Mapping[str, int]]:
        """What every world counts now (see `recordings.tasks`)."""
        ...

    def reset(self) -> UInt8[ndarray, "e h w 3"]: ...

    def step(
        self, actions: Int[ndarray, "e k"], active: Bool[ndarray, " e"]
    ) -> tuple[ndarray, ndarray, ndarray, ndarray, Sequence[Mapping[str, Any]]]: ...


class Encoder(Protocol):
    """Frames to latents while acting, as `tokenizer.acting.ActingEncoder`."""

    @property
    def position(self) -> int: ...

    def reset(self, frames: UInt8[Tensor, "e h w 3"]) -> Float[Tensor, "e n z"]: ...

    def push(self, frames: UInt8[Tensor, "e c h w 3"]) -> Float[Tensor, "e n z"]: ...


class Policy(Protocol):
    """Chooses the next chunk of actions of every episode. `uses_latents` False spares the encoder."""

    uses_latents: bool

    def reset(self) -> None: ...

    def act(self, latents: Float[Tensor, "e n z"] | None, position: int) -> Int[ndarray, "e c k"]: ...


class RandomPolicy:
    """Uniform labels of every component; a generator for every world, so that one episode never changes another."""

    uses_latents = False

    def __init__(self, sizes: Sequence[int], chunk: int, seeds: Sequence[int]) -> None:
        self.sizes, self.chunk = sizes, chunk
        self.seeds = seeds
        self.reset()

    def reset(self) -> None:
        """Start the generators anew."""
        self.generators = [np.random.default_rng(seed) for seed in self.seeds]

    def act(self, latents: Float[Tensor, "e n z"] | None, position: int) -> Int[ndarray, "e c k"]:
        """One chunk of random actions for every world."""
        return np.stack(
            [np.stack([rng.integers(0, size, self.chunk) for size in self.sizes], -1) for rng in self.generators]
        )


class AgentPolicy:
    """A trained agent, sampled or greedy."""

    uses_latents = True

    def __init__(self, agent: Any, greedy: bool, seed: int, device: torch.device) -> None:
        self.agent, self.greedy, self.seed, self.device = agent, greedy, seed, device
        self.reset()

    def reset(self) -> None:
        """Forget what was seen; the same draws again (on the CPU: the same on every device)."""
        self.generator = torch.Generator().manual_seed(self.seed)
        self.agent.reset()

    @torch.no_grad()
    def act(self, latents: Float[Tensor, "e n z"] | None, position: int) -> Int[ndarray, "e c k"]:
        """The agent's chunk for every world from its latents at this step."""
        assert latents is not None
        positions = torch.full((len(latents),), position, dtype=torch.int64, device=self.device)
        chunk = self.agent.act(latents.to(self.device), positions, greedy=self.greedy, generator=self.generator)
        return np.asarray(chunk.cpu().numpy())


class Observer:
    """Keeps the latents of the current frame, whether the whole chunk is executed or only its beginning.

    A whole chunk (`execute` = c) advances the encoder by one step: exactly the training latent. A shorter one leaves
    the latent clock, so the clip of 1 + c frames that ends at the current frame is encoded anew (before frame c, the
    first frame fills it up); such a clip is a window's beginning, which training knows at every 1 + kc-th frame.
    """

    def __init__(self, encoder: Encoder, frames: UInt8[ndarray, "e h w 3"], chunk: int) -> None:
        self.encoder, self.chunk = encoder, chunk
        self.history = [frames] * (chunk + 1)
        self.latents = encoder.reset(torch.from_numpy(frames))
        self.position = encoder.position

    def observe(self, frames: Sequence[UInt8[ndarray, "e h w 3"]]) -> None:
        """Take in the frames that followed the last latent."""
        self.history = [*self.history, *frames][-self.chunk - 1 :]
        if len(frames) < self.chunk:
            self.encoder.reset(torch.from_numpy(self.history[0]))
        self.latents = self.encoder.push(torch.from_numpy(np.stack(self.history[1:], axis=1)))
        self.position = self.encoder.position


@dataclass(frozen=True)
class Episodes:
    """What one policy did: undiscounted returns, lengths in frames and achievements unlocked, an entry an episode."""

    returns: Float[ndarray, " e"]
    lengths: Int[ndarray, " e"]
    achievements: list[frozenset[str]]
    by_task: Mapping[str, Float[ndarray, " e"]] = field(default_factory=dict)  # the returns are those of the first
    uncounted: frozenset[str] = frozenset()  # tasks of which the environment never counted anything

    def of(self, task: str) -> Episodes:
        """The same episodes with another task's returns."""
        return replace(self, returns=self.by_task[task])

    def to_dict(self, resamples: int, seed: int) -> dict[str, Any]:
        """The policy's entry in evaluation.json: return with its interval, lengths, achievement rates."""
        interval = mean_interval(self.returns, resamples, seed)
        counts = Counter(name for unlocked in self.achievements for name in unlocked)
        episodes = len(self.returns)
        return {
            "return_mean": interval.mean,
            "return_low": interval.low,
            "return_high": interval.high,
            "episodes": episodes,
            "length_mean": float(self.lengths.mean()),
            "returns": [float(value) for value in self.returns],
            "achievements": {name: counts[name] / episodes for name in sorted(counts)},
        }


def join(parts: Sequence[Episodes]) -> Episodes:
    """The episodes of one policy that were played one wave after another."""
    return Episodes(
        np.concatenate([part.returns for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        [unlocked for part in parts for unlocked in part.achievements],
        {task: np.concatenate([part.by_task[task] for part in parts]) for task in parts[0].by_task},
        frozenset.intersection(*(part.uncounted for part in parts)),
    )


def check_worlds(seeds: Sequence[int], recorded: Sequence[int]) -> None:
    """Refuse evaluation worlds that were recorded: the agent has seen them.

    Raises:
        UserError: if a seed is in both.
    """
    shared = sorted(set(seeds) & set(recorded))
    if shared:
        raise UserError(
            f"evaluation.seed {seeds[0]}: {len(shared)} of {len(seeds)} evaluation worlds were recorded too "
            f"(seed {shared[0]} for one); choose evaluation.seed outside {min(recorded)}..{max(recorded)}"
        )


def play(
    policy: Policy,
    pool: Environments,
    encoder: Encoder | None,
    chunk: int,
    execute: int,
    max_steps: int,
    name: str,
    trace: Trace | None = None,
    tasks: Sequence[str] = (RECORDED,),
) -> Episodes:
    """Play every world of `pool` to its end or to `max_steps`, in lockstep; ended worlds are masked out.

    Args:
        encoder: frames to latents; None only for a policy that does not look.
        chunk: actions of a prediction (c).
        execute: how many of them are executed before the policy looks again, 1..c.
        name: the policy's name, for the progress bar.
        trace: keeps what was seen, done and paid, the step that an episode ends in included.
        tasks: the tasks whose rewards are counted; the first one's are the returns, and what a trace is paid.
    """
    assert trace is None or (execute == chunk and policy.uses_latents), "a trace holds whole chunks of what was seen"
    assert 1 <= execute <= chunk, f"execute is {execute}; a prediction has {chunk} actions"
    assert encoder is not None or not policy.uses_latents
    policy.reset()
    frames = pool.reset()
    episodes = len(frames)
    active = np.ones(episodes, dtype=bool)
    returns, lengths = np.zeros((len(tasks), episodes)), np.zeros(episodes, dtype=np.int64)
    needs_counters = any(task != RECORDED for task in tasks)
    payments = Payments(tasks, pool.counters if needs_counters else [{}] * episodes)
    achievements: list[frozenset[str]] = [frozenset()] * episodes
    observer = Observer(encoder, frames, chunk) if encoder is not None and policy.uses_latents else None
    if observer and trace:
        trace.see(observer.latents, active)
    step = 0
    with track(f"play {name}", total=episodes * max_steps, unit="frames") as bar:
        while active.any() and step < max_steps:
            latents, position = (observer.latents, observer.position) if observer else (None, 0)
            actions = policy.act(latents, position)
            seen: list[ndarray] = []
            playing = active.copy()
            for index in range(min(execute, max_steps - step)):
                latest, rewards, terminated, truncated, infos = pool.step(actions[:, index], active)
                frames = np.where(active[:, None, None, None], latest, frames)  # an ended world shows its last frame
                seen.append(frames)
                paid = payments.pay(rewards, infos, active)
                if trace:
                    trace.do(actions[:, index], paid[0], terminated, active)
                returns += paid
                lengths[active] += 1
                for world in np.flatnonzero(active).tolist():
                    achievements[world] = frozenset(infos[world]["achievements"])
                bar.advance(int(active.sum()), playing=float(active.sum()), mean_return=float(returns[0].mean()))
                active &= ~(np.asarray(terminated, bool) | np.asarray(truncated, bool))
                step += 1
                if not active.any():
                    break
            goes_on = active.any() and step < max_steps
            if observer and (goes_on or trace):
                observer.observe(seen if goes_on else seen + [frames] * (chunk - len(seen)))  # padded as in a store
            if observer and trace:
                trace.see(observer.latents, playing)
        bar.advance(episodes * max_steps - int(lengths.sum()))
    by_task = dict(zip(tasks, returns, strict=True))
    return Episodes(returns[0], lengths, achievements, by_task, frozenset(payments.uncounted))
