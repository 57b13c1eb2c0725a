"""Phase 2: does the policy look at the frame, is it unsure of anything, does the reward head tell states apart?"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase
from fastdreamer.tools.diagnosis.rewarded_windows import rewarded_windows
from fastdreamer.training.cloning_phase import AgentPhase

CERTAIN = 0.99


def checks(loaded: LoadedPhase) -> Iterator[Check]:
    """The checks after `run_steps`; on held-out crops where there are some."""
    phase, figures = loaded.phase, loaded.figures
    assert isinstance(phase, AgentPhase)
    where = "held_out/" if "held_out/bc_accuracy" in figures else ""
    chunk = loaded.config.tokenizer.frames_per_latent
    yield flags.cloning_accuracy(figures[f"{where}bc_accuracy"], phase.majority, loaded.checkpoint.step)
    yield flags.policy_entropy(2, figures[f"{where}entropy"] / chunk)
    yield certainty(loaded, phase)
    yield check(
        "policy", "latents' gradient", f"requires_grad {loaded.batch.latents.requires_grad}", "False",
        "the tokenizer is not frozen properly: detach its latents", red=loaded.batch.latents.requires_grad,
    )  # fmt: skip
    yield rewarded_windows(loaded, phase)
    tasks = loaded.config.tasks.names
    if len(tasks) > 1:
        yield from (rewards(loaded, phase, number).about(task) for number, task in enumerate(tasks))
    else:
        yield rewards(loaded, phase)


@torch.no_grad()
def certainty(loaded: LoadedPhase, phase: AgentPhase) -> Check:
    """Share of the choices whose commonest label has nearly all probability."""
    work = phase.work(loaded.batch)
    with loaded.backend.autocast():
        logits = phase.agent.policy(phase.agent.sequence_features(phase.world, work.batch, work.noise))
    most = torch.stack([part.exp().amax(-1) for part in phase.agent.policy.log_softmax(logits)], -1)
    if not work.labelled.any():
        return Check("policy", "certain everywhere", "no labelled state", "not all of them", "not measured")
    most = most[work.labelled]
    share = float((most > CERTAIN).all(-1).float().mean()) if most.isfinite().all() else math.nan
    return check(
        "policy", "certain everywhere", f"{share:.1%} of the states", "not all of them",
        "the policy is deterministic: raise heads.policy_dropout, train fewer steps, or use heads.focal_gamma",
        of=(share,), red=share > CERTAIN, amber=share > 0.9,
    )  # fmt: skip


def rewards(loaded: LoadedPhase, phase: AgentPhase, task: int | None = None) -> Check:
    """Spread of the predictions, over as many batches as it takes to see a reward."""
    name, expected = "spread of predicted rewards", f"at least {flags.CONSTANT:g}"
    if "value" not in phase.terms:
        return Check("reward", name, "recordings without rewards", expected, "not measured")
    predicted, recorded = sample_rewards(loaded, phase, task)
    if len(recorded) < 2 or not float(recorded.std()) > 0:
        return Check("reward", name, f"no reward in {len(recorded)} steps", expected, "too early")
    return reward_spread(predicted, recorded)


def reward_spread(predicted: Tensor, recorded: Tensor) -> Check:
    """Spread of what the reward head says of some steps, beside that of what they paid."""
    return flags.reward_spread(*(float(x.float().std(correction=0)) for x in (predicted, recorded)))


@torch.no_grad()
def sample_rewards(
    loaded: LoadedPhase, phase: AgentPhase, task: int | None = None, batches: int = 8
) -> tuple[Tensor, Tensor]:
    """(predicted, recorded) at every valid step of some batches, of one task's crops or of all."""
    predicted, recorded = [], []
    loader, agent = phase.loader, phase.agent
    for number in range(batches):
        work = phase.work(loader.sampler.batch(number).to(loaded.backend.device))
        with loaded.backend.autocast():
            features = agent.sequence_features(phase.world, work.batch, work.noise)
            found = agent.recorded_rewards(features, work.batch)
        valid = work.reward > 0
        if task is not None:
            valid &= (work.batch.task == task)[:, None]
        predicted.append(found[valid].float())
        recorded.append(work.batch.rewards[valid])
    return torch.cat(predicted).cpu(), torch.cat(recorded).cpu()
