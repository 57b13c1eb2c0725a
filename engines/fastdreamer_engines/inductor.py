"""torch's own compiler: ahead of time into a package (AOTInductor), or just in time (torch.compile)."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import torch

from fastdreamer_engines.export import Exports, quiet
from fastdreamer_engines.graph import Graph, compilable
from fastdreamer_engines.runtime import Call
from fastdreamer_engines.spec import EngineError, EngineSpec, label


class AotInductor:
    """A `.pt2` package a shape; it holds machine code and weights, and runs without the Python of the module.

    Static shapes: with a dynamic batch it is silently wrong at one clip, with a derived length at every other one.
    """

    name = "aot-inductor"
    runs_elsewhere = False  # builds only for the device at hand

    def library(self) -> str:
        """What the package depends on; another build may not load it."""
        return f"torch {torch.__version__} {torch.version.git_version}"

    def build(self, exports: Exports, target: str, folder: Path, device: torch.device) -> dict[str, Any]:
        """Compile every shape into `folder`."""
        spec = exports.spec
        _needs_compiler()
        graph = compilable(exports.graph, spec).to(device)
        for shape in spec.shapes:
            example = torch.zeros(spec.inputs(shape), dtype=spec.input_dtype, device=device)
            with torch.no_grad(), quiet(), torch._inductor.utils.fresh_cache():
                program = torch.export.export(graph, (example,))
                torch._inductor.aoti_compile_and_package(
                    program,
                    package_path=str(folder / f"{label(shape)}.pt2"),
                    # Else the number of threads at build time would be compiled in.
                    inductor_configs={"cpp.dynamic_threads": True},
                )
        return {}

    def load(self, folder: Path, graph: Graph, spec: EngineSpec, device: torch.device) -> Call:
        """Load the packages of `folder`."""
        paths = {spec.inputs(shape): folder / f"{label(shape)}.pt2" for shape in spec.shapes}

        @cache  # each holds the weights: only those that are used
        def package(shape: tuple[int, ...]) -> Call:
            return torch._inductor.aoti_load_package(str(paths[shape]))

        return lambda inputs: package(tuple(inputs.shape))(inputs)


class Inductor:
    """torch.compile: compiled anew in every process (torch's own cache helps); nothing is installed but the check."""

    name = "inductor"
    runs_elsewhere = False

    def library(self) -> str:
        """The build of torch, as for AotInductor."""
        return AotInductor().library()

    def build(self, exports: Exports, target: str, folder: Path, device: torch.device) -> dict[str, Any]:
        """Write nothing: there is nothing to keep."""
        _needs_compiler()
        return {}

    def load(self, folder: Path, graph: Graph, spec: EngineSpec, device: torch.device) -> Call:
        """The compiled module: one graph, no break, static shapes."""
        return torch.compile(compilable(graph, spec).to(device), fullgraph=True, dynamic=False)


def _needs_compiler() -> None:
    """Refuse a machine without a C++ compiler: wrappers are C++ on a GPU too."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler.split()[0]) is None:
        raise EngineError(f"torch's compiler needs {compiler}, which is not there: install g++, or name one with CXX")
