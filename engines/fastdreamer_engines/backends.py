"""The backends by name, behind one interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from fastdreamer_engines.export import Exports
from fastdreamer_engines.graph import Graph
from fastdreamer_engines.inductor import AotInductor, Inductor
from fastdreamer_engines.runtime import Call
from fastdreamer_engines.spec import EngineError, EngineSpec
from fastdreamer_engines.tensorrt import TensorRT
from fastdreamer_engines.torch_tensorrt import TorchTensorRT


class Backend(Protocol):
    """A compiler as a backend of engines.

    Attributes:
        name: the backend's name in configurations and manifests.
        runs_elsewhere: it can build for a GPU that is not here.
    """

    name: str
    runs_elsewhere: bool

    def library(self) -> str:
        """The build of the compiler's library, part of the engine's key; EngineError where it is not installed."""
        ...

    def build(self, exports: Exports, target: str, folder: Path, device: torch.device) -> dict[str, Any]:
        """Write the engine's files for `target` into `folder`; returns notes for the manifest."""
        ...

    def load(self, folder: Path, graph: Graph, spec: EngineSpec, device: torch.device) -> Call:
        """What runs the files of `folder`; `graph` is eager fp32, for backends that compile in the process."""
        ...


BACKENDS: dict[str, Backend] = {
    "tensorrt_rtx": TensorRT("tensorrt_rtx"),
    "tensorrt": TensorRT("tensorrt"),
    "torch-tensorrt": TorchTensorRT(),
    "aot-inductor": AotInductor(),
    "inductor": Inductor(),
}


def backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        EngineError: for an unknown one.
    """
    if name not in BACKENDS:
        raise EngineError(f"there is no engine backend {name!r}; known are {', '.join(BACKENDS)}")
    return BACKENDS[name]
