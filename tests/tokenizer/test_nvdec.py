"""Which files NVDEC may decode, which of its frames are to be shown, and blocks in order (on the CPU's decoder)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import av
import numpy as np
import pytest
import torch
from recordings.fixtures import write_video

from fastdreamer.config import Config, DataConfig
from fastdreamer.encoding.pipeline import _streamer
from fastdreamer.errors import UserError
from fastdreamer.recordings.decode import decode_video
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.dali import nvdec_blocks, stream_blocks
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.nvdec import _order, can_nvdec, presentation


def encode(
    path: Path, codec: str = "libx264", pixels: str = "yuv420p", size: tuple[int, int] = (64, 64), count: int = 12,
    **options: str,
) -> Path:  # fmt: skip
    """A file of grey frames, frame i at level 20 i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixels
        if "colour" in path.stem:
            stream.codec_context.colorspace = 1  # BT.709
        for level in range(count):
            image = np.full((size[1], size[0], 3), 20 * level % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_minerls_files_are_taken_and_hidden_frames_are_known(tmp_path: Path) -> None:
    write_video(tmp_path / "plain.mp4", 40)
    write_video(tmp_path / "hidden.mp4", 40, hidden=11)
    assert presentation(tmp_path / "plain.mp4") == ("", [True] * 40)
    assert presentation(tmp_path / "hidden.mp4") == ("", [False] * 11 + [True] * 40)
    assert len(decode_video(tmp_path / "hidden.mp4")) == 40


@pytest.mark.parametrize(
    ("codec", "pixels", "size", "options"),
    [
        ("mpeg4", "yuv420p", (64, 64), {}),
        ("libvpx-vp9", "yuv420p", (128, 128), {}),
        ("libx264", "yuvj420p", (48, 16), {}),
    ],
)
def test_other_codecs_that_it_takes(
    tmp_path: Path, codec: str, pixels: str, size: tuple[int, int], options: dict[str, str]
) -> None:
    assert can_nvdec(encode(tmp_path / "a.mp4", codec, pixels, size, **options)) == ""


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size", "options", "reason"),
    [
        ("lossless-rgb", "libx264rgb", "rgb24", (64, 64), {"qp": "0"}, "pixels are gbrp"),
        ("full-chroma", "libx264", "yuv444p", (64, 64), {}, "pixels are yuv444p"),
        ("ten-bit", "libx264", "yuv420p10le", (64, 64), {}, "pixels are yuv420p10le"),
        ("lossless", "libx264", "yuv420p", (64, 64), {"qp": "0"}, "the profile is High 4:4:4 Predictive"),
        ("small", "libx264", "yuv420p", (32, 32), {}, "frames are 32 x 32; NVDEC's smallest in h264 are 48 x 16"),
        ("small-vp9", "libvpx-vp9", "yuv420p", (64, 64), {}, "frames are 64 x 64; NVDEC's smallest in vp9"),
        ("wide", "libx264", "yuv420p", (4112, 16), {}, "frames are 4112 x 16; NVDEC's largest are 4096 a side"),
        ("motion-jpeg", "mjpeg", "yuvj420p", (64, 64), {}, "the codec is mjpeg"),
        ("colour", "libx264", "yuv420p", (64, 64), {}, "the colour matrix is number 1"),
    ],
)  # fmt: skip
def test_what_it_cannot_take_is_said(
    tmp_path: Path, name: str, codec: str, pixels: str, size: tuple[int, int], options: dict[str, str], reason: str
) -> None:
    path = encode(tmp_path / f"{name}.mp4", codec, pixels, size, 3, **options)
    assert can_nvdec(path).startswith(reason) and "\n" not in can_nvdec(path)


def test_files_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    assert can_nvdec(tmp_path / "text.mp4").startswith("it cannot be opened (")
    assert can_nvdec(tmp_path / "empty.mp4").startswith("it cannot be opened (")
    assert can_nvdec(tmp_path / "none.mp4") == "it cannot be opened (No such file or directory)"


