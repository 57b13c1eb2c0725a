"""The engines that `build-engines` makes: for which targets, by which backends, and of which shapes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from fastdreamer_engines import EngineError, EngineSpec, backend, check_target, local_target
from fastdreamer_engines.export import need
from fastdreamer_engines.spec import CONSUMER_TARGETS, RTX_TARGETS

from fastdreamer.config import Config
from fastdreamer.shapes import CHANNELS

Job = tuple[EngineSpec, str, str]  # spec, backend, target


def plan(
    config: Config, device: torch.device, targets: Sequence[str], backends: Sequence[str], parts: Sequence[str]
) -> list[Job]:
    """List the engines to build: every part, for this machine and for each target.

    Raises:
        EngineError: if one of them cannot be built here.
    """
    here = local_target(device)
    named = [check_target(name) for name in targets]
    also_here = not backends or not all(backend(name).runs_elsewhere for name in backends)
    wanted = list(dict.fromkeys([*named, *([here] if also_here else [])])) or [here]
    jobs: list[Job] = []
    for target in wanted:
        is_gpu = target.startswith("sm")
        is_rtx = target in CONSUMER_TARGETS or (is_gpu and target != here)
        flavour = "tensorrt_rtx" if is_rtx else "tensorrt"  # which is for data-centre GPUs, and builds only there
        names = list(backends) or ([flavour] if is_gpu else ["aot-inductor"])
        if not backends and target == here and is_gpu:
            names = ["aot-inductor"]
            with suppress(EngineError):
                backend(flavour).library()  # it is installed
                names.insert(0, flavour)
        for name in names:
            maker = backend(name)
            if target != here and not (maker.runs_elsewhere and is_gpu):
                continue
            if not is_gpu and maker.runs_elsewhere:
                continue
            if name == "tensorrt_rtx" and target not in RTX_TARGETS:
                raise EngineError(f"TensorRT-RTX does not build for {target}; it knows {', '.join(RTX_TARGETS)}")
            maker.library()
            if name.startswith("tensorrt"):
                for module in ("onnx", "onnxscript", "onnxruntime"):
                    need(module)
            jobs += [(engine_spec(config, part, target), name, target) for part in parts]
    for kind, asked, got in (("backend", backends, {j[1] for j in jobs}), ("target", named, {j[2] for j in jobs})):
        for name in asked:
            if name not in got:
                raise EngineError(
                    f"{kind} {name} cannot be built here ({here}): this machine builds aot-inductor for itself, and "
                    "tensorrt_rtx for other GPUs with --target sm86; a CPU engine beside a GPU needs device=cpu"
                )
    return jobs


def engine_spec(config: Config, part: str, target: str) -> EngineSpec:
    """The shapes, precision and options that the settings ask for on a target."""
    tokenizer, settings, is_gpu = config.tokenizer, config.engines, target.startswith("sm")
    precision = settings.precision if settings.precision != "auto" else ("fp16" if is_gpu else "fp32")
    batches = settings.batches or ((1, 4, 16) if is_gpu else (1, 4))
    if part == "decoder":
        batches = (1,)  # pictures and play are decoded one by one
    shapes = [(b, tokenizer.window) for b in batches] + [(1, t) for t in settings.acting_frames]
    wrong = [t for t in settings.acting_frames if (t - 1) % tokenizer.frames_per_latent or t > tokenizer.window]
    if wrong:
        raise EngineError(
            f"engines.acting_frames {wrong[0]} is no length of this tokenizer: 1 + a multiple of "
            f"{tokenizer.frames_per_latent}, at most {tokenizer.window}"
        )
    encodes = part == "encoder"
    return EngineSpec(
        part,  # type: ignore[arg-type]
        precision,  # type: ignore[arg-type]
        tuple(dict.fromkeys(shapes)),
        tokenizer.image_size,
        CHANNELS,
        tokenizer.frames_per_latent,
        tokenizer.spatial_compression,
        config.data.frame_size if encodes and settings.resample_inside else 0,
        tokenizer.pool if encodes and settings.pool_inside else 0,
    )
