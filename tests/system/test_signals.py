"""What tests start obeys signals, even where a shell that runs the tests in the background ignores Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import importlib.util, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
child = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
subprocess.run([sys.executable, "-c", child], check=True)
"""


def test_children_of_tests_have_default_signals() -> None:
    path = Path(__file__).parents[1] / "conftest.py"
    done = subprocess.run([sys.executable, "-c", CODE, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
