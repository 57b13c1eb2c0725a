"""`build-engines`: compile the frozen tokenizer, compare it with eager fp32, and install what passes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fastdreamer_engines import (
    LIMITS,
    Engine,
    EngineError,
    EngineSpec,
    Exports,
    Gate,
    Parity,
    backend,
    count_work,
    label,
    local_target,
    onnx_runner,
    verdict,
)
from fastdreamer_engines.manifest import MANIFEST, check_private, manifest_bytes

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.system.files import atomic_directory, scratch_directory
from fastdreamer.system.progress import Bar, track
from fastdreamer.tokenizer.engines.engine_jobs import plan
from fastdreamer.tokenizer.engines.engine_names import engine_root
from fastdreamer.tokenizer.engines.installed import (
    UNRUN,
    VERIFIED,
    checked_manifest,
    engine_key,
    folder_name,
    gate_for,
    keep_kernels,
    measure,
    one_line,
)
from fastdreamer.tokenizer.frozen import FrozenTokenizer


def build_engines(
    config: Config,
    device: torch.device,
    targets: Sequence[str] = (),
    backends: Sequence[str] = (),
    parts: Sequence[str] = ("encoder",),
    replace: bool = False,
) -> dict[str, Any]:
    """Build and install engines for this machine and for the named targets.

    Engines that are installed and current are kept, so an interrupted build goes on where it was. One that is over
    the limit of its precision is not installed.

    Args:
        config: its tokenizer and `engines` sections.
        device: the one of this machine that engines should serve.
        targets: `sm86`, `cpu`, ... besides this machine.
        backends: their names; without them the one for each target.
        parts: `encoder`, `decoder`.
        replace: build those that are current too.

    Returns:
        engines (a row each), refused (name to reason), root, seconds.

    Raises:
        UserError: for an unknown target or backend, a missing library, a folder that cannot be used.
    """
    began = time.perf_counter()
    with one_line():
        jobs = plan(config, device, targets, backends, parts)
        root = engine_root(config)
        try:
            root.parent.mkdir(parents=True, exist_ok=True)
            root.mkdir(mode=0o700, exist_ok=True)  # closed to others
        except OSError as error:
            raise UserError(f"cannot make {root}: {error.strerror}; name another folder: engines.directory") from error
        check_private(root)
        rows: list[dict[str, Any]] = []
        refused: dict[str, str] = {}
        tokenizer = FrozenTokenizer.from_config(config.tokenizer, device)
        with scratch_directory(root) as scratch, track("build-engines", total=len(jobs), unit="engines") as bar:
            workshop = Workshop(config, tokenizer, root, scratch, bar, replace)
            for job in jobs:
                try:
                    rows.append(workshop.install(*job))
                except UserError:  # the disk: nothing else will fit either
                    raise
                except Exception as error:  # compilers raise anything; the others are still worth building
                    kind = "" if isinstance(error, EngineError) else f"{type(error).__name__}: "
                    refused[folder_name(config, *job)] = kind + " ".join(str(error).split())[:300]
                bar.advance(1)
    return {"engines": rows, "refused": refused, "root": str(root), "seconds": round(time.perf_counter() - began, 1)}


class Workshop:
    """Builds engines of one tokenizer; exports and reference outputs are made once and shared."""

    def __init__(
        self, config: Config, tokenizer: FrozenTokenizer, root: Path, scratch: Path, bar: Bar, replace: bool = False
    ) -> None:
        self.config, self.tokenizer, self.root, self.scratch, self.bar = config, tokenizer, root, scratch, bar
        self.replace = replace
        self._gates: dict[tuple[str, int, int], Gate] = {}
        self._onnx_checks: dict[tuple[str, str, str], Parity] = {}

    def install(self, spec: EngineSpec, name: str, target: str) -> dict[str, Any]:
        """Build, compare and install one engine, or keep the one that is there; returns its row."""
        folder = self.root / folder_name(self.config, spec, name, target)
        kept = self._current(folder, spec, target)
        if kept is not None:
            return self._row(folder, kept, is_kept=True)
        maker, graph, began = backend(name), self.tokenizer.graph(spec), time.perf_counter()
        exports = Exports(graph, spec, self.scratch)
        is_here = target == local_target(self.tokenizer.device)
        with atomic_directory(folder, replace=True) as work:
            os.chmod(work, 0o700)
            self.bar.advance(0, engine=f"{spec.part} {name} {target}", stage="build")
            notes = maker.build(exports, target, work, self.tokenizer.device)
            seconds = time.perf_counter() - began
            self.bar.advance(0, stage="compare")
            measured: dict[str, Any] = {}
            if is_here:
                engine = Engine(name, spec, maker.load(work, graph, spec, self.tokenizer.device))
                with torch.inference_mode():  # as it will be served
                    checks = [self._gate(spec).check(engine.run, s, name, LIMITS[spec.precision]) for s in spec.shapes]
            else:
                checks = self._compare_onnx(exports)
            worst = verdict(checks)
            if not worst.is_within:
                raise EngineError(
                    f"{worst.how} at {worst.shape} is off by {worst.worst:.2g}, the limit of {spec.precision} is "
                    f"{worst.limit:g}: not installed"
                )
            if is_here:
                self.bar.advance(0, stage="time")
                measured = measure(self.tokenizer, engine)
                keep_kernels(engine)
            parameters, _ = count_work(graph, spec, spec.shapes[0])
            body = {
                "key": engine_key(self.config, spec, name, target),
                "spec": spec.to_dict(),
                "status": VERIFIED if is_here else UNRUN,
                "parameters": parameters,
                "gflop": {label(s): round(count_work(graph, spec, s)[1], 1) for s in spec.shapes},
                "inputs": {label(s): list(spec.inputs(s)) for s in spec.shapes},
                "outputs": {label(s): list(spec.outputs(s)) for s in spec.shapes},
                "parity": [check.to_dict() for check in checks],
                "build_seconds": round(seconds, 1),
                "measured": measured,
                "notes": notes,
            }
            (work / MANIFEST).write_bytes(manifest_bytes(work, body))
        return self._row(folder, checked_manifest(self.config, folder, target)[0], is_kept=False)

    def _current(self, folder: Path, spec: EngineSpec, target: str) -> dict[str, Any] | None:
        """The manifest of an engine that needs no building: the same shapes, and nothing changed."""
        if self.replace or not folder.is_dir():
            return None
        try:
            manifest, found = checked_manifest(self.config, folder, target)
        except EngineError:
            return None
        return manifest if found == spec else None

    def _gate(self, spec: EngineSpec) -> Gate:
        kind = (spec.part, spec.frame_size, spec.pool)
        if kind not in self._gates:
            self._gates[kind] = gate_for(self.tokenizer, spec)
        return self._gates[kind]

    def _compare_onnx(self, exports: Exports) -> list[Parity]:
        """The exported graphs in ONNX Runtime: in fp32 at the first shape, then as TensorRT gets them.

        ONNX Runtime has no bf16 convolutions: those graphs are compared in fp32 at every shape.
        """
        spec = exports.spec
        runs = "fp32" if spec.precision == "bf16" else spec.precision
        wanted = dict.fromkeys([("fp32", spec.shapes[0]), *((runs, shape) for shape in spec.shapes)])
        checks = []
        for precision, shape in wanted:
            case = (f"{spec.part}{spec.frame_size}{spec.pool}", precision, label(shape))
            if case not in self._onnx_checks:
                run = onnx_runner(exports.onnx(shape, precision))
                how = f"onnxruntime {precision}"
                self._onnx_checks[case] = self._gate(spec).check(run, shape, how, LIMITS[precision])
            checks.append(self._onnx_checks[case])
        return checks

    def _row(self, folder: Path, manifest: dict[str, Any], is_kept: bool) -> dict[str, Any]:
        worst = max(manifest["parity"], key=lambda check: check["relative_error"] / check["limit"])
        key = manifest["key"]
        return {
            **{name: key[name] for name in ("part", "backend", "target", "precision")},
            "shapes": key["shapes"],
            "bytes": sum(entry["bytes"] for entry in manifest["files"].values()),
            "seconds": manifest["build_seconds"],
            "compared_in": worst["how"],
            "relative_error": worst["relative_error"],
            "limit": worst["limit"],
            "ms": manifest["measured"].get("ms", {}),
            "eager_ms_per_clip": manifest["measured"].get("eager_ms_per_clip"),
            "status": manifest["status"],
            "parameters": manifest["parameters"],
            "gflop": manifest["gflop"],
            "kept": is_kept,
            "folder": str(folder),
        }
