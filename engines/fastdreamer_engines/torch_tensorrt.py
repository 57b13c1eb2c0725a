"""Torch-TensorRT: TensorRT inside a torch graph. NEVER RUN YET: no GPU that can has been at hand.

Source: torch_tensorrt 2.13's dynamo front end; tests/engines checks every name and keyword against its wheel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastdreamer_engines.export import Exports, need, quiet
from fastdreamer_engines.graph import Graph, compilable
from fastdreamer_engines.runtime import Call
from fastdreamer_engines.spec import EngineError, EngineSpec, label, local_target
from fastdreamer_engines.tensorrt import INSTALL_TENSORRT


class TorchTensorRT:
    """An exported program a shape, compiled ahead of time on the GPU it is for."""

    name = "torch-tensorrt"
    runs_elsewhere = False

    def library(self) -> str:
        """Versions of the libraries that built it."""
        return f"torch_tensorrt {need('torch_tensorrt', INSTALL_TENSORRT).__version__} torch {torch.__version__}"

    def build(self, exports: Exports, target: str, folder: Path, device: torch.device) -> dict[str, Any]:
        """Compile every shape into `folder`."""
        torch_tensorrt, spec = need("torch_tensorrt", INSTALL_TENSORRT), exports.spec
        if device.type != "cuda" or local_target(device) != target:
            raise EngineError(f"torch-tensorrt builds only on the GPU itself, and {target} is not here")
        graph = compilable(exports.graph, spec).to(device)
        for shape in spec.shapes:
            example = torch.zeros(spec.inputs(shape), dtype=spec.input_dtype, device=device)
            with torch.no_grad(), quiet():
                program = torch.export.export(graph, (example,))
                compiled = torch_tensorrt.dynamo.compile(
                    program,
                    arg_inputs=[example],
                    disable_tf32=spec.precision == "fp32",
                    require_full_compilation=True,
                    min_block_size=1,
                    cache_built_engines=False,  # its caches, one a pickle, would lie in the shared temporary folder
                    reuse_cached_engines=False,
                    timing_cache_path=str(folder.parent / f"torch-tensorrt-timing-{target}.bin"),
                    engine_cache_dir=str(folder.parent / "torch-tensorrt-engines"),
                )
                path = str(folder / f"{label(shape)}.ep")
                torch_tensorrt.save(compiled, path, output_format="exported_program", arg_inputs=[example])
        return {"note": "never run before this GPU"}

    def load(self, folder: Path, graph: Graph, spec: EngineSpec, device: torch.device) -> Call:
        """Load the programs of `folder`."""
        torch_tensorrt = need("torch_tensorrt", INSTALL_TENSORRT)
        programs = {
            spec.inputs(shape): torch_tensorrt.load(str(folder / f"{label(shape)}.ep")).module()
            for shape in spec.shapes
        }
        return lambda inputs: programs[tuple(inputs.shape)](inputs)
