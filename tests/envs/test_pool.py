from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from fastdreamer.envs.pool import EnvPool
from fastdreamer.envs.workers import WorkerDied
from fastdreamer.errors import UserError

from .conftest import World

pytest.importorskip("crafter")


def test_pool_equals_serial_play_whatever_the_workers(world: World) -> None:
    seeds, caps, chance = [2, 0, 1], 12, np.random.default_rng(0)
    plan = chance.integers(0, 17, (caps, 3))
    masks = np.ones((caps, 3), bool)
    masks[4:, 1] = False  # one world is left alone from step 4 on
    envs = [world(seed, caps) for seed in seeds]
    with EnvPool("crafter", seeds, caps, workers=2) as pool:
        for _ in range(2):  # a second reset plays the same worlds again
            assert np.array_equal(pool.reset(), np.stack([env.reset() for env in envs]))
            assert pool.counters == [env.counters for env in envs]
            for actions, active in zip(plan, masks, strict=True):
                frames, rewards, terminated, truncated, infos = pool.step(actions[:, None], active)
                for index, env in enumerate(envs):
                    if not active[index]:
                        assert rewards[index] == 0 and infos[index]["steps"] == 4
                        continue
                    frame, reward, has_died, is_cut, _ = env.step(int(actions[index]))
                    assert np.array_equal(frames[index], frame)
                    assert rewards[index] == np.float32(reward)
                    assert (terminated[index], truncated[index]) == (has_died, is_cut)
                    assert infos[index]["achievements"] == env.unlocked
                    assert infos[index]["counters"] == pool.counters[index] == env.counters
    assert list(truncated) == [True, False, True]


def test_a_dead_worker_raises_and_the_rest_are_ended() -> None:
    pool = EnvPool("crafter", [1, 2], 50, workers=2)
    processes = [worker.process for worker in pool._workers]
    with pytest.raises(WorkerDied, match="exit code -9"), pool:
        pool.reset()
        os.kill(processes[1].pid or 0, signal.SIGKILL)
        began = time.monotonic()
        for _ in range(5):
            pool.step(np.zeros((2, 1), int), np.ones(2, bool))
    assert time.monotonic() - began < 60
    assert not any(process.is_alive() for process in processes)


def test_a_failure_in_a_worker_is_shown() -> None:
    with EnvPool("crafter", [1], 1, workers=1) as pool:
        pool.reset()
        pool.step(np.zeros((1, 1), int), np.ones(1, bool))
        with pytest.raises(WorkerDied, match="reset first"):
            pool.step(np.zeros((1, 1), int), np.ones(1, bool))


def test_other_environments_are_refused() -> None:
    with pytest.raises(UserError, match="no Minecraft simulator is known for data.env=atari"):
        EnvPool("atari", [0], 10)
