"""Frames a second from mp4 to the encoder's input, by every path that is there, each compared with the reference.

    PYTHONPATH=.:kernels:engines python -m bench.suites data_path [--size 640x360] [--image-size 256] [--out FILE]

One run, on a MineRL-like H.264 file that it writes itself (64 x 64, 20 fps, B-frames, GOPs of 217), a batch of windows
of 33 frames at a time; ratios are medians of pairs with PyAV + torch float. On a GPU also what runs
there, to bench/results/<GPU>-data-path.json; NVDEC where DALI is installed.
"""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.suites.command import Report, options, out_file, reason_of
from bench.suites.results import NOT_OFFERED, Measured, table
from bench.timing import Arm, copy_bandwidth, installed_versions, machine, paired
from fastdreamer.errors import UserError
from fastdreamer.recordings.decode import decode_video
from fastdreamer.tokenizer.dali import DaliResampler, dali_available, nvdec_blocks
from fastdreamer.tokenizer.resample import INPUT, Resampler, TorchResampler

WINDOW, BATCH, GOP = 33, 4, 217
Route = Callable[[], Iterator[Tensor]]  # the whole file, a batch of encoder inputs at a time
LIMIT = 1 / 255  # one step of the colour range
KNOWN_WRONG = frozenset({"pyav+torch-uint8"})
"""Overshoot is cut off between its two directions: 2.5/255 on a game's smooth pictures, 23/255 on noise."""


@dataclass(frozen=True)
class PathRow(Measured):
    """One path; `speedup` is over PyAV + torch float, timed in turns with it.

    Attributes:
        frames_per_s: frames of the file a second.
        max_error, mean_error: against PyAV + torch float, in 1/255 of the colour range; 0 for decoding alone.
    """

    frames_per_s: float = 0.0
    max_error: float = 0.0
    mean_error: float = 0.0


COLUMNS: dict[str, Callable[[PathRow], str]] = {
    "frames/s": lambda r: f"{r.frames_per_s:.0f}", "x torch": lambda r: f"{r.speedup:.2f}",
    "noise": lambda r: f"{r.noise:.2f}", "max /255": lambda r: f"{r.max_error:.4f}",
    "mean": lambda r: f"{r.mean_error:.4f}",
}  # fmt: skip


def write_video(path: Path, frames: int, width: int, height: int) -> None:
    """H.264 High, yuv420p, 20 fps, three B-frames, one key frame in 217; slow waves, as smooth as a game's picture."""
    import av

    y, x = np.mgrid[:height, :width]
    options = {"bf": "3", "crf": "20", "preset": "veryfast"}
    options["x264-params"] = f"keyint={GOP}:min-keyint={GOP}:scenecut=0:b-adapt=0:threads=1"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            phases = [x / 9 + number / 5, y / 7 - number / 11, (x + y) / 13 + number / 7]
            image = np.stack([127.5 + 127.5 * np.sin(phase) for phase in phases], -1).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def batches(frames: Tensor) -> Iterator[Tensor]:
    """(b, 33, h, w, 3) of windows that share their border frame; the tail that fills none is left out."""
    windows = frames.unfold(0, WINDOW, WINDOW - 1).movedim(-1, 1)
    yield from windows.split(BATCH)


def torch_uint8(image_size: int) -> Callable[[Tensor], Tensor]:
    """Torch's integer resampling, rounded to uint8 after each direction, then the encoder's range."""

    def resample(windows: Tensor) -> Tensor:
        images = windows.flatten(0, 1).movedim(-1, 1)
        images = F.interpolate(images, (image_size, image_size), mode="bicubic", antialias=True)
        clips = images.unflatten(0, windows.shape[:2]).transpose(1, 2)
        return clips.float().div_(127.5).sub_(1).contiguous()

    return resample


def paths(video: Path, image_size: int, device: torch.device) -> dict[str, Route]:
    """Every way from the file to the encoder's input on this machine by name; the reference is `pyav+torch`."""

    def through(resampler: Resampler | Callable[[Tensor], Tensor]) -> Route:
        return lambda: map(resampler, batches(torch.from_numpy(decode_video(video))))

    cpu = torch.device("cpu")
    found: dict[str, Route] = {
        "pyav+torch": through(TorchResampler(image_size, INPUT, cpu)),
        "pyav+torch-uint8": through(torch_uint8(image_size)),
    }
    if dali_available():
        found["pyav+dali"] = through(DaliResampler(image_size, INPUT, cpu, torch.get_num_threads()))
    if device.type == "cuda":
        found["pyav+torch-gpu"] = through(TorchResampler(image_size, INPUT, device))
        if dali_available():
            dali = DaliResampler(image_size, INPUT, device)
            found["pyav+dali-gpu"] = through(dali)
            found["nvdec+dali"] = lambda: map(dali, batches(torch.cat(list(nvdec_blocks(video, 256, device)))))
    return found


