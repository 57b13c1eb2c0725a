"""What is installed and imported: modules at start, megabytes of the core, parameters, planned peak memory."""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.gate.rows.base import GateRow, Place, RowWork, Wrong, nothing
from bench.timing import ROOT, run_python
from fastdreamer.config import load_config
from fastdreamer.device import Backend
from fastdreamer.dynamics.world_model import WorldModel
from fastdreamer.heads.agent import Agent
from fastdreamer.recordings.actions import action_space
from fastdreamer.tools.planning.measure import measure

OURS = ("fastdreamer", "fastdreamer_kernels", "fastdreamer_engines")
PRESETS = ("crafter", "minerl_cosmos")
STARTS = {
    "command line": "from fastdreamer.cli import build_parser; build_parser()",
    "training": "import fastdreamer.training.train",
}
OF_THE_ENVIRONMENT = ("setuptools", "pip", "wheel")
"""Come with a virtual environment, in its version; pip freeze leaves them out."""
PYTHON = "3.11"
"""The Python whose standard library the expectations of imports were counted with."""


def imports(code: str, _: Place) -> RowWork:
    """Modules of ours, and packages of others with their modules but torch's, that are there after `code`."""
    script = f"import sys; {code}; import json; print(json.dumps(sorted(sys.modules)))"

    def counts() -> dict[str, int]:
        done = run_python("-S", "-c", script)
        if done.returncode:
            raise Wrong(f"start-up failed: {done.stderr.strip().splitlines()[-1]}")
        names = [name for name in json.loads(done.stdout.splitlines()[-1]) if not name.startswith("__")]
        tops = {name.partition(".")[0] for name in names}
        others = {name for name in tops if name not in sys.stdlib_module_names and name not in OURS and name[0] != "_"}
        return {
            "own_modules": sum(name.partition(".")[0] in OURS for name in names),
            "packages": len(others),
            "has_torch": int("torch" in tops),
        }

    return RowWork(check=nothing, counts=counts)


def other_python() -> str:
    """Why imports are not counted here, or ""."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "" if here == PYTHON else f"counted with Python {PYTHON}, this is {here}"


def constrained() -> dict[str, str]:
    """Versions that constraints.txt names, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {_normal(name): version.strip() for name, version in pairs}


def core() -> dict[str, importlib.metadata.Distribution]:
    """What `pip install fastdreamer` brings besides itself and torch's own libraries, installed here."""
    from packaging.requirements import Requirement

    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [Requirement(text) for text in _dependencies()]
    while waiting:
        requirement = waiting.pop()
        name = _normal(requirement.name)
        is_wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in (*found, *OF_THE_ENVIRONMENT) or not is_wanted:
            continue
        found[name] = importlib.metadata.distribution(name)
        if name != "torch":  # its libraries depend on the build: none on a CPU, gigabytes with CUDA
            waiting += [Requirement(text) for text in found[name].requires or ()]
    return found


def installed(_: Place) -> RowWork:
    """Megabytes of the core's files as pip recorded them, without torch, whose builds differ; and our own."""

    def check() -> None:
        wanted = constrained()
        for name, distribution in core().items():
            version = distribution.version.partition("+")[0]
            if wanted.get(name) != version:
                raise Wrong(f"{name} {version} is installed, constraints.txt says {wanted.get(name, 'nothing')}")

    def counts() -> dict[str, int]:
        size = sum(f.size or 0 for n, d in core().items() if n != "torch" for f in d.files or ())
        folders = [ROOT / "fastdreamer", ROOT / "kernels/fastdreamer_kernels", ROOT / "engines/fastdreamer_engines"]
        own = sum(f.stat().st_size for top in folders for f in top.rglob("*") if f.is_file() and f.suffix != ".pyc")
        return {"distributions": len(core()), "megabytes": round(size / 1e6), "own_megabytes": -(-own // 1_000_000)}

    return RowWork(check=check, counts=counts)


def _dependencies() -> list[str]:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def parameters(preset: str, _: Place) -> RowWork:
    """Parameters of the world model and the agent of a preset, built without memory."""

    def counts() -> dict[str, int]:
        config = load_config(preset, [])
        sizes = action_space(config.data.env).sizes
        with FakeTensorMode():
            world, agent = WorldModel.build(config, sizes), Agent(config, sizes)
        return {
            "world": sum(p.numel() for p in world.parameters()),
            "agent": sum(p.numel() for p in agent.parameters()),
        }

    return RowWork(check=nothing, counts=counts)


def plan(preset: str, number: int, _: Place) -> RowWork:
    """Bytes that the memory plan of a phase gives, on fake tensors of a GPU."""

    def counts() -> dict[str, int]:
        config = load_config(preset, [])
        found = measure(config, number, Backend(torch.device("cpu"), "bf16"), is_gpu=True)
        return {"planned_used_bytes": found.used, "planned_reserved_bytes": found.reserved}

    return RowWork(check=nothing, counts=counts)


ROWS = (
    *(
        GateRow(f"imports, {name}", partial(imports, code), devices=("cpu",), excuse=other_python)
        for name, code in STARTS.items()
    ),
    GateRow("installed core", installed, ("packaging", "av", "diffusers"), ("cpu",)),
    *(GateRow(f"parameters, {preset}", partial(parameters, preset), (), ("cpu",)) for preset in PRESETS),
    *(
        GateRow(f"plan, {preset} phase {n}", partial(plan, preset, n), (), ("cpu",), is_short=preset == "crafter")
        for preset in PRESETS
        for n in (1, 2, 3)
    ),
)
