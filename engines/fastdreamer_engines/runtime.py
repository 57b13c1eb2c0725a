"""The interface behind which an encoder runs, and its plain implementation: the reference of all others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn


class EncoderEngine(Protocol):
    """A frozen encoder that is ready to run on one device.

    Attributes:
        name: the backend, part of the latent store's key.
        precision: `fp32` or `bf16`, part of it too.
    """

    name: str
    precision: str

    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b z l h2 w2"]:
        """Frames in [-1, 1], on the engine's device, to raw float32 latents; to be called in inference mode."""
        ...


class EagerEncoder:
    """The module itself, in fp32 or under bf16 autocast (a bf16 copy fails on CPU: avg_pool3d)."""

    name = "eager"

    def __init__(self, module: nn.Module, precision: str) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {precision!r}; it must be fp32 or bf16")
        self.module = module
        self.precision = precision

    def encode(self, frames: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b z l h2 w2"]:
        """See EncoderEngine."""
        with torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            latents: Tensor = self.module(frames)
        return latents.float()


ENGINES: dict[str, Callable[[nn.Module, str], EncoderEngine]] = {"eager": EagerEncoder}


def build_engine(name: str, module: nn.Module, precision: str = "fp32") -> EncoderEngine:
    """The engine called `name` for a module that maps frames to latents.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in ENGINES:
        raise ValueError(f"there is no engine {name!r}; known are {', '.join(ENGINES)}")
    return ENGINES[name](module, precision)
