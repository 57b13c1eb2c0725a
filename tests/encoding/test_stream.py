"""Streamed chunks are the right frames, whatever the packets promised and whichever decoder showed them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings.fixtures import read_barcode, treechop_arrays, write_minerl_recording
from torch import Tensor

from fastdreamer.encoding import stream as stream_module
from fastdreamer.encoding.producers import BoundedQueue
from fastdreamer.encoding.stream import Chunk, Finished, Restart, Streamer
from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.decode import DamagedVideo, decode_blocks, decode_video
from fastdreamer.recordings.read import find_recordings, read_labels, read_recording
from fastdreamer.recordings.recording import DamagedRecording, Recording
from fastdreamer.shapes import LatentClock
from fastdreamer.tokenizer.windows import chunk_sizes, into_chunks

SPACE = action_space("minerl_treechop")
COSMOS = LatentClock(8, 33)
EVERY = LatentClock(1, 1)
STEPS, EXTRA = 600, 7


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    root = tmp_path_factory.mktemp("recordings")
    write_minerl_recording(root, treechop_arrays(STEPS), extra=EXTRA, hidden=33)
    return find_recordings(root)[0]


def stream(recording: Recording, streamer: Streamer, limit: int = 10**9) -> tuple[list[Tensor], Finished, int]:
    """All chunks after the last restart, what finished them, and how many restarts there were."""
    queue = BoundedQueue(limit)
    streamer.stream(read_labels(recording, SPACE), queue)
    chunks: list[Tensor] = []
    restarts = 0
    while True:
        event, size = queue.get()
        match event:
            case Chunk():
                assert size == event.frames.numel()
                chunks.append(event.frames)
            case Restart():
                chunks, restarts = [], restarts + 1
            case Finished():
                return chunks, event, restarts
        queue.release(size)


def joined(chunks: list[Tensor], clock: LatentClock) -> np.ndarray:
    shared = int(clock.window > 1)
    for before, after in zip(chunks, chunks[1:], strict=False):
        assert not shared or torch.equal(before[-1], after[0]), "the border frame is not shared"
    return torch.cat([chunk[shared if i else 0 :] for i, chunk in enumerate(chunks)]).numpy()


def gpu(path: Path, block: int, shift: int = 0, hidden: int = 0, drop: int = -1) -> Iterator[Tensor]:
    """A stand-in for NVDEC: PyAV's frames, rounded otherwise, with the defects that are asked for."""
    frames = decode_video(path)
    frames = np.roll(frames, shift, 0) if shift else frames
    frames = np.delete(frames, drop, 0) if drop >= 0 else frames
    frames = np.concatenate([np.zeros_like(frames[:hidden]), frames])
    noisy = np.clip(frames.astype(int) + np.random.default_rng(0).integers(-1, 2, frames.shape), 0, 255)
    yield from torch.from_numpy(noisy.astype(np.uint8)).split(block)


@pytest.mark.parametrize("clock", [COSMOS, EVERY])
@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_chunks_are_the_recordings_frames(recording: Recording, clock: LatentClock, at_once: int) -> None:
    chunks, finished, restarts = stream(recording, Streamer(clock, at_once))
    expected = read_recording(recording, SPACE)
    whole = joined(chunks, clock)
    assert restarts == 0 and [len(chunk) for chunk in chunks] == chunk_sizes(STEPS + 1, clock, at_once)
    assert np.array_equal(whole[: STEPS + 1], expected.frames)
    assert (whole[STEPS + 1 :] == expected.frames[-1]).all(), "padding is not the last frame"
    assert np.array_equal(finished.trajectory.actions, expected.actions)
    assert [read_barcode(frame) for frame in whole[: STEPS + 1]] == list(range(EXTRA, EXTRA + STEPS + 1))
    assert finished.proof["decoder"] == "pyav" and len(str(finished.proof["sampled_sha256"])) == 64


