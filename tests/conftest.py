"""Shapes are checked while tests run: jaxtyping's annotations become assertions on every call."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

from jaxtyping import install_import_hook

# The folders whose functions hand shaped tensors to one another. Runtime checks and torch.compile do not mix: a test
# that compiles imports its model in a process of its own.
CHECKED = ("data", "dynamics", "heads", "imagination", "tokenizer", "training")
install_import_hook([f"fastdreamer.{name}" for name in CHECKED], "shape_checks.check")
