"""A phase that is compiled while it trains, stopped and resumed: the bits of one that was not stopped.

In a process of its own: run-time shape checks and torch.compile do not mix.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from fastdreamer.config import load_config
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training import when_to_compile
from fastdreamer.training.train import train

when_to_compile.COLD_S = {1: 0.0}
SMALL = ["device=cpu", "precision=fp32", "data.recordings=/nonexistent", "dynamics.dim=16", "dynamics.layers=2",
         "phase1.steps=8", "phase1.warmup_steps=2", "phase1.checkpoint_every=100"]
config = load_config("debug", SMALL)
folder, found = Path(sys.argv[1]), {}
for name in ("whole", "stopped"):
    write_synthetic_store(folder / name / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
    see = when_to_compile.WhenToCompile.see
    if name == "stopped":
        def stops(self, done, seconds):
            see(self, done, seconds)
            if done == 5:
                os.kill(os.getpid(), signal.SIGTERM)
        when_to_compile.WhenToCompile.see = stops
        try:
            train(config, folder / name, 1)
            raise AssertionError("it was not stopped")
        except SystemExit as stop:
            assert stop.code == 143
        when_to_compile.WhenToCompile.see = see
        assert RunDirectory(folder / name).load(1, config).state["compiled"] is True
    train(config, folder / name, 1, resume=name == "stopped")
    found[name] = RunDirectory(folder / name).load(1, config)
whole, stopped = found.values()
assert whole.step == stopped.step == 8 and whole.state["compiled"] is True
for group, tensors in whole.tensors.items():
    assert all(torch.equal(value, stopped.tensors[group][key]) for key, value in tensors.items()), group
eager = load_config("debug", [*SMALL, "compile=off"])
write_synthetic_store(folder / "eager" / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
train(eager, folder / "eager", 1)
plain = RunDirectory(folder / "eager").load(1, eager)
close = all(torch.allclose(v, plain.tensors["ema"][k], atol=1e-4) for k, v in whole.tensors["ema"].items())
print("close" if close else "far")
"""


@pytest.mark.slow
def test_a_phase_that_is_compiled_while_it_trains_resumes_with_its_bits(tmp_path: Path) -> None:
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "close"
    assert sum("compiled from here on, takes about" in line for line in lines) == 2
    assert sum("compiled from here on, as this phase was trained so far" in line for line in lines) == 1
