"""Gates between phases: a phase is not built on one that did not work. Seconds on a CPU, before anything trains.

What a gate measures draws from generators of its own, so that training is the same with and without it.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence

import torch

from fastdreamer.config import Config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.errors import UserError
from fastdreamer.evaluation.open_loop import choose_crops, errors_of, imagining, shuffle_actions, times_the_error
from fastdreamer.heads.agent import Agent
from fastdreamer.health import limits as flags
from fastdreamer.health.checks import Check
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.checkpoint import Checkpoint
from fastdreamer.tools.diagnosis.cloning import reward_spread
from fastdreamer.training.models import agent_from, world_model_from
from fastdreamer.training.phase_data import episodes_of, rewarded_batch

CROPS, SAMPLES, RESAMPLES = 32, 1, 1000  # both arms meet the same noise
AT_ONCE = 8  # crops through the heads


class Gates:
    """The gates before phases 2 and 3; with `force` a refusal is printed and training goes on.

    Called with what a phase is to be built on, it prints a line a check and returns all of them.
    """

    def __init__(self, force: bool = False) -> None:
        self.force = force

    def __call__(
        self, config: Config, phase: int, parent: Checkpoint, store: LatentStore, device: torch.device
    ) -> Sequence[Check]:
        """The checks before `phase`; UserError where one is red, unless forced."""
        world = world_model_from(parent, config, device)
        if phase == 2:
            checks = [actions_matter(config, world, store)]
        else:
            checks = [rollouts_reach(config, parent, store)]
            agent = agent_from(parent, config, device).eval()
            if agent.reward.is_trained:  # else the phase itself refuses, whatever is forced
                checks.append(rewards_differ(config, world, agent, store))
            del agent
        del world
        if device.type == "cuda":  # what is planned and measured is the phase alone
            gc.collect()
            torch.cuda.empty_cache()
        for check in checks:
            print(f"gate: {check.name} {check.value}: {check.verdict}", flush=True)
        for check in (check for check in checks if check.verdict == "red"):
            if not self.force:
                raise UserError(f"phase {phase} is refused: {check.sentence()}; --force goes on all the same")
            print(f"phase {phase}: forced past a gate: {check.sentence()}", file=sys.stderr, flush=True)
        return checks


def actions_matter(config: Config, world: WorldModel, store: LatentStore) -> Check:
    """Whether the world model errs more under shuffled actions, on held-out play whose actions are known."""
    settings, unmeasured = config.evaluation, flags.action_ratio(1.0, 1.0, 2.0)
    context, seed = settings.context, settings.seed
    try:
        episodes = episodes_of(store, "held_out", 2)
        _, batch = choose_crops(episodes, store.clock, config.dynamics.window, context, CROPS, seed)
    except UserError as error:
        return _not_measured(unmeasured, str(error))
    batch = batch.to(world.mean.device)
    shuffled = shuffle_actions(batch, context, seed)
    if torch.equal(shuffled, batch.actions):
        return _not_measured(unmeasured, "all held-out actions are alike")
    truth = world.normalise(batch.latents, batch.positions)
    imagine = imagining(world, context)
    wrong, right = (
        errors_of(imagine, batch, truth, actions, context, SAMPLES, seed).mean_of_samples
        for actions in (shuffled, None)
    )
    interval = times_the_error(wrong, right, RESAMPLES, seed)
    return flags.action_ratio(interval.mean, interval.low, interval.high)


def rollouts_reach(config: Config, parent: Checkpoint, store: LatentStore) -> Check:
    """Whether dreams stay within what phase 1 was trained on: its window, and no episode is longer than itself."""
    dynamics = parent.state["architecture"]["dynamics"]
    longest = max((len(episode.latents) for episode in episodes_of(store, "train", 1)), default=0)
    reach = config.imagination.start_context + config.imagination.horizon
    return flags.reach(reach, min(dynamics["window"], longest), dynamics["context"] < dynamics["window"])


@torch.no_grad()
def rewards_differ(config: Config, world: WorldModel, agent: Agent, store: LatentStore) -> Check:
    """Whether the reward head tells states of real play apart: held-out play where there is some, else what it saw."""
    batch = rewarded_batch(config, store, CROPS)
    if batch is None:
        return _not_measured(flags.reward_spread(1.0, 1.0), "no episode of the store has rewards")
    batch = batch.to(world.mean.device)
    predicted = []
    for rows in torch.arange(CROPS, device=world.mean.device).split(AT_ONCE):
        part = batch.take(rows)
        features = agent.sequence_features(world, part, torch.zeros_like(part.latents))
        predicted.append(agent.recorded_rewards(features, part))
    is_known = batch.reward_valid.clone()
    if agent.reward_needs_past:
        is_known[:, 0] = False  # the step before the crop is not in it
    if not is_known.any():
        return _not_measured(flags.reward_spread(1.0, 1.0), "no step of the crops has a reward")
    return reward_spread(torch.cat(predicted)[is_known], batch.rewards[is_known])


def _not_measured(healthy: Check, reason: str) -> Check:
    return Check(healthy.group, healthy.name, reason, healthy.expected, "not measured")
