"""How a session sees: the frames of a real step to its latents, by the tokenizer's window protocol, from any moment."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from fastdreamer.heads.history import History
from fastdreamer.play.film import Footage
from fastdreamer.play.loaded import Loaded
from fastdreamer.play.moment import RealStep
from fastdreamer.tokenizer.acting import ActingEncoder

Window = tuple[UInt8[ndarray, "t h w 3"], ...]
"""The frames of the tokenizer's window until now, a piece a step; moments share pieces."""


class Eyes:
    """An encoder that goes on from any window."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded, self.clock = loaded, loaded.clock
        self._encoder = ActingEncoder(loaded.tokenizer, 1)

    def begin(self, frame: UInt8[ndarray, "h w 3"]) -> tuple[RealStep, Window]:
        """See the first frame of an episode."""
        raw = self._encoder.reset(torch.from_numpy(np.ascontiguousarray(frame))[None])
        return RealStep(self._normalised(raw), *self._nothing_done()), (frame[None],)

    def begin_recorded(self, footage: Footage, step: int) -> tuple[tuple[RealStep, ...], Window]:
        """See the steps up to one of a recording: as many as the world model does."""
        first = max(0, step - self.loaded.config.dynamics.context + 1)
        border = first - self.clock.position(first)
        window: Window = (footage.step_frames(border)[-1:],)
        seen = list[RealStep]()
        if border == 0 or self.clock.frames_per_latent == 1:
            begun, window = self.begin(window[0][0])
            seen = [begun._replace(actions=self._led(footage, border)[0], known=self._led(footage, border)[1])]
        for number in range(border + 1, step + 1):
            latents, window = self.push(footage.step_frames(number), window, number)
            seen.append(RealStep(latents, *self._led(footage, number)))
        return tuple(seen[-(step - first + 1) :]), window

    def push(self, frames: UInt8[ndarray, "c h w 3"], window: Window, step: int) -> tuple[Float[Tensor, "n z"], Window]:
        """See the frames of latent step `step`, given the window of the step before; latents are normalised."""
        self._encoder.resume(torch.from_numpy(np.concatenate(window))[None], step - 1)
        latents = self._normalised(self._encoder.push(torch.from_numpy(np.ascontiguousarray(frames))[None]))
        if self.clock.frames_per_latent == 1:
            return latents, (frames,)
        return latents, (window[-1][-1:], frames) if self.clock.position(step) == 1 else (*window, frames)

    def trace(self, history: History | None, footage: Footage | None, step: int) -> Float[Tensor, "1 h"] | None:
        """The trace of what was done until a step of a recording; of nothing where there is none."""
        if history is None:
            return None
        trace = history.start(1)
        for number in range(1, step + 1) if footage is not None else ():
            assert footage is not None
            actions, known = self._led(footage, number)
            trace = history.after(trace, actions[None].to(trace.device), known[None].to(trace.device))
        return trace

    def _led(self, footage: Footage, step: int) -> tuple[Tensor, Tensor]:
        """The chunk that led into a recorded step, and which of its actions there were and are known."""
        recorded = footage.chunk(step)
        actions, known = self._nothing_done()
        actions[: len(recorded)] = torch.from_numpy(recorded.astype(np.int64))
        known[: len(recorded)] = footage.labels.labelled
        return actions, known

    def _nothing_done(self) -> tuple[Tensor, Tensor]:
        c, components = self.clock.frames_per_latent, len(self.loaded.space.sizes)
        return torch.zeros(c, components, dtype=torch.int64), torch.zeros(c, dtype=torch.bool)

    def _normalised(self, raw: Float[Tensor, "1 n z"]) -> Float[Tensor, "n z"]:
        world = self.loaded.world
        position = torch.tensor([self._encoder.position], device=world.mean.device)
        return world.normalise(raw.to(world.mean.device), position)[0].cpu()
