"""A function over static buffers as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP_CALLS = 3


def _nothing() -> None:
    return None


def capture(function: Callable[[], None], before: Callable[[], object] = _nothing) -> Callable[[], None]:
    """Captures `function` and returns what replays it.

    Args:
        function: takes and returns nothing: all it reads and writes are buffers that stay where they are. It runs some
            times before it is captured (compiling, libraries' workspaces), on a stream of its own as capturing
            requires, and may not synchronise with the host.
        before: puts back the markers that `function` moves, in front of each of those runs.

    Raises:
        RuntimeError: from torch, if `function` does what a graph cannot hold.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            before()
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    before()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a thread may be pinning the next batch
        function()
    return graph.replay
