"""Decoding a recording, resampling its windows, encoding them by every backend, and the whole way into the store."""

from __future__ import annotations

import io
import os
import pkgutil
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.count import count
from bench.gate.rows.base import GateRow, Place, RowWork, Wrong, close

FRAMES = 96
TINY = ("tokenizer={weights: random, frames_per_latent: 4, window: 9, pool: 2, encoder_channels: [8, 8, 8]}",)
EPISODES, STEPS = 3, 40


def plain_decode(path: Path) -> np.ndarray:
    """All frames, without a question whether they are all."""
    import av
    from av.video.reformatter import VideoReformatter

    with av.open(str(path)) as container:
        stream, converter = container.streams.video[0], VideoReformatter()
        stream.codec_context.thread_count = 1
        frames = [converter.reformat(f, format="rgb24").to_ndarray() for f in container.decode(stream)]
    return np.stack(frames)


def decode(place: Place) -> RowWork:
    """Decoding a MineRL-like file by `decode_video`."""
    from bench.suites.data_path import write_video
    from fastdreamer.recordings.decode import decode_video

    path = place.folder / "recording.mp4"
    write_video(path, FRAMES, 64, 64)

    def check() -> None:
        if not np.array_equal(decode_video(path), plain_decode(path)):
            raise Wrong("the frames differ from those of plain PyAV")

    def counts() -> dict[str, int]:
        with counted_calls("av.open") as opened:
            frames = decode_video(path)
        return {"frames": len(frames), "bytes": frames.nbytes, "opened": opened[0]}

    ours, plain = partial(decode_video, path), partial(plain_decode, path)
    return RowWork.of_calls(place, check, ours, plain, FRAMES, "frames", counts)


def plain_upsample(windows: Tensor, size: int) -> Tensor:
    """Bicubic (a = -0.5) from uint8 to [-1, 1]."""
    images = windows.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    return (images * 2 - 1).unflatten(0, windows.shape[:2]).transpose(1, 2).contiguous()


def upsample(place: Place) -> RowWork:
    """One window of 33 frames, 64 to 128 pixels a side."""
    from fastdreamer.tokenizer.resample import TorchResampler

    generator = torch.Generator().manual_seed(0)
    windows = torch.randint(0, 256, (1, 33, 64, 64, 3), generator=generator, dtype=torch.uint8).to(place.device)
    resample = TorchResampler(128, "fp32", place.device)
    ours, plain = partial(resample, windows), partial(plain_upsample, windows, 128)
    return RowWork.of_calls(place, lambda: close("the frames", ours(), plain(), 2 / 255), ours, plain, 33, "frames")


def write_recordings(root: Path) -> None:
    """Recordings of moving noise, half of it still."""
    from fastdreamer.recordings.actions import action_space
    from fastdreamer.recordings.trajectory import Trajectory
    from fastdreamer.recordings.writer import write_recording

    space, rng = action_space("crafter"), np.random.default_rng(0)
    for number in range(EPISODES):
        frames = rng.integers(0, 256, (STEPS + 1, 64, 64, 3), dtype=np.uint8)
        frames[:, :32] = frames[0, :32]
        trajectory = Trajectory.unpaid(f"v3_bench_gate-{number}_0-{STEPS}", frames, np.zeros((STEPS, 1), np.uint8))
        write_recording(root / "Bench" / trajectory.name, trajectory, space, {})


def into_the_store(place: Place) -> RowWork:
    """`encode_recordings` with a small random tokenizer, against decode, resample, encode, pool and save in turns."""
    from safetensors.torch import save_file

    from fastdreamer.encoding.pipeline import encode_recordings
    from fastdreamer.latents.store import LatentStore
    from fastdreamer.tokenizer.frozen import FrozenTokenizer

    config = place.config(*TINY, "data.decode_threads=1")
    recordings = place.folder / "recordings"
    write_recordings(recordings)
    tokenizer = FrozenTokenizer.from_config(config.tokenizer, place.device)
    window, size, used = config.tokenizer.window, config.tokenizer.image_size, 0

    def ours() -> Path:
        nonlocal used
        used += 1
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            encode_recordings(config, recordings, place.folder / f"store{used}", tokenizer)
        return place.folder / f"store{used}"

    @torch.no_grad()
    def encode_plainly(frames: np.ndarray) -> Tensor:
        missing = -(len(frames) - 1) % (window - 1)
        whole = torch.from_numpy(np.concatenate([frames, *[frames[-1:]] * missing]))
        latents: list[Tensor] = []
        for first in range(0, len(whole) - 1, window - 1):
            pictures = plain_upsample(whole[first : first + window][None], size)
            raw = tokenizer.graphs["encoder"](pictures.to(place.device))
            pooled = F.avg_pool2d(raw.transpose(1, 2).flatten(0, 1), config.tokenizer.pool).flatten(2).transpose(1, 2)
            latents.append(pooled[1 if latents else 0 :])
        return torch.cat(latents).cpu()

    def plain() -> dict[str, Tensor]:
        found = {}
        for video in sorted(recordings.rglob("recording.mp4")):
            found[video.parent.name] = encode_plainly(plain_decode(video))
            rendered = dict(np.load(video.with_name("rendered.npz")))
            parts = {"latents": found[video.parent.name].half(), "rewards": torch.from_numpy(rendered["reward"])}
            save_file(parts, place.folder / "plain.safetensors")
        return found

    def check() -> None:
        expected = plain()
        episodes = LatentStore.open(ours()).episodes
        if {e.name.rpartition("/")[2] for e in episodes} != set(expected):
            raise Wrong(f"the store holds {sorted(e.name for e in episodes)}, the recordings are {sorted(expected)}")
        for episode in episodes:
            wanted = expected[episode.name.rpartition("/")[2]][: len(episode.latents)]
            close(f"{episode.name}'s latents", episode.latents, wanted, 0.02)

    def counts() -> dict[str, int]:
        ours()
        with counted_calls("av.open", "os.fsync") as calls, count() as launched:
            store = LatentStore.open(ours())
        return {
            "frames": sum(episode.length for episode in store.episodes),
            "steps": sum(len(episode.latents) for episode in store.episodes),
            "bytes": store.size_bytes,
            "launches": launched.launches,
            "opened": calls[0],
            "fsyncs": calls[1],
        }

    return RowWork.of_calls(place, check, ours, plain, EPISODES * (STEPS + 1), "frames", counts)


@contextmanager
def counted_calls(*names: str) -> Iterator[list[int]]:
    """How often functions of modules are called while the block runs: {"os.fsync"} as numbers, in the given order."""
    found = [0] * len(names)
    with ExitStack() as stack:
        for place, name in enumerate(names):
            plain = pkgutil.resolve_name(name)

            def call(*args: Any, place: int = place, plain: Callable[..., Any] = plain, **kwargs: Any) -> Any:
                found[place] += 1
                return plain(*args, **kwargs)

            stack.enter_context(mock.patch(name, call))
        yield found


ROWS = (
    GateRow("decode", decode, needs=("av",)),
    GateRow("upsample", upsample),
    GateRow("into the store", into_the_store, needs=("av", "diffusers"), is_short=False),
)


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


ENGINES = (
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
