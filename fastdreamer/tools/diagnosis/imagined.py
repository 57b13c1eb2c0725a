"""Phase 3: is there something to learn in imagination, does the critic know it, and is it true outside?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.evaluation.calibration import correlation
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.imagination.returns import rollout_returns, survival
from fastdreamer.tools.diagnosis import real_play
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase
from fastdreamer.training.imagination_phase import NO_REWARD, ImaginationPhase

SHOWN = 200  # points of the plot of values against returns
ALIKE = 0.1  # the share of their size: returns that differ less are taken to differ by so much
FACTOR, MARGIN = 3.0, 0.01  # times the real reward a frame, and what is added to it


@dataclass(frozen=True)
class Imagined:
    """One rollout and what follows from it, on the CPU."""

    rewards: Tensor
    values: Tensor
    returns: Tensor
    weight: Tensor
    task: Tensor

    def of(self, task: int) -> Imagined:
        """The dreams of one task."""
        rows = self.task == task
        return Imagined(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def advantage(self) -> Tensor:
        """Advantage of every imagined step."""
        return self.returns - self.values


def checks(loaded: LoadedPhase, rollouts: Imagined) -> Iterator[Check]:
    """The checks after `run_steps`."""
    figures, chunk = loaded.figures, loaded.config.tokenizer.frames_per_latent
    advantage = rollouts.advantage
    yield flags.advantages(float(advantage.mean()), float(advantage.std()))
    yield flags.advantage_sets(*sets(rollouts))
    tasks = loaded.config.tasks.names
    parts = {task: rollouts.of(number) for number, task in enumerate(tasks)} if len(tasks) > 1 else {}
    yield from (imagined_rewards(part).about(task) for task, part in parts.items())
    if not parts:
        yield imagined_rewards(rollouts)
    yield calibration(rollouts)
    yield flags.policy_entropy(3, figures["entropy"] / chunk)
    yield flags.kl_to_prior(figures["kl_prior"] / chunk)
    for task, part in ((task, part) for task, part in parts.items() if part.rewards.numel()):
        yield reality(float(part.rewards.mean()) / chunk, real_reward(loaded, task)).about(task)
    if not parts:
        yield reality(float(rollouts.rewards.mean()) / chunk, real_reward(loaded))


def imagined_rewards(rollouts: Imagined) -> Check:
    """Check whether something is ever earned."""
    if not rollouts.rewards.numel():  # of a task that no crop of the batch is of
        return Check("imagination", "imagined rewards", "no dream in the batch", "not all alike", "not measured")
    fires = float((rollouts.rewards.abs() > NO_REWARD).float().mean())
    return flags.imagined_rewards(float(rollouts.rewards.mean()), float(rollouts.rewards.std()), fires)


@torch.no_grad()
def rollout(loaded: LoadedPhase, phase: ImaginationPhase) -> Imagined:
    """A rollout from the sample batch's steps."""
    settings, agent = loaded.config.imagination, phase.agent
    rollout = phase.imagine(loaded.batch)
    with loaded.backend.autocast():
        values = agent.returns_decoded(rollout.features).float()
    returns = rollout_returns(rollout, values, phase.gamma, settings.lambda_)
    weight = survival(rollout.continues)
    found = [x.float().cpu() for x in (rollout.rewards, values[:, :-1], returns, weight)]
    rewards, values, returns, weight = found
    return Imagined(rewards, values, returns, weight, loaded.batch.task.cpu())


def sets(rollouts: Imagined) -> tuple[int, int]:
    """Sizes of D+ and D-, of the steps that are likely before the end."""
    advantage = rollouts.advantage[rollouts.weight > 0.5]
    positive = int((advantage >= 0).sum())
    return positive, advantage.numel() - positive


def calibration(rollouts: Imagined) -> Check:
    """Values against lambda-returns: correlation, and bias in spreads of the returns (see ALIKE)."""
    values, returns = rollouts.values.flatten(), rollouts.returns.flatten()
    spread = float(returns.std())
    if spread < 1e-6:
        return check(
            "value", "value against returns", "returns are all alike", "correlated, without bias",
            "nothing happens in imagination: see the rows of group reward", red=True,
        )  # fmt: skip
    together = correlation(values.numpy(), returns.numpy()) or 0.0
    bias = float((values - returns).mean()) / max(spread, ALIKE * float(returns.abs().mean()))
    return check(
        "value", "value against returns", f"correlation {together:.2f}, bias {bias:+.2f} spreads",
        "correlation above 0.3, bias within 1",
        "the critic is off: raise imagination.critic_steps, or train phase 2 longer",
        of=(together, bias), red=together < 0 or abs(bias) > 2, amber=together < 0.3 or abs(bias) > 1,
    )  # fmt: skip


def reality(imagined: float, real: float | None) -> Check:
    """Imagined against real reward a frame."""
    name, expected = "imagined against real reward", f"at most {FACTOR:g} times the real one"
    if real is None:
        return Check("imagination", name, f"{imagined:.4f} a frame imagined", expected, "not measured")
    return check(
        "imagination", name, f"{imagined:.4f} a frame imagined, {real:.4f} real", expected,
        "the policy exploits the reward head: more and broader recordings, a longer phase 2, a larger imagination.beta",
        of=(imagined, real),
        red=imagined > FACTOR * (max(real, 0.0) + MARGIN), amber=imagined > FACTOR * max(real, 0.0) + MARGIN,
    )  # fmt: skip


def real_reward(loaded: LoadedPhase, task: str | None = None) -> float | None:
    """Reward a frame of the policy in its environment, or of one of several tasks; None where `eval` has not played it.

    A damaged evaluation is said by the checks of `real_play`.
    """
    try:
        evaluations = real_play.played(loaded)
    except UserError:
        return None
    entry = next(iter(evaluations.values())) if task is None else evaluations.get(task, {})
    policy = entry.get("policies", {}).get("phase3")
    return None if policy is None else float(policy["return_mean"]) / max(1.0, float(policy["length_mean"]))


def figures(loaded: LoadedPhase, rollouts: Imagined) -> dict[str, Any]:
    """Figures for the report: sizes of D+ and D-, rewards a frame imagined and real, and some (return, value) pairs."""
    positive, negative = sets(rollouts)
    imagined = float(rollouts.rewards.mean()) / loaded.config.tokenizer.frames_per_latent
    tasks = loaded.config.tasks.names
    known = [real_reward(loaded, task) for task in (tasks if len(tasks) > 1 else (None,))]
    real = [reward for reward in known if reward is not None]
    rewards = {"imagined_reward": imagined, "real_reward": sum(real) / len(real) if real else None}
    return {"positive": positive, "negative": negative, "values": _plotted(rollouts)} | rewards


def _plotted(rollouts: Imagined) -> list[tuple[float, float]]:
    pairs = torch.stack([rollouts.returns.flatten(), rollouts.values.flatten()], 1)
    step = max(1, len(pairs) // SHOWN)
    return [(round(float(x), 4), round(float(y), 4)) for x, y in pairs[::step][:SHOWN]]
