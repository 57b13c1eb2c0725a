"""Latents while acting: exactly those of the latent store, from the frames seen so far."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fastdreamer.tokenizer.frozen import FrozenTokenizer


class ActingEncoder:
    """Encodes a batch of running episodes step by step, by the window protocol.

    Only the current window's frames so far are encoded: the encoder is causal, so the latent of the newest step is
    the one that the full window will give (ALGORITHM 1; to rounding).

    Attributes:
        position: position in the window of the last step.
    """

    def __init__(self, tokenizer: FrozenTokenizer, batch: int) -> None:
        self.tokenizer = tokenizer
        self.batch = batch
        self.position = 0
        self._step = -1
        self._window: Tensor | None = None

    def reset(self, frames: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b n z"]:
        """Take in the first frame of every episode; return the latents of step 0."""
        assert len(frames) == self.batch, f"{len(frames)} frames for a batch of {self.batch}"
        self._window = frames.unsqueeze(1).clone()
        self._step = 0
        return self._newest()

    def push(self, frames: UInt8[Tensor, "b c h w 3"]) -> Float[Tensor, "b n z"]:
        """Take in the c frames after the last step; return the latents of the step they complete."""
        assert self._window is not None, "reset comes first"
        clock = self.tokenizer.clock
        expected = (self.batch, clock.frames_per_latent)
        assert tuple(frames.shape[:2]) == expected, f"frames {tuple(frames.shape)}; expected {expected} first"
        if clock.frames_per_latent == 1:
            self._window = frames.clone()
        else:
            full = self._window.shape[1] == clock.window
            self._window = torch.cat([self._window[:, -1:] if full else self._window, frames], 1)
        self._step += 1
        return self._newest()

    def resume(self, frames: UInt8[Tensor, "b t h w 3"], step: int) -> None:
        """Stand at `step` again, as if its frames had been pushed; nothing is encoded.

        Args:
            frames: its window's, up to it; at a window's border the last one will do.
            step: the latent step of the episode.
        """
        clock = self.tokenizer.clock
        self.position, self._step = clock.position(step), step
        whole = 1 + self.position * clock.frames_per_latent
        assert frames.shape[1] in (1, whole), f"{frames.shape[1]} frames of a window that has {whole} by now"
        self._window = frames

    def _newest(self) -> Tensor:
        assert self._window is not None
        self.position = self.tokenizer.clock.position(self._step)
        return self.tokenizer.encode(self._window.movedim(-1, 2), "btchw")[:, -1]
