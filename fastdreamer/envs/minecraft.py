"""Minecraft behind the interface of `CrafterEnv`: the user's own simulator, the recordings' actions and frames.

Nobody has run this on a real Minecraft yet. The simulators' interfaces were read in their sources
(`minecraft_simulators`), and what tests run is a stand-in written after them. Worlds come from seeds but are not
bit-reproducible: the same actions do not give the same frames twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from fastdreamer.envs.minecraft_actions import ActionTranslator
from fastdreamer.envs.minecraft_backends import NAMES, MinecraftError, find_backend, put_java_on_path
from fastdreamer.envs.minecraft_simulators import MineRL, MineStudio, Moment
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import ActionSpace

SAID = 200  # characters of a simulator's own words in a message


@dataclass(frozen=True)
class MinecraftSettings:
    """How to play: the simulator, its task (minerl), components kept at their no-op, pixels a side of frames."""

    backend: str = "auto"
    minerl_task: str = ""
    leave_out: tuple[str, ...] = ()
    frame_size: int = 64


class MinecraftEnv:
    """One Minecraft, played for at most `max_steps` actions an episode.

    Frames are the recordings' size: `frame_size` square for MineRL's spaces (what a simulator renders otherwise is
    averaged over areas), and 640x360 as rendered for VPT's, which `encode` reads at that size too.

    Args:
        space: the actions, as label indices.
        seed: the world's seed; it may be changed between episodes.
        max_steps: actions until the episode is truncated.
        settings: the simulator, and how it is played.

    Raises:
        UserError: if something is missing, or the simulator does not know a component of the actions.
    """

    def __init__(self, space: ActionSpace, seed: int, max_steps: int, settings: MinecraftSettings) -> None:
        assert seed >= 0 and max_steps >= 1, (seed, max_steps)
        self.seed, self.max_steps, self.settings = seed, max_steps, settings
        self.steps, self.is_over = 0, True
        self._is_as_rendered = space.name == "vpt"
        self.backend = find_backend(space.name, settings.backend)
        put_java_on_path()
        with _one_line(self.backend, "starting"):
            self._simulator: MineStudio | MineRL = (
                MineStudio(space.name, settings.frame_size)
                if self.backend == "minestudio"
                else MineRL(space.name, settings.minerl_task)
            )
        try:
            self._actions = ActionTranslator(space, self._simulator.keys, NAMES[self.backend], settings.leave_out)
        except UserError:
            self.close()
            raise
        self._first: Mapping[str, float] = {}
        self._obtained: dict[str, None] = {}
        self._counters: Mapping[str, int] = {}

    def reset(self) -> UInt8[np.ndarray, "h w 3"]:
        """Generate the world of `seed` and return its first frame.

        Raises:
            MinecraftError: if Minecraft does not start.
        """
        with _one_line(self.backend, "making a world"):
            moment = self._simulator.reset(self.seed)
        self.steps, self.is_over = 0, False
        self._first, self._obtained, self._counters = moment.items, {}, moment.counters
        return self._frame(moment)

    def step(
        self, action: UInt8[np.ndarray, " k"]
    ) -> tuple[UInt8[np.ndarray, "h w 3"], float, bool, bool, dict[str, Any]]:
        """Play one action.

        Returns:
            The next frame, the reward, whether the episode ended (terminated), whether a step cap cut it (truncated,
            never together with terminated), and info: `achievements`, what was obtained so far, and `counters`.

        Raises:
            MinecraftError: if Minecraft died or its connection broke.
        """
        assert not self.is_over, "step after the end of an episode: reset first"
        translated = self._actions.to_simulator(action, self._simulator.noop)
        with _one_line(self.backend, "playing"):
            moment = self._simulator.step(translated)
        self.steps += 1
        terminated = moment.is_over
        truncated = (moment.is_cut or self.steps >= self.max_steps) and not terminated
        self.is_over, self._counters = terminated or truncated, moment.counters
        for item, count in moment.items.items():
            if count > self._first.get(item, 0):
                self._obtained[item] = None
        info = {"achievements": self.unlocked, "counters": self.counters}
        return self._frame(moment), moment.reward, terminated, truncated, info

    @property
    def unlocked(self) -> list[str]:
        """What was obtained in this episode, in its order: `pickup oak_log` (MineStudio), `log` (minerl)."""
        return list(self._obtained)

    @property
    def counters(self) -> dict[str, int]:
        """What the simulator counts, under the names that the recordings have (see `recordings.tasks`)."""
        return dict(self._counters)

    def close(self) -> None:
        """End Minecraft; one that is dead already is none of the caller's concern."""
        try:
            self._simulator.close()
        except Exception as error:  # noqa: BLE001 - whatever a dying simulator raises
            print(f"{NAMES[self.backend]} did not close cleanly: {_words(error)}", flush=True)

    def _frame(self, moment: Moment) -> UInt8[np.ndarray, "h w 3"]:
        if self._is_as_rendered:
            return np.ascontiguousarray(moment.frame, np.uint8)
        return fit_frame(moment.frame, self.settings.frame_size)


def fit_frame(frame: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A frame of `size` x `size`: as it is, or averaged over areas (PyTorch's `area`), rounded to nearest."""
    frame = np.ascontiguousarray(frame, np.uint8)
    if frame.shape[:2] == (size, size):
        return frame
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    return interpolate(pixels, size=(size, size), mode="area")[0].round().byte().permute(1, 2, 0).numpy()


@contextmanager
def _one_line(backend: str, doing: str) -> Iterator[None]:
    """Whatever goes wrong inside a simulator is one line: the user cannot mend its code."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        # When its Java half is gone, MineStudio makes up an observation and often fails at that.
        why = " (if Minecraft died, logs/mc_*.log says why)" if (backend, doing) == ("minestudio", "playing") else ""
        raise MinecraftError(f"{NAMES[backend]} failed while {doing}: {_words(error)}{why}") from error


def _words(error: BaseException) -> str:
    """Type and last two lines: what Minecraft's processes raise is pages of their log, and a sentence."""
    lines = [line.strip()[:SAID] for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, " / ".join(lines[-2:])] if lines else [type(error).__name__])
