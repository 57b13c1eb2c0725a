"""Phase 3 trains on what the static program imagines: with it imagined returns rise, with a broken one they do not."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from imagination.worlds import Imagined, rollouts
from jaxtyping import Float
from torch import Tensor

from fastdreamer.imagination.program import Program
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.loader import Loader
from fastdreamer.training.imagination_phase import ImaginationPhase

from .conftest import BACKEND

STEPS = 100
WORLD = (
    "tokenizer.frames_per_latent=1", "tokenizer.window=1", "dynamics.layers=2", "forcing.sample_steps=1",
    "imagination.horizon=2", "imagination.critic_steps=10", "imagination.beta=0", "phase3.batch_size=96",
    "heads.continuation=one", "imagination.gamma=0.1",
)  # fmt: skip


class SameStarts(Loader):
    """A loader of one batch."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def draw(self) -> Batch:
        return self.batch


def worth(world: Imagined) -> Float[Tensor, " 17"]:
    """The mean reward that each first action leads to, all under one noise."""

    def after(action: int) -> Tensor:
        program = world.program(1)
        chunk = torch.full((len(world.batch.latents), 1, 1), action)
        token = world.world.embed_actions(chunk[:, None], program.known, program.known[:, 0, 0])[:, 0]
        program._act = lambda feature, uniform: (chunk, token)
        return program(world.batch).rewards[:, 0].mean()

    return torch.stack([after(action) for action in range(17)])


def trained_actions(world: Imagined) -> Float[Tensor, " 17"]:
    """Trains phase 3; how often each first action is taken at its end."""
    prior, loader = deepcopy(world.agent.policy), SameStarts(world.batch)
    phase = ImaginationPhase(world.config, world.world, world.agent, prior, loader, BACKEND)
    phase.model.train()
    optimizer = torch.optim.Adam([p for p in phase.model.parameters() if p.requires_grad], 1e-2)
    taken = torch.zeros(17)
    for step in range(STEPS):
        work = phase.draw()
        loss, sums = phase.loss(work, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        phase.finish(sums)
        if step >= STEPS - 10:
            taken += torch.bincount(work.actions[:, 0].flatten(), minlength=17)
    return taken / taken.sum()


def says_another_action(program: Program) -> Any:
    choose = program._choose

    def broken(feature: torch.Tensor, uniform: torch.Tensor) -> Any:
        chunk, token = choose(feature, uniform)
        return (chunk + 5) % 17, token

    return broken


def acts_in_vain(program: Program) -> Any:
    choose = program._choose

    def broken(feature: Tensor, uniform: Tensor) -> Any:
        chunk, token = choose(feature, uniform)
        return chunk, token[:1].expand_as(token)

    return broken


BREAKS: dict[str, Callable[[Program], None]] = {
    "the actions it reports are not those it took": lambda p: setattr(p, "_act", says_another_action(p)),
    "the world never hears of its actions": lambda p: setattr(p, "_act", acts_in_vain(p)),
}


@pytest.mark.parametrize("broken", [None, *BREAKS])
def test_imagined_returns_rise_only_with_a_program_that_works(
    broken: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = rollouts(*WORLD, count=96)
    torch.nn.init.normal_(world.world.tokens.actions.table.weight, std=1.0)  # what is done matters, noise does little
    world.world.tokens.spatial.weight.mul_(0.01)
    reward = worth(world)
    if broken:
        plain = Program.__init__

        def init(self: Program, *args: Any, **kwargs: Any) -> None:
            plain(self, *args, **kwargs)
            BREAKS[broken](self)

        monkeypatch.setattr(Program, "__init__", init)
    taken = trained_actions(world)
    gain = float(((taken * reward).sum() - reward.mean()) / (reward.max() - reward.mean()))
    assert gain < 0.3 if broken else gain > 0.5, gain
