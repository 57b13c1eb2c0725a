"""The naive arm computes what ours computes: forward, losses, every gradient, optimiser steps and rollouts."""

from __future__ import annotations

import copy

import pytest
import torch
from fastdreamer_kernels import padded, symexp_bins, two_hot_decode, two_hot_encode, two_hot_loss
from torch import Tensor, nn
from torch.testing import assert_close

from bench.naive import objectives, rollout
from bench.naive.model import NaiveWorldModel
from bench.naive.objectives import RunningRms, Trainer, batch_loss
from bench.naive.rollout import Cached
from fastdreamer.config import Config, load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics import fused
from fastdreamer.dynamics.forcing import Levels, draw_levels, forcing_loss, loss_shares
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.imagination.rollout import imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.optim import EMA, RunningScale, build_optimizers, learning_rate

SIZES = (3, 5)
SMALL = [
    "device=cpu",
    "tokenizer.frames_per_latent=2",
    "tokenizer.window=5",
    "dynamics={dim: 24, layers: 5, heads: 6, kv_heads: 2, time_every: 2, registers: 1, window: 7, context: 3}",
    "imagination={horizon: 5, start_context: 2}",
    "heads={hidden: 16, bins: 41, reward_range: 3.0, value_range: 3.0, policy_dropout: 0.4}",
    "phase1={optimizer: adamw, learning_rate: 1.0e-3, weight_decay: 1.0}",
]
AGENT_TOKENS = ["heads.readout=agent_tokens", "dynamics.agent_tokens=2", "dynamics.tasks=3"]


def small(*overrides: str) -> Config:
    return load_config("debug", [*SMALL, *overrides])


def world_of(config: Config) -> WorldModel:
    """Random everywhere, with an output of unit scale: a layer that starts at zero or one hides what is before it."""
    torch.manual_seed(0)
    world = WorldModel.build(config, SIZES)
    nn.init.normal_(world.readout.weight, std=config.dynamics.dim**-0.5)
    for name, parameter in world.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith(("attention.out.weight", "feed_forward.down.weight")):
            nn.init.normal_(parameter, std=0.1)  # more, and rounding grows past 1e-4 within a rollout
    world.set_statistics(torch.randn(3, 16), torch.rand(3, 16) + 0.5)
    return world


def agent_of(config: Config) -> Agent:
    torch.manual_seed(1)
    agent = Agent(config, SIZES)
    for head in (agent.policy, agent.reward, agent.continuation, agent.value):
        nn.init.normal_(head.net.out.weight, std=0.5)
    return agent.eval()


def crops(count: int, steps: int) -> Batch:
    """Crops with everything in them: unlabelled ones, missing actions, steps that are no targets."""
    g = torch.Generator().manual_seed(2)

    def chance(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g) < 0.7

    def actions() -> Tensor:
        return torch.stack([torch.randint(size, (count, steps, 2), generator=g) for size in SIZES], -1)

    return Batch(
        latents=2 * torch.randn(count, steps, 16, 16, generator=g) + 0.5,
        positions=torch.randint(3, (count, steps), generator=g),
        target_valid=chance(count, steps),
        actions=actions(),
        action_valid=chance(count, steps, 2),
        next_actions=actions(),
        next_valid=chance(count, steps, 2),
        rewards=torch.randn(count, steps, generator=g),
        continues=chance(count, steps).float(),
        reward_valid=chance(count, steps),
        labelled=torch.arange(count) % 3 != 1,
        task=torch.arange(count) % 3,
    )


@pytest.mark.parametrize("agents", [0, 3])
@pytest.mark.parametrize(
    "overrides",
    [(), ("dynamics.context=7",), ("dynamics.soft_cap=2.0",), ("dynamics.kv_heads=6", "dynamics.registers=0")],
)
@torch.no_grad()
def test_forward_is_the_same_function(overrides: tuple[str, ...], agents: int) -> None:
    world, batch = world_of(small(*overrides)), crops(2, 7)
    model = NaiveWorldModel.copy_of(world)
    world.load_state_dict(model.state_dict())  # strict, in this direction too
    g = torch.Generator().manual_seed(3)
    signal, step_size = (torch.randint(n, (2, 7), generator=g) for n in (8, 4))
    tokens = torch.randn(2, agents, 24, generator=g) if agents else None
    action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)
    assert_close(model.embed_actions(batch.actions, batch.action_valid, batch.labelled), action)
    noisy = world.normalise(batch.latents, batch.positions)
    assert_close(model.normalise(batch.latents, batch.positions), noisy)
    ours, naive = world.read(noisy, signal, step_size, action, tokens), model(noisy, signal, step_size, action, tokens)
    assert float(ours[0].std()) > 0.3, "an output that depends on nothing shows nothing"
    assert_close(naive[0], ours[0], rtol=1e-4, atol=1e-5)
    if agents:
        assert_close(naive[1], ours[1], rtol=1e-4, atol=1e-5)


