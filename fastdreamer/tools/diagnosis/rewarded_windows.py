"""Phase 2: does a dream of what was rewarded pay more than other dreams, as the same play does in reality?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch

from fastdreamer.dynamics.sampler import open_loop
from fastdreamer.evaluation.calibration import auc, correlation, features_of, predicted_rewards
from fastdreamer.health.checks import Check, check
from fastdreamer.latents.batch import Batch, align, crop, stack
from fastdreamer.latents.relabel import relabelled
from fastdreamer.tools.diagnosis.loaded_phase import LoadedPhase
from fastdreamer.training.cloning_phase import AgentPhase
from fastdreamer.training.phase_data import episodes_of

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
