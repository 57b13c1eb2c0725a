"""Our own recordings: lossless, whole or absent, and read back as what they were."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.writer import write_recording
from recordings.fixtures import barcode, read_barcode

CRAFTER = action_space("crafter")
NAME = "v3_scripted_crafter-7_0-30"


def episode(steps: int = 30, ends: bool = False, size: int = 64) -> Trajectory:
    """Frames of pure noise under a barcode, the worst case for a codec; action i is i mod 17."""
    random = np.random.default_rng(steps)
    frames = random.integers(0, 256, (steps + 1, size, size, 3), dtype=np.uint8)
    for number, frame in enumerate(frames):
        frame[:16, :64] = barcode(number)[:16]
    actions = (np.arange(steps) % 17).astype(np.uint8)[:, None]
    terminals = np.zeros(steps, bool)
    terminals[-1] = ends
    rewards = random.normal(size=steps).astype(np.float32)
    return Trajectory(NAME, frames, actions, rewards, terminals, np.ones(steps + 1, bool))


def write(root: Path, trajectory: Trajectory, **metadata) -> Path:
    folder = root / "Crafter-expert" / NAME
    write_recording(folder, trajectory, CRAFTER, metadata)
    return folder


@pytest.mark.parametrize("size", [64, 96])
def test_decoded_is_observed_bit_for_bit(tmp_path: Path, size: int):
    trajectory = episode(size=size)
    folder = write(tmp_path, trajectory)
    np.testing.assert_array_equal(decode_video(folder / "recording.mp4"), trajectory.frames)


def test_game_frames_are_bit_exact_and_small(tmp_path: Path):
    crafter = pytest.importorskip("crafter")
    game = crafter.Env(seed=3)
    frames = np.stack([game.reset(), *(game.step(i % 5)[0] for i in range(60))])
    blank = episode(steps=60)
    trajectory = Trajectory(NAME, frames, blank.actions, blank.rewards, blank.terminals, blank.valid)
    path = write(tmp_path, trajectory) / "recording.mp4"
    np.testing.assert_array_equal(decode_video(path), frames)
    assert path.stat().st_size / len(frames) < 3000


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_read_is_what_was_written(tmp_path: Path, ends: bool):
    written = episode(ends=ends)
    write(tmp_path, written, seed=7, policy="expert", achievements=["collect_wood"])
    (recording,) = find_recordings(tmp_path)
    read = read_recording(recording, CRAFTER)
    for name in ("frames", "actions", "rewards", "terminals", "valid"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert (recording.name, recording.env) == (NAME, "Crafter-expert")
    assert read.metadata["seed"] == 7 and read.metadata["achievements"] == ["collect_wood"]


def test_action_i_is_taken_at_frame_i(tmp_path: Path):
    write(tmp_path, episode())
    read = read_recording(find_recordings(tmp_path)[0], CRAFTER)
    assert [read_barcode(frame) % 17 for frame in read.frames[:-1]] == read.actions[:, 0].tolist()


def test_the_layout_is_minerls(tmp_path: Path):
    trajectory = episode(ends=True)
    folder = write(tmp_path, trajectory, success=False)
    assert sorted(path.name for path in folder.iterdir()) == ["metadata.json", "recording.mp4", "rendered.npz"]
    arrays = np.load(folder / "rendered.npz", allow_pickle=False)
    assert sorted(arrays) == ["action$action", "reward"]
    assert arrays["action$action"][:3].tolist() == ["noop", "move_left", "move_right"]
    assert arrays["reward"].dtype == np.float32 and arrays["reward"].shape == (30,)
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["duration_steps"] == 30 and metadata["duration_ms"] == 1500
    assert metadata["true_video_frame_count"] == 31 and metadata["stream_name"] == NAME
    assert metadata["total_reward"] == pytest.approx(float(trajectory.rewards.sum()), abs=1e-5)
    assert metadata["recorder"] == "fastdreamer" and metadata["terminated"] is True and metadata["success"] is False


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        write(tmp_path, episode())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    with pytest.raises(UserError, match="holds no recording"):
        find_recordings(tmp_path)


def test_an_existing_recording_is_not_overwritten(tmp_path: Path):
    folder = write(tmp_path, episode())
    before = (folder / "rendered.npz").read_bytes()
    with pytest.raises(UserError, match="already exists"):
        write(tmp_path, episode(steps=10))
    assert (folder / "rendered.npz").read_bytes() == before


def test_pixels_that_changed_on_disk_are_noticed(tmp_path: Path):
    """A flipped byte often decodes without complaint; the frames' digest in the metadata tells."""
    folder = write(tmp_path, episode())
    other = tmp_path / "other" / NAME
    changed = episode()
    changed.frames[20, 40, 40, 1] ^= 1
    write_recording(other, changed, CRAFTER, {})
    (folder / "recording.mp4").write_bytes((other / "recording.mp4").read_bytes())
    recording = next(r for r in find_recordings(tmp_path) if r.env == "Crafter-expert")
    with pytest.raises(DamagedRecording, match="SHA-256"):
        read_recording(recording, CRAFTER)


def test_the_mu_law_spaces_can_be_written_too(tmp_path: Path):
    space = action_space("minerl_obtain")
    template = episode(steps=10)
    actions = np.random.default_rng(0).integers(0, space.sizes, (10, len(space.sizes))).astype(np.uint8)
    trajectory = Trajectory(NAME, template.frames, actions, template.rewards, template.terminals, template.valid)
    write_recording(tmp_path / "Play" / NAME, trajectory, space, {})
    read = read_recording(find_recordings(tmp_path)[0], space)
    np.testing.assert_array_equal(read.actions, actions)
