"""Choice of what runs a kernel: Triton on a CUDA GPU, its interpreter under TRITON_INTERPRET=1, else the reference.

The choice follows the tensor's device and nothing else; it is never made again in the middle of a computation.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

INSTALL = shlex.join(["pip", "install", "triton>=3.6,<3.8"])
HAS_TRITON = importlib.util.find_spec("triton") is not None
if HAS_TRITON:
    import triton

    tl: Any = importlib.import_module("triton.language")
    jit = triton.jit
else:  # a CPU install: the kernels are never launched
    tl = None
    # torch looks for kernels in each op that is registered, and warns of every one.
    logging.getLogger("torch._library.triton").addFilter(lambda said: "Triton not available" not in said.getMessage())

    def jit(function: Callable[..., None]) -> Any:
        """Leaves the kernel as plain text."""
        return function


IS_INTERPRETED = HAS_TRITON and os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")

Launch = tuple[str, tuple[int, ...]]
_recordings: list[list[Launch]] = []  # shared by all threads: backward passes on a GPU run in autograd's own


def use_kernel(tensor: Tensor, forced: bool | None) -> bool:
    """Whether `tensor` goes through Triton; `forced` asks for one of the two.

    Raises:
        ValueError: if the kernel is needed and cannot run.
    """
    is_cuda = tensor.device.type == "cuda"
    if not (is_cuda or IS_INTERPRETED) and forced:
        raise ValueError(f"the kernel needs a CUDA tensor, not one on {tensor.device} (or TRITON_INTERPRET=1)")
    wanted = is_cuda or IS_INTERPRETED if forced is None else forced
    if wanted and not HAS_TRITON:
        raise ValueError(f"the kernel for CUDA tensors needs Triton: {INSTALL}")
    return wanted


def wrap_triton(kernel: Any) -> Any:
    """What `launch` takes, made in the source of an op, under this name: there torch looks for an op's kernels.

    Compiled code is cached on disk under the source of the kernels that are found, and of no others.
    """
    return kernel if IS_INTERPRETED else torch.library.wrap_triton(kernel)


def launch(wrapped: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """One launch on the first argument's device, visible to torch.compile; nothing for an empty grid."""
    if 0 in grid:
        return
    for seen in _recordings:
        seen.append((getattr(wrapped, "kernel", wrapped).fn.__name__, grid))
    if IS_INTERPRETED:
        with _disable_current_modes():  # the interpreter's own copies are nobody's work
            wrapped[grid](*arguments, **constants)
        return
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        wrapped[grid](*arguments, **constants)


@contextmanager
def record_launches() -> Iterator[list[Launch]]:
    """Collects (kernel, grid) of every launch while the block runs, in all threads."""
    seen: list[Launch] = []
    _recordings.append(seen)
    try:
        yield seen
    finally:
        _recordings[:] = [other for other in _recordings if other is not seen]


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()
