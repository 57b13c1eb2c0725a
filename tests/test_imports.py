"""Imports point one way, and what trains needs torch alone: no tokenizer, video, environment or engine libraries."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {"fastdreamer": ROOT, "fastdreamer_kernels": ROOT / "kernels", "fastdreamer_engines": ROOT / "engines"}

# The limits of what is healthy are plain functions of figures: the training loop asks them as `diagnose` does.
LIMITS = ("diagnosis.check", "diagnosis.flags")

# A package may import those of a lower level, and its own. Same level: strangers to one another, but for `SIBLINGS`.
LEVELS = (
    ("fastdreamer_kernels", "fastdreamer_engines"),
    (
        "errors", "advice", "broken", "folders", "terminal", "failures", "leftovers", "files", "json_files", "run_lock",
        "run_config", "shapes", "yaml_text", "progress", "ranges", "output", "settings", "config", "device", *LIMITS,
    ),
    ("data", "tokenizer", "dynamics", "envs"),
    ("heads",),
    ("imagination",),
    ("training",),
    ("planning",),
    ("evaluation", "profiling", "doctor"),
    ("diagnosis", "facade"),
    ("demo", "study", "commands", "cli", "__main__"),
)  # fmt: skip
SIBLINGS = {
    "files": {"errors", "leftovers"},
    "run_lock": {"advice", "errors", "files", "json_files", "leftovers"},
    "run_config": {"config", "errors", "files", "folders", "settings", "yaml_text"},
    "json_files": {"errors"},
    "folders": {"errors"},
    "broken": {"advice"},
    "failures": {"advice"},
    "progress": {"terminal"},
    "output": {"terminal"},
    "yaml_text": {"errors"},
    "settings": {"errors", "files", "folders", "yaml_text", "config"},
    "config": {"settings", "shapes"},
    "device": {"config", "errors"},
    "data": {"tokenizer"},  # `encode` runs the frozen tokenizer
    "tokenizer": {"data"},  # `fit` reads recordings
    "dynamics": {"data"},  # batches of latents
    "envs": {"data"},  # `record` writes recordings
    "diagnosis.flags": {"advice", "diagnosis.check"},
    "facade": {"diagnosis"},
    "commands": {"demo", "study"},
    "cli": {"commands"},
    "__main__": {"cli"},
}
HEAVY = (
    "diffusers",
    "av",
    "crafter",
    "minestudio",
    "minerl",
    "rich",
    "nvidia.dali",
    "tensorrt",
    "tensorrt_rtx",
    "torch_tensorrt",
    "onnx",
    "onnxruntime",
)


def level(package: str) -> int:
    return next(i for i, names in enumerate(LEVELS) if package in names)


def part(module: str) -> str:
    """fastdreamer.latents.batch -> data; fastdreamer_kernels.reference -> fastdreamer_kernels; `LIMITS` are parts."""
    top, _, rest = module.partition(".")
    if limits := next((name for name in LIMITS if f"{rest}.".startswith(f"{name}.")), None):
        return limits
    return rest.partition(".")[0] if top == "fastdreamer" else top


def imports() -> list[tuple[str, str, str]]:
    """(file, importing part, imported part) of every import between our own packages, lazy ones included."""
    found = []
    for top, folder in SOURCES.items():
        for path in sorted((folder / top).rglob("*.py")):
            own = part(".".join(path.relative_to(folder).with_suffix("").parts))
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    pytest.fail(f"{path}: relative import; write the package's full name")
                ours = [name for name in names if name.partition(".")[0] in SOURCES]
                found += [(str(path.relative_to(ROOT)), own, part(name)) for name in ours]
    return found


def test_every_package_has_its_level():
    files = (path.relative_to(ROOT / "fastdreamer") for path in (ROOT / "fastdreamer").rglob("*.py"))
    packages = {file.parts[0].removesuffix(".py") for file in files} - {"__init__"}
    assert packages <= {name for names in LEVELS for name in names}


def test_imports_point_down():
    wrong = [
        f"{file}: {own} imports {other}"
        for file, own, other in imports()
        if other
        and own
        and other not in ("__version__", own)
        and level(other) >= level(own)
        and other not in SIBLINGS.get(own, ())
    ]
    assert wrong == []


def test_what_trains_imports_no_heavy_library():
    folders = [ROOT / "fastdreamer" / name for name in ("dynamics", "heads", "imagination", "training", "planning")]
    files = [path.relative_to(ROOT).with_suffix("") for folder in folders for path in folder.glob("*.py")]
    modules = [".".join(file.parts).removesuffix(".__init__") for file in files]
    code = f"""
import importlib, sys
for name in {modules!r}: importlib.import_module(name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(modules) > 10 and result.stdout.strip() == "[]"
