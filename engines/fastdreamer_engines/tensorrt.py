"""TensorRT, in two flavours of one code path: `tensorrt_rtx` (consumer GPUs) and `tensorrt` (data-centre GPUs).

TensorRT-RTX builds for any GPU it knows on a machine without one and finishes the work at the first run; TensorRT
builds on the GPU it is for. Networks are strongly typed: the precision is the exported module's.

Source: the 1.7 and 11 libraries' Python bindings, whose names and signatures tests/engines checks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer_engines.export import INSTALL, Exports, need
from fastdreamer_engines.graph import Graph
from fastdreamer_engines.runtime import Call
from fastdreamer_engines.spec import EngineError, EngineSpec, Shape, install, label, local_target

INSTALL_TENSORRT = install("datacentre")


class TensorRT:
    """A plan a shape: two static plans are smaller and built sooner than one with two profiles."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_rtx = name == "tensorrt_rtx"
        self.runs_elsewhere = self.is_rtx

    def library(self) -> str:
        """The version that built a plan: no other loads it."""
        return f"{self.name} {self._import().__version__}"

    def build(self, exports: Exports, target: str, folder: Path, device: torch.device) -> dict[str, Any]:
        """Build every shape's plan into `folder`."""
        trt, spec = self._import(), exports.spec
        if not self.is_rtx and (device.type != "cuda" or local_target(device) != target):
            raise EngineError(f"tensorrt builds only on the GPU itself; build for {target} on a machine that has one")
        logger = _logger(trt)
        for shape in spec.shapes:
            builder = trt.Builder(logger)
            network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
            parser = trt.OnnxParser(network, logger)
            if not parser.parse_from_file(str(exports.onnx(shape, spec.precision))):
                problems = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
                raise EngineError(f"{self.name} does not accept the graph: {' '.join(problems.split())[:300]}")
            config = builder.create_builder_config()
            if spec.precision == "fp32":
                config.clear_flag(trt.BuilderFlag.TF32)  # on by default, and keeps ten bits
            if self.is_rtx:
                config.num_compute_capabilities = 1
                config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
                plan = builder.build_serialized_network(network, config)
            else:
                with _timing_cache(config, folder.parent / f"timing-{target}-{trt.__version__}.cache"):
                    plan = builder.build_serialized_network(network, config)
            if plan is None:
                raise EngineError(f"{self.name} could not build {label(shape)} for {target}: {logger.last}")
            (folder / f"{label(shape)}.plan").write_bytes(plan)
        return {}

    def load(self, folder: Path, graph: Graph, spec: EngineSpec, device: torch.device) -> Call:
        """The plans of `folder`, on the current stream of a GPU."""
        trt = self._import()
        if device.type != "cuda":
            raise EngineError(f"{self.name} runs on a CUDA GPU only; this machine has none")
        return Plans(trt, self, folder, spec)

    def _import(self) -> Any:
        return need(self.name, INSTALL if self.is_rtx else INSTALL_TENSORRT)


class Plans:
    """Deserialised plans that run on the current stream; each is loaded when its shape is first asked for."""

    def __init__(self, trt: Any, flavour: TensorRT, folder: Path, spec: EngineSpec) -> None:
        self.flavour, self.spec, self.folder, self.logger = flavour, spec, folder, _logger(trt)
        self.runtime = trt.Runtime(self.logger)
        self.shapes = {spec.inputs(shape): shape for shape in spec.shapes}
        self.contexts: dict[Shape, Any] = {}
        self.caches: dict[Path, Any] = {}

    def __call__(self, inputs: Tensor) -> Tensor:
        """One call of a served shape."""
        shape = self.shapes[tuple(inputs.shape)]
        if shape not in self.contexts:
            self.contexts[shape] = self._context(self.folder / f"{label(shape)}.plan")
        context, outputs = self.contexts[shape], torch.empty(self.spec.outputs(shape), device=inputs.device)
        context.set_tensor_address("inputs", inputs.data_ptr())
        context.set_tensor_address("outputs", outputs.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream(inputs.device).cuda_stream):
            raise RuntimeError(f"{self.flavour.name} failed to run {label(shape)}")
        return outputs

    def save(self) -> None:
        """Keep the kernels that TensorRT-RTX compiled at the first run, for later processes."""
        for path, cache in self.caches.items():
            write_sealed(path, bytes(cache.serialize()))

    def _context(self, path: Path) -> Any:
        plan = path.read_bytes()
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(f"{self.flavour.name} does not load {path} on this GPU; build it anew")
        if self.flavour.is_rtx:
            kernels = path.parent.parent / f"kernels-{hashlib.sha256(plan).hexdigest()[:16]}.cache"
            config = engine.create_runtime_config()
            cache = config.create_runtime_cache()
            cache.deserialize(read_sealed(kernels))
            config.set_runtime_cache(cache)
            self.caches[kernels] = cache
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise RuntimeError(f"{self.flavour.name} has no memory for {path.stem}: {self.logger.last}")
        return context


@contextmanager
def _timing_cache(config: Any, path: Path) -> Iterator[None]:
    """Tactic timings kept between builds that end well; they speed a build up and decide nothing else."""
    if not config.set_timing_cache(config.create_timing_cache(read_sealed(path)), False):
        # Another GPU of the same architecture wrote it.
        config.set_timing_cache(config.create_timing_cache(b""), False)
    yield
    cache = config.get_timing_cache()
    if cache is not None:
        write_sealed(path, bytes(cache.serialize()))


def read_sealed(path: Path) -> bytes:
    """What `write_sealed` wrote; nothing if it is not there or a byte of it changed."""
    data = path.read_bytes() if path.is_file() else b""
    return data[32:] if hashlib.sha256(data[32:]).digest() == data[:32] else b""


def write_sealed(path: Path, payload: bytes) -> None:
    """Replace a cache file in one piece, its SHA-256 in front."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
    os.replace(temporary, path)


def _logger(trt: Any) -> Any:
    """A logger that keeps the last error for our own message and prints nothing."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        last = ""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                self.last = " ".join(message.split())[:300]

    make: Callable[[], Any] = Logger
    return make()
