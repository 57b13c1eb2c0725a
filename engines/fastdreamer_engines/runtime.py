"""A ready engine: one call of static shapes, and any number of clips served by it. Eager is the reference of all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastdreamer_engines.spec import DTYPES, EngineError, EngineSpec

Call = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Engine:
    """A part of the frozen tokenizer that is ready to run on one device.

    Attributes:
        name: the backend, part of the latent store's key; `precision` inside is too, as `spec.precision`.
        spec: what it takes and gives; `shapes` empty means any.
        call: inputs of a served shape, on the engine's device, to float32 outputs; to be called in inference mode.
    """

    name: str
    spec: EngineSpec
    call: Call

    @property
    def precision(self) -> str:
        """Precision of the engine: `fp32`, `fp16` or `bf16`."""
        return self.spec.precision

    def run(self, inputs: Tensor) -> Tensor:
        """Any number of clips: padded to a served length, split into served batches, cut back.

        An encoder is causal, so a clip padded at its end (its last frame repeated) gives the same latents; a decoder
        likewise.

        Raises:
            EngineError: for clips longer than any it serves, of a length that is not 1 + kc, or of another type.
        """
        spec, encodes = self.spec, self.spec.part == "encoder"
        if encodes and (inputs.shape[2] - 1) % spec.frames_per_latent:
            raise EngineError(
                f"a clip of {inputs.shape[2]} frames would silently lose some: the encoder takes 1 + a multiple of "
                f"{spec.frames_per_latent}"
            )
        if not spec.shapes:
            return self._exact(inputs)
        frames = inputs.shape[2] if encodes else 1 + (inputs.shape[2] - 1) * spec.frames_per_latent
        lengths = sorted({t for _, t in spec.shapes if t >= frames})
        if not lengths:
            longest = max(t for _, t in spec.shapes)
            raise EngineError(f"the {self.name} {spec.part} serves clips of up to {longest} frames, not {frames}")
        served = spec.inputs((1, lengths[0]))[2]
        if served > inputs.shape[2]:
            tail = inputs[:, :, -1:].expand(-1, -1, served - inputs.shape[2], -1, -1)
            inputs = torch.cat([inputs, tail], 2)
        batches = [b for b, t in spec.shapes if t == lengths[0]]
        parts, done = [], 0
        for batch in _split(len(inputs), batches):
            part = inputs[done : done + batch]
            missing = batch - len(part)
            part = torch.cat([part, part[-1:].expand(missing, -1, -1, -1, -1)]) if missing else part
            parts.append(self._exact(part.contiguous())[: batch - missing])
            done += batch
        whole = torch.cat(parts)
        if encodes:
            return whole.narrow(1 if spec.pool else 2, 0, spec.steps(frames))
        return whole[:, :, :frames]

    def _exact(self, inputs: Tensor) -> Tensor:
        if inputs.dtype != self.spec.input_dtype:
            raise EngineError(f"the {self.name} {self.spec.part} takes {self.spec.input_dtype}, not {inputs.dtype}")
        with exact_fp32(self.spec.precision == "fp32" and inputs.is_cuda):
            return self.call(inputs)


def eager_engine(graph: nn.Module, spec: EngineSpec) -> Engine:
    """The module itself, at any shape: in fp32, or under autocast (a half copy fails on CPU: avg_pool3d).

    Raises:
        ValueError: for an unknown precision.
    """
    if spec.precision not in DTYPES:
        raise ValueError(f"precision is {spec.precision!r}; it must be one of {', '.join(DTYPES)}")

    def call(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, DTYPES[spec.precision], enabled=spec.precision != "fp32"):
            outputs: Tensor = graph(inputs)
        return outputs.float()

    return Engine("eager", spec, call)


def exact_fp32(is_on: bool) -> AbstractContextManager[None]:
    """fp32 is fp32: a GPU's convolutions would otherwise run in TF32, which keeps ten bits."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if is_on else nullcontext()


def _split(count: int, batches: list[int]) -> list[int]:
    """Batches that cover `count` clips, the largest first; a rest smaller than the smallest is padded to it."""
    chosen = []
    for batch in sorted(batches, reverse=True):
        chosen += [batch] * (count // batch)
        count %= batch
    return chosen + ([min(batches)] if count else [])
