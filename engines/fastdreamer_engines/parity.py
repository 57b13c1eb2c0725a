"""The gate: a compiled tokenizer is compared with eager fp32, at every shape it will serve, before it may be used.

Compilers have been silently wrong on this network (NaN, other latents at batch one), so nothing is taken on trust.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastdreamer_engines.spec import EngineSpec, Shape, label

Run = Callable[[Tensor], Tensor]

# Relative error that an engine may have. Four times what the real architecture shows with random weights: 8e-6 (ONNX
# Runtime, fp32), 1.2e-3 (fp16), 1.0e-2 (bf16); fp32's is the looser of that and what its summation order explains.
LIMITS = {"fp32": 5e-5, "fp16": 5e-3, "bf16": 4e-2}


@dataclass(frozen=True)
class Parity:
    """One comparison; every error but the first is a norm over the reference's norm.

    Attributes:
        how: what ran, for example `onnxruntime fp32`.
        shape: `clips x frames`.
        max_error: largest absolute difference.
        relative_error: error of the worst step of the worst clip, so that no batch hides one.
        prefix_error: outputs of a clip's beginning, against eager on the beginning alone (the rest repeats its last
            frame, which is how acting runs it).
        perturbation_error: change of earlier outputs when the last step's input changes.
        limit: the limit of the three relative errors.
    """

    how: str
    shape: str
    max_error: float
    relative_error: float
    prefix_error: float
    perturbation_error: float
    limit: float

    @property
    def worst(self) -> float:
        """The largest of the relative errors; NaN counts as infinite."""
        errors = (self.relative_error, self.prefix_error, self.perturbation_error)
        return max(e if e == e else float("inf") for e in errors)

    @property
    def is_within(self) -> bool:
        """Whether the engine may be used."""
        return self.worst <= self.limit

    def to_dict(self) -> dict[str, Any]:
        """The comparison as plain names, strings and numbers."""
        return asdict(self)


class Gate:
    """Inputs and what eager fp32 makes of them, computed once for all engines of a part.

    The clips are: a moving pattern, the same with its end repeated, the same with its last step changed, and noise.
    Larger batches repeat them in a rolling order, so that a clip mixed up with its neighbour shows.

    Args:
        reference: eager fp32; takes what the engine takes, of any length.
        spec: the engine's.
        device: the device that compares.
    """

    def __init__(self, reference: Run, spec: EngineSpec, device: torch.device) -> None:
        self.reference, self.spec, self.device = reference, spec, device
        self._known: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def check(self, run: Run, shape: Shape, how: str, limit: float) -> Parity:
        """Compare `run` at one shape."""
        clips, expected, beginning = self._expected(shape[1])
        batch, count = shape[0], len(clips)
        order = [(i + i // count) % count for i in range(max(batch, -(-count // batch) * batch))]
        outputs = torch.cat([run(clips[part].contiguous()).float() for part in torch.tensor(order).split(batch)])
        wanted = expected[torch.tensor(order)]
        axis, kept = 1 if self.spec.pool else 2, self._kept(shape[1])
        first, ended, changed = (outputs[order.index(i)] for i in range(3))
        earlier = self._outputs_of(self.spec.steps(shape[1]) - 1)
        return Parity(
            how,
            label(shape),
            max_error=float((outputs - wanted).abs().max()),
            relative_error=_worst_step(outputs, wanted, axis),
            prefix_error=_relative(ended.narrow(axis - 1, 0, self._outputs_of(kept)), beginning),
            perturbation_error=_relative(
                changed.narrow(axis - 1, 0, earlier), first.narrow(axis - 1, 0, earlier)
            ) if earlier else 0.0,
            limit=limit,
        )  # fmt: skip

    def _kept(self, frames: int) -> int:
        """Number of the beginning's steps that are kept."""
        return (self.spec.steps(frames) + 1) // 2

    def _inputs_of(self, steps: int) -> int:
        return self._frames(steps) if self.spec.part == "encoder" else steps

    def _outputs_of(self, steps: int) -> int:
        return steps if self.spec.part == "encoder" else self._frames(steps)

    def _frames(self, steps: int) -> int:
        return 0 if steps < 1 else 1 + (steps - 1) * self.spec.frames_per_latent

    @torch.inference_mode()
    def _expected(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        if frames not in self._known:
            pattern, noise = sample_inputs(self.spec, frames)
            kept, last = self._inputs_of(self._kept(frames)), self._inputs_of(self.spec.steps(frames) - 1)
            ended, changed = pattern.clone(), pattern.clone()
            ended[:, kept:] = pattern[:, kept - 1 : kept]
            changed[:, last:] = noise[:, last:]
            clips = torch.stack([pattern, ended, changed, noise]).to(self.device)
            expected = torch.cat([self.reference(clip) for clip in clips.split(1)])
            beginning = self.reference(clips[:1, :, :kept])[0]
            self._known[frames] = clips, expected, beginning
        return self._known[frames]


def sample_inputs(spec: EngineSpec, frames: int) -> tuple[Tensor, Tensor]:
    """A smooth moving pattern, and noise: one clip each, as the engine takes them; the same on every machine."""
    channels, length, height, width = spec.inputs((1, frames))[1:]
    noise = torch.rand((channels, length, height, width), generator=torch.Generator().manual_seed(0)) * 2 - 1
    c, t, y, x = torch.meshgrid(*(torch.arange(float(n)) for n in (channels, length, height, width)), indexing="ij")
    pattern = torch.sin(x / width * 9 + t / 3 + c) * torch.cos(y / height * 7 - t / 5 + 2 * c)
    if spec.part == "decoder":
        return pattern, noise
    if spec.frame_size:
        return ((pattern + 1) * 127.5).to(torch.uint8), ((noise + 1) * 127.5).to(torch.uint8)
    return pattern, noise


def verdict(checks: Sequence[Parity]) -> Parity:
    """The worst of several comparisons, measured against its own limit."""
    return max(checks, key=lambda check: check.worst / check.limit)


def _worst_step(found: Tensor, wanted: Tensor, axis: int) -> float:
    difference, size = ((x.movedim(axis, 1).flatten(2).norm(dim=2)) for x in (found - wanted, wanted))
    errors = difference / size.clamp_min(1e-12)
    return float(errors.max()) if bool(errors.isfinite().all()) else float("inf")


def _relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-12))
