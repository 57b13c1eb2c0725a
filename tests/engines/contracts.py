"""What tensorrt.py uses of its library, read from its source, and what a library offers, read from its docstrings."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastdreamer_engines.tensorrt

# The library's objects in tensorrt.py: (function, expression) to class.
OBJECTS = {
    ("TensorRT.build", "builder"): "Builder",
    ("TensorRT.build", "network"): "INetworkDefinition",
    ("TensorRT.build", "parser"): "OnnxParser",
    ("TensorRT.build", "config"): "IBuilderConfig",
    ("TensorRT.build", "plan"): "IHostMemory",
    ("Plans._context", "self.runtime"): "Runtime",
    ("Plans.__call__", "context"): "IExecutionContext",
    ("Plans.save", "cache"): "IRuntimeCache",
    ("Plans.save", "cache.serialize()"): "IHostMemory",
    ("Plans._context", "engine"): "ICudaEngine",
    ("Plans._context", "config"): "IRuntimeConfig",
    ("Plans._context", "cache"): "IRuntimeCache",
    ("Plans._context", "engine.create_execution_context()"): "IExecutionContext",
    ("Plans._context", "engine.create_execution_context(config)"): "IExecutionContext",
    ("_timing_cache", "config"): "IBuilderConfig",
    ("_timing_cache", "cache"): "ITimingCache",
    ("_timing_cache", "cache.serialize()"): "IHostMemory",
}
# What else has attributes there.
OURS = {
    "' '", "', '", "'; '", "device", "exports", "flavour", "folder", "hashlib", "importlib", "inputs", "kernels",
    "logger", "message", "os", "outputs", "path", "problems", "self", "self.caches", "self.flavour", "self.logger",
    "self.path", "self.spec", "spec", "str", "target", "temporary", "torch",
}  # fmt: skip
USED = {
    "": "Builder BuilderFlag ComputeCapability ILogger NetworkDefinitionCreationFlag OnnxParser Runtime __version__",
    "Builder": "build_serialized_network create_builder_config create_network",
    "BuilderFlag": "TF32",
    "IBuilderConfig": "clear_flag create_timing_cache get_timing_cache num_compute_capabilities set_compute_capability "
    "set_timing_cache",
    "ICudaEngine": "create_execution_context create_runtime_config",
    "IExecutionContext": "execute_async_v3 set_tensor_address",
    "ILogger": "Severity __init__ log",
    "ILogger.Severity": "ERROR",
    "IRuntimeCache": "deserialize serialize",
    "IRuntimeConfig": "create_runtime_cache set_runtime_cache",
    "ITimingCache": "serialize",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "get_error num_errors parse_from_file",
    "Runtime": "deserialize_cuda_engine",
}
RTX_ONLY = {
    "ComputeCapability", "IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability",
    "IRuntimeCache", "IRuntimeCache.deserialize", "IRuntimeCache.serialize", "IRuntimeConfig.create_runtime_cache",
    "IRuntimeConfig.set_runtime_cache",
}  # fmt: skip

PROBE = """
import ctypes, importlib, json, sys
module, facts = importlib.import_module(sys.argv[1]), {}
slot = ctypes.pythonapi.PyType_GetSlot
slot.restype, slot.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_int]
for path in json.load(sys.stdin):
    found = module
    try:
        for name in path.split("."):
            found = getattr(found, name)
    except AttributeError:
        continue
    is_class = isinstance(found, type)
    facts[path] = {
        "doc": found.__doc__ or "",
        "is_class": is_class,
        "is_settable": getattr(found, "fset", None) is not None,
        "is_buffer": is_class and bool(slot(found, 1)),  # Py_bf_getbuffer
    }
