"""What a tokenizer is fitted on is held in memory, and so it fits there, however large the recordings are."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from encoding.test_encode import _record
from recordings.video_fixtures import read_barcode, remux, write_video

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.tokenizer.fitting.footage import read_footage, stretches
from fastdreamer.tokenizer.preprocess import preprocess

SPACE = action_space("crafter")
CONFIG = Config(device="cpu", tokenizer=TokenizerConfig(weights="random", frames_per_latent=1, window=1))


def with_limit(gb: float) -> Config:
    return replace(CONFIG, data=replace(CONFIG.data, memory_limit_gb=gb))


def large(path: Path, frames: int, size: tuple[int, int] = (1280, 720)) -> None:
    """One grey a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"preset": "ultrafast"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            image = np.full((size[1], size[0], 3), number % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_small_recordings_are_held_as_they_are(tmp_path: Path) -> None:
    root = _record(tmp_path, 0, 1, 2, 3)
    train, held_out, data = read_footage(CONFIG, root)
    whole = {r.name: read_recording(r, SPACE).frames for r in find_recordings(root)}
    held = {name.partition("#")[0]: frames for name, frames in (train | held_out).items()}
    assert held.keys() == whole.keys() and all(np.array_equal(held[name], whole[name]) for name in whole)
    assert data["train_frames"] + data["held_out_frames"] == 92 and "frames_there_are" not in data


def test_large_frames_are_held_as_the_encoder_sees_them(tmp_path: Path) -> None:
    for name in "ab":
        large(tmp_path / "hd" / f"{name}.mp4", 20 + ord(name) % 2)
    train, held_out, _ = read_footage(CONFIG, tmp_path)
    size = CONFIG.tokenizer.image_size
    for frames in (train | held_out).values():
        assert frames.shape[1:] == (size, size, 3) and frames.dtype == np.uint8
    (raw,) = (read_recording(r, SPACE).frames for r in find_recordings(tmp_path) if f"{r.name}#0" in train)
    seen = preprocess(torch.from_numpy(raw).permute(3, 0, 1, 2)[None], CONFIG.tokenizer.clock, size, "bcthw")
    apart = torch.from_numpy(train[next(iter(train))]).permute(3, 0, 1, 2) / 127.5 - 1 - seen[0]
    assert apart.abs().max() <= 0.5 / 127.5 + 1e-6


def test_recordings_of_several_sizes_are_brought_to_one(tmp_path: Path) -> None:
    large(tmp_path / "mixed" / "a.mp4", 12, (64, 64))
    large(tmp_path / "mixed" / "b.mp4", 12, (96, 48))
    train, held_out, _ = read_footage(CONFIG, tmp_path)
    assert {frames.shape[1:] for frames in (train | held_out).values()} == {(CONFIG.tokenizer.image_size,) * 2 + (3,)}


def test_beyond_the_limit_each_recording_gives_its_share(tmp_path: Path, capsys: Any) -> None:
    for number, frames in enumerate((400, 300, 200)):
        write_video(tmp_path / f"{number}.mp4", frames, start=1000 * number)
    limit = 300 * 3 * 64 * 64 / 2**30
    train, held_out, data = read_footage(with_limit(limit), tmp_path)
    assert data["frames_there_are"] == 900 and 200 <= data["train_frames"] + data["held_out_frames"] <= 300
    for name, frames in (train | held_out).items():
        numbers = [read_barcode(frame) for frame in frames]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) >= 33
        assert numbers[0] // 1000 == int(name.partition("#")[0]), "no episode has frames of another"
    assert not {name.partition("#")[0] for name in train} & {name.partition("#")[0] for name in held_out}
    assert "frames are held, spread evenly" in capsys.readouterr().out


@pytest.mark.parametrize("frames", [1, 10, 33, 100, 1001])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_stretches_are_spread_and_no_more_than_their_share(frames: int, share: float) -> None:
    rows = stretches(frames, share, 33)
    assert len(rows) == frames and 0 < int(rows.sum()) <= max(33, frames * share)


def test_a_link_counts_once_and_a_copy_is_on_one_side(tmp_path: Path) -> None:
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 20 + number)
    (tmp_path / "link.mp4").symlink_to("0.mp4")
    for number in range(8):
        shutil.copy(tmp_path / "0.mp4", tmp_path / f"copy-{number}.mp4")
    config = replace(CONFIG, data=replace(CONFIG.data, held_out=0.5))
    train, held_out, data = read_footage(config, tmp_path)
    assert data["episodes"] == 12 and data["links"] == 1
    assert sum(len(frames) == 20 for frames in train.values()) in (0, 9)
    assert held_out


def test_a_clip_in_other_containers_is_on_one_side(tmp_path: Path) -> None:
    for number in range(4):
        write_video(tmp_path / f"{number}.mp4", 20 + number)
    for number in range(8):
        remux(tmp_path / "0.mp4", tmp_path / f"copy-{number}.mkv")
    train, held_out, _ = read_footage(replace(CONFIG, data=replace(CONFIG.data, held_out=0.5)), tmp_path)
    assert sum(len(frames) == 20 for frames in train.values()) in (0, 9)
    assert held_out
