"""Large frames are decoded, resampled and held in bounded pieces; the pictures are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from encoding.test_stream import COSMOS, EVERY, LatentClock, gpu, joined, stream
from recordings.fixtures import read_barcode
from recordings.video_fixtures import write_video

from fastdreamer.encoding import stream as stream_module
from fastdreamer.encoding.stream import Streamer
from fastdreamer.recordings.read import find_recordings
from fastdreamer.tokenizer import preprocess as preprocess_module
from fastdreamer.tokenizer.preprocess import preprocess

FRAMES = 200


@pytest.mark.parametrize("layout", ["bcthw", "btchw"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_resampling_in_pieces_gives_the_same_bits(layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    shape = (2, 3, 7, 50, 90) if layout == "bcthw" else (2, 7, 3, 50, 90)
    frames = torch.randint(0, 256, shape, dtype=torch.uint8)
    frames = frames if dtype == torch.uint8 else frames.float() / 255
    whole = preprocess(frames, LatentClock(4, 9), 32, layout)
    sizes: list[int] = []
    plain = preprocess_module.F.interpolate

    def watched(images: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        sizes.append(images.numel())
        return plain(images, *args, **kwargs)

    monkeypatch.setattr(preprocess_module.F, "interpolate", watched)
    monkeypatch.setattr(preprocess_module, "PIECE", 3 * 50 * 90 * 3)
    assert torch.equal(preprocess(frames, LatentClock(4, 9), 32, layout), whole)
    assert len(sizes) == 5 and max(sizes) <= 3 * 50 * 90 * 3


def test_a_frame_larger_than_a_piece_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(preprocess_module, "PIECE", 10)
    assert preprocess(torch.zeros(1, 3, 5, 50, 90, dtype=torch.uint8), EVERY, 32, "bcthw").shape == (1, 3, 5, 32, 32)


@pytest.mark.parametrize(("clock", "most"), [(COSMOS, 33), (EVERY, 64)])
def test_a_chunk_holds_so_many_bytes_and_at_least_a_window(
    tmp_path: Path, clock: LatentClock, most: int, monkeypatch: pytest.MonkeyPatch
):
    write_video(tmp_path / "a.mp4", FRAMES)
    monkeypatch.setattr(stream_module, "CHUNK_BYTES", 64 * 64 * 64 * 3)
    chunks, finished, restarts = stream(find_recordings(tmp_path)[0], Streamer(clock, 1000))
    assert restarts == 0 and len(finished.trajectory) == FRAMES
    assert max(map(len, chunks)) <= (most if clock is EVERY else 1 + 2 * 32)
    assert [read_barcode(frame) for frame in joined(chunks, clock)[:FRAMES]] == list(range(FRAMES))


@pytest.mark.parametrize(("block_bytes", "block"), [(2**25, 256), (10 * 64 * 64 * 3, 10), (1, 1)])
def test_a_gpus_block_holds_so_many_bytes_and_at_least_a_frame(
    tmp_path: Path, block_bytes: int, block: int, monkeypatch: pytest.MonkeyPatch
):
    write_video(tmp_path / "a.mp4", 40)
    monkeypatch.setattr(stream_module, "BLOCK_BYTES", block_bytes)
    asked: list[int] = []
    streamer = Streamer(COSMOS, 4, gpu=lambda path, frames: asked.append(frames) or gpu(path, frames))
    _, finished, _ = stream(find_recordings(tmp_path)[0], streamer)
    assert asked == [block] and finished.proof["decoder"] == "nvdec"


def test_windows_of_ordinary_frames_are_as_many_as_before():
    """VPT's 640 x 360: 16 windows still go at once."""
    assert stream_module.CHUNK_BYTES >= 16 * 32 * 640 * 360 * 3
