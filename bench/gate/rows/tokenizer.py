"""The frozen encoder by backend: eager against the network called directly, compiled ones against eager."""

from __future__ import annotations

import os
import shutil
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from bench.gate.rows.base import GateRow, Place, RowWork, close
from bench.gate.rows.recordings import TINY, plain_upsample


def eager(place: Place) -> RowWork:
    """Encoding two windows by `FrozenTokenizer.encode_windows`."""
    from fastdreamer.tokenizer.cosmos import load_autoencoder
    from fastdreamer.tokenizer.frozen import FrozenTokenizer

    config = place.config(*TINY).tokenizer
    tokenizer = FrozenTokenizer.from_config(config, place.device)
    model = load_autoencoder(config).to(place.device)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (17, 64, 64, 3), generator=generator, dtype=torch.uint8)

    @torch.inference_mode()
    def plain() -> Tensor:
        windows = torch.stack([frames[:9], frames[8:]]).to(place.device)
        raw = model.quant_conv(model.encoder(plain_upsample(windows, config.image_size)))
        pooled = F.avg_pool2d(raw.transpose(1, 2).flatten(0, 1), config.pool)
        tokens = pooled.flatten(2).transpose(1, 2).unflatten(0, (2, -1)).cpu()
        return torch.cat([tokens[0], tokens[1, 1:]])

    ours = partial(tokenizer.encode_windows, frames)
    return RowWork.of_calls(place, lambda: close("the latents", ours(), plain(), 1e-3), ours, plain, 17, "frames")


def compiled(name: str, place: Place) -> RowWork:
    """An engine of one static shape, against the eager one."""
    from fastdreamer_engines import BACKENDS, LIMITS, Engine, Exports, eager_engine, local_target
    from fastdreamer_engines.spec import count_work

    from fastdreamer.tokenizer.frozen import FrozenTokenizer, eager_spec

    config = place.config(*TINY).tokenizer
    graph = FrozenTokenizer.from_config(config, place.device).graphs["encoder"]
    shape = (2, config.window)
    spec = eager_spec(config, "encoder")
    spec = type(spec)(**{**spec.__dict__, "shapes": (shape,)})
    backend, plain = BACKENDS[name], eager_engine(graph, spec)
    (folder := place.folder / "engine").mkdir()
    torch._dynamo.reset()
    with torch.no_grad():
        backend.build(Exports(graph, spec, place.folder), local_target(place.device), folder, place.device)
    engine = Engine(name, spec, backend.load(folder, graph, spec, place.device))
    generator = torch.Generator().manual_seed(0)
    inputs = (torch.rand(spec.inputs(shape), generator=generator) * 2 - 1).to(place.device)

    @torch.inference_mode()
    def run(which: Engine) -> Tensor:
        return which.run(inputs)

    def check() -> None:
        wanted = run(plain)
        close("the latents", run(engine), wanted, LIMITS["fp32"] * float(wanted.abs().max()) * 10)

    def counts() -> dict[str, int]:
        parameters, gflop = count_work(graph, spec, shape)
        return {"parameters": parameters, "flops": round(1e9 * gflop)}

    return RowWork.of_calls(
        place, check, partial(run, engine), partial(run, plain), 2 * config.window, "frames", counts
    )


def no_compiler() -> str:
    """Why nothing can be compiled here, or ""."""
    found = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return "" if found else "needs a C++ compiler"


ROWS = (
    GateRow("encode, eager", eager, needs=("diffusers",)),
    *(
        GateRow(f"encode, {name}", partial(compiled, name), needs=needs, devices=devices, is_short=False, excuse=excuse)
        for name, needs, devices, excuse in (
            ("inductor", ("diffusers",), ("cpu", "cuda"), no_compiler),
            ("aot-inductor", ("diffusers",), ("cpu", "cuda"), no_compiler),
            ("tensorrt_rtx", ("diffusers", "tensorrt_rtx"), ("cuda",), lambda: ""),
            ("tensorrt", ("diffusers", "tensorrt"), ("cuda",), lambda: ""),
        )
    ),
)
