"""The control of shuffled actions: world and reward head hear other dreams' actions, the policy keeps its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .worlds import largest_difference, rollouts

COUNT, HORIZON = 6, 4


@pytest.mark.parametrize("merges", [False, True])
def test_the_world_hears_the_actions_of_other_dreams(merges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    world = rollouts(count=COUNT)
    program = world.program(HORIZON, merges, shuffles=True)
    given: list[Tensor] = []
    read = world.world.read

    def noted(noisy: Tensor, signal: Tensor, size: Tensor, action: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
        given.append(action[:, -1].clone())
        return read(noisy, signal, size, action, *rest)

    monkeypatch.setattr(world.world, "read", noted)
    rollout = program(world.batch)
    known = torch.ones(COUNT, 1, world.world.clock.frames_per_latent, dtype=torch.bool)
    heard = program.heard
    for k in range(HORIZON):
        own = rollout.actions[:, k]
        rows = [next(i for i in range(COUNT) if i != b and torch.equal(heard[k, b], own[i])) for b in range(COUNT)]
        assert sorted(rows) == list(range(COUNT)), "a permutation in which no dream hears its own"
        token = world.world.embed_actions(heard[k][:, None], known, known[:, 0, 0])[:, 0]
        assert any(torch.allclose(token, action, atol=1e-6) for action in given)
    assert not torch.equal(heard[0], heard[1])


def test_the_actions_that_are_scored_stay_the_policys_own() -> None:
    """The first chunk is chosen before any action is heard: the same with and without the control; dreams then part."""
    world = rollouts(count=COUNT)
    plain, control = world.program(HORIZON)(world.batch), world.program(HORIZON, shuffles=True)(world.batch)
    assert torch.equal(plain.actions[:, 0], control.actions[:, 0])
    assert not torch.allclose(plain.latents[:, 1], control.latents[:, 1])
    logits = world.agent.policy(control.features[:, :-1])
    best = world.agent.policy.log_prob(logits, control.actions).sum((-2, -1)).mean()
    program = world.program(HORIZON, shuffles=True)
    heard = program(world.batch)
    others = world.agent.policy.log_prob(logits, program.heard.transpose(0, 1)).sum((-2, -1)).mean()
    assert largest_difference(heard, control) == 0 and best > others


def test_what_a_policy_remembers_is_what_the_world_heard() -> None:
    world = rollouts("heads.history=0.5", count=COUNT)
    program = world.program(1, shuffles=True)
    rollout = program(world.batch)
    history, known = world.agent.history, torch.ones(COUNT, world.world.clock.frames_per_latent, dtype=torch.bool)
    assert history is not None
    before, after = rollout.features[:, 0, -history.width :], rollout.features[:, 1, -history.width :]
    assert torch.equal(after, history.after(before, program.heard[0], known))
    assert not torch.equal(after, history.after(before, rollout.actions[:, 0], known))


def test_the_reward_head_hears_what_the_world_hears() -> None:
    world = rollouts("heads.reward_reads=action", count=COUNT)
    program = world.program(HORIZON, shuffles=True)
    rollout = program(world.batch)
    rewards = [
        world.agent.imagined_rewards(rollout.features, taken)
        for taken in (program.heard.transpose(0, 1), rollout.actions)
    ]
    assert torch.allclose(rollout.rewards, rewards[0], atol=1e-5)
    assert not torch.allclose(rollout.rewards, rewards[1], atol=1e-5)
