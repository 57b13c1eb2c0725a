"""Installed engines of the frozen tokenizer: where they lie, which one fits, and opening a tokenizer with the best."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from fastdreamer_engines import (
    LIMITS,
    Engine,
    EngineError,
    EngineSpec,
    Gate,
    backend,
    eager_engine,
    label,
    local_target,
)
from fastdreamer_engines.manifest import MANIFEST, check_files, check_key, check_private, manifest_bytes, read_manifest
from fastdreamer_engines.parity import verdict
from fastdreamer_engines.runtime import exact_fp32
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.system.advice import command
from fastdreamer.system.files import write_atomic
from fastdreamer.system.json_files import digest
from fastdreamer.tokenizer.cosmos import weights_fingerprint
from fastdreamer.tokenizer.engines.engine_names import engine_root, identity
from fastdreamer.tokenizer.frozen import FrozenTokenizer, eager_spec
from fastdreamer.tokenizer.preprocess import RESAMPLING

GRAPH = 1  # raise it when the compiled modules change
VERIFIED, UNRUN = "verified", "built, not yet run"


def open_tokenizer(config: Config, device: torch.device, decodes: bool = False) -> FrozenTokenizer:
    """The frozen tokenizer with the fastest engine installed for this machine, or the one that `engines` names.

    An engine built where it could not run is compared with eager fp32 here, once, before it is used. With `decodes`
    the decoder gets its engine too.

    Raises:
        UserError: if a matching engine is installed but stale, damaged or wrong, or a named one is missing.
    """
    settings = config.engines
    wants_half = settings.backend == "eager" and settings.precision != "auto"
    tokenizer = FrozenTokenizer.from_config(
        config.tokenizer, device, settings.precision if wants_half else "fp32", settings.memory_gb
    )
    if settings.channels_last and device.type == "cuda":
        for weight in tokenizer.graphs["encoder"].parameters():
            if weight.ndim == 5:  # convolutions take their layout from the weight
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    if settings.backend == "eager":
        return tokenizer
    with one_line():
        for part in ("encoder", "decoder")[: 2 if decodes else 1]:
            engine = _best(config, tokenizer, part)
            if engine is not None:
                setattr(tokenizer, part, engine)
    return tokenizer


def describe(tokenizer: FrozenTokenizer) -> str:
    """What runs the encoder, for people."""
    return f"{tokenizer.backend} {tokenizer.precision} on {tokenizer.device.type}"


def engine_key(config: Config, spec: EngineSpec, name: str, target: str) -> dict[str, Any]:
    """Everything an engine depends on; an installed one must have exactly this."""
    import diffusers

    options = {k: v for k, v in spec.to_dict().items() if k not in ("part", "precision", "shapes")}
    graph = [GRAPH, diffusers.__version__, options]  # the architecture is part of the weights' fingerprint
    return {
        "part": spec.part,
        "backend": name,
        "target": target,
        "precision": spec.precision,
        "shapes": [label(shape) for shape in spec.shapes],
        "library": backend(name).library(),
        "weights": weights_fingerprint(config.tokenizer, spec.part),
        "graph": digest(graph)[:32],
        "preprocessing": RESAMPLING,
    }


def folder_name(config: Config, spec: EngineSpec, name: str, target: str) -> str:
    """Path of an engine's folder in the root."""
    return f"{identity(config)}.{described_part(config, spec.part)}.{spec.precision}.{name}.{target}"


def described_part(config: Config, part: str) -> str:
    """`encoder`, `decoder`, or an encoder with what it does besides."""
    if part == "decoder":
        return part
    settings = config.engines
    uint8 = f"-uint8-{config.data.frame_size}" if settings.resample_inside else ""
    return part + ("-pooled" if settings.pool_inside else "") + uint8


def checked_manifest(config: Config, folder: Path, target: str) -> tuple[dict[str, Any], EngineSpec]:
    """The manifest and spec of an installed engine, once all of it was found to be what is wanted.

    Raises:
        EngineError: naming what is not.
    """
    check_private(folder)
    manifest = read_manifest(folder)
    try:
        fields = dict(manifest["spec"], shapes=tuple((b, t) for b, t in manifest["spec"]["shapes"]))
        spec, name = EngineSpec(**fields), str(manifest["key"]["backend"])
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"the manifest of engine {folder} is damaged") from error
    check_key(folder, manifest["key"], engine_key(config, spec, name, target))
    check_files(folder, manifest)
    return manifest, spec


def gate_for(tokenizer: FrozenTokenizer, spec: EngineSpec) -> Gate:
    """The comparison of engines of this kind with the tokenizer's eager fp32."""
    # The reference takes what the engine takes: one that resamples or pools inside is compared with torch doing so.
    plain = tokenizer.graphs[spec.part]

    def reference(inputs: Tensor) -> Tensor:
        from fastdreamer_kernels.reference import latent_pool

        from fastdreamer.tokenizer.preprocess import preprocess

        if spec.frame_size:
            inputs = preprocess(inputs, tokenizer.clock, spec.image_size, "bcthw")
        with exact_fp32(inputs.is_cuda):
            outputs: Tensor = plain(inputs)
        return latent_pool(outputs, spec.pool) if spec.pool else outputs

    return Gate(reference, spec, tokenizer.device)


