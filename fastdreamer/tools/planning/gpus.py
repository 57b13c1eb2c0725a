"""What a run may take: named GPUs, sizes given as text, this machine's GPU, or a limit on a CPU."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from difflib import get_close_matches

import torch

from fastdreamer.config import Config
from fastdreamer.device import Backend
from fastdreamer.errors import UserError

GIB = 2**30
SHARE = 0.875
"""The share of a GPU that a plan may reserve: 10.5 of 12 GiB. The rest is for the CUDA context, a screen, and slack."""
CONTEXT = GIB // 2
"""ASSUMED: the CUDA context with torch's kernels, cuBLAS and cuDNN loaded, outside of torch's allocator."""
WORKSPACES = 64 * 2**20
"""ASSUMED: cuBLAS's, which torch allocates: 32 MiB (Hopper; 8 MiB before it) for each of two streams."""
UNITS = {"": GIB, "gib": GIB, "gb": 10**9, "mib": 2**20, "mb": 10**6}
GPUS_MIB = {
    "rtx-3060": 12288,
    "rtx-4070": 12282,
    "rtx-5070": 12227,
    "rtx-4060-ti-16gb": 16380,
    "rtx-5080": 16303,
    "rtx-3090": 24576,
    "rtx-4090": 24564,
    "a100-80gb": 81920,
    "h100-80gb": 81559,
}
"""Memory that the driver reports, in MiB."""


@dataclass(frozen=True)
class Budget:
    """What a plan is made for.

    Attributes:
        name: the GPU's name, for people.
        memory: bytes of the whole.
        limit: bytes that torch's allocator may reserve.
        backend: a CPU backend in the precision that is planned.
        is_gpu: a GPU's operations and what comes with one; else this CPU's.
    """

    name: str
    memory: int
    limit: int
    backend: Backend
    is_gpu: bool = True


def gpu_budget(config: Config, name: str, memory: int, free: int | None = None) -> Budget:
    """The budget of a GPU of `memory` bytes, of which `free` are free."""
    precision = "fp32" if config.precision == "fp32" else "bf16"
    limit = int(memory * SHARE)
    backend = Backend(torch.device("cpu"), precision)  # type: ignore[arg-type]
    return Budget(name, memory, limit if free is None else min(limit, free), backend)


def named_gpu(config: Config, name: str) -> Budget:
    """One of `GPUS_MIB`; case, spaces and `RTX` may be left out.

    Raises:
        UserError: for a GPU that is not there, with the nearest name.
    """
    found = {plain: key for key in GPUS_MIB for plain in (_plain(key), _plain(key).removeprefix("rtx"))}
    found |= {plain.removesuffix("gb")[:-2]: key for plain, key in found.items() if plain.endswith("gb")}
    key = found.get(_plain(name))
    if key is None:
        close = get_close_matches(_plain(name), found, 1, 0.5)
        hint = f"; did you mean {found[close[0]]}?" if close else ""
        raise UserError(f"unknown GPU {name!r}{hint}: name one of {', '.join(GPUS_MIB)}, or give --budget 12GiB")
    return gpu_budget(config, key, GPUS_MIB[key] * 2**20)


def sized_gpu(config: Config, size: str) -> Budget:
    """A GPU of a size such as 12GiB, 11.5GB or 8192MiB; a bare number is in GiB; UserError for text that is no size."""
    return gpu_budget(config, f"{size} GPU", parse_size(size))


def parse_size(text: str) -> int:
    """Parse a size to bytes; UserError for text that is none."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in UNITS or float(match[1]) == 0:
        raise UserError(f"budget {text!r} is no size: give a number above 0 and GiB, GB, MiB or MB, for example 12GiB")
    return int(float(match[1]) * UNITS[match[2]])


def this_machine(config: Config, backend: Backend) -> Budget | None:
    """What `train` plans for: this GPU, or `memory_gb` of it or of a CPU's memory; nothing on a CPU without it."""
    limited = int(config.memory_gb * GIB)
    if backend.device.type == "cuda":
        free, memory = torch.cuda.mem_get_info(backend.device)
        budget = gpu_budget(config, torch.cuda.get_device_name(backend.device), limited or memory, free)
        return replace(budget, backend=replace(budget.backend, precision=backend.precision))
    if not limited:
        return None
    plain = Backend(torch.device("cpu"), backend.precision)
    return Budget(f"{config.memory_gb:g} GiB of memory", limited, int(limited * SHARE), plain, is_gpu=False)


def default_budget(config: Config) -> Budget:
    """This machine's GPU, or `memory_gb` of one, else 12 GiB."""
    if config.memory_gb:
        return sized_gpu(config, f"{config.memory_gb:g}GiB")
    if torch.cuda.is_available():
        return gpu_budget(config, torch.cuda.get_device_name(), torch.cuda.mem_get_info()[1])
    return sized_gpu(config, "12GiB")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")
