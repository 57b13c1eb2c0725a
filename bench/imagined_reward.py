"""Does a run's world model imagine what is rewarded? Held-out play, the recorded actions, H imagined steps.

    PYTHONPATH=.:kernels:engines python -m bench.imagined_reward RUN_DIR

Prints, for the real states and for imagined ones: how well the summed predicted reward tells windows with an unlock (a
reward above 0.5) from others (AUC), and its correlation with the real sum; the correlation of the imagined change of
value with the real one; and the error of one step with the recorded and with shuffled last actions, beside copying: of
the conditional mean (one pass from signal level 0 at the finest step size), and of the step as imagination samples it
(forcing.sample_steps). Compare means with means: a sample carries the variance of what can come twice. Not a gate.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch
from torch import Tensor

from fastdreamer.config import load_config
from fastdreamer.dynamics.forcing import context_index, mix
from fastdreamer.dynamics.sampler import open_loop
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.latents.batch import Batch, align, crop, stack
from fastdreamer.latents.crop_sampler import CropSampler
from fastdreamer.latents.store import LatentStore
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.models import agent_from, world_model_from

WINDOWS = 100  # with an unlock, and as many without


def main(run_dir: Path) -> None:
    """Measures and prints."""
    run, config = RunDirectory(run_dir), load_config(str(run_dir / "config.yaml"))
    device = torch.device("cpu")
    checkpoint = run.load(2, config)
    world, agent = world_model_from(checkpoint, config, device).eval(), agent_from(checkpoint, config, device).eval()
    store = LatentStore.open(run.store(config))
    context, horizon = config.evaluation.context, config.imagination.horizon
    episodes = store.split("held_out")
    sampler = CropSampler(episodes, store.clock, context + horizon, 192, 1)
    batch = windows([align(episode, store.clock) for episode in episodes], context, horizon)
    with torch.no_grad():
        reward(world, agent, batch, context)
        one_step(world, sampler.batch(0))


def windows(episodes: list[Batch], context: int, horizon: int) -> Batch:
    """As many windows with an unlock after the context as without, at most WINDOWS of each."""
    kinds: dict[bool, list[Batch]] = {True: [], False: []}
    for episode in episodes:
        for start in range(0, episode.rewards.shape[1] - context - horizon, 2):
            unlocks = episode.rewards[0, start + context : start + context + horizon] > 0.5
            kinds[bool(unlocks.any())].append(crop(episode, start, context + horizon))
    for found in kinds.values():
        random.Random(0).shuffle(found)
    count = min(WINDOWS, *map(len, kinds.values()))
    print(f"{count} windows of {horizon} steps with an unlock, {count} without")
    return stack(kinds[True][:count] + kinds[False][:count])


def reward(world: WorldModel, agent: Agent, batch: Batch, context: int) -> None:
    """Predicted reward on real and on imagined states."""
    real = world.normalise(batch.latents, batch.positions)
    imagined = open_loop(world, batch, context, torch.Generator().manual_seed(0), None)
    total = batch.rewards[:, context:].sum(1)
    has_unlock = (batch.rewards[:, context:] > 0.5).any(1)
    changes = []
    for name, future in (("real", real[:, context:]), ("imagined", imagined[:, context:])):
        states = torch.cat([real[:, context - 1 : context], future], 1).flatten(2)
        predicted = agent.imagined_rewards(states, batch.actions[:, context:]).sum(1)
        above = predicted[has_unlock][:, None] - predicted[~has_unlock][None]
        auc = (above > 0).float().mean() + 0.5 * (above == 0).float().mean()
        print(f"{name} states: AUC {float(auc):.2f}, correlation with the real sum {correlation(predicted, total):.2f}")
        values = agent.returns_decoded(states)
        changes.append(values[:, -1] - values[:, 0])
    print(f"change of value, imagined against real: correlation {correlation(*changes):.2f}")


def one_step(world: WorldModel, batch: Batch) -> None:
    """Error of the last step's prediction after a context at its usual level: of the mean, and as dreams sample it."""
    clean = world.normalise(batch.latents, batch.positions)
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(clean.shape, generator=generator)
    signal = torch.full(clean.shape[:2], context_index(world.forcing))
    signal[:, -1] = 0
    noisy = mix(clean, noise, (signal / world.forcing.finest_steps)[..., None, None])
    shuffled = batch.actions.clone()
    shuffled[:, -1] = batch.actions[torch.randperm(len(shuffled), generator=generator), -1]
    copying = float((clean[:, -2] - clean[:, -1]).square().mean())

    def mean(actions: Tensor) -> Tensor:
        token = world.embed_actions(actions, batch.action_valid, batch.labelled)
        return world(noisy, signal, torch.zeros_like(signal), token)

    def sampled(actions: Tensor) -> Tensor:
        return open_loop(world, batch, clean.shape[1] - 1, torch.Generator().manual_seed(5), actions)

    steps = world.forcing.sample_steps
    for name, predict in (("mean", mean), (f"sampled in {steps}", sampled)):
        errors = [
            float((predict(actions)[:, -1] - clean[:, -1]).square().mean()) for actions in (batch.actions, shuffled)
        ]
        print(f"one step, {name}: error {errors[0]:.3f}, last action shuffled {errors[1]:.3f}, copying {copying:.3f}")


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's."""
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
