"""Imports point one way, and what trains needs torch alone: no tokenizer, video, environment or engine libraries."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from architecture import BEGIN, ORDER, PAGE, circle, imports, in_page, modules, room, room_imports

ROOT = Path(__file__).parents[1]
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


def test_every_room_has_its_place() -> None:
    assert {room(module) for module in modules()} - {"", "tools"} == set(ORDER)


def test_rooms_import_those_before_them_alone() -> None:
    wrong = [
        f"{own} imports {other}"
        for own, others in room_imports().items()
        for other in others
        if ORDER.index(other) > ORDER.index(own)
    ]
    assert wrong == []


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circle(imports()) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_module_name_stands_twice() -> None:
    names = Counter(name.rpartition(".")[2] for name in modules() if name.startswith("fastdreamer."))
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    counted = Counter({name: count for name, count in names.items() if f"fastdreamer.{name}" not in packages})
    assert [name for name, count in counted.items() if count > 1] == []


def test_the_diagram_is_what_the_code_says() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert BEGIN in page and in_page(page) == page, "run: python tests/architecture.py --write"


def test_what_trains_imports_no_heavy_library() -> None:
    rooms = ("dynamics", "heads", "imagination", "training", "tools.planning")
    names = [module for module in modules() if room(module) in rooms]
    code = f"""
import importlib, sys
for name in {names!r}: importlib.import_module(name)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(names) > 10 and result.stdout.strip() == "[]"
