"""What choosing a device leaves behind in torch, on a CPU and on what passes for a GPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastdreamer.config import load_config
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU, as far as it is asked about; what is set for the process is put back."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def test_deterministic_algorithms_are_those_of_the_device_that_was_chosen_last(a_gpu: None) -> None:
    for device, is_deterministic in (("cpu", True), ("cuda", False), ("cpu", True)):
        choose_device(load_config("debug", [f"device={device}", "compile=off"]))
        assert torch.are_deterministic_algorithms_enabled() is is_deterministic


def test_a_c_compiler_is_one_that_triton_finds(a_gpu: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Source: triton/runtime/build.py of 3.6 and 3.7: CC, else gcc, else clang."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    config = load_config("debug", ["device=cuda", "compile=on"])
    for name, is_enough in (("cc", False), ("clang", True)):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        if is_enough:
            choose_device(config)
        else:
            with pytest.raises(UserError, match="needs gcc"):
                choose_device(config)


COMPILED = """
import sys
import torch
from fastdreamer_kernels import reference, symexp_bins, two_hot_decode
from fastdreamer import device
from fastdreamer.system import compiling
from fastdreamer.config import load_config

if sys.argv[1] == "changed":
    reference.two_hot_decode = lambda logits, centres: 0 * logits[..., 0] + 7
    compiling.operations = lambda: "another version"
backend = device.choose_device(load_config("debug", ["device=cpu", "compile=on"]))
centres = symexp_bins(41, 3.0)
print(float(backend.compiled(lambda x: two_hot_decode(x, centres) + 1)(torch.ones(2, 41))[0]))
"""


def test_an_op_that_has_changed_is_compiled_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def result(version: str) -> float:
        command = [sys.executable, "-c", COMPILED, version]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
        return float(done.stdout.split()[-1])

    assert (result("plain"), result("changed")) == (1.0, 8.0)