def test_packets_that_dalis_buffer_would_confuse_are_refused() -> None:
    def packets(*times: int | None) -> list[tuple[int | None, bool, bool]]:
        return [(time, False, place == 0) for place, time in enumerate(times)]

    assert _order(packets(0, 3, 1, 2), 0) == _order(packets(0, 3, 1, 2), 4) == ""
    assert _order(packets(*range(0, 900, 9)), 100) == _order(packets(0), 1) == _order(packets(-2, 0), 2) == ""
    assert _order(packets(0, 8, 1, 2, 3, 4, 5, 6, 7, 9), 10) == ""  # waits for seven others
    deep = packets(0, *range(2, 12), 1, 12)
    assert _order(deep, 13).startswith("frames are shown more than 8 places")
    assert _order(deep[:12], 12).startswith("frames are shown more than 8 places")  # met by the last frame alone
    assert _order(packets(0, 1, 2), 5) == "the container counts 5 frames and gives 3"
    for times in ((0, None), (0, 1, 1), (-1, 0)):
        assert _order(packets(*times), 0).startswith("times are missing")
    assert _order(packets(2, 0, 1), 0).startswith("it begins with frames that need earlier ones")
    assert (
        _order([(0, False, False)], 0).startswith("it begins with frames")
        and _order([], 0) == "there are no frames in it"
    )


@pytest.mark.parametrize("block", [1, 5, 12, 40])
def test_blocks_are_the_files_frames_in_order(tmp_path: Path, block: int) -> None:
    """The block's bookkeeping is the GPU's; VP9 and the CPU stand in for NVDEC."""
    pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
    path = encode(tmp_path / "a.mp4", "libvpx-vp9", size=(128, 128))
    assert can_nvdec(path) == ""
    blocks = list(stream_blocks(path, [True] * 12, block, torch.device("cpu")))
    assert [len(part) for part in blocks] == [block] * (12 // block) + ([12 % block] if 12 % block else [])
    assert all(part.dtype == torch.uint8 and part.shape[1:] == (128, 128, 3) for part in blocks)
    levels = torch.cat(blocks).float().mean((1, 2, 3))
    assert (levels - 20 * torch.arange(12)).abs().max() < 4  # the first block still holds its frames
    hidden = [False, False, True, True, True, True, True, True, True, True, False, True]
    shown = torch.cat(list(stream_blocks(path, hidden, block, torch.device("cpu")))).float().mean((1, 2, 3))
    assert (shown - levels[torch.tensor(hidden)]).abs().max() == 0


def test_another_number_of_frames_than_announced_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
    path = encode(tmp_path / "a.mp4", "libvpx-vp9", size=(128, 128))
    with pytest.raises(UserError, match=r"gives 2 frames from 10 on, not 3; use pyav"):
        list(stream_blocks(path, [True] * 13, 5, torch.device("cpu")))
    with pytest.raises(UserError, match=r"gives 5 frames from 5 on, not 2; use pyav"):
        list(stream_blocks(path, [True] * 7, 5, torch.device("cpu")))
    write_video(tmp_path / "h264.mp4", 4)
    with pytest.raises(UserError, match=r"DALI cannot decode frames 0 and on") as raised:
        list(stream_blocks(tmp_path / "h264.mp4", [True] * 4, 5, torch.device("cpu")))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("device", "number"), [(None, 3), ("cuda", 3), ("cuda:1", 1)])
def test_frames_come_from_the_gpu_that_is_meant(
    tmp_path: Path, device: str | None, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dali_graph = pytest.importorskip("fastdreamer.tokenizer.dali_graph", reason="DALI is for Linux on x86-64")
    built: list[object] = []

    def pipeline(block: int, device_id: int | None) -> object:
        built.append(device_id)
        raise RuntimeError("no GPU is needed to know which")

    monkeypatch.setattr(dali_graph, "decode_pipeline", pipeline)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    write_video(tmp_path / "a.mp4", 4)
    with pytest.raises(RuntimeError, match="which"):
        next(nvdec_blocks(tmp_path / "a.mp4", 8, None if device is None else torch.device(device)))
    assert built == [number]


@pytest.mark.parametrize(("device", "gpu"), [("cuda", "cuda:3"), ("cuda:1", "cuda:1"), ("cpu", "cuda:3")])
def test_readers_are_told_the_gpu_that_their_starter_has(
    device: str, gpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    tokenizer = SimpleNamespace(clock=LatentClock(8, 33), windows_at_once=1, device=torch.device(device))
    streamer = _streamer(Config(data=DataConfig(decoder="nvdec")), cast(FrozenTokenizer, tokenizer))
    assert cast(partial[object], streamer.gpu).keywords == {"device": torch.device(gpu)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="what happens without a GPU")
def test_without_a_card_nvdec_says_so(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali", reason="DALI is for Linux on x86-64")
    with pytest.raises(UserError, match=r"^data.decoder=nvdec needs a CUDA GPU"):
        next(nvdec_blocks(tmp_path / "a.mp4", 8))
