"""Crafter's picture from cached tiles: the same pixels as its own views, several times as fast.

A tile (material, creature on it) always looks the same, and so does an inventory, so both are drawn once and then
looked up. Light, night noise and sleep stay crafter's own functions: the noise draws from the world's random stream,
which is part of the game's course.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8

_EMPTY = 127  # crafter's grey outside the map
_INVENTORIES = 512  # distinct inventories kept, 2.6 kB each


class CachedTiles:
    """Replaces `crafter.engine.LocalView`: the 9x7 tiles around the player.

    Args:
        view: The view it replaces, whose textures, light and sleep effects are used.
    """

    def __init__(self, view: Any) -> None:
        self._view = view
        self._grid = tuple(int(size) for size in view._grid)
        self._materials: dict[tuple[int, ...], UInt8[np.ndarray, "k h w 3"]] = {}
        self._covered: dict[tuple[int, str], UInt8[np.ndarray, "h w 3"]] = {}

    def __call__(self, player: Any, unit: Any) -> Shaped[np.ndarray, "w h 3"]:
        """Draw the surroundings of `player`, `unit` pixels a tile; axes are x, y, colour."""
        world, (columns, rows) = self._view._world, self._grid
        (width, height), (left, top) = world.area, (player.pos[0] - columns // 2, player.pos[1] - rows // 2)
        tiles = self._material_tiles(unit)
        inside = (slice(max(left, 0), min(left + columns, width)), slice(max(top, 0), min(top + rows, height)))
        column, row = inside[0].start - left, inside[1].start - top
        materials = world._mat_map[inside]
        ids = np.full((columns, rows), len(tiles) - 1)  # the last tile is the grey outside the map
        ids[column : column + materials.shape[0], row : row + materials.shape[1]] = materials
        canvas = tiles[ids]
        things = world._obj_map[inside]
        for x, y in zip(*np.nonzero(things), strict=True):
            texture = world._objects[things[x, y]].texture
            canvas[x + column, y + row] = self._covered_tile(int(materials[x, y]), texture, tiles, unit)
        canvas = canvas.transpose(0, 2, 1, 3, 4).reshape(columns * tiles.shape[1], rows * tiles.shape[2], 3)
        lit = self._view._light(canvas, world.daylight)
        return np.asarray(self._view._sleep(lit) if player.sleeping else lit)

    def _material_tiles(self, unit: Any) -> UInt8[np.ndarray, "k h w 3"]:
        size = tuple(int(side) for side in unit)
        if size not in self._materials:
            self._covered.clear()
            names = self._view._world._mat_names
            tiles = [self._view._textures.get(names[index], unit)[..., :3] for index in range(len(names))]
            self._materials = {size: np.stack([*tiles, np.full_like(tiles[0], _EMPTY)])}
        return self._materials[size]

    def _covered_tile(
        self, material: int, texture: str, tiles: UInt8[np.ndarray, "k h w 3"], unit: Any
    ) -> UInt8[np.ndarray, "h w 3"]:
        key = (material, texture)
        if key not in self._covered:
            sprite = self._view._textures.get(texture, unit)
            if sprite.shape[-1] == 4:
                colour = sprite.astype(np.float32) / 255
                alpha, ground = colour[..., 3:], tiles[material].astype(np.float32) / 255
                sprite = (255 * (alpha * colour[..., :3] + (1 - alpha) * ground)).astype(np.uint8)
            self._covered[key] = sprite
        return self._covered[key]


class CachedItems:
    """Replaces `crafter.engine.ItemView`: the two rows of the inventory, drawn once an inventory.

    Args:
        view: The view it replaces, which draws what is not cached yet.
    """

    def __init__(self, view: Any) -> None:
        self._view = view
        self._drawn: dict[tuple[int, ...], Shaped[np.ndarray, "w h 3"]] = {}

    def __call__(self, inventory: dict[str, int], unit: Any) -> Shaped[np.ndarray, "w h 3"]:
        """Draw `inventory`, `unit` pixels a tile."""
        key = (*inventory.values(), *(int(side) for side in unit))
        if key not in self._drawn:
            if len(self._drawn) >= _INVENTORIES:
                self._drawn.clear()
            self._drawn[key] = self._view(inventory, unit)
        return self._drawn[key]
