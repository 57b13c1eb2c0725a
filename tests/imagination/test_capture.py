"""Which stream a graph is captured on, with a stand-in for torch's: cuBLAS keeps a workspace for each."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import torch

from fastdreamer.imagination import capture as module


class Stream(torch.cuda.Stream):
    """One of three, in turns, as torch hands out its 32."""

    made = count()

    def __new__(cls) -> Stream:
        made = object.__new__(cls)
        made.__dict__["cuda_stream"] = next(Stream.made) % 3
        return made

    def __init__(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"Stream {self.cuda_stream}"

    def wait_stream(self, stream: Any) -> None:
        pass


class Graph:
    """What a graph was captured on."""

    stream: int | None = None

    def replay(self) -> int | None:
        return self.stream


@pytest.fixture
def ran_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The streams on which the function ran, in order."""
    current: list[Any] = [Stream()]
    found: list[int] = []

    @contextmanager
    def on(stream: Any) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    @contextmanager
    def capturing(graph: Graph, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
        with on(stream or Stream()):
            graph.stream = current[-1].cuda_stream
            yield

    for name, value in {"Stream": Stream, "CUDAGraph": Graph, "graph": capturing, "stream": on}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: current[-1])
    monkeypatch.setattr(module, "STREAMS", 3)
    yield found
    gc.collect()


def test_a_graph_is_captured_on_the_stream_it_was_warmed_up_on_and_no_living_graph_shares_it(
    ran_on: list[int],
) -> None:
    def run() -> None:
        ran_on.append(torch.cuda.current_stream().cuda_stream)

    first = module.capture(run)
    assert len(ran_on) == module.WARM_UP_CALLS + 1 and set(ran_on) == {first()}
    second, third = module.capture(run), module.capture(run)
    assert len({first(), second(), third()}) == 3
    with pytest.raises(RuntimeError, match="3 captured rollouts at once"):
        module.capture(run)
    freed = second()
    del second
    assert module.capture(run)() == freed  # once nothing holds a graph, its stream is free
    assert {first(), third()}.isdisjoint({freed})
