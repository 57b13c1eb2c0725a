"""A scripted demonstrator for Crafter that sees the whole map.

What it plays is cloned by a network that sees one frame: the 9x7 tiles around the player and the inventory. So its
rules read what the frame shows wherever that is possible (inventory thresholds, what stands in front, what is in
view), it keeps going straight while that is no detour (the sprite shows the direction), and ties break in one fixed
order. Only the way to things out of view comes from the map. All it remembers is what
it has once placed (plant, stone, furnace).
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from functools import lru_cache

from fastdreamer.envs.crafter import CrafterEnv
from fastdreamer.envs.mix import Chance
from fastdreamer.envs.navigate import BLOCKED, DIGGABLE, FREE, MOVES, TARGET, Way, cell, flatten, nearest

# crafter's semantic ids
WATER, GRASS, STONE, PATH, SAND, TREE, LAVA, COAL, IRON, DIAMOND, TABLE, FURNACE = range(1, 13)
PLAYER, COW, ZOMBIE, SKELETON, ARROW, PLANT = range(13, 19)
_WALKABLE = (GRASS, PATH, SAND)
_VIEW = (4, 3)  # tiles seen to each side, x and y
_FAR = 40  # moves to search for a resource

_STEP = {(-1, 0): "move_left", (1, 0): "move_right", (0, -1): "move_up", (0, 1): "move_down"}
_DIRECTIONS = {MOVES[direction]: direction for direction in _STEP}
_SOURCE = {"wood": TREE, "stone": STONE, "coal": COAL, "iron": IRON}  # item -> where it comes from
_PLACE_COST = {"place_table": ("wood", 2), "place_furnace": ("stone", 4)}
_CLOCKWISE = ((0, -1), (1, 0), (0, 1), (-1, 0))


@lru_cache(256)
def _kinds(targets: tuple[int, ...], diggable: tuple[int, ...]) -> bytes:
    """A translation table from semantic ids to what a search does with them."""
    table = bytearray([BLOCKED]) * 256
    for ids, kind in ((_WALKABLE, FREE), (diggable, DIGGABLE), (targets, TARGET)):
        for index in ids:
            table[index] = kind
    return bytes(table)


class Expert:
    """Plays one episode: make a new one for each.

    Args:
        noise: Share of the steps that are random actions instead (covers states off the path).
        seed: The seed of that chance; everything else is determined by the environment.
        chance: How random actions are drawn (see `envs.mix.Chance`).
    """

    def __init__(self, noise: float, seed: int, chance: str = "uniform") -> None:
        assert 0.0 <= noise <= 1.0, noise
        self.noise, self.chance = noise, chance
        self._random = random.Random(seed)
        self._chance: Chance | None = None  # from the first step on, when the actions' names are known
        self._done: set[str] = set()  # placements made once

    def act(self, env: CrafterEnv) -> int:
        """The action (an index into `env.action_names`) for the environment's present state."""
        if self._chance is None:
            self._chance = Chance(self.chance, self._random, env.action_names, self.noise)
        if (by_chance := self._chance.act()) is not None:
            return by_chance
        sight = Sight(env)
        name = "sleep" if env.is_sleeping else self._survive(sight) or self._progress(sight) or sight.explore()
        if name.startswith("place_"):
            self._done.add(name)
        return env.action_names.index(name)

    def _survive(self, sight: Sight) -> str | None:
        have = sight.have
        enemy = sight.way((ZOMBIE, SKELETON), reach=4 if have["health"] >= 5 else 1)
        if enemy:
            return sight.use(enemy)
        if sight.front == WATER and have["drink"] < 9:
            return "do"
        if have["energy"] <= (2 if have["wood_sword"] else 8) and not sight.sees(ZOMBIE, SKELETON, ARROW):
            return "sleep"
        for vital, kind in (("drink", WATER), ("food", COW)):
            if have[vital] <= 6:
                way = sight.way((kind,), _FAR if have[vital] <= 4 else 8)
                if way:
                    return sight.use(way)
        return None

    def _progress(self, sight: Sight) -> str | None:
        have = sight.have
        if not have["wood_pickaxe"] and "place_plant" not in self._done:
            if have["sapling"]:
                return sight.place("place_plant", (GRASS,))
            if sight.front == GRASS:
                return "do"
        if sight.front in sight.wanted:
            return "do"
        for tool in ("wood_pickaxe", "wood_sword"):
            if not have[tool]:
                return self._craft(sight, tool, {"wood": 1})
        if not have["stone_pickaxe"]:
            return self._craft(sight, "stone_pickaxe", {"wood": 2, "stone": 7})
        if "place_stone" not in self._done and have["stone"] and sight.front in (*_WALKABLE, WATER):
            return "place_stone"
        if not have["stone_sword"]:
            return self._craft(sight, "stone_sword", {"wood": 1, "stone": 1})
        if "place_furnace" not in self._done:
            return self._place(sight, "place_furnace")
        if not have["coal"]:
            return sight.go(COAL)
        if not have["iron"]:
            return sight.go(IRON)
        for tool in ("iron_pickaxe", "iron_sword"):
            if not have[tool]:
                return self._craft(sight, tool, {"wood": 1, "coal": 1, "iron": 1}, furnace=True)
        return sight.go(DIAMOND)

    def _craft(self, sight: Sight, tool: str, needs: dict[str, int], furnace: bool = False) -> str | None:
        """Make `tool` at a table (and furnace), placing what is not in view, gathering what is missing before."""
        for item, amount in needs.items():
            if sight.have[item] < amount:
                return sight.go(_SOURCE[item])
        for station in (TABLE, FURNACE) if furnace else (TABLE,):
            if not sight.touches(station):
                way = sight.way((station,), reach=8) if sight.sees(station) else None
                if way:
                    return sight.use(way)
                return self._place(sight, "place_table" if station == TABLE else "place_furnace", needs)
        return "make_" + tool

    def _place(self, sight: Sight, action: str, reserved: dict[str, int] | None = None) -> str | None:
        item, amount = _PLACE_COST[action]
        if sight.have[item] < amount + (reserved or {}).get(item, 0):
            return sight.go(_SOURCE[item])
        return sight.place(action, _WALKABLE)


