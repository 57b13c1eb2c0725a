"""Compiled steps: the losses and gradients of eager ones, no graph break, and no graph made after the warm-up.

In a process of its own: run-time shape checks and torch.compile do not mix.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from fastdreamer.recordings.actions import action_space
from fastdreamer.latents.store import LatentStore
from fastdreamer.latents.synthetic import write_synthetic_store
from fastdreamer.device import Backend, choose_device
from fastdreamer.config import load_config
from fastdreamer.run.directory import RunDirectory
from fastdreamer.training.build import build_phase
from fastdreamer.training.train import train

SMALL = ["device=cpu", "precision=fp32", "data.recordings=/nonexistent", "dynamics.dim=16", "dynamics.layers=2",
         "sampling.short_window=3", "sampling.long_every=2", "forcing.boot_warmup=0", "imagination.horizon=2",
         "imagination.critic_steps=0"]
SMALL += [f"phase{i}.{k}=2" for i in (1, 2, 3) for k in ("steps", "warmup_steps", "checkpoint_every")]
folder, readout = Path(sys.argv[1]), sys.argv[2:]
config = load_config("debug", [*SMALL, *readout])
run = RunDirectory(folder)
write_synthetic_store(folder / "store", config.tokenizer.clock, action_space(config.data.env), 3, 12, 0)
for number in (1, 2):
    train(config, folder, number)
store = LatentStore.open(folder / "store")
compiling = load_config("debug", [*SMALL, *readout, "compile=on"])
backends = {"eager": choose_device(config), "compiled": choose_device(compiling)}
assert [b.compiles for b in backends.values()] == [False, True]
result = {}
for number in (2, 3) if readout else (1, 2, 3):
    found = {}
    for name, backend in backends.items():
        parent = run.load(number - 1, config) if number > 1 else None
        torch.manual_seed(0)
        phase = build_phase(config, number, store, parent, backend)
        for parameter in phase.model.parameters():
            if parameter.ndim == 2 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.1)
        steps, graphs = [], []
        for step in range(8):
            phase.model.zero_grad()
            loss, figures = phase.loss(phase.draw(), step)
            loss.backward()
            norm = torch.nn.utils.get_total_norm([p.grad for p in phase.model.parameters() if p.grad is not None])
            steps.append([float(loss.detach()), float(norm), *(float(v) for v in figures.values())])
            graphs.append(counters["stats"]["unique_graphs"])
        found[name] = {"steps": steps, "graphs": graphs}
    result[number] = found
print(json.dumps({"phases": result, "breaks": dict(counters["graph_break"])}))
"""


@pytest.mark.parametrize(
    "readout",
    [
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["heads.readout=agent_tokens", "dynamics.agent_tokens=2"], marks=pytest.mark.long),
    ],
)
def test_compiled_steps_equal_eager_ones_and_nothing_is_compiled_after_the_warm_up(
    tmp_path: Path, readout: list[str]
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), *readout]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["breaks"] == {}
    made = 0
    for number, found in result["phases"].items():
        eager, compiled = found["eager"], found["compiled"]
        for step, (one, other) in enumerate(zip(eager["steps"], compiled["steps"], strict=True)):
            assert one == pytest.approx(other, rel=1e-5, abs=1e-5), (number, step)
        assert eager["graphs"] == [made] * 8, "what is eager compiles nothing"
        assert compiled["graphs"][1] > made and compiled["graphs"][1:] == [compiled["graphs"][1]] * 7, number
        made = compiled["graphs"][-1]
