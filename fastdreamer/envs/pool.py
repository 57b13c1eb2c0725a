"""Many environments stepped in parallel by a few worker processes, for evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fastdreamer.envs.crafter import CrafterEnv, import_crafter
from fastdreamer.envs.workers import Worker, count_cores
from fastdreamer.errors import UserError

Frames = UInt8[np.ndarray, "e h w 3"]
Stepped = tuple[Frames, Float32[np.ndarray, " e"], Bool[np.ndarray, " e"], Bool[np.ndarray, " e"], list[dict[str, Any]]]


class EnvPool:
    """One environment for each seed, in seed order, spread over worker processes.

    The worker count changes nothing but the time: each environment depends on its seed and its actions alone. Worlds
    are kept, so that a second `reset` (the next policy, on the same seeds) costs almost nothing. Use it as a context
    manager: leaving it ends the processes.

    Args:
        env: `crafter`, the one environment that runs here.
        seeds: One an environment.
        max_steps: Actions until an episode is truncated.
        workers: Processes; 0 means one a core.

    Raises:
        UserError: for another environment, or if crafter is not installed.
    """

    def __init__(self, env: str, seeds: Sequence[int], max_steps: int, workers: int = 0) -> None:
        if env != "crafter":
            raise UserError(f"no environment to act in for {env!r}: closed-loop evaluation runs in crafter only")
        import_crafter()
        assert len(seeds) > 0, "an EnvPool needs at least one seed"
        count = min(workers or count_cores(), len(seeds))
        self.size = len(seeds)
        self._shares = [np.arange(index, len(seeds), count) for index in range(count)]
        self._workers: list[Worker] = []
        try:
            for share in self._shares:
                self._workers.append(Worker(_Worlds, [int(seeds[index]) for index in share.tolist()], max_steps))
        except BaseException:
            self.close()
            raise

    def reset(self) -> Frames:
        """Restart every world; the first frames."""
        return self._exchange([None] * len(self._workers))[0]

    def step(self, actions: Int[np.ndarray, " e"], active: Bool[np.ndarray, " e"]) -> Stepped:
        """Play `actions` where `active`; the others stay as they are and earn 0.

        Returns:
            frames; rewards; terminated; truncated (as after each environment's last step); for each environment
            {"achievements": names unlocked so far, "steps": actions played}.

        Raises:
            WorkerDied: if a worker process died or failed.
        """
        actions, active = np.asarray(actions), np.asarray(active, bool)
        assert actions.shape == active.shape == (self.size,), (actions.shape, active.shape, self.size)
        return self._exchange([(actions[share], active[share]) for share in self._shares])

    def close(self) -> None:
        """End the worker processes."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def __enter__(self) -> Self:
        """The pool itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the pool."""
        self.close()

    def _exchange(self, requests: Sequence[Any]) -> Stepped:
        assert self._workers, "the pool is closed"
        for worker, request in zip(self._workers, requests, strict=True):
            worker.send(request)
        replies = [worker.receive() for worker in self._workers]
        order = np.argsort(np.concatenate(self._shares))
        frames, rewards, terminated, truncated = (
            np.concatenate([reply[index] for reply in replies])[order] for index in range(4)
        )
        infos = [info for reply in replies for info in reply[4]]
        return frames, rewards, terminated, truncated, [infos[index] for index in order]


class _Worlds:
    """A worker's share of the environments: request None resets, (actions, active) steps."""

    def __init__(self, seeds: Sequence[int], max_steps: int) -> None:
        self._envs = [CrafterEnv(seed, max_steps) for seed in seeds]
        self._frames: list[UInt8[np.ndarray, "h w 3"]] = []
        self._ended: list[tuple[bool, bool]] = []

    def __call__(self, request: tuple[np.ndarray, np.ndarray] | None) -> Stepped:
        rewards = np.zeros(len(self._envs), np.float32)
        if request is None:
            self._frames = [env.reset() for env in self._envs]
            self._ended = [(False, False)] * len(self._envs)
        else:
            for index, (action, is_active) in enumerate(zip(*request, strict=True)):
                if is_active:
                    frame, reward, terminated, truncated, _ = self._envs[index].step(int(action))
                    self._frames[index], rewards[index] = frame, reward
                    self._ended[index] = (terminated, truncated)
        ended = np.array(self._ended)
        infos = [{"achievements": env.unlocked, "steps": env.steps} for env in self._envs]
        return np.stack(self._frames), rewards, ended[:, 0], ended[:, 1], infos
