"""The trace of actions: the same step by step and along a sequence, in crops and in the game; it keeps their order."""

from __future__ import annotations

import pytest
import torch

from fastdreamer.config import Config, load_config
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.actor import Actor
from fastdreamer.heads.agent import Agent
from fastdreamer.heads.history import History

SIZES = (17,)


def config(*overrides: str) -> Config:
    return load_config("debug", ["heads.history=0.5", "dynamics.dim=16", *overrides])


def test_steps_one_by_one_give_the_traces_of_the_sequence() -> None:
    history = History(0.5, 2, (3, 4))
    generator = torch.Generator().manual_seed(0)
    actions = torch.stack([torch.randint(size, (2, 6, 2), generator=generator) for size in (3, 4)], -1)
    known = torch.rand(2, 6, 2, generator=generator) < 0.7
    trace = history.start(2)
    whole = history.along(actions, known)
    for step in range(6):
        trace = history.after(trace, actions[:, step], known[:, step])
        torch.testing.assert_close(trace, whole[:, step])


def test_an_unknown_action_leaves_nothing_and_a_newer_one_weighs_more() -> None:
    history = History(0.5, 1, (4,))
    actions = torch.tensor([[[[1]], [[2]], [[3]]]])
    traces = history.along(actions, torch.tensor([[[True], [True], [False]]]))
    assert traces[0, 1].tolist() == [0, 0.5, 1, 0]
    assert traces[0, 2].tolist() == [0, 0.25, 0.5, 0]


@torch.no_grad()
def test_a_policy_acts_on_the_trace_that_its_crops_have() -> None:
    settings = config()
    torch.manual_seed(0)
    world, agent = WorldModel.build(settings, SIZES).eval(), Agent(settings, SIZES).eval()
    torch.nn.init.normal_(agent.policy.net.out.weight)
    actor, latents = Actor(world, agent), torch.randn(3, 5, 16, 16)
    positions, chunks = torch.ones(3, dtype=torch.int64), []
    for step in range(5):
        chunks.append(actor.act(latents[:, step], positions, greedy=True))
    led = torch.stack([torch.zeros_like(chunks[0]), *chunks[:-1]], 1)
    known = torch.ones(led.shape[:3], dtype=torch.bool)
    known[:, 0] = False
    assert agent.history is not None
    traces = agent.history.along(led, known)
    for step in range(5):
        state = world.normalise(latents[:, step], positions)
        features = agent.features(state, None, torch.zeros(3, dtype=torch.int64), traces[:, step])
        assert torch.equal(agent.policy.choose(agent.policy(features)), chunks[step])
    actor.reset()
    assert torch.equal(actor.act(latents[:, 0], positions, greedy=True), chunks[0])


def test_agent_tokens_remember_by_themselves() -> None:
    with pytest.raises(Exception, match="remembers by itself"):
        config("heads.readout=agent_tokens", "dynamics.agent_tokens=1")
