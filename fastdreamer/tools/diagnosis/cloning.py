"""Phase 2: does the policy look at the frame, is it unsure of anything, does the reward head tell states apart?

And does a dream of what was rewarded pay more than other dreams, as the same play does in reality?
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastdreamer.dynamics.sampler import open_loop
from fastdreamer.evaluation.calibration import auc, correlation, features_of, predicted_rewards
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.batch import Batch, align, crop, stack
from fastdreamer.latents.relabel import relabelled
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.phase_data import episodes_of

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


WINDOWS, FEW = 32, 8  # windows with a reward, and as many without; fewer tell nothing
REWARD = 0.5  # and above counts as one: a reward is 1 or so
NAME, EXPECTED = "dreams of rewarded play", "AUC above 0.5"


@torch.no_grad()
def rewarded_windows(loaded: LoadedPhase, phase: AgentPhase) -> Check:
    """The reward head's sum over H steps of held-out play, on the real states and on imagined ones.

    How well it tells windows with a reward from others (AUC), its correlation with the recorded sum, and how the
    imagined change of value goes with the real one.
    """
    config, agent, world = loaded.config, phase.agent, phase.world
    context, horizon, trained = config.evaluation.context, config.imagination.horizon, config.dynamics
    if trained.context == trained.window:  # without a band nothing longer was seen
        horizon = min(horizon, trained.window - context)
    episodes, *_ = relabelled(loaded.store, episodes_of(loaded.store, "held_out", 2), config.tasks.names)
    known = [align(episode, loaded.store.clock) for episode in episodes if episode.rewarded]
    pools = windows(known, context, horizon)
    count = min(WINDOWS, *map(len, pools))
    if "value" not in phase.terms or count < FEW:
        return Check("imagination", NAME, f"{count} windows with and without a reward", EXPECTED, "too early")
    batch = stack([window for pool in pools for window in pool[:count]]).to(loaded.backend.device)
    recorded = batch.rewards[:, context:].sum(1).float().cpu().numpy()
    said, changes = {}, []
    with loaded.backend.autocast():
        imagined_batch = open_loop(world, batch, context, torch.Generator().manual_seed(0)).float()
        imagined = replace(batch, latents=world.denormalise(imagined_batch, batch.positions))
        for name, play in (("real", batch), ("imagined", imagined)):
            features = features_of(world, agent, play)
            sums = predicted_rewards(agent, features, play)[:, context:].sum(1).cpu().numpy()
            said[name] = auc(sums[:count], sums[count:]), correlation(sums, recorded)
            values = agent.returns_decoded(features).float().cpu().numpy()
            changes.append(values[:, -1] - values[:, context - 1])
    told = ", ".join(f"{name} states {shown(area)} (correlation {shown(r)})" for name, (area, r) in said.items())
    real, dreamt_of = (said[name][0] or 0.0 for name in ("real", "imagined"))
    if not real > 0.5:  # which the checks of the reward head say
        return Check("imagination", NAME, f"AUC on {told}", EXPECTED, "not measured")
    return check(
        "imagination", NAME, f"AUC on {told}, changes of value {shown(correlation(*changes))}", EXPECTED,
        "dreams do not pay what play pays: train phase 1 longer, or lower imagination.horizon",
        of=(dreamt_of,), amber=dreamt_of <= 0.5,
    )  # fmt: skip


def windows(episodes: Sequence[Batch], context: int, horizon: int) -> tuple[list[Batch], list[Batch]]:
    """Windows with a reward after the context, and those without, each in an order drawn once and for all."""
    kinds: tuple[list[Batch], list[Batch]] = [], []
    for episode in episodes:
        for start in range(0, episode.rewards.shape[1] - context - horizon, 2):
            paid = episode.rewards[0, start + context : start + context + horizon] > REWARD
            kinds[not paid.any()].append(crop(episode, start, context + horizon))
    for kind in kinds:
        random.Random(0).shuffle(kind)
    return kinds


def shown(figure: float | None) -> str:
    """Two decimals; n/a where there is none."""
    return "n/a" if figure is None else f"{figure:.2f}"
