"""Many environments stepped in parallel by worker processes, for evaluation: Crafter worlds, or Minecrafts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from fastdreamer.envs.crafter import CrafterEnv, import_crafter
from fastdreamer.envs.minecraft import MinecraftEnv, MinecraftSettings
from fastdreamer.envs.minecraft_backends import find_backend
from fastdreamer.envs.workers import WorkerDied, WorkerLost, WorkerPool
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space

Frames = UInt8[np.ndarray, "e h w 3"]
Stepped = tuple[Frames, Float32[np.ndarray, " e"], Bool[np.ndarray, " e"], Bool[np.ndarray, " e"], list[dict[str, Any]]]

# Minecraft's own socket gives up after 120 s; its start and the making of a world take a minute or two.
MINECRAFT_STEP_S = 180.0
MINECRAFT_RESET_S = 900.0
CLOSE_S = 30.0


class EnvPool(WorkerPool):
    """One environment for each seed, in seed order, spread over worker processes.

    Crafter: the worker count changes nothing but the time, for each environment depends on its seed and its actions
    alone. Worlds are kept, so that a second `reset` (the next policy, on the same seeds) costs almost nothing.

    Minecraft: every environment is a process of its own that starts a Minecraft at the first `reset`; more worlds than
    that are played one after another, with `choose` between them.

    Args:
        env: `crafter`, or a `data.env` that a Minecraft simulator plays.
        seeds: One an environment.
        max_steps: Actions until an episode is truncated.
        workers: Processes for Crafter; 0 means one a core.
        minecraft: How to play Minecraft.

    Raises:
        UserError: for another environment, or if what it needs is not installed.
    """

    def __init__(
        self,
        env: str,
        seeds: Sequence[int],
        max_steps: int,
        workers: int = 0,
        minecraft: MinecraftSettings | None = None,
    ) -> None:
        assert len(seeds) > 0, "an EnvPool needs at least one seed"
        self._is_minecraft = env != "crafter"
        if self._is_minecraft:
            minecraft = minecraft or MinecraftSettings()
            find_backend(env, minecraft.backend)
            workers = len(seeds)
        else:
            import_crafter()
        super().__init__(len(seeds), workers)
        self._seeds = [int(seed) for seed in seeds]
        self._infos: list[dict[str, Any]] = []
        self._start(_Worlds, [(env, len(share), max_steps, minecraft) for share in self._shares])

    @property
    def size(self) -> int:
        """How many worlds are played at once."""
        return len(self._seeds)

    @property
    def counters(self) -> list[dict[str, int]]:
        """What each world counted when it was reset or stepped last."""
        return [info["counters"] for info in self._infos]

    def choose(self, seeds: Sequence[int]) -> None:
        """Choose the worlds of the next `reset`, in Minecraft: at most as many as there are processes."""
        assert self._is_minecraft and 0 < len(seeds) <= len(self._workers), (len(seeds), len(self._workers))
        self._seeds = [int(seed) for seed in seeds]
        self._share_out(len(seeds), len(seeds))

    def reset(self) -> Frames:
        """Restart every world and return the first frames."""
        return self._begin(self._seeds)

    def step(self, actions: Int[np.ndarray, "e k"], active: Bool[np.ndarray, " e"]) -> Stepped:
        """Play `actions` where `active`; the others stay as they are and earn 0.

        Returns:
            frames; rewards; terminated; truncated (as after each environment's last step); for each environment
            {"achievements": names unlocked so far, "steps": actions played, "counters": see `recordings.tasks`}.

        Raises:
            WorkerDied: if a worker process died or failed.
            UserError: if Minecraft did.
        """
        actions, active = np.asarray(actions), np.asarray(active, bool)
        assert actions.ndim == 2 and actions.shape[:1] == active.shape == (self.size,), (actions.shape, active.shape)
        requests = [(actions[share], active[share]) for share in self._shares]
        return self._exchange(requests, MINECRAFT_STEP_S if self._is_minecraft else None)

    def close(self) -> None:
        """End the worker processes, and with them their Minecrafts."""
        for worker in self._workers if self._is_minecraft else ():  # or they would outlive what started them
            with suppress(WorkerDied):
                worker.send(None)
        for worker in self._workers if self._is_minecraft else ():
            while worker.pending:
                try:
                    worker.receive(CLOSE_S)
                except WorkerLost:
                    break
                except (WorkerDied, UserError):  # of this or an earlier request: it ends in any case
                    continue
        super().close()

    def _begin(self, seeds: Sequence[int | None]) -> Frames:
        """Restart the worlds that have a seed; the others go on."""
        requests = [[seeds[index] for index in share] for share in self._shares]
        return self._exchange(requests, MINECRAFT_RESET_S if self._is_minecraft else None)[0]

    def _exchange(self, requests: Sequence[Any], timeout_s: float | None) -> Stepped:
        replies = self._ask(requests, timeout_s)
        frames, rewards, terminated, truncated = (
            np.concatenate([reply[index] for reply in replies])[self._order] for index in range(4)
        )
        infos = [info for reply in replies for info in reply[4]]
        self._infos = [infos[index] for index in self._order]
        return frames, rewards, terminated, truncated, self._infos


class _Worlds:
    """A worker's share of the environments: seeds reset them, (actions, active) steps them, None ends them."""

    def __init__(self, env: str, count: int, max_steps: int, minecraft: MinecraftSettings | None) -> None:
        self._env, self._max_steps, self._minecraft = env, max_steps, minecraft
        self._envs: list[Any] = [None] * count
        self._frames: list[Any] = [None] * count
        self._ended = np.zeros((count, 2), bool)

    def __call__(self, request: list[int | None] | tuple[np.ndarray, np.ndarray] | None) -> Stepped | None:
        if request is None:
            for env in filter(None, self._envs):
                env.close()
            return None
        rewards = np.zeros(len(self._envs), np.float32)
        if isinstance(request, list):
            for index, seed in enumerate(request):
                if seed is not None:
                    self._envs[index] = self._world(self._envs[index], seed)
                    self._frames[index], self._ended[index] = self._envs[index].reset(), False
        else:
            for index, (action, is_active) in enumerate(zip(*request, strict=True)):
                if is_active:
                    self._frames[index], rewards[index], *self._ended[index], _ = self._envs[index].step(action)
        infos = [
            {"achievements": env.unlocked, "steps": env.steps, "counters": dict(env.counters)} for env in self._envs
        ]
        return np.stack(self._frames), rewards, self._ended[:, 0], self._ended[:, 1], infos

    def _world(self, env: Any, seed: int) -> CrafterEnv | MinecraftEnv:
        """The world of a seed; one that is begun again in the same place is not made anew, nor is a Minecraft."""
        if self._minecraft is None:
            return env if env is not None and env.seed == seed else CrafterEnv(seed, self._max_steps)
        if env is None:
            return MinecraftEnv(action_space(self._env), seed, self._max_steps, self._minecraft)
        env.seed = seed
        return env