print(json.dumps(facts))
"""
STUBS = "".join(
    f"void *{name}(void) {{ return 0; }}\n"
    for name in (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
        "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
    )
)  # fmt: skip


@dataclass(frozen=True)
class Use:
    """One place of our source that reaches into a library."""

    path: str  # `Builder.create_network`
    line: int
    is_rtx: bool = False  # reached by that flavour only
    is_set: bool = False
    call: tuple[int, tuple[str, ...]] | None = None  # positional arguments, keywords
    kept_as: str = ""  # class, per OBJECTS, of what the call returns


@dataclass(frozen=True)
class Signature:
    positional: tuple[str, ...]
    by_name: frozenset[str]
    required: frozenset[str]
    returns: str = ""

    def takes(self, count: int, keywords: Collection[str]) -> bool:
        given = {*self.positional[:count], *keywords}
        is_named = set(keywords) <= self.by_name - set(self.positional[:count])
        return count <= len(self.positional) and is_named and self.required <= given


class Uses(ast.NodeVisitor):
    """Collects what a source file reaches, starting at the expressions `roots` that stand for the module."""

    def __init__(self, source: str, roots: Collection[str], objects: dict[tuple[str, str], str]) -> None:
        self.roots, self.objects = roots, objects
        self.found: list[Use] = []
        self.unknown: set[str] = set()
        self._scope: list[str] = []
        self._is_rtx = False
        self._calls: dict[ast.expr, ast.Call] = {}
        self._kept: dict[ast.expr, str] = {}
        self.visit(ast.parse(source))

    def resolve(self, node: ast.expr) -> str | None:
        text = ast.unparse(node)
        if text in self.roots:
            return ""
        if held := self._held(text):
            return held
        parent = self.resolve(node.value) if isinstance(node, ast.Attribute) else None
        return None if parent is None else f"{parent}.{node.attr}".lstrip(".")  # type: ignore[attr-defined]

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for base in map(self.resolve, node.bases):
            for method in (part for part in node.body if isinstance(part, ast.FunctionDef) and base):
                self.found.append(Use(f"{base}.{method.name}", method.lineno, call=(len(method.args.args) - 1, ())))
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._inside(node)

    def visit_If(self, node: ast.If) -> None:
        test, before = ast.unparse(node.test), self._is_rtx
        self.visit(node.test)
        self._is_rtx = before or test in ("self.is_rtx", "self.flavour.is_rtx")
        for statement in node.body:
            self.visit(statement)
        self._is_rtx = before
        for statement in node.orelse:
            self.visit(statement)
        is_return = isinstance(node.body[-1], ast.Return)
        self._is_rtx = before or (is_return and test in ("not self.is_rtx", "not self.flavour.is_rtx"))

    def visit_Assign(self, node: ast.Assign) -> None:
        self._kept[node.value] = self._held(ast.unparse(node.targets[0]))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._calls[node.func] = node
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path, parent = self.resolve(node), self.resolve(node.value)
        if path is not None and parent is not None:
            call, shape, kept_as = self._calls.get(node), None, ""
            if call is not None:
                count = len(call.args) - (node.attr == "__init__")  # called on the class, with self
                shape = count, tuple(str(keyword.arg) for keyword in call.keywords)
                kept_as = self._kept.get(call) or self._held(ast.unparse(call))
            is_rtx = self._is_rtx or parent == "IRuntimeCache"  # whose maker is only reached so
            self.found.append(Use(path, node.lineno, is_rtx, isinstance(node.ctx, ast.Store), shape, kept_as))
        elif path is None:
            self.unknown.add(_root(node.value))
        self.generic_visit(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef) -> None:
        before = self._is_rtx
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()
        self._is_rtx = before

    def _held(self, text: str) -> str:
        return self.objects.get((".".join(self._scope), text), "")


def _root(node: ast.expr) -> str:
    while True:
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self":
            node = node.value
        elif isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.BinOp):
            node = node.left
        elif isinstance(node, ast.Subscript):
            node = node.value
        else:
            return ast.unparse(node)


def source_of(module: Any) -> str:
    return Path(module.__file__).read_text(encoding="utf-8")


def tensorrt_uses() -> Uses:
    return Uses(source_of(fastdreamer_engines.tensorrt), {"trt", "self._import()"}, OBJECTS)


def signatures(path: str, doc: str) -> list[Signature]:
    """pybind11's, overloads included: `name(self: A, a: int, b: str = None) -> B`."""
    name = path.rpartition(".")[2]
    found = []
    for arguments, returns in re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> (.*)$", doc, re.MULTILINE):
        while arguments != (flat := re.sub(r"\[[^][]*\]|<[^<>]*>|\([^()]*\)", "", arguments)):
            arguments = flat
        named = {a.partition(":")[0].strip(): "=" in a for a in arguments.split(",")[1:]}  # without self
        required = frozenset(n for n, is_optional in named.items() if not is_optional)
        found.append(Signature(tuple(named), frozenset(named), required, re.split(r"[.:]", returns)[-1]))
    return found


def facts_of(module: str, paths: Iterable[str], **environment: str) -> dict[str, Any]:
    """What a library's own module says, asked in a process of its own."""
    asked = json.dumps(sorted({*paths, *(f"{path}.__init__" for path in paths)}))
    env = os.environ | environment
    done = subprocess.run([sys.executable, "-c", PROBE, module], input=asked, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def problems(uses: Iterable[Use], facts: dict[str, Any]) -> list[str]:
    """Every use that the library does not serve."""
    found = []
    for use in uses:
        fact = facts.get(use.path)
        if fact is None:
            found.append(f"line {use.line}: there is no {use.path}")
        elif use.is_set and not fact["is_settable"]:
            found.append(f"line {use.line}: {use.path} cannot be set")
        elif use.call is not None:
            path = f"{use.path}.__init__" if fact["is_class"] else use.path
            fits = [s for s in signatures(path, facts[path]["doc"]) if s.takes(*use.call)]
            kept = [s for s in fits if use.kept_as in ("", use.path if fact["is_class"] else s.returns)]
            if not fits:
                found.append(f"line {use.line}: {path} does not take {use.call}")
            elif not kept:
                found.append(f"line {use.line}: {path} returns {fits[0].returns}, not {use.kept_as}")
    return found
