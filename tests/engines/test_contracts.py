"""The TensorRT backends against the real libraries: every name, every call's arguments, and full-size builds."""

from __future__ import annotations

import ast
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import fastdreamer_engines.tensorrt
import fastdreamer_engines.torch_tensorrt
import pytest
import torch
from contracts import (
    OURS,
    RTX_ONLY,
    STUBS,
    USED,
    Signature,
    Use,
    Uses,
    facts_of,
    problems,
    source_of,
    tensorrt_uses,
)
from fastdreamer_engines.spec import RTX_TARGETS

from fastdreamer.config import load_config
from fastdreamer.tokenizer.engines.build_engines import build_engines
from fastdreamer.tokenizer.engines.installed import checked_manifest

IS_SERVED = (sys.platform, platform.machine()) == ("linux", "x86_64")  # what the wheels are for
served = pytest.mark.skipif(not IS_SERVED, reason="the wheels are for Linux on x86-64")


def download(requirement: str, folder: Path) -> Path:
    """A wheel from the package index, unpacked."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")
    return folder / "wheel"


def needs_rtx() -> None:
    """The dev extra brings TensorRT-RTX where it exists: missing there is a failure."""
    if not IS_SERVED:
        pytest.importorskip("tensorrt_rtx")


def test_the_tables_hold_all_that_the_backend_reaches() -> None:
    uses = tensorrt_uses()
    reached: dict[str, set[str]] = {}
    for use in uses.found:
        owner, _, name = use.path.rpartition(".")
        reached.setdefault(owner, set()).add(name)
    assert reached == {owner: set(names.split()) for owner, names in USED.items()}
    assert uses.unknown <= OURS  # a new variable belongs into OBJECTS, or here
    assert [use for use in uses.found if use.path in RTX_ONLY and not use.is_rtx] == []


@pytest.mark.parametrize(
    ("use", "problem"),
    [
        (Use("Runtime.load", 1, call=(1, ())), None),
        (Use("Runtime.load", 1, call=(1, ("size",)), kept_as="IEngine"), None),
        (Use("Runtime.load", 1, call=(0, ("reader",))), None),
        (Use("Runtime.load", 1, call=(0, ())), "does not take"),
        (Use("Runtime.load", 1, call=(3, ())), "does not take"),
        (Use("Runtime.load", 1, call=(1, ("bytes",))), "does not take"),
        (Use("Runtime.load", 1, call=(1, ("plan",))), "does not take"),
        (Use("Runtime.load", 1, call=(1, ()), kept_as="ICache"), "returns IEngine, not ICache"),
        (Use("Runtime", 1, call=(1, ()), kept_as="Runtime"), None),
        (Use("Runtime", 1, call=(0, ())), "does not take"),
        (Use("Runtime.load", 1, is_set=True), "cannot be set"),
        (Use("Runtime.open", 1), "there is no Runtime.open"),
    ],
)
def test_a_call_that_does_not_fit_is_told(use: Use, problem: str | None) -> None:
    load = (
        "load(*args, **kwargs)\nOverloaded function.\n\n1. load(self: a.Runtime, plan: Dict[str, int], size: int = "
        "<Size.ALL: (1, 2)>) -> nv::IEngine\n\n    Text (x) -> y.\n\n2. load(self: a.Runtime, reader: a.R) -> a.IEngine"
    )
    facts = {
        "Runtime": {"doc": "", "is_class": True, "is_settable": False},
        "Runtime.__init__": {"doc": "__init__(self: a.Runtime, logger: a.ILogger) -> None\n", "is_class": False},
        "Runtime.load": {"doc": load, "is_class": False, "is_settable": False},
    }
    found = problems([use], facts)
    assert found == [] if problem is None else len(found) == 1 and problem in found[0]


def test_tensorrt_rtx_serves_every_use() -> None:
    needs_rtx()
    uses = tensorrt_uses().found + [Use(f"ComputeCapability.{name.upper()}", 0) for name in RTX_TARGETS]
    facts = facts_of("tensorrt_rtx", [use.path for use in uses] + ["IHostMemory"])
    assert problems(uses, facts) == []
    assert facts["IHostMemory"]["is_buffer"]  # plans and caches are written as bytes


@served
@pytest.mark.slow
def test_tensorrt_serves_every_use_but_the_other_flavours(tmp_path: Path) -> None:
    wheel = download("tensorrt-cu13-bindings>=11,<12", tmp_path)  # its libraries are not in the index: empty ones
    (tmp_path / "stubs.c").write_text(STUBS)
    for name in ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11"):
        command = ["gcc", "-shared", "-fPIC", "stubs.c", f"-Wl,-soname,{name}", "-o", name]
        subprocess.run(command, cwd=tmp_path, check=True)
    uses = [use for use in tensorrt_uses().found if use.path not in RTX_ONLY]
    paths = [use.path for use in uses] + ["IHostMemory", *RTX_ONLY]
    facts = facts_of("tensorrt_bindings", paths, PYTHONPATH=str(wheel), LD_LIBRARY_PATH=str(tmp_path))
    assert problems(uses, facts) == []
    assert facts["IHostMemory"]["is_buffer"]
    assert RTX_ONLY.isdisjoint(facts)  # else it is the other flavour's no longer


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(package: Path) -> dict[str, str]:
    """What a package's `__init__` imports, name to module; `*` counts as what `__all__` of that module lists."""
    names = {}
    for node in ast.walk(parsed(package / "__init__.py")):
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            module = str(node.module).removeprefix(f"{package.name}.")  # type: ignore[attr-defined]
            source = package / f"{module}.py"
            public = [alias.asname or alias.name]
            if alias.name == "*":
                public = assigned(source).get("__all__", []) if source.is_file() else []
            names.update(dict.fromkeys(public, module))
    return names


