"""Shapes are checked while tests run: jaxtyping's annotations become assertions on every call."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Processes that tests start run this tree too, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / name) for name in (".", "kernels", "engines"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, and the cores may be shared

from jaxtyping import install_import_hook

# The modules that hand shaped tensors to one another. Run-time checks and torch.compile do not mix: a test that
# compiles imports its model in a process of its own.
CHECKED = (
    *(f"data.{name}" for name in ("clips", "feed", "resident", "sampler", "schedule")),
    "dynamics",
    "heads",
    "imagination",
    "training",
)
install_import_hook([f"fastdreamer.{name}" for name in CHECKED], "shape_checks.check")
