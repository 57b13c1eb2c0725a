"""The one choice of device and precision: made at start-up, printed by the command line, the same everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, ParamSpec, TypeVar

import torch
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.ranks.membership import ALONE, Ranks, current
from fastdreamer.system import compiling, cores

MOST_THREADS = 1024
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Backend:
    """The device of tensors and the precision of matrix products; weights, losses and optimiser states stay fp32."""

    device: torch.device
    precision: Literal["fp32", "bf16"]
    compiles: bool = False  # torch.compile under what runs again and again
    deferred: compiling.Deferred | None = field(default=None, compare=False)  # decides that while a phase trains
    ranks: Ranks = field(default=ALONE, compare=False)  # the processes that train together

    def __str__(self) -> str:
        how = f"{self.precision}, {'compiled' if self.compiles else 'eager'}"
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {how}"
        threads = torch.get_num_threads()
        return f"CPU with {threads} thread{'s' if threads > 1 else ''}, {how}"

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, compiled whole for each shape where this backend compiles, or once it is decided that it does."""
        if self.compiles:
            return compiling.compiled(function)
        return self.deferred.wrapped(function) if self.deferred is not None else function

    @property
    def may_compile(self) -> bool:
        """Whether something is compiled, now or later."""
        return self.compiles or self.deferred is not None

    def autocast(self) -> torch.autocast:
        """The context in which products run in this backend's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


def choose_device(config: Config) -> Backend:
    """The backend for a configuration; the same machine and configuration always give the same one.

    `auto` takes a CUDA GPU where there is one, and bf16 where the device multiplies it in hardware. On CPU only
    deterministic algorithms run, so that a resumed run gives the bits of an uninterrupted one. A rank of torchrun takes
    the GPU of its local rank.

    Raises:
        UserError: if a GPU, one a rank, bf16 on a GPU, or a compiler is asked for and not there.
    """
    has_gpu = torch.cuda.is_available()
    if config.device == "cuda" and not has_gpu:
        raise UserError("device is cuda but torch sees no CUDA GPU: use device=cpu, or a CUDA build of torch")
    device = torch.device("cuda" if has_gpu and config.device != "cpu" else "cpu")
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        number, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= count and not current().is_alone:
            raise UserError(f"rank {number} of this machine has no GPU of its own: start at most {count} a machine")
        device = torch.device("cuda", number % count)
        torch.cuda.set_device(device)
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # private names of torch: where a version lacks them, the answer is no
        names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        has_bf16 = any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)
    if config.precision == "bf16" and device.type == "cuda" and not has_bf16:
        raise UserError("precision is bf16 but this GPU has none: use precision=fp32 or precision=auto")
    precision: Literal["fp32", "bf16"] = "fp32"
    if config.precision == "bf16" or (config.precision == "auto" and has_bf16):
        precision = "bf16"
    torch.use_deterministic_algorithms(device.type == "cpu")  # on a GPU cuBLAS would refuse; a CPU may have come before
    if device.type == "cpu":
        # Filling every torch.empty with NaN is for finding bugs, and costs bandwidth.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    compiles = config.compile == "on" or (config.compile == "auto" and device.type == "cuda")
    if compiles and not compiling.has_compiler(device):
        needed = compiling.compiler_name(device)
        also = "or use compile=off" if device.type == "cpu" else "which our kernels need too"
        raise UserError(f"torch.compile needs {needed}, which is not installed: install it, {also}")
    if compiles:
        compiling.prepare()
    waits = config.compile == "auto" and not compiles
    return Backend(device, precision, compiles, compiling.Deferred() if waits else None, current())


def use_spare_cores() -> None:
    """Torch's threads in a command: as many as there are cores that others leave free as it begins.

    A thread that has to wait for a core keeps all others waiting at the end of every operation: beside two busy loops
    on two cores one thread trains faster than two (NOTES.md). OMP_NUM_THREADS overrules it.
    """
    if cores.started is not None and not _is_told_threads():
        torch.set_num_threads(min(torch.get_num_threads(), cores.started.spare_cores()))


def go_on_with_threads(number: object) -> None:
    """Take the number of threads with which a phase was begun, so that sums are added in the same order.

    Args:
        number: what a checkpoint notes; older ones note none, and what is no sensible number is passed over.
    """
    if type(number) is not int or not 1 <= number <= MOST_THREADS or number == torch.get_num_threads():
        return
    if cores.started is not None and not _is_told_threads():
        print(f"threads: {number}, as this phase began; OMP_NUM_THREADS sets another number", flush=True)
        torch.set_num_threads(number)


def _is_told_threads() -> bool:
    return any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def random_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's own generators, from which dropout draws: the CPU's, and the GPU's where that is the device."""
    states = {"torch": torch.get_rng_state()}
    return states | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave; a GPU's state is for a GPU alone, and may be missing."""
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
