"""What an engine is built for: a CUDA architecture (`sm86`) or this very kind of CPU (`cpu-x86_64-1a2b3c4d`)."""

from __future__ import annotations

import hashlib
import platform

import torch

from fastdreamer_engines.spec import EngineError

# TensorRT-RTX is for consumer and workstation GPUs; it also knows the A100's SM80, where TensorRT proper is at home.
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
CONSUMER_TARGETS = ("sm75", "sm86", "sm89", "sm120", "sm121")


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


def tensorrt_flavour(target: str) -> str:
    """`tensorrt_rtx` for consumer GPUs, `tensorrt` for data-centre ones."""
    return "tensorrt_rtx" if target in CONSUMER_TARGETS else "tensorrt"


def _instruction_sets() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            flags = next(line for line in file if line.lower().startswith(("flags", "features")))
        return " ".join(sorted(flags.partition(":")[2].split()))
    except (OSError, StopIteration):
        return f"{platform.processor()} {torch.backends.cpu.get_cpu_capability()}"
