"""Ways to run a frozen tokenizer: modules, shapes and files, nothing of training."""

from fastdreamer_engines.backends import BACKENDS, Backend, backend
from fastdreamer_engines.export import Exports, onnx_runner
from fastdreamer_engines.graph import DecoderGraph, EncoderGraph, compilable
from fastdreamer_engines.parity import LIMITS, Gate, Parity, verdict
from fastdreamer_engines.runtime import Engine, eager_engine, exact_fp32
from fastdreamer_engines.spec import EngineError, EngineSpec, Shape, check_target, count_work, label, local_target

__all__ = [
    "BACKENDS", "LIMITS", "Backend", "DecoderGraph", "EncoderGraph", "Engine", "EngineError", "EngineSpec", "Exports",
    "Gate", "Parity", "Shape", "backend", "check_target", "compilable", "count_work", "eager_engine", "exact_fp32",
    "label", "local_target", "onnx_runner", "verdict",
]  # fmt: skip
