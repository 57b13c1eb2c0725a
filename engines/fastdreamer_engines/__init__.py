"""Ways to run a frozen encoder: modules, shapes and files, nothing of training."""

from fastdreamer_engines.runtime import ENGINES, EagerEncoder, EncoderEngine, build_engine

__all__ = ["ENGINES", "EagerEncoder", "EncoderEngine", "build_engine"]
