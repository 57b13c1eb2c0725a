"""Proof that the gate goes red: real edits of the timed path, each in a copy of the tree, and what the gate says then.

    PYTHONPATH=.:kernels:engines python -m bench.gate.plant [NAME ...]

Without names all of them. Exit 0 if every edit was caught with the line it should give, 1 if one was not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.timing import ROOT

COPIED = ("fastdreamer", "kernels", "engines", "bench", "configs", "pyproject.toml", "constraints.txt")


@dataclass(frozen=True)
class Plant:
    """An edit: `old`, which is there once, becomes `new`.

    Attributes:
        says: how the red line begins, after RED.
        options: options of the gate; else the counts of the row that is named there.
    """

    file: str
    old: str
    new: str
    says: str
    options: tuple[str, ...] = ()


PLANTS = {
    "launch": Plant(
        "fastdreamer/dynamics/forcing.py",
        "    error = (prediction - target).square()",
        "    error = (prediction - target).clone().square()",
        "phase 1 step: launches expected",
    ),
    "item": Plant(
        "fastdreamer/training/step.py",
        "                (loss / self.train.accumulate).backward()",
        "                loss.item()\n                (loss / self.train.accumulate).backward()",
        "phase 2 step: syncs expected 0, measured 1",
    ),
    "leak": Plant(
        "fastdreamer/training/step.py",
        "            batches.append(sums)",
        '            batches.append(sums)\n            self.__dict__.setdefault("kept", []).append(loss.detach())',
        "phase 1 step: left_bytes expected 0, measured",
    ),
    "memory": Plant(  # 15 % of the 3.4 MB that the step makes
        "fastdreamer/training/step.py",
        "        batches: list[dict[str, Tensor]] = []",
        "        spare, batches = torch.empty(128_000), list[dict[str, Tensor]]()\n        assert len(spare)",
        "phase 1 step: peak_bytes expected",
    ),
    "graph break": Plant(
        "fastdreamer/dynamics/transformer.py",
        "        steps = x.shape[1]\n",
        "        steps = x.shape[1]\n        torch._dynamo.graph_break()\n",
        "phase 1 graphs: graph_breaks expected 0, measured",
    ),
    "spill": Plant(
        "kernels/fastdreamer_kernels/rows.py",
        "TILE = 2048",
        "TILE = 16384",
        "two hot loss, machine code: two_hot/bf16/255 of 256 sm_86 stack_bytes expected 0, measured",
    ),
    "import": Plant(
        "fastdreamer/errors.py",
        "class UserError(ValueError):",
        "import numpy  # noqa: E402, F401\n\n\nclass UserError(ValueError):",
        "imports, command line: packages expected 0, measured 1",
    ),
    "wrong": Plant(
        "fastdreamer/dynamics/forcing.py",
        "    return 0.9 * tau + 0.1",
        "    return 0.8 * tau + 0.2",
        "phase 1 step: expected to be right, the result is not its reference's",
        ("--only", "phase 1 step"),
    ),
    "slow": Plant(
        "fastdreamer/dynamics/sampler.py",
        "action[:, None], None, cache)[0][:, 0]\n\n    return integrate(predict, noise, model.forcing.sample_steps)",
        "action[:, None], None, cache)[0][:, 0]\n\n    import time\n\n    began = time.perf_counter()\n"
        "    out = integrate(predict, noise, model.forcing.sample_steps)\n"
        "    end = time.perf_counter() + 0.25 * (time.perf_counter() - began)\n"
        "    while time.perf_counter() < end:\n        pass\n    return out",
        "sampling step: time over its reference expected",
        ("--only", "sampling step"),
    ),
    "missing row": Plant(
        "bench/gate/rows/__init__.py",
        "    *imagination.ROWS,\n",
        "",
        "rollout: expected in counts.json, measured nothing",
        ("--ci", "--counts-only"),
    ),
}


def caught(plant: Plant, root: Path = ROOT) -> tuple[bool, list[str]]:
    """Whether the gate says what it should of the edit, and its red lines (or the end of its output).

    Raises:
        ValueError: if the text to be edited is not there once.
    """
    with tempfile.TemporaryDirectory(prefix="fastdreamer-plant-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(root / name, copy / name)
        path = copy / plant.file
        text = path.read_text()
        if text.count(plant.old) != 1:
            raise ValueError(f"{plant.file} holds {plant.old!r} {text.count(plant.old)} times, not once")
        path.write_text(text.replace(plant.old, plant.new))
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(copy / n) for n in (".", "kernels", "engines"))}
        environment.pop("TRITON_INTERPRET", None)
        options = plant.options or ("--counts-only", "--only", plant.says.partition(":")[0])
        command = [sys.executable, "-m", "bench.gate", *options]
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    red = [line.removeprefix("RED ") for line in done.stdout.splitlines() if line.startswith("RED ")]
    is_caught = done.returncode == 1 and any(line.startswith(plant.says) for line in red)
    return is_caught, red or [*done.stdout.splitlines()[-3:], *done.stderr.splitlines()[-3:]]


def main(names: Sequence[str]) -> int:
    """Run the command line."""
    if unknown := [name for name in names if name not in PLANTS]:
        print(f"bench.gate.plant: {unknown[0]}: there are {', '.join(PLANTS)}", file=sys.stderr)
        return 2
    missed = 0
    for name in names or PLANTS:
        is_caught, red = caught(PLANTS[name])
        missed += not is_caught
        print(f"{'caught' if is_caught else 'MISSED'}: {name}", *(f"  {line}" for line in red), sep="\n", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