class Sight:
    """What the expert reads of one state.

    Args:
        env: The environment, just reset or stepped.
    """

    def __init__(self, env: CrafterEnv) -> None:
        self.have = env.inventory
        self._map = env.semantic
        self._x, self._y = env.player_pos
        self._facing = env.facing
        self._flat = flatten(self._map)
        self._start = cell(self._x, self._y)
        self._ahead = MOVES[self._facing]
        (x, y), (columns, rows) = (self._x, self._y), _VIEW
        self._view = self._map[max(x - columns, 0) : x + columns + 1, max(y - rows, 0) : y + rows + 1].tobytes()
        self.front = self._flat[self._start + self._ahead]  # id of the tile the player faces
        self.wanted = self._minable()

    def _minable(self) -> tuple[int, ...]:
        """Ids worth a `do` when faced: what the tools can take and the inventory has room for."""
        have = self.have
        kinds = (
            (TREE, "wood", True),
            (STONE, "stone", have["wood_pickaxe"]),
            (COAL, "coal", have["wood_pickaxe"]),
            (IRON, "iron", have["stone_pickaxe"]),
            (DIAMOND, "diamond", have["iron_pickaxe"]),
        )
        return tuple(kind for kind, item, is_able in kinds if is_able and have[item] < 9)

    def sees(self, *kinds: int) -> bool:
        """Whether any of `kinds` is within the picture."""
        return any(kind in self._view for kind in kinds)

    def touches(self, kind: int) -> bool:
        """Whether `kind` is within the 3x3 tiles around the player, where crafter looks for tables and furnaces."""
        x, y = self._x, self._y
        return bool((self._map[x - 1 : x + 2, y - 1 : y + 2] == kind).any())

    def way(self, kinds: tuple[int, ...], reach: int) -> Way | None:
        """The shortest way to any of `kinds`, straight on where that is no detour."""
        diggable = (STONE,) if self.have["wood_pickaxe"] else ()
        order = (self._ahead, *(move for move in _DIRECTIONS if move != self._ahead))
        return nearest(self._flat.translate(_kinds(kinds, diggable)), self._start, order, reach)

    def use(self, way: Way) -> str:
        """The action that follows `way`: step, turn, dig, or `do` at its end."""
        is_free = way.length > 1 and self._flat[self._start + way.move] in _WALKABLE
        return "do" if way.move == self._ahead and not is_free else _STEP[_DIRECTIONS[way.move]]

    def go(self, kind: int) -> str | None:
        """Go towards the nearest `kind` anywhere near, and `do` there; None where there is none."""
        way = self.way((kind,), _FAR)
        return self.use(way) if way else None

    def place(self, action: str, where: tuple[int, ...]) -> str | None:
        """`action` if the tile ahead is one of `where`, else a sidestep that gives another tile ahead."""
        if self.front in where:
            return action
        return self._turn((1, 3, 2), (*_WALKABLE, STONE))  # sidesteps first: they stay in touch with what is ahead

    def explore(self) -> str:
        """Go straight on; where that is blocked, take the first free direction clockwise."""
        return self._turn(range(4), _WALKABLE) or "noop"

    def _turn(self, quarters: Iterable[int], onto: Collection[int]) -> str | None:
        """The step in the first of these directions, in quarters clockwise, whose tile is one of `onto`."""
        index = _CLOCKWISE.index(self._facing)
        for turn in quarters:
            direction = _CLOCKWISE[(index + turn) % 4]
            if self._flat[self._start + MOVES[direction]] in onto:
                return _STEP[direction]
        return None