def measure(
    video: Path, image_size: int, device: torch.device, probes: dict[str, float], pairs: int
) -> Iterator[PathRow]:
    """A row a path, decoding alone first. What fails says why in its row."""
    frames = decode_video(video)
    every = paths(video, image_size, device)
    expected = every["pyav+torch"]
    reference = Arm(partial(_run, expected))
    count, written = len(frames), 4 * 3 * image_size**2 * len(frames)
    blank = PathRow(f"{frames.shape[2]}x{frames.shape[1]} to {image_size}", "", "host")

    def timed(row: PathRow, arm: Arm) -> PathRow:
        pair = paired(reference, arm, pairs, warmup=1)
        seconds = pair.seconds_b
        share = row.floor_bytes / seconds / probes["copy_bytes_per_s"]
        return replace(
            row, median_us=1e6 * seconds, speedup=1 / pair.ratio, noise=pair.error, copy_share=share,
            frames_per_s=count / seconds,
        )  # fmt: skip

    yield timed(replace(blank, arm="pyav", floor_bytes=frames.nbytes), Arm(lambda _: decode_video(video)))
    for name, path in every.items():
        print(f"measuring {name}", flush=True)
        row = replace(blank, arm=name, floor_bytes=frames.nbytes + written)
        try:
            largest, mean = _errors(path(), expected())
            # NVDEC's colours are interpolated and PyAV's repeated: the frames differ before any resampling.
            wrong = not largest <= LIMIT * 255 + 1e-3 and not name.startswith("nvdec")
            row = replace(row, max_error=largest, mean_error=mean)
            known = NOT_OFFERED if name in KNOWN_WRONG else ""
            row = replace(row, reason=f"{known}off by {largest:.3g}/255" if wrong else "")
            yield timed(row, Arm(partial(_run, path)))
        except Exception as error:  # drivers and codecs raise anything, and the other rows are worth having
            yield replace(row, reason=reason_of(error))


def _run(path: Route, _: object) -> None:
    for _ in path():
        pass


def _errors(given: Iterator[Tensor], expected: Iterator[Tensor]) -> tuple[float, float]:
    """Largest and mean difference in 1/255 of the colour range."""
    largest = total = 0.0
    count = 0
    for a, b in zip(given, expected, strict=True):
        difference = (a.float().cpu() - b).abs() * 127.5
        worst = float(difference.max())
        largest = max(largest, math.inf if math.isnan(worst) else worst)
        total, count = total + float(difference.mean()), count + 1
    return largest, total / count


OPTIONS = options(
    "device", "out",
    size={"default": "64x64", "help": "width x height of the recorded frames; VPT's are 640x360"},
    image_size={"type": int, "default": 256, "help": "pixels a side for the encoder"},
    frames={"type": int, "default": 1185, "help": "of the file"},
    pairs={"type": int, "default": 6, "help": "timings of each path"},
)  # fmt: skip


def run(chosen: argparse.Namespace) -> None:
    """Measure and print."""
    if not (size := re.fullmatch(r"(\d+)x(\d+)", chosen.size)) or min(map(int, size.groups())) < 16:
        raise UserError(f"--size {chosen.size}: give width and height, 16 or more, as in 640x360")
    if chosen.frames < WINDOW or chosen.pairs < 2 or chosen.image_size < 16:
        raise UserError(f"give --frames of {WINDOW} or more, --pairs of 2 or more, --image-size of 16 or more")
    device, libraries = torch.device(chosen.device), installed_versions("av", "nvidia-dali-cuda130")
    about = machine() | {"libraries": libraries, "frames": chosen.frames, "windows": f"{BATCH} x {WINDOW}"}
    report = Report(about, {"copy_bytes_per_s": copy_bandwidth(1 << 24, "cpu")}, out_file(chosen, about))
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "recording.mp4"
        write_video(video, chosen.frames, *map(int, size.groups()))
        rows = report.saved(measure(video, chosen.image_size, device, report.probes, chosen.pairs))
    print(*report.lines(), table(rows, COLUMNS), sep="\n")
