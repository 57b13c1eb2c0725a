"""A function over static buffers as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

WARM_UP_CALLS = 3


def capture(function: Callable[[], None], generators: Sequence[torch.Generator] = ()) -> Callable[[], None]:
    """Captures `function` and returns what replays it.

    Args:
        function: takes and returns nothing: all it reads and writes are buffers that stay where they are. It runs some
            times before it is captured (compiling, libraries' workspaces), on a stream of its own as capturing requires,
            and may not synchronise with the host.
        generators: that it draws from; every replay moves them on as a run of `function` would.

    Raises:
        RuntimeError: from torch, if `function` does what a graph cannot hold.
    """
    states = [generator.get_state() for generator in generators]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_CALLS):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        function()
    return graph.replay