@pytest.mark.parametrize("error", [-3, 5])
def test_packets_that_promise_another_number_only_cost_time(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    monkeypatch.setattr(stream_module, "count_frames", lambda path: STEPS + 1 + EXTRA + error)
    chunks, finished, restarts = stream(recording, Streamer(COSMOS, 4))
    assert restarts == 1
    assert np.array_equal(joined(chunks, COSMOS)[: STEPS + 1], read_recording(recording, SPACE).frames)
    monkeypatch.undo()
    assert finished.proof == stream(recording, Streamer(COSMOS, 4))[1].proof


def test_packets_that_promise_too_few_are_not_believed(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "count_frames", lambda path: 10)
    chunks, _, restarts = stream(recording, Streamer(COSMOS, 4))
    assert restarts == 1
    assert np.array_equal(joined(chunks, COSMOS)[: STEPS + 1], read_recording(recording, SPACE).frames)


@pytest.mark.parametrize("hidden", [0, 33])
def test_a_card_that_shows_the_same_frames_is_used(recording: Recording, hidden: int) -> None:
    """Also one that shows frames which the edit list hides: the end is what counts."""
    on_gpu = Streamer(COSMOS, 4, gpu=lambda path, block: gpu(path, block, hidden=hidden))
    chunks, finished, restarts = stream(recording, on_gpu)
    assert restarts == (1 if hidden else 0)
    assert finished.proof["decoder"] == "nvdec" and "by_pyav" not in finished.proof
    expected = read_recording(recording, SPACE)
    difference = np.abs(joined(chunks, COSMOS)[: STEPS + 1].astype(int) - expected.frames)
    assert 0 < difference.max() <= 1
    assert finished.proof["sampled_sha256"] == stream(recording, Streamer(COSMOS, 4))[1].proof["sampled_sha256"]


def broken(path: Path, block: int) -> Iterator[Tensor]:
    yield next(gpu(path, block))
    raise RuntimeError("NVDEC gave up")


WRONG: dict[str, tuple[Callable[[Path, int], Iterator[Tensor]], str]] = {
    "one late": (lambda path, block: gpu(path, block, shift=1), "frame"),
    "one early": (lambda path, block: gpu(path, block, shift=-1), "frame"),
    "a hole": (lambda path, block: gpu(path, block, drop=300), "frame"),
    "broken": (broken, "NVDEC gave up"),
}


@pytest.mark.parametrize("defect", WRONG)
def test_a_card_that_shows_other_frames_gives_way_and_is_listed(recording: Recording, defect: str) -> None:
    decoder, words = WRONG[defect]
    chunks, finished, restarts = stream(recording, Streamer(COSMOS, 4, gpu=decoder))
    assert restarts >= 1 and finished.proof["decoder"] == "pyav"
    assert words in str(finished.proof["by_pyav"])
    assert np.array_equal(joined(chunks, COSMOS)[: STEPS + 1], read_recording(recording, SPACE).frames)


def test_what_a_card_cannot_take_goes_through_pyav_and_is_listed(recording: Recording) -> None:
    streamer = Streamer(COSMOS, 4, gpu=broken, refused=lambda path: "lossless RGB")
    _, finished, restarts = stream(recording, streamer)
    assert restarts == 0 and finished.proof["by_pyav"] == "lossless RGB"


def test_damage_is_named_and_what_was_reserved_is_free(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(path: Path, block: int) -> Iterator[np.ndarray]:
        yield next(decode_blocks(path, block))
        raise DamagedVideo(f"{path}: frame 256 is corrupt")

    monkeypatch.setattr(stream_module, "decode_blocks", damaged)
    queue = BoundedQueue(10**9)
    with pytest.raises(DamagedRecording, match=f"^recording {recording.name}: .* frame 256 is corrupt$"):
        Streamer(COSMOS, 4).stream(read_labels(recording, SPACE), queue)
    put = sum(queue.get()[1] for _ in range(queue._results.qsize()))
    assert queue._held == put, "the chunk in hand is still reserved"


def test_too_few_frames_are_refused(tmp_path: Path) -> None:
    folder = write_minerl_recording(tmp_path, treechop_arrays(100))
    short = write_minerl_recording(tmp_path / "short", treechop_arrays(99))
    (short / "recording.mp4").replace(folder / "recording.mp4")
    recording = find_recordings(tmp_path / "MineRLTreechop-v0")[0]
    with pytest.raises(UserError, match="100 frames, 100 rewards need 101"):
        stream(recording, Streamer(COSMOS, 4))


@pytest.mark.parametrize("frames", [1, 2, 33, 34, 65, 66, 200])
@pytest.mark.parametrize("at_once", [1, 2, 100])
@pytest.mark.parametrize("piece", [1, 7, 33, 500])
def test_frames_in_pieces_of_any_length_make_the_same_chunks(frames: int, at_once: int, piece: int) -> None:
    video = torch.arange(frames, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3)
    for clock in (COSMOS, EVERY):
        sizes = chunk_sizes(frames, clock, at_once)
        chunks = list(into_chunks(video.split(piece), sizes, clock))
        assert [len(chunk) for chunk in chunks] == sizes
        whole = joined(chunks, clock)
        assert np.array_equal(whole[:frames], video) and (whole[frames:] == frames - 1).all()
        assert clock.window == 1 or (len(whole) - 1) % 32 == 0
