"""The machine as one line of JSON: GPU, driver, versions, commit. In a process of its own, which lets go of the GPU."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "triton", "numpy", "jaxtyping", "diffusers", "av", "nvidia-dali-cuda130", "tensorrt-rtx")


def about(is_dry: bool) -> dict[str, Any]:
    """What the results are of; `memory_gb` and `free_gb` are 0 without a GPU."""
    import torch

    from bench.timing import machine

    libraries = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            libraries[name] = importlib.metadata.version(name)
    found = machine() | {"driver": driver(), "libraries": libraries, "memory_gb": 0.0, "free_gb": 0.0}
    if not is_dry and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found["gpus"] = torch.cuda.device_count()
        properties = torch.cuda.get_device_properties(0)
        found |= {"free_gb": free / 2**30, "memory_gb": min(total, properties.total_memory) / 2**30}
    return found


def driver() -> str:
    """Its version, as it says itself; "none" without one."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.strip().splitlines()[0]
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    return "none"


if __name__ == "__main__":
    print(json.dumps(about(is_dry="--dry-run" in sys.argv)))
