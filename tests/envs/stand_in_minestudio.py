"""A stand-in for MineStudio 1.1.6's simulator: its interface as its source has it, and no Minecraft behind it.

Its spaces come from minestudio_1_1_6.json, which `read_minestudio.py` read in the wheel's source. The game: holding
attack picks up an oak log every third tick. Pixel (0, 0) of a frame is (seed, tick, keys pressed), pixel (0, 1) is
(pitch, yaw, hotbar key), both camera angles in tenths of a degree around 128. STAND_IN_FAILS, `WHAT@TICK`, makes it
break as the real one does.
"""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

SOURCE = json.loads((Path(__file__).parent / "minestudio_1_1_6.json").read_text())
BUTTONS = [key for key in SOURCE["env_action_space"] if key != "camera"]


class MinecraftSim:
    def __init__(
        self,
        action_type: str = "agent",
        obs_size: tuple[int, int] = (224, 224),
        render_size: tuple[int, int] = (640, 360),
        seed: int = 0,
        inventory: dict[int, Any] | None = None,
        preferred_spawn_biome: str | None = None,
        num_empty_frames: int = 20,
    ) -> None:
        fail("init", 0)
        assert action_type == "env"
        self.obs_size, self.render_size = obs_size, render_size
        self.inventory, self.biome = inventory, preferred_spawn_biome
        self.env = SimpleNamespace(seed=self._seed)
        self._next_seed: int | None = seed
        self.actions: list[dict[str, Any]] = []
        self.is_closed = False

    @property
    def action_space(self) -> Any:
        spaces: dict[str, Any] = {key: SimpleNamespace(n=2) for key in BUTTONS}
        spaces["camera"] = SimpleNamespace(low=-180, high=180, shape=(2,), dtype=np.float32)
        return SimpleNamespace(spaces=spaces)

    def _seed(self, seed: int) -> None:
        assert isinstance(seed, int), "Seed must be an int!"
        self._next_seed = seed

    def reset(self) -> tuple[dict[str, Any], dict[str, Any]]:
        fail("reset", 0)
        self.world = random.randrange(256) if self._next_seed is None else self._next_seed % 256
        self._next_seed = None  # the real one forgets it too
        self.tick, self.held, self.done = 0, 0, False
        self.last: dict[str, Any] = {"camera": np.zeros(2)}
        return self._observe()

    def step(self, action: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self.done:
            raise RuntimeError("Attempted to step an environment server with done=True")
        assert set(action) == {*BUTTONS, "camera"}, set(action) ^ {*BUTTONS, "camera"}
        assert all(action[key] in (0, 1) for key in BUTTONS), action
        assert np.shape(action["camera"]) == (2,) and np.abs(action["camera"]).max() <= 180, action
        self.tick += 1
        broken = fail("step", self.tick)
        self.actions.append(action)
        self.last = action
        self.held += int(action["attack"])
        self.done = self.done or broken or self.tick == int(os.environ.get("STAND_IN_ENDS", "1000000"))
        observation, info = self._observe()
        if broken:
            return observation, 0.0, True, True, info | {"error": "Connection timed out!"}
        return observation, 0.0, self.done, self.done, info

    def _observe(self) -> tuple[dict[str, Any], dict[str, Any]]:
        width, height = self.render_size
        frame = np.zeros((height, width, 3), np.uint8)
        frame[height // 2 :] = 200
        pressed = [key for key in BUTTONS if self.last.get(key)]
        slot = next((int(key[-1]) for key in pressed if key.startswith("hotbar")), 0)
        frame[0, 0] = self.world, self.tick % 256, len(pressed)
        frame[0, 1] = [*(128 + np.round(10 * self.last["camera"])).astype(int), slot]
        assert self.obs_size == self.render_size, "this stand-in does not resize"
        info = {"pov": frame, "pickup": {"oak_log": np.array(self.held // 3)}, "craft_item": {}, "isGuiOpen": False}
        return {"image": frame}, info

    def close(self) -> None:
        self.is_closed = True
        if os.environ.get("STAND_IN_CLOSED"):
            Path(os.environ["STAND_IN_CLOSED"], str(os.getpid())).touch()


def fail(where: str, tick: int) -> bool:
    """Break as STAND_IN_FAILS says; True for a broken connection, which the real one only reports."""
    what, _, when = os.environ.get("STAND_IN_FAILS", "").partition("@")
    if when != (where if where != "step" else str(tick)):
        return False
    if what == "log":
        raise EOFError("[12:00:00] Loading\n[12:00:01] ERROR\n\nMinecraft process finished unexpectedly.")
    if what == "numpy":
        raise AttributeError("`np.unicode_` was removed in the NumPy 2.0 release. Use `np.str_` instead.")
    if what == "exit":
        raise SystemExit(0)
    if what == "die":
        os._exit(9)
    if what == "hang":
        time.sleep(3600)
    return what == "connection"
