"""Shapes are checked while tests run: jaxtyping's annotations become assertions on every call."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Processes that tests start run this tree too, installed or not.
os.environ["PYTHONPATH"] = os.pathsep.join(str(ROOT / name) for name in (".", "kernels", "engines"))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small tensors, and the cores may be shared
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "torchinductor-tests"))

# A shell ignores Ctrl-C in what it starts in the background, and a process that is started there ignores it too; what
# has a handler here is at its default in the processes that tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
from jaxtyping import install_import_hook

# The machine may do other work, and the first example also imports.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")

# The modules that hand shaped tensors to one another. Run-time checks and torch.compile do not mix: a test that
# compiles imports its model in a process of its own.
CHECKED = (
    *(f"latents.{name}" for name in ("batch", "crop_sampler", "loader", "resident", "schedule")),
    "dynamics",
    "heads",
    "imagination",
    "training",
)
install_import_hook([f"fastdreamer.{name}" for name in CHECKED], "shape_checks.check")

from fastdreamer.system import compiling

os.environ[compiling.FOLDER] = str(compiling.cache_folder())  # also where torch.compile is called without `prepare`


@pytest.fixture
def stub(monkeypatch):
    """Put a function in a command's place."""

    def put(command: str, work):
        from fastdreamer import commands

        monkeypatch.setitem(commands.COMMANDS, command, work)

    return put


@pytest.fixture
def load(tmp_path):
    """Write a configuration file, and read it with overrides."""

    def write_and_load(text: str, *overrides: str):
        from fastdreamer.config import load_config

        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return write_and_load
