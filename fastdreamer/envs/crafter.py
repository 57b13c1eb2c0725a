"""Crafter behind a Gymnasium-style interface: five-value steps, bit-reproducible, twice as fast.

Crafter (Hafner 2021, arXiv:2109.06780) is imported when an environment is made, so that the rest of the package works
without it. Three things are mended from outside, without touching its rules:

- creatures of a chunk live in a `set`, whose order is that of memory addresses, and despawning draws from that order:
  the same seed then plays differently in two processes. The sets become insertion-ordered ones;
- drawing takes two thirds of a step: `crafter_view` draws the same pixels from cached tiles;
- making a world takes 0.8 s: the first reset keeps a copy of the fresh world, later ones restore it. Any later moment
  can be kept and put back in the same way (`save`, `restore`).
"""

from __future__ import annotations

import collections
import io
import pickle
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from fastdreamer.envs.crafter_view import CachedItems, CachedTiles
from fastdreamer.errors import UserError
from fastdreamer.recordings.tasks import ACHIEVEMENT
from fastdreamer.system.failures import mend


def import_crafter() -> ModuleType:
    """The crafter package, or a `UserError` that says how to get it, or which library that it imports is broken."""
    try:
        import crafter
    except Exception as error:  # a broken library raises anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"the Crafter environment cannot be imported ({reason}): {mend('crafter', error)}") from error
    return crafter  # type: ignore[no-any-return, unused-ignore]


class _OrderedSet(dict[Any, None]):
    """The part of `set` that crafter's chunks use, iterating in insertion order."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


class _Pickler(pickle.Pickler):
    """Writes a name for the one live world, which the views hold as well, instead of the world."""

    def __init__(self, file: io.BytesIO, world: Any) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.world = world

    def persistent_id(self, thing: Any) -> str | None:
        return "world" if thing is self.world else None


class _Unpickler(pickle.Unpickler):
    """Reads that name as the live world of the environment that is being restored."""

    def __init__(self, file: io.BytesIO, world: Any) -> None:
        super().__init__(file)
        self.world = world

    def persistent_load(self, name: str) -> Any:
        return self.world


class CrafterEnv:
    """One world of Crafter: the world of `seed`, played for at most `max_steps` actions.

    Every `reset` restarts the same world with the same random stream, so a seed and a list of actions determine every
    frame, in any process.

    Args:
        seed: The world and all its chance, at least 0.
        max_steps: Actions until the episode is truncated.

    Raises:
        UserError: if crafter is not installed.
    """

    def __init__(self, seed: int, max_steps: int) -> None:
        assert seed >= 0 and max_steps >= 1, (seed, max_steps)
        crafter = import_crafter()
        self.seed = seed
        self.max_steps = max_steps
        self.steps = 0
        self.is_over = True
        self.action_names: tuple[str, ...] = tuple(crafter.constants.actions)
        self._env = crafter.Env(seed=seed, length=None)
        self._env._local_view = CachedTiles(self._env._local_view)
        self._env._item_view = CachedItems(self._env._item_view)
        self._fresh: bytes | None = None
        self._semantic: UInt8[np.ndarray, "64 64"] | None = None

    def reset(self) -> UInt8[np.ndarray, "64 64 3"]:
        """Restart the world and return its first frame."""
        env, world = self._env, self._env._world
        if self._fresh is None:
            env.reset()
            chunks: dict[Any, _OrderedSet] = collections.defaultdict(_OrderedSet)
            for thing in world.objects:  # in the order they were added
                chunks[world.chunk_key(thing.pos)].add(thing)
            world._chunks = chunks
            self.steps = 0
            self._fresh = self._pack()
        self._unpack(self._fresh)
        self.is_over = False
        return np.asarray(env.render())

    def step(
        self, action: int | Int[np.ndarray, "1"]
    ) -> tuple[UInt8[np.ndarray, "64 64 3"], float, bool, bool, dict[str, Any]]:
        """Play one action (an index into `action_names`).

        Returns:
            The next frame, the reward (+1 a first unlock, 0.1 a health point), whether the player died (terminated),
            whether the step cap cut the episode (truncated, never together with terminated), and info:
            `achievements` (name -> times), `semantic` (64, 64) ids indexed [x, y], `player_pos` (x, y), `inventory`,
            `counters`.
        """
        assert not self.is_over, "step after the end of an episode: reset first"
        frame, reward, _, info = self._env.step(int(np.asarray(action).item()))
        self.steps += 1
        terminated = info["discount"] == 0.0
        truncated = self.steps >= self.max_steps and not terminated
        self.is_over = terminated or truncated
        self._semantic = info["semantic"]
        told = {name: info[name] for name in ("achievements", "semantic", "inventory")}
        told |= {"player_pos": self.player_pos, "counters": self.counters}
        return np.asarray(frame), float(reward), terminated, truncated, told

    def save(self) -> bytes:
        """The world as it stands, its chance included, for `restore` in any environment of this or another process."""
        assert not self.is_over, "an episode's end cannot be played on from: save before it"
        return self._pack()

    def restore(self, state: bytes, chance: int | None = None) -> None:
        """Put back what `save` gave: the same actions then lead to the same frames and rewards.

        Nothing is drawn here, for the night's noise is part of the world's chance.

        Args:
            state: a state of this or another environment; its world may have another seed.
            chance: a seed of the world's chance from here on, below 2^32; None goes on with the saved one.
        """
        self._unpack(state)
        self.is_over = False
        if chance is not None:
            self._env._world.random.seed(chance)  # one stream: creatures and pictures share it

    def close(self) -> None:
        """Do nothing: a world lives in this process."""

    @property
    def unlocked(self) -> list[str]:
        """Names of the achievements unlocked so far, in crafter's order."""
        return [name for name, count in self._env._player.achievements.items() if count > 0]

    @property
    def semantic(self) -> UInt8[np.ndarray, "64 64"]:
        """The whole map, [x, y] -> id: materials 1 to 12 in crafter's order, then the kinds of creatures."""
        if self._semantic is None:
            self._semantic = np.asarray(self._env._sem_view())
        return self._semantic

    @property
    def player_pos(self) -> tuple[int, int]:
        """Position of the player, (x, y)."""
        x, y = self._env._player.pos
        return int(x), int(y)

    @property
    def facing(self) -> tuple[int, int]:
        """The player's direction, (dx, dy), y downwards."""
        dx, dy = self._env._player.facing
        return int(dx), int(dy)

    @property
    def inventory(self) -> dict[str, int]:
        """Vital figures (health, food, drink, energy) and items, name -> amount."""
        return self._env._player.inventory

    @property
    def counters(self) -> dict[str, int]:
        """What the game counts (see `recordings.tasks`): the inventory, and how often each achievement came."""
        reached = self._env._player.achievements
        return {**self.inventory, **{f"{ACHIEVEMENT}{name}": count for name, count in reached.items()}}

    @property
    def is_sleeping(self) -> bool:
        """Whether the player sleeps, in which case crafter replaces every action by `sleep`."""
        return bool(self._env._player.sleeping)

    def _pack(self) -> bytes:
        env, world = self._env, self._env._world
        state = (vars(world), env._player, env._step, env._last_health, env._unlocked, self.steps)
        file = io.BytesIO()
        _Pickler(file, world).dump(state)
        return file.getvalue()

    def _unpack(self, packed: bytes) -> None:
        env, world = self._env, self._env._world
        state, env._player, env._step, env._last_health, env._unlocked, self.steps = _Unpickler(
            io.BytesIO(packed), world
        ).load()
        vars(world).update(state)
        self._semantic = None