def assigned(path: Path) -> dict[str, Any]:
    """A module's constants: values where they are literals, else source text."""
    values: dict[str, Any] = {}
    for node in parsed(path).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                values[node.targets[0].id] = ast.unparse(node.value)
    return values


def definition(path: Path, name: str) -> tuple[Signature, dict[str, str]]:
    """A function's signature, without **kwargs, and the source text of its defaults."""
    (node,) = [n for n in parsed(path).body if isinstance(n, ast.FunctionDef) and n.name == name]
    positional, only = [a.arg for a in node.args.args], [a.arg for a in node.args.kwonlyargs]
    values = dict(zip(positional[::-1], node.args.defaults[::-1], strict=False))
    values |= {n: v for n, v in zip(only, node.args.kw_defaults, strict=True) if v is not None}
    required = frozenset(positional + only) - frozenset(values)
    defaults = {name: ast.unparse(value) for name, value in values.items()}
    return Signature(tuple(positional), frozenset(positional + only), required), defaults


@served
@pytest.mark.slow
def test_torch_tensorrt_serves_every_use(tmp_path: Path) -> None:
    package = download("torch-tensorrt==2.13.*", tmp_path) / "torch_tensorrt"
    uses = Uses(
        source_of(fastdreamer_engines.torch_tensorrt),
        {"torch_tensorrt", "need('torch_tensorrt', INSTALL_TENSORRT)"},
        {},
    ).found
    assert {use.path for use in uses} == {"__version__", "dynamo", "dynamo.compile", "load", "save"}
    names, dynamo = imported(package), imported(package / "dynamo")
    assert {name: names.get(name) for name in ("__version__", "dynamo", "load", "save")} == {
        "__version__": "_version", "dynamo": "torch_tensorrt", "load": "_compile", "save": "_compile",
    }  # fmt: skip
    assert dynamo.get("compile") == "_compiler"
    files = {"dynamo.compile": "dynamo/_compiler.py", "load": "_compile.py", "save": "_compile.py"}
    calls = [(use.path, use.call) for use in uses if use.call is not None]
    assert {path for path, _ in calls} == set(files)
    for path, call in calls:  # all three swallow unknown keywords
        signature, _ = definition(package / files[path], path.rpartition(".")[2])
        assert signature.takes(*call), f"{path} does not take {call}"

    keywords = {keyword for path, call in calls for keyword in call[1] if path == "dynamo.compile"}
    constants = assigned(package / "dynamo" / "_defaults.py")
    _, defaults = definition(package / "dynamo" / "_compiler.py", "compile")
    shared = {n for n, text in defaults.items() if "gettempdir" in str(constants.get(text.removeprefix("_defaults.")))}
    assert shared == {"timing_cache_path", "engine_cache_dir"}
    assert shared | {"cache_built_engines", "reuse_cached_engines"} <= keywords  # nothing in a folder of everyone's


@pytest.mark.long
def test_tensorrt_rtx_builds_the_full_size_tokenizer_for_three_generations(tmp_path: Path) -> None:
    needs_rtx()
    settings = ["tokenizer.weights=random", f"engines.directory={tmp_path / 'engines'}", "engines.batches=[1]"]
    config, targets = load_config("minerl_cosmos", settings), ["sm86", "sm89", "sm120"]
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        report = build_engines(config, torch.device("cpu"), targets, ["tensorrt_rtx"], ("encoder", "decoder"))
    finally:
        torch.set_num_threads(threads)
    rows = report["engines"]
    assert report["refused"] == {}
    assert [(row["target"], row["part"]) for row in rows] == [(t, p) for t in targets for p in ("encoder", "decoder")]
    frames, latents = [1, 3, 33, 256, 256], [1, 16, 5, 32, 32]
    plans: dict[str, set[bytes]] = {"encoder": set(), "decoder": set()}
    for row in rows:
        is_encoder, folder = row["part"] == "encoder", Path(row["folder"])
        manifest, _ = checked_manifest(config, folder, row["target"])
        assert manifest["status"] == row["status"] == "built, not yet run"
        assert row["relative_error"] <= row["limit"]
        exact = [check for check in manifest["parity"] if check["how"] == "onnxruntime fp32"]
        assert len(exact) == 1 and exact[0]["relative_error"] <= 5e-5
        assert any(check["how"] == "onnxruntime fp16" for check in manifest["parity"])
        assert round(manifest["parameters"] / 1e6, 1) == (42.9 if is_encoder else 62.7)
        assert manifest["inputs"]["1x33"] == (frames if is_encoder else latents)
        assert manifest["outputs"]["1x33"] == (latents if is_encoder else frames)
        if is_encoder:
            assert manifest["gflop"]["1x33"] == pytest.approx(655, rel=0.01)
        plan = (folder / "1x33.plan").read_bytes()
        assert len(plan) > manifest["parameters"]  # fp16: two bytes a weight
        plans[row["part"]].add(plan)
    assert [len(different) for different in plans.values()] == [3, 3]
    shutil.rmtree(tmp_path / "engines")  # 0.8 GB that pytest would keep
