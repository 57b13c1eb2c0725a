"""Controls change one thing each: where rewards stand, what the world hears, or who answers instead of the dream."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from fastdreamer.evaluation.closed_loop import Encoder
from fastdreamer.study.controls import FIRST_WORLD, RealGame, ShuffledActions, ShuffledRewards
from fastdreamer.training.imagination_phase import ImaginationPhase
from fastdreamer.training.step import Update

from .stand_ins import StandInEncoder, StandInGames


def test_shuffled_rewards_are_the_same_rewards_elsewhere(phase_of) -> None:
    plain, world = phase_of(ImaginationPhase)
    control, _ = phase_of(ShuffledRewards)
    expected, found = plain.imagine(world.batch), control.imagine(world.batch)
    assert torch.equal(expected.rewards.flatten().sort().values, found.rewards.flatten().sort().values)
    assert not torch.equal(expected.rewards, found.rewards)
    assert torch.equal(expected.actions, found.actions) and torch.equal(expected.continues, found.continues)
    again = control.imagine(world.batch)
    assert not torch.equal(found.rewards.argsort(), again.rewards.argsort()), "another order every time"


def test_the_critic_of_shuffled_rewards_knows_nothing_at_first(phase_of) -> None:
    control, world = phase_of(ShuffledRewards, "imagination.target_decay=0.9")
    features = control.imagine(world.batch).features
    assert float(control.agent.returns_decoded(features).detach().abs().max()) < 1e-5
    assert not control.target.module.net.out.weight.any(), "nor does its slow copy"


def test_shuffled_actions_reach_the_program_and_learning_goes_on(phase_of) -> None:
    control, world = phase_of(ShuffledActions)
    rollout = control.imagine(world.batch)
    assert control.programs[0].shuffled is not None
    assert not torch.equal(control.programs[0].heard.transpose(0, 1), rollout.actions)
    before = control.agent.policy.net.out.weight.clone()
    Update(control, world.config.phase3, control.backend)(0)
    assert not torch.equal(before, control.agent.policy.net.out.weight)


def real(ends: int = 0, count: int = 3) -> tuple[StandInGames, partial[RealGame]]:
    games = StandInGames(count, ends=ends)
    encoder: Encoder = StandInEncoder()
    return games, partial(RealGame, games=games, encoder=encoder, tasks=("reward",))


def test_the_real_game_pays_what_the_games_pay(phase_of) -> None:
    games, maker = real()
    phase, world = phase_of(maker, "evaluation.max_steps=1000")
    rollout = phase.imagine(world.batch)
    c, gamma = world.config.tokenizer.frames_per_latent, world.config.imagination.gamma
    paid = (rollout.actions[..., 0] % 3 == 0).float() * gamma ** torch.arange(c)
    assert torch.allclose(rollout.rewards, paid.sum(-1)) and bool((rollout.continues == 1).all())
    assert rollout.latents.shape[:2] == (3, world.config.imagination.horizon + 1)
    stand = StandInEncoder().reset(torch.from_numpy(games.frames))
    again = phase.imagine(world.batch)
    assert len(games.begun) == 1, "games go on from update to update"
    assert torch.equal(again.latents[:, 0], world.world.normalise(stand, torch.zeros(3, dtype=torch.int64)))
    before = phase.agent.policy.net.out.weight.clone()
    Update(phase, world.config.phase3, phase.backend)(0)
    assert not torch.equal(before, phase.agent.policy.net.out.weight)


def test_a_game_that_is_over_begins_in_a_new_world(phase_of) -> None:
    games, maker = real(ends=13)  # in the second chunk of eight
    phase, world = phase_of(maker, "evaluation.max_steps=1000")
    rollout = phase.imagine(world.batch)
    assert rollout.continues.tolist() == [[1, 0, 0, 0]] * 3 and not rollout.rewards[:, 2:].any()
    phase.imagine(world.batch)
    assert games.begun == [tuple(range(FIRST_WORLD, FIRST_WORLD + 3)), tuple(range(FIRST_WORLD + 3, FIRST_WORLD + 6))]


def test_what_was_done_is_remembered_until_a_game_is_over(phase_of) -> None:
    _, maker = real()
    phase, world = phase_of(maker, "heads.history=0.5", "evaluation.max_steps=96")
    history = phase.agent.history
    first, second = (phase.imagine(world.batch) for _ in range(2))
    done, again = first.features[..., -history.width :], second.features[..., -history.width :]
    known = torch.ones(3, world.config.tokenizer.frames_per_latent, dtype=torch.bool)
    for k in range(world.config.imagination.horizon):
        assert torch.equal(history.after(done[:, k], first.actions[:, k], known), done[:, k + 1])
    assert torch.equal(again[1:, 0], done[1:, -1]) and not again[0, 0].any(), "game 0 was cut off at 32 steps"


def test_games_are_cut_off_between_rollouts_at_different_times(phase_of) -> None:
    games, maker = real()
    phase, world = phase_of(maker, "evaluation.max_steps=96")  # 32 steps a rollout: the first are cut at 32, 64, 96
    lengths = []
    for _ in range(4):
        assert bool((phase.imagine(world.batch).continues == 1).all()), "being cut off is no end"
        lengths.append(games.steps.tolist())
    assert lengths == [[32, 32, 32], [32, 64, 64], [64, 32, 96], [96, 64, 32]]


def test_no_world_comes_twice_after_a_resume(phase_of) -> None:
    _, maker = real()
    phase, world = phase_of(maker)
    phase.imagine(world.batch)
    resumed_games, again = real()
    resumed, _ = phase_of(again)
    for name, generator in resumed.generators.items():
        if name != "data":
            generator.set_state(phase.generators[name].get_state())
    resumed.imagine(world.batch)
    assert resumed_games.begun == [tuple(range(FIRST_WORLD + 3, FIRST_WORLD + 6))]


@pytest.mark.parametrize("tasks", [("reward",), ("wood", "drink")])
def test_games_take_turns_at_the_tasks(phase_of, tasks: tuple[str, ...]) -> None:
    games = StandInGames(4)
    maker = partial(RealGame, games=games, encoder=StandInEncoder(), tasks=tasks)
    phase, _ = phase_of(maker)
    assert phase.tasks == [tasks[number % len(tasks)] for number in range(4)]
    assert np.array_equal(phase.numbers, np.arange(4) % len(tasks))
