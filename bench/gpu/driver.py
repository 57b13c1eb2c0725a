"""How a machine without a GPU says so."""

from __future__ import annotations

DRIVER = (
    "Torch not compiled with CUDA enabled",
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "no CUDA-capable device is detected",
    "CUDA driver version is insufficient",
    "Tried to instantiate dummy base class",
    "requires CUDA support",
    "without ATen_cuda library",
    "has no attribute '_cuda_",
    "0 active drivers",
    "torch sees no CUDA GPU",
    "torch sees none",
    "Cannot access accelerator device when none is available",
    "device_count() > 0",
)
"""What torch, Triton and our own refusals say where there is no GPU."""
REACHED = "as far as the driver"


def needs_driver(text: str) -> bool:
    """Whether an error is that of a machine without a GPU."""
    return any(said in text for said in DRIVER)