def our_loss(world: WorldModel, batch: Batch, noise: Tensor, levels: Levels) -> Tensor:
    clean = world.normalise(batch.latents, batch.positions)
    action = world.embed_actions(batch.actions, batch.action_valid, batch.labelled)

    def predict(noisy: Tensor, signal: Tensor, step_size: Tensor, rows: slice) -> Tensor:
        return world(noisy, signal, step_size, action[rows])

    finest = world.forcing.finest_steps
    shares = loss_shares(levels, finest, batch.target_valid)
    return forcing_loss(predict, clean, noise, levels, finest, shares)["dynamics"]


def phase1_inputs(config: Config, boots: int) -> tuple[Batch, Tensor, Levels]:
    g = torch.Generator().manual_seed(5)
    batch, levels = crops(6, 7), draw_levels(6, 7, config.forcing.finest_steps, boots, g)
    assert not batch.target_valid.all()
    return batch, torch.randn(batch.latents.shape, generator=g), levels


@pytest.mark.parametrize("boots", [0, 2, 6])
def test_phase_one_loss_and_every_gradient_are_the_same(boots: int) -> None:
    config = small()
    world = world_of(config)
    batch, noise, levels = phase1_inputs(config, boots)
    model = NaiveWorldModel.copy_of(world)
    ours, naive = our_loss(world, batch, noise, levels), batch_loss(model, batch, noise, levels)
    assert_close(naive, ours, rtol=1e-5, atol=1e-6)
    ours.backward()
    naive.backward()
    mine = dict(model.named_parameters())
    assert mine.keys() == dict(world.named_parameters()).keys()
    for name, parameter in world.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-5, f"{name} has no gradient to compare"
        assert_close(mine[name].grad, parameter.grad, rtol=1e-3, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("clip", [0.1, 100.0])
def test_optimiser_steps_clipping_and_average_are_the_same(clip: float) -> None:
    config = small(f"phase1.clip_norm={clip}")
    train, world = config.phase1, world_of(config)
    batch, noise, levels = phase1_inputs(config, 2)
    start = copy.deepcopy(world.state_dict())
    plain = NaiveWorldModel.copy_of(world)
    trainer = Trainer(plain, train, ("dynamics",))
    scale = RunningScale(["dynamics"])
    model = nn.ModuleDict({"world": world, "scale": scale})
    optimizers, average = build_optimizers(model.named_parameters(), train), EMA(model, train.ema_decay)
    for number in range(3):
        rate = learning_rate(train, number)
        loss = our_loss(world, batch, noise, levels)
        (loss * scale.factors()["dynamics"]).backward()
        scale.update({"dynamics": loss.detach()})
        norm = nn.utils.clip_grad_norm_(world.parameters(), train.clip_norm)
        assert (norm > clip) == (clip < 1), "one case clips at every step, the other never"
        for group in optimizers[0].param_groups:
            group["lr"] = rate
        optimizers[0].step()
        optimizers[0].zero_grad()
        average.update(model, number)
        trainer.update({"dynamics": batch_loss(plain, batch, noise, levels)})
    for p, q in zip(_groups(trainer.optimizer), _groups(optimizers[0]), strict=True):
        naive, ours = trainer.optimizer.state[p], optimizers[0].state[q]
        assert_close(naive["exp_avg"], ours["exp_avg"], rtol=1e-3, atol=1e-6)
        assert_close(naive["exp_avg_sq"], ours["exp_avg_sq"], rtol=2e-3, atol=1e-10)
    for name, parameter in trainer.model.named_parameters():
        # AdamW divides a gradient by its own size: an element whose gradient is mere rounding goes its own way.
        pairs = {
            "weight": (parameter, world.get_parameter(name)),
            "average": (trainer.average[name], average.state[f"world.{name}"]),
        }
        for what, (a, b) in pairs.items():
            apart, moved = (a - b).norm(), (b - start[name]).norm()
            assert apart < 2e-3 * moved, f"{what} of {name}: {float(apart / moved):.1e} of the way"


def _groups(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@pytest.mark.parametrize(
    "overrides",
    [(), ("dynamics.context=7", "imagination.horizon=4"), ("heads.reward_reads=transition",), tuple(AGENT_TOKENS)],
)
def test_rollouts_are_the_same_past_the_band_too(overrides: tuple[str, ...]) -> None:
    config = small(*overrides)
    world, agent, batch = world_of(config), agent_of(config), crops(5, config.imagination.start_context)
    horizon = config.imagination.horizon

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(7)

    ours = imagine(world, agent, batch, horizon, generator())
    for way in (rollout.Recomputed, Cached):
        naive = rollout.imagine(NaiveWorldModel.copy_of(world), agent, batch, horizon, generator(), way)
        assert torch.equal(naive.actions, ours.actions) and len(ours.actions.unique()) > 1
        for name in ("latents", "features", "rewards", "continues"):
            assert_close(getattr(naive, name), getattr(ours, name), rtol=1e-4, atol=1e-4, msg=lambda t, n=name: n + t)
    assert float(ours.rewards.std()) > 0.1 and float(ours.continues.std()) > 0.02


class OneBatch(Loader):
    """Draws the same batch for ever."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def draw(self) -> Batch:
        return self.batch


@pytest.mark.parametrize(("shift", "seen"), [(0.0, 0.0), (0.0, 3.0), (50.0, 0.0), (-50.0, 3.0)])
def test_phase_three_losses_and_gradients_are_the_same_with_an_empty_set_too(shift: float, seen: float) -> None:
    config = small("heads.reward_range=5.0", "phase3.batch_size=5")  # one rollout takes all five starts
    world, agent, batch = world_of(config), agent_of(config), crops(5, config.imagination.start_context)
    prior = copy.deepcopy(agent.policy)
    nn.init.normal_(prior.net.out.weight, std=0.5)
    nn.init.constant_(agent.reward.net.out.bias, 0.0)
    if shift:  # rewards so large that every advantage has their sign
        agent.reward.net.out.bias.data[30 if shift > 0 else 10] = 50.0
    phase = ImaginationPhase(config, world, agent, prior, OneBatch(batch), Backend(torch.device("cpu"), "fp32"))
    phase.model.train()
    step, running = config.imagination.critic_steps, RunningRms()
    if seen:  # the running scale divides by what it saw before
        phase.finish({"loss/value": torch.tensor(seen)})
        running.update(torch.tensor(seen))
    with fused.plain():  # the same library's products on both sides: rounding is not amplified through a rollout
        ours, figures = phase.loss(phase.draw(), step)
        drawn = torch.Generator().manual_seed(config.seed + 3)
        imagined = imagine(world, agent, batch, config.imagination.horizon, drawn)
    watched = phase.figures(figures, step)
    share = float(watched["advantage_positive"])
    assert share == (shift > 0) if shift else 0 < share < 1
    assert 0 < float(watched["alive"]) < 1
    trained = [p for p in phase.model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(ours, trained)
    policy, value = objectives.losses(imagined, agent, prior, config.imagination, phase.gamma)
    assert_close(policy, figures["loss/policy"], rtol=1e-4, atol=1e-5)
    assert_close(value, figures["loss/value"], rtol=1e-4, atol=1e-5)
    naive = policy + value * running.factor()
    assert_close(naive, ours, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(naive, trained)
    for got, want in zip(found, wanted, strict=True):
        assert (got - want).norm() < 1e-4 * want.norm()  # single elements are rounding where they are small


@pytest.mark.parametrize("bins", [3, 41, 255])
def test_two_hot_loss_gradient_and_expectation_are_the_same(bins: int) -> None:
    g = torch.Generator().manual_seed(0)
    centres = symexp_bins(bins, 3.0)
    logits = torch.randn(63, padded(bins), generator=g).requires_grad_()
    targets = 6 * torch.randn(63, generator=g)
    targets[:4] = torch.tensor([0.0, float(centres[1]), 1e3, -1e3])  # on centres, and past both ends
    targets[4] = centres[-1]
    weights = torch.rand(63, generator=g)
    ours, naive = two_hot_loss(logits, targets, centres), objectives.two_hot_loss(logits, targets, centres)
    assert_close(naive, ours, rtol=1e-5, atol=1e-5)
    (want,) = torch.autograd.grad((ours * weights).sum(), logits)
    (got,) = torch.autograd.grad((naive * weights).sum(), logits)
    assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert_close(objectives.two_hot_target(targets, centres), two_hot_encode(targets, centres), rtol=1e-4, atol=1e-5)
    assert_close(objectives.two_hot_decode(logits, centres), two_hot_decode(logits, centres), rtol=1e-4, atol=1e-5)
