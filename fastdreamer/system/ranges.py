"""Named ranges after the data flow: rows of a profiler's timeline, on a GPU also NVTX. Nothing where none runs.

A range belongs around compiled passes, never inside one: a compiled pass is one piece of machine code.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeVar, get_args

from torch.autograd import profiler

Item = TypeVar("Item")

Range = Literal[
    # frames -> latents
    "decode",
    "wait for frames",
    "encode",
    "resample",
    "encoder",
    "pool",
    "write",
    # a training step; "batch" is the loader's part of a draw, "crops" what makes it, perhaps in a thread
    "draw",
    "batch",
    "crops",
    "normalise",
    "forward",
    "half steps",
    "backward",
    "clip",
    "optimizer",
    "average",
    # imagination: real steps into the cache, then steps of policy, denoising and commit, then reward and value heads
    "context",
    "rollout",
    "policy",
    "denoise",
    "commit",
    "heads",
    "returns",
]
RANGES: tuple[str, ...] = get_args(Range)

_NOTHING = nullcontext()
_END = object()


def span(name: Range) -> AbstractContextManager[object]:
    """What happens inside is shown under this name, by torch.profiler and under `emit_nvtx`."""
    # torch's own flag for quick checks; where a version lacks it, the range is always made (20 us instead of 0.3).
    return profiler.record_function(name) if getattr(profiler, "_is_profiler_enabled", True) else _NOTHING


def spanned(name: Range, items: Iterable[Item]) -> Iterator[Item]:
    """The same items; making each of them is a range."""
    iterator = iter(items)
    while True:
        with span(name):
            item = next(iterator, _END)
        if item is _END:
            return
        yield item  # type: ignore[misc]