def milliseconds(engine: Engine, shape: tuple[int, int], device: torch.device) -> float:
    """Median time of a warm call, a clip."""
    repeats = 10 if device.type == "cuda" else 2
    inputs = torch.zeros(engine.spec.inputs(shape), dtype=engine.spec.input_dtype, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(repeats + (device.type == "cuda")):
            _wait(device)
            began = time.perf_counter()
            engine.run(inputs)
            _wait(device)
            times.append((time.perf_counter() - began) * 1e3 / shape[0])
    return round(sorted(times[-repeats:])[(repeats - 1) // 2], 3)


@contextmanager
def one_line() -> Iterator[None]:
    """An engine's trouble is the user's to mend."""
    try:
        yield
    except EngineError as error:
        raise UserError(str(error)) from error


def _best(config: Config, tokenizer: FrozenTokenizer, part: str) -> Engine | None:
    """The fastest engine of a part that is installed for this machine and allowed by the settings; None is eager."""
    settings, target = config.engines, local_target(tokenizer.device)
    found = []
    try:
        root = engine_root(config)
    except UserError:
        if settings.backend != "auto":
            raise
        return None  # without a home directory there is no cache, and nothing in it
    if root.is_dir():
        check_private(root)
    folders = sorted(root.glob(f"{identity(config)}.{part}*.{target}")) if root.is_dir() else []
    for folder in folders:
        _, described, precision, name = (folder.name.removesuffix(f".{target}")).rsplit(".", 3)
        if described != described_part(config, part):
            continue
        if settings.backend not in ("auto", name) or settings.precision not in ("auto", precision):
            continue
        if settings.backend == "auto" and name == "inductor":
            continue  # compiles for minutes in every process: only when named
        try:
            manifest, spec = checked_manifest(config, folder, target)
        except EngineError as error:
            raise EngineError(
                f"{error}; rebuild it with: {_build(part, backend=name, precision=precision)}, or use "
                "engines.backend=eager"
            ) from error
        found.append((folder, manifest, spec, name))
    if not found:
        named = {"backend": settings.backend, "precision": settings.precision}
        asked = {flag: value for flag, value in named.items() if value != "auto"}
        if asked and part == "encoder":
            raise EngineError(
                f"no {' '.join(asked.values())} engine of this tokenizer for {target} is installed in {root}: build it "
                f"with: {_build(part, **asked)}, or use engines.backend=eager"
            )
        return None
    ready = [(_proven(tokenizer, *entry), entry) for entry in found]
    fastest, (folder, _, spec, name) = min(ready, key=lambda pair: pair[0]["ms_per_clip"])
    if settings.backend == "auto" and fastest["ms_per_clip"] > fastest.get("eager_ms_per_clip", float("inf")):
        return None
    return Engine(name, spec, backend(name).load(folder, tokenizer.graph(spec), spec, tokenizer.device))


def _build(part: str, **flags: object) -> str:
    """The command that builds an engine for this machine."""
    return command("build-engines", decoder=True if part == "decoder" else None, **flags)


def _proven(
    tokenizer: FrozenTokenizer, folder: Path, manifest: dict[str, Any], spec: EngineSpec, name: str
) -> dict[str, Any]:
    """The measurements of an engine; one that never ran is compared and timed first, and its manifest says so."""
    if manifest["status"] == VERIFIED:
        return dict(manifest["measured"])
    engine = Engine(name, spec, backend(name).load(folder, tokenizer.graph(spec), spec, tokenizer.device))
    gate = gate_for(tokenizer, spec)
    try:
        with torch.inference_mode():
            checks = [gate.check(engine.run, shape, name, LIMITS[spec.precision]) for shape in spec.shapes]
            measured = measure(tokenizer, engine)
    except RuntimeError as error:  # out of memory, mostly
        raise EngineError(
            f"engine {folder} fails at its first run ({' '.join(str(error).split())[:200]}); build it with fewer "
            "engines.batches, or use engines.backend=eager"
        ) from error
    worst = verdict(checks)
    if not worst.is_within:
        raise EngineError(
            f"engine {folder} is off by {worst.worst:.2g} at {worst.shape} on this GPU (limit {worst.limit:g}) and is "
            f"not used; rebuild it with: {_build(spec.part, backend=name, precision=spec.precision, replace=True)}, or "
            "use engines.backend=eager"
        )
    keep_kernels(engine)
    body = {k: v for k, v in manifest.items() if k not in ("format", "files")}
    body |= {"status": VERIFIED, "measured": measured, "parity": manifest["parity"] + [c.to_dict() for c in checks]}
    write_atomic(folder / MANIFEST, manifest_bytes(folder, body))
    return measured


def keep_kernels(engine: Engine) -> None:
    """What a backend compiled while it ran is kept for later processes, where it can be."""
    save = getattr(engine.call, "save", None)
    if save is not None:
        save()


def measure(tokenizer: FrozenTokenizer, engine: Engine) -> dict[str, Any]:
    """Milliseconds a clip of an engine at every shape, its best, and eager's at one clip of the same length."""
    spec, device = engine.spec, tokenizer.device
    times = {label(shape): milliseconds(engine, shape, device) for shape in spec.shapes}
    eager = eager_engine(tokenizer.graphs[spec.part], eager_spec(tokenizer.config, spec.part))
    length = max(t for _, t in spec.shapes)
    return {
        "ms": times,
        "ms_per_clip": min(value for name, value in times.items() if name.endswith(f"x{length}")),
        "eager_ms_per_clip": milliseconds(eager, (1, length), device),
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
