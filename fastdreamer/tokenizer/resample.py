"""Frames to the encoder's input: one interface, torch as the reference, DALI where it is installed."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from fastdreamer_engines.spec import DTYPES
from jaxtyping import Float, UInt8
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.preprocess import check_windows, preprocess

EVERY_FRAME = LatentClock(1, 1)  # windows come padded: nothing is added in time
INPUT = "fp32"  # of an encoder engine (see `EngineSpec.input_dtype`)


@runtime_checkable
class Resampler(Protocol):
    """uint8 windows to the encoder's input, on the encoder's device.

    All resamplers agree within 1/255. Attributes: name, "torch" or "dali", for the latent store's key.
    """

    name: str

    def __call__(self, windows: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t s s"]:
        """Resample to [-1, 1] at the image size, contiguous; the result is the caller's own for as long as it is held.

        Raises:
            UserError: for another shape or type.
        """


class TorchResampler:
    """The reference: the tokenizer's own `preprocess`, float32 inside."""

    name = "torch"

    def __init__(self, image_size: int, precision: str, device: torch.device) -> None:
        self.image_size, self.dtype, self.device = image_size, DTYPES[precision], device

    def __call__(self, windows: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t s s"]:
        check_windows(windows)
        frames = windows.to(self.device).movedim(-1, 1)
        images = preprocess(frames, EVERY_FRAME, self.image_size, "bcthw")
        return images.to(self.dtype).contiguous()


def resampler(config: Config, device: torch.device) -> Resampler:
    """The one that `data.resampler` names; auto is DALI on a GPU where it is installed, else torch.

    On a CPU torch is the default: the encoder there takes a hundred times as long as either. All give float32, which
    is what every encoder engine takes, whatever its precision inside.

    Raises:
        UserError: if DALI is asked for and not installed.
    """
    from fastdreamer.tokenizer.dali import DaliResampler, dali_available, require_dali

    wanted = config.data.resampler
    if wanted == "dali":
        require_dali("data.resampler=dali")
    if wanted == "dali" or (wanted == "auto" and device.type == "cuda" and dali_available()):
        return DaliResampler(config.tokenizer.image_size, INPUT, device)
    return TorchResampler(config.tokenizer.image_size, INPUT, device)
