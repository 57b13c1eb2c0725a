"""NVIDIA DALI: resampling on the CPU or the GPU, and decoding by the GPU's NVDEC. DALI is imported when used."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastdreamer_engines.spec import DTYPES
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from fastdreamer.errors import UserError
from fastdreamer.system.advice import extra
from fastdreamer.system.cores import count_cores
from fastdreamer.tokenizer.nvdec import can_nvdec as can_nvdec
from fastdreamer.tokenizer.nvdec import presentation
from fastdreamer.tokenizer.preprocess import check_windows

INSTALL = f"on Linux and x86-64: {extra('cuda')}"


def dali_available() -> bool:
    """Whether DALI is installed; it is not imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def require_dali(setting: str, gpu: bool = False) -> None:
    """Refuse a setting that needs DALI, or a CUDA GPU besides, where it is not there.

    Raises:
        UserError: if it is not there; the message says how to install it.
    """
    if not dali_available():
        raise UserError(f"{setting} needs NVIDIA DALI, which is not installed; {INSTALL}")
    if gpu and not torch.cuda.is_available():
        raise UserError(f"{setting} needs a CUDA GPU and torch sees none; use auto, or pyav")


def numbered(device: torch.device) -> torch.device:
    """The device with its number: a plain `cuda` is the calling thread's current GPU, a CPU has none."""
    is_plain = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if is_plain else device


class DaliResampler:
    """`resample_graph` behind the interface of `Resampler`; one pipeline a frame size, built when first met.

    Not for several threads at once: a pipeline has one input.

    Args:
        precision: fp32 and fp16 are written by DALI; it has no bf16, so torch casts float32.
        threads: threads on the CPU; 0 is one a core, at most 8.
        batch: most windows in a call; a larger call builds a larger pipeline.
    """

    name = "dali"

    def __init__(
        self, image_size: int, precision: str, device: torch.device, threads: int = 0, batch: int = 16
    ) -> None:
        self.image_size, self.dtype, self.batch = image_size, DTYPES[precision], batch
        self.device = numbered(device)
        self.threads = threads or min(8, count_cores())
        self._pipelines: dict[tuple[int, int], Any] = {}

    def __call__(self, windows: UInt8[Tensor, "b t h w 3"]) -> Float[Tensor, "b 3 t s s"]:
        check_windows(windows)
        given = windows.to(self.device).contiguous()
        pipeline = self._pipeline((given.shape[2], given.shape[3]), len(given))
        if self.device.type == "cuda":
            # The result is bound to torch's stream: torch may read it without waiting, and DALI reuses its memory only
            # after what torch had queued when it was dropped.
            with torch.cuda.device(self.device):
                (output,) = pipeline.run(torch.cuda.current_stream(), windows=given)
                images: Tensor = from_dlpack(output.as_tensor())
        else:
            (output,) = pipeline.run(windows=given.numpy())
            images = from_dlpack(output.as_tensor())
        return images.to(self.dtype)

    def _pipeline(self, frame_size: tuple[int, int], count: int) -> Any:
        from fastdreamer.tokenizer.dali_graph import resample_pipeline

        if count > self.batch:
            self.batch = count
            self._pipelines.clear()
        if frame_size not in self._pipelines:
            half = self.dtype == torch.float16
            self._pipelines[frame_size] = resample_pipeline(
                frame_size, self.image_size, half, self.device.index, self.threads, self.batch
            )
        return self._pipelines[frame_size]


def nvdec_blocks(path: Path, block: int, device: torch.device | None = None) -> Iterator[UInt8[Tensor, "n h w 3"]]:
    """The visible frames of a file in order, RGB on the GPU, `block` at a time; the last blocks may be shorter.

    Memory: the encoded file on the host, one block and eight frames on the GPU, and whatever blocks the caller holds:
    an hour of video takes no more than a minute.

    `fn.experimental.inputs.video` and not its two siblings, because it alone decodes from the first packet to the last
    and never seeks, so that GOPs may be long or open and frame rates vary. `fn.decoders.video` decodes a file in one
    go (4.1 GB for 6000 frames of 640 x 360), or by parts with a seek and a new decoder each; `fn.readers.video` refuses
    variable rates and seeks to every sequence, where maintainers report wrong and missing frames on key frames that
    are no IDR (NVIDIA/DALI issues 3387, 5665, 5672). What it lacks is made up here: see `presentation`.

    Colours differ from PyAV's where they change from pixel to pixel: DALI interpolates them. Compare with a tolerance.

    Raises:
        UserError: without DALI or a GPU, if NVDEC cannot take the file (`can_nvdec`), or if it fails in it.
    """
    require_dali("data.decoder=nvdec", gpu=True)
    reason, is_visible = presentation(path)
    if reason:
        raise UserError(f"{path}: {reason}; use data.decoder=auto, or pyav")
    yield from stream_blocks(path, is_visible, block, numbered(device or torch.device("cuda")))


def stream_blocks(
    path: Path, is_visible: list[bool], block: int, device: torch.device
) -> Iterator[UInt8[Tensor, "n h w 3"]]:
    """The work of `nvdec_blocks`, on either device: on a CPU the same operator decodes VP8, VP9 and MJPEG.

    Raises:
        UserError: if the decoder fails or gives another number of frames than `is_visible` has.
    """
    from fastdreamer.tokenizer.dali_graph import VIDEO, decode_pipeline

    pipeline = decode_pipeline(block, device.index)
    pipeline.feed_input(VIDEO, [np.fromfile(path, np.uint8)])
    for first in range(0, len(is_visible), block):
        shown = torch.tensor(is_visible[first : first + block])
        try:
            (output,) = pipeline.run(*([torch.cuda.current_stream(device)] if device.type == "cuda" else []))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise UserError(f"{path}: DALI cannot decode frames {first} and on: {reason}") from error
        frames: Tensor = from_dlpack(output[0])
        if len(frames) != len(shown):
            raise UserError(f"{path}: DALI gives {len(frames)} frames from {first} on, not {len(shown)}; use pyav")
        if shown.any():
            yield frames if shown.all() else frames[shown.to(device)]
