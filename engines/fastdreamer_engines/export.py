"""Export of a module to ONNX, and ONNX run on the CPU: what TensorRT gets, comparable on a machine without a GPU."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer_engines.graph import Graph, compilable
from fastdreamer_engines.spec import EngineError, EngineSpec, Precision, Shape, install, label

OPSET = 18
INSTALL = install("engines")


class Exports:
    """ONNX files of one graph, made once and shared by all targets; they live in a folder that goes away.

    Args:
        graph: eager fp32.
        spec: the engine's.
        folder: the folder of the files.
    """

    def __init__(self, graph: Graph, spec: EngineSpec, folder: Path) -> None:
        self.graph, self.spec, self.folder = graph, spec, folder

    def onnx(self, shape: Shape, precision: Precision) -> Path:
        """The file for a shape and precision; weights lie beside it.

        Source: torch's dynamo exporter; the older one fails on the Haar patcher.
        """
        path = self.folder / f"{self.spec.part}-{precision}-{label(shape)}.onnx"
        if path.exists():
            return path
        need("onnx")
        need("onnxscript")
        spec = replace(self.spec, precision=precision)
        example = torch.zeros(spec.inputs(shape), dtype=spec.input_dtype)
        with quiet(), torch.no_grad():
            torch.onnx.export(
                compilable(self.graph, spec).cpu(), (example,), str(path), dynamo=True, opset_version=OPSET,
                external_data=True, input_names=["inputs"], output_names=["outputs"], verbose=False,
            )  # fmt: skip
        return path


def onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """The file in ONNX Runtime on the CPU (which computes fp16 graphs with fp32 kernels and knows no bf16 ones)."""
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": inputs.cpu().numpy()})[0]).to(inputs.device)

    return run


def need(module: str, how: str = INSTALL) -> Any:
    """Import a module that an extra brings.

    Raises:
        EngineError: if it is missing; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # without a driver: whatever the missing library gives
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"{module} cannot be imported ({reason}): {how}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters: progress is ours to show."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
