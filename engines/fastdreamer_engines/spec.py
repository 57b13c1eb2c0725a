"""What an engine is: a part of the tokenizer, its precision, the shapes it serves, and what it is built for.

A target is a CUDA architecture (`sm86`) or this very kind of CPU (`cpu-x86_64-1a2b3c4d`).
"""

from __future__ import annotations

import hashlib
import platform
import shlex
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

Part = Literal["encoder", "decoder"]
Precision = Literal["fp32", "fp16", "bf16"]
Shape = tuple[int, int]  # clips, frames a clip

# TensorRT-RTX is for consumer and workstation GPUs; it also knows the A100's SM80, where TensorRT proper is at home.
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
CONSUMER_TARGETS = ("sm75", "sm86", "sm89", "sm120", "sm121")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def install(extra: str) -> str:
    """The line that installs what an extra of FastDreamer brings, from its checkout where it runs from one."""
    root = Path(__file__).resolve().parents[2]
    is_checkout = (root / "pyproject.toml").is_file()
    where = ["-e", f"{root}[{extra}]"] if is_checkout else [f"fastdreamer[{extra}]"]
    return shlex.join(["pip", "install", *where])


class EngineError(Exception):
    """An engine cannot be built or used, for a reason its user can mend; the message is one line."""


@dataclass(frozen=True)
class EngineSpec:
    """One engine. All shapes are static: a compiler may then specialise, and a CUDA graph capture.

    Inputs and outputs are float32 whatever the precision inside, so that engines are interchangeable.

    Attributes:
        part: `encoder` (frames in [-1, 1] to latents) or `decoder` (latents to frames in [-1, 1]).
        precision: type of weights and activations inside.
        shapes: (clips, frames) pairs it serves.
        image_size, channels, frames_per_latent, spatial_compression: sizes of the network.
        frame_size: if above 0, the encoder takes uint8 frames of this size and resamples them itself.
        pool: if above 0, the encoder averages blocks of pool x pool and returns tokens.
    """

    part: Part
    precision: Precision
    shapes: tuple[Shape, ...]
    image_size: int = 256
    channels: int = 16
    frames_per_latent: int = 8
    spatial_compression: int = 8
    frame_size: int = 0
    pool: int = 0

    def frames(self, shape: Shape) -> tuple[int, ...]:
        """The shape of the frames: (b, 3, t, s, s)."""
        size = self.frame_size or self.image_size
        return (shape[0], 3, shape[1], size, size)

    def latents(self, shape: Shape) -> tuple[int, ...]:
        """The shape of the latents: (b, z, l, h, w), or (b, l, n, z) when pooled."""
        steps, side = self.steps(shape[1]), self.image_size // self.spatial_compression
        if self.pool:
            return (shape[0], steps, (side // self.pool) ** 2, self.channels)
        return (shape[0], self.channels, steps, side, side)

    def inputs(self, shape: Shape) -> tuple[int, ...]:
        """Shape of what goes in."""
        return self.frames(shape) if self.part == "encoder" else self.latents(shape)

    def outputs(self, shape: Shape) -> tuple[int, ...]:
        """Shape of what comes out."""
        return self.latents(shape) if self.part == "encoder" else self.frames(shape)

    @property
    def input_dtype(self) -> torch.dtype:
        """uint8 for an encoder that resamples, else float32."""
        return torch.uint8 if self.frame_size else torch.float32

    def steps(self, frames: int) -> int:
        """Latent steps of a clip: one for the first frame, then one for each group."""
        return 1 + (frames - 1) // self.frames_per_latent

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain lists, strings and numbers."""
        return asdict(self) | {"shapes": [list(shape) for shape in self.shapes]}


def label(shape: Shape) -> str:
    """`4x33`: four clips of 33 frames."""
    return f"{shape[0]}x{shape[1]}"


def count_work(graph: nn.Module, spec: EngineSpec, shape: Shape) -> tuple[int, float]:
    """Parameters, and GFLOP of one call (multiplications and additions of convolutions and products), by tracing."""
    parameters = sum(p.numel() for p in graph.parameters())
    device = next(chain(graph.parameters(), graph.buffers())).device
    counter = FlopCounterMode(display=False)
    # The fused attention of a CPU is not counted, and whether it runs depends on the batch.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FakeTensorMode(allow_non_fake_inputs=True), counter, plain, torch.no_grad():
        graph(torch.empty(spec.inputs(shape), dtype=spec.input_dtype, device=device))
    return parameters, counter.get_total_flops() / 1e9


def local_target(device: torch.device) -> str:
    """The target of the device that would run here.

    A CPU is told by its instruction sets: AOTInductor compiles for exactly those, and other ones may crash.
    """
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm{major}{minor}"
    return f"cpu-{platform.machine()}-{hashlib.sha256(_instruction_sets().encode()).hexdigest()[:8]}"


def check_target(name: str) -> str:
    """A target as the user writes it: `sm86` or `cpu` (this one).

    Raises:
        EngineError: for anything else.
    """
    text = name.strip().lower()
    if text == "cpu":
        return local_target(torch.device("cpu"))
    if text.startswith("sm") and text[2:].isdigit() and 2 <= len(text[2:]) <= 3:
        return text
    raise EngineError(f"target {name!r} is none: write sm and the compute capability (sm86, sm89, sm120), or cpu")


def _instruction_sets() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next(line for line in file if line.lower().startswith(("flags", "features")))
        return " ".join(sorted(flags.partition(":")[2].split()))
    except (OSError, StopIteration):
        return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
