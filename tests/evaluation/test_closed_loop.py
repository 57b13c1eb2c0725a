"""Closed loop on a scripted environment whose every frame says where and when it was taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import HeadsConfig
from fastdreamer.errors import UserError
from fastdreamer.evaluation.closed_loop import Observer, RandomPolicy, check_worlds, join, play
from fastdreamer.evaluation.payments import Trace
from fastdreamer.heads.policy import Policy

LENGTHS = (3, 7, 100)  # world w ends after that many steps; world 2 only by the step cap


class ScriptedPool:
    """World w pays 1 + w a step, also when it is stepped after its end (which must not count).

    It counts a log every second step, from 5 on, and the first world a stone at its second one.
    """

    def __init__(self, lengths: tuple[int, ...] = LENGTHS) -> None:
        self.lengths = lengths
        self.steps = np.zeros(len(LENGTHS), dtype=int)
        self.actions: list[ndarray] = []
        self.active: list[ndarray] = []

    def frames(self) -> ndarray:
        frames = np.zeros((len(LENGTHS), 4, 4, 3), dtype=np.uint8)
        frames[:, :, :, 0] = np.arange(len(LENGTHS))[:, None, None]
        frames[:, :, :, 1] = self.steps[:, None, None]
        return frames

    @property
    def counters(self) -> list[dict[str, int]]:
        return [{"log": 5 + s // 2} | ({"stone": int(s >= 2)} if not w else {}) for w, s in enumerate(self.steps)]

    def reset(self) -> ndarray:
        self.steps[:] = 0
        return self.frames()

    def step(
        self, actions: ndarray, active: ndarray
    ) -> tuple[ndarray, ndarray, ndarray, ndarray, list[dict[str, Any]]]:
        self.actions.append(actions.copy())
        self.active.append(active.copy())
        self.steps += 1
        rewards = 1.0 + np.arange(len(LENGTHS))
        terminated = self.steps == np.array(self.lengths)  # only at that very step: a pool need not repeat it
        names = [{"achievements": ["walk"] + (["late"] if s >= 5 else [])} for s in self.steps]
        infos = [name | {"counters": counted} for name, counted in zip(names, self.counters, strict=True)]
        return self.frames(), rewards, terminated, np.zeros(len(LENGTHS), bool), infos


class ScriptedEncoder:
    """Latents that hold the step number of each frame of the clip encoded."""

    def __init__(self) -> None:
        self.position = 0
        self.clips: list[list[int]] = []

    def reset(self, frames: Tensor) -> Tensor:
        self.position, self.clips = 0, [*self.clips, [int(frames[-1, 0, 0, 1])]]
        return frames[:, :1, :1, 1].float()

    def push(self, frames: Tensor) -> Tensor:
        self.position += 1
        self.clips[-1] += [int(f) for f in frames[-1, :, 0, 0, 1]]
        return frames[:, -1, :1, :1, 1].float()


class ScriptedPolicy:
    """Chunk positions 0, 1, 2, ... as actions; notes what it saw."""

    uses_latents = True

    def __init__(self, chunk: int) -> None:
        self.chunk, self.seen, self.resets = chunk, [], 0

    def reset(self) -> None:
        self.resets += 1

    def act(self, latents: Tensor | None, position: int) -> ndarray:
        assert latents is not None
        self.seen.append((int(latents[-1].flatten()[0]), position))
        return np.tile(np.arange(self.chunk), (len(LENGTHS), 1))


def test_ended_worlds_are_masked_and_earn_nothing_more() -> None:
    pool, policy = ScriptedPool(), ScriptedPolicy(4)
    played = play(policy, pool, ScriptedEncoder(), chunk=4, execute=4, max_steps=10, name="test")
    assert played.returns.tolist() == [3 * 1.0, 7 * 2.0, 10 * 3.0]
    assert played.lengths.tolist() == [3, 7, 10]
    assert [a.tolist() for a in pool.active[3:7]] == [[False, True, True]] * 4
    assert [a.tolist() for a in pool.active[7:]] == [[False, False, True]] * 3
    assert played.achievements == [frozenset({"walk"}), frozenset({"walk", "late"}), frozenset({"walk", "late"})]
    assert policy.resets == 1


def test_result_names_rates_lengths_and_interval() -> None:
    played = play(ScriptedPolicy(1), ScriptedPool(), ScriptedEncoder(), 1, 1, 10, "test")
    result = played.to_dict(resamples=200, seed=0)
    assert result["return_mean"] == pytest.approx((3 + 14 + 30) / 3)
    assert result["return_low"] < result["return_mean"] < result["return_high"]
    assert result["episodes"] == 3 and result["length_mean"] == pytest.approx(20 / 3)
    assert result["achievements"] == {"late": pytest.approx(2 / 3), "walk": 1.0}


def test_whole_chunks_are_executed_in_order_and_follow_the_latent_clock() -> None:
    pool, policy = ScriptedPool(), ScriptedPolicy(4)
    play(policy, pool, ScriptedEncoder(), chunk=4, execute=4, max_steps=10, name="test")
    assert [int(a[2]) for a in pool.actions] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert policy.seen == [(0, 0), (4, 1), (8, 2)]


def test_short_execution_encodes_the_clip_that_ends_at_the_current_frame() -> None:
    policy, encoder = ScriptedPolicy(4), ScriptedEncoder()
    pool = ScriptedPool()
    play(policy, pool, encoder, chunk=4, execute=3, max_steps=9, name="test")
    assert [int(a[2]) for a in pool.actions] == [0, 1, 2] * 3
    assert encoder.clips == [[0], [0, 0, 1, 2, 3], [2, 3, 4, 5, 6]]
    assert policy.seen == [(0, 0), (3, 1), (6, 1)]


def test_observer_of_whole_chunks_never_starts_a_clip_anew() -> None:
    encoder = ScriptedEncoder()
    frames = [np.full((3, 4, 4, 3), t, np.uint8) for t in range(9)]
    observer = Observer(encoder, frames[0], chunk=4)
    observer.observe(frames[1:5])
    observer.observe(frames[5:9])
    assert encoder.clips == [list(range(9))] and observer.position == 2


def test_random_policy_of_a_world_does_not_depend_on_the_others() -> None:
    alone = RandomPolicy((17,), 2, [11])
    together = RandomPolicy((17,), 2, [3, 11, 5])
    for _ in range(5):
        assert np.array_equal(alone.act(None, 0)[0], together.act(None, 0)[1])
    assert not np.array_equal(*RandomPolicy((17,), 50, [3, 5]).act(None, 0))
    together.reset()
    alone.reset()
    draws = np.concatenate([together.act(None, 0) for _ in range(2000)])
    assert np.array_equal(draws[1], alone.act(None, 0)[0])
    assert np.bincount(draws.ravel(), minlength=17).min() > 0.8 * draws.size / 17


def test_random_policy_draws_every_label_of_every_component() -> None:
    policy = RandomPolicy((2, 11, 3), 300, [4, 5])
    chunk = policy.act(None, 0)
    assert chunk.shape == (2, 300, 3)
    assert [set(chunk[..., column].ravel().tolist()) for column in range(3)] == [set(range(n)) for n in (2, 11, 3)]
    assert np.abs(np.corrcoef(chunk[0].T) - np.eye(3)).max() < 0.2, "each component has its own draws"


def test_random_play_needs_no_encoder() -> None:
    played = play(RandomPolicy((3,), 4, [0, 1, 2]), ScriptedPool(), None, 4, 4, 10, "random")
    assert played.lengths.tolist() == [3, 7, 10]


def test_recorded_worlds_are_refused() -> None:
    check_worlds(range(100, 110), range(0, 48))
    with pytest.raises(UserError, match=r"evaluation\.seed 40: 8 of 30"):
        check_worlds(range(40, 70), range(0, 48))


def test_agent_policy_draws_the_same_after_a_reset() -> None:
    from fastdreamer.evaluation.closed_loop import AgentPolicy

    class Agent:
        def reset(self) -> None:
            self.seen: list[tuple[int, bool]] = []

        def act(self, latents: Tensor, positions: Tensor, greedy: bool, generator: torch.Generator) -> Tensor:
            self.seen.append((int(positions[0]), greedy))
            return torch.randint(17, (len(latents), 2, 1), generator=generator)

    agent = Agent()
    policy = AgentPolicy(agent, greedy=True, seed=3, device=torch.device("cpu"))
    first = policy.act(torch.zeros(5, 16, 16), 2)
    assert first.shape == (5, 2, 1) and agent.seen == [(2, True)]
    policy.reset()
    assert agent.seen == [] and np.array_equal(policy.act(torch.zeros(5, 16, 16), 2), first)


def test_tasks_are_paid_by_what_the_worlds_count_until_their_end() -> None:
    tasks = ["log", "first:stone", "reward", "diamond"]
    played = play(ScriptedPolicy(4), ScriptedPool(), ScriptedEncoder(), 4, 4, 10, "test", tasks=tasks)
    assert played.returns.tolist() == played.of("log").returns.tolist() == [1, 3, 5]
    assert played.of("first:stone").returns.tolist() == [1, 0, 0]
    assert played.of("reward").returns.tolist() == [3 * 1.0, 7 * 2.0, 10 * 3.0]
    assert played.uncounted == {"diamond"} and played.of("diamond").returns.tolist() == [0, 0, 0]
    twice = join([played, played]).of("log")
    assert twice.returns.tolist() == [1, 3, 5, 1, 3, 5] and twice.uncounted == {"diamond"}


def test_a_trace_holds_what_the_first_task_paid() -> None:
    trace = Trace()
    play(ScriptedPolicy(1), ScriptedPool(), ScriptedEncoder(), 1, 1, 10, "test", trace, ["log", "reward"])
    assert [episode.rewards.tolist() for episode in trace.episodes("test")][:2] == [[0, 1, 0], [0, 1, 0, 1, 0, 1, 0]]


def test_a_worlds_draws_depend_neither_on_the_others_play_nor_on_their_ends() -> None:
    """Policies are compared world by world, so both must meet the same chance in a world (common random numbers)."""
    from fastdreamer.evaluation.closed_loop import AgentPolicy

    policy = Policy(HeadsConfig(hidden=4, layers=1), 1, 1, (17,))

    class Agent:
        def __init__(self, others: float) -> None:
            self.others = others

        def reset(self) -> None: ...

        def act(self, latents: Tensor, positions: Tensor, greedy: bool, generator: torch.Generator) -> Tensor:
            logits = torch.zeros(len(latents), 1, 17)
            logits[:2] = self.others * torch.arange(17)  # the last world's policy is the same
            return policy.act(logits, greedy, generator)

    actions = []
    for others, lengths in ((0.0, (3, 7, 100)), (5.0, (9, 1, 100))):
        pool = ScriptedPool(lengths)
        played = AgentPolicy(Agent(others), False, 3, torch.device("cpu"))
        play(played, pool, WideEncoder(), 1, 1, 20, "test")
        actions.append([int(chosen[2, 0]) for chosen in pool.actions])
    assert actions[0] == actions[1] and len(actions[0]) == 20 and len(set(actions[0])) > 5


class WideEncoder(ScriptedEncoder):
    """A latent of the right shape for each world."""

    def reset(self, frames: Tensor) -> Tensor:
        return super().reset(frames).expand(len(LENGTHS), 16, 16)

    def push(self, frames: Tensor) -> Tensor:
        return super().push(frames).expand(len(LENGTHS), 16, 16)
