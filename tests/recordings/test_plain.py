"""Videos without actions: all frames, no labels, and nothing that had labels becomes one in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.recordings.actions import SPACES, action_space
from fastdreamer.recordings.inspect import inspect_recordings, render_inspection
from fastdreamer.recordings.plain import ENDINGS
from fastdreamer.recordings.read import find_incomplete, find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from recordings.fixtures import treechop_arrays, write_minerl_recording
from recordings.video_fixtures import read_barcode, write_video
from recordings.vpt_fixtures import write_vpt_recording

FRAMES = 30
CODECS = {".webm": ("libvpx-vp9", "yuv420p"), ".avi": ("mpeg4", "yuv420p")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "walks").mkdir()
    write_video(tmp_path / "walks" / "one.mp4", FRAMES, hidden=5)
    return tmp_path


@pytest.mark.parametrize("name", list(SPACES))
def test_a_lone_video_is_unlabelled_in_any_space(root: Path, name: str):
    (recording,) = find_recordings(root)
    assert (recording.name, recording.env, recording.format) == ("one", "walks", "video")
    trajectory = read_recording(recording, action_space(name))
    assert not trajectory.labelled and not trajectory.rewarded
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(FRAMES))
    assert trajectory.actions.tolist() == [list(action_space(name).noop)] * (FRAMES - 1)
    assert trajectory.valid.all() and not trajectory.terminals.any() and not trajectory.rewards.any()


@pytest.mark.parametrize("ending", ENDINGS)
def test_common_containers_are_read(tmp_path: Path, ending: str):
    codec, pixels = CODECS.get(ending, ("libx264", "yuv420p"))
    options = {"bf": "0", "qscale": "3"} if ending == ".avi" else {}
    write_video(tmp_path / f"one{ending}", FRAMES, codec=codec, pixels=pixels, **options)
    (recording,) = find_recordings(tmp_path)
    trajectory = read_recording(recording, action_space("crafter"))
    assert [read_barcode(frame) for frame in trajectory.frames] == list(range(FRAMES))


def test_a_video_in_the_root_itself_is_named_after_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "one.MP4", 3)
    monkeypatch.chdir(tmp_path)
    (recording,) = find_recordings(Path("."))
    assert recording.env == tmp_path.name and recording.name == "one"


def test_one_frame_is_no_episode(tmp_path: Path):
    write_video(tmp_path / "one.mp4", 1)
    with pytest.raises(DamagedRecording, match=r"recording one: one.mp4 has 1 frames; one step needs 2"):
        read_recording(find_recordings(tmp_path)[0], action_space("vpt"))


def test_a_damaged_video_is_named(root: Path):
    (root / "walks" / "one.mp4").write_bytes(b"")
    with pytest.raises(DamagedRecording, match="recording one: .*empty"):
        read_recording(find_recordings(root)[0], action_space("vpt"))


@pytest.mark.parametrize("where", ["beside VPT pairs", "beside lone lines", "in MineRL's folder", "beside an npz"])
def test_a_video_that_lost_its_labels_is_incomplete_and_not_unlabelled(root: Path, where: str):
    video = root / "walks" / "one.mp4"
    match where:
        case "beside VPT pairs":
            shutil.move(write_vpt_recording(root / "vpt", 3).with_suffix(".jsonl"), root / "walks" / "two.jsonl")
            write_video(root / "walks" / "two.mp4", 3)
        case "beside lone lines":
            (root / "walks" / "two.jsonl").write_text("{}\n")
        case "in MineRL's folder":
            (root / "walks" / "v3_player_mob-1_0-30").mkdir()
            video.rename(root / "walks" / "v3_player_mob-1_0-30" / "recording.mp4")
        case "beside an npz":
            np.savez(root / "walks" / "rendered.npz", **treechop_arrays(3))
    other = root / "other" / "fine.mp4"
    other.parent.mkdir()
    write_video(other, 3)
    names = {recording.name for recording in find_recordings(root)}
    assert "one" not in names and "recording" not in names and "fine" in names
    reasons = dict(find_incomplete(root))
    word = {"in MineRL's folder": "no .npz", "beside an npz": "no version"}.get(where, "no one.jsonl")
    assert any(word in reason for reason in reasons.values()), reasons


def test_hidden_files_and_half_copied_folders_are_left_alone(root: Path):
    write_video(root / "walks" / "._one.mp4", 3)
    (root / ".cache").mkdir()
    write_video(root / ".cache" / "two.mp4", 3)
    assert [recording.name for recording in find_recordings(root)] == ["one"] and find_incomplete(root) == []


def test_inspect_counts_videos_apart_from_what_has_actions(root: Path):
    write_minerl_recording(root, treechop_arrays(10))
    write_vpt_recording(root, 40, 41)
    write_video(root / "MineRLTreechop-v0" / "extra.mp4", 5)
    found = inspect_recordings(root)
    assert json.loads(json.dumps(found)) == found
    assert found["episodes"] == 4 and found["unlabelled"] == 2 and found["damaged"] == []
    assert found["frames"] == FRAMES + 11 + 40 + 5
    assert found["spaces"] == {
        "walks": "unlabelled",
        "8.0": "vpt",
        "MineRLTreechop-v0": "minerl_treechop and unlabelled",
    }
    assert sum(found["actions"]["forward"].values()) == 10 + 39
    assert found["return_mean"] == found["return_max"] == 1
    ((name, reason),) = [(item["name"], item["reason"]) for item in found["mended"]]
    assert name.startswith("cheeky") and "has 41 frames" in reason
    text = render_inspection(found)
    assert "unlabelled 2 of 4 episodes" in text and "mended   1" in text and "has 41 frames" in text
    quick = inspect_recordings(root, decode=False)
    assert {key for key in found if found[key] != quick[key]} == {"decoded", "frame_sizes"}


def test_inspect_of_videos_alone_knows_no_return(root: Path):
    found = inspect_recordings(root)
    assert found["return_mean"] is None and found["actions"] == {} and found["unlabelled"] == 1
    assert "return   unknown; 29 steps an episode" in render_inspection(found)
