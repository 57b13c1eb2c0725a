"""A function over static buffers as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch

WARM_UP_CALLS = 3
STREAMS = 32
"""How many streams torch has: a new one is an old one again after so many."""

_captured: WeakKeyDictionary[torch.cuda.CUDAGraph, torch.cuda.Stream] = WeakKeyDictionary()
"""The graphs that are still there, and the stream that each was captured on."""


def _nothing() -> None:
    return None


def capture(function: Callable[[], None], before: Callable[[], object] = _nothing) -> Callable[[], None]:
    """Captures `function` and returns what replays it.

    Each graph has a stream of its own, for the runs before as well: torch keeps a workspace of cuBLAS for each stream,
    its address is in the graph, and where a graph ends, that of its stream is freed under every other graph on it.
    Source: CUDAGraph::reset of torch 2.11 to 2.13; pytorch/pytorch#193402.

    Args:
        function: takes and returns nothing: all it reads and writes are buffers that stay where they are. It runs some
            times before it is captured (compiling, libraries' workspaces), on a stream of its own as capturing
            requires, and may not synchronise with the host.
        before: puts back the markers that `function` moves, in front of each of those runs.

    Raises:
        RuntimeError: from torch, if `function` does what a graph cannot hold; or if `STREAMS` graphs are there.
    """
    side = _free_stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            before()
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    before()
    # thread_local: a thread may be pinning the next batch.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        function()
    _captured[graph] = side
    return graph.replay


def _free_stream() -> torch.cuda.Stream:
    """A stream on which no graph was captured that is still there."""
    taken = {stream.cuda_stream for stream in _captured.values()}
    for _ in range(STREAMS):
        stream = torch.cuda.Stream()
        if stream.cuda_stream not in taken:
            return stream
    raise RuntimeError(f"{len(taken)} captured rollouts at once: torch has no stream for one more")
