"""The MineRL reader: which folders count, alignment by the end, masks, and what is refused with which words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings import minerl
from fastdreamer.recordings import read as read_module
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.recordings.decode import decode_video
from fastdreamer.recordings.read import find_incomplete, find_recordings, guess_space, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.recordings.trajectory import Trajectory
from recordings.fixtures import (
    navigate_arrays,
    obtain_arrays,
    read_barcode,
    row_of,
    treechop_arrays,
    write_minerl_recording,
    write_video,
)

STEPS = 40
TREECHOP = action_space("minerl_treechop")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Treechop recording with 7 visible frames before its first state and 33 hidden ones before those."""
    return write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=7, hidden=33)


def read(root: Path, space: ActionSpace = TREECHOP, **options: bool) -> Trajectory:
    (recording,) = find_recordings(root)
    return read_recording(recording, space, **options)


def assert_aligned(trajectory: Trajectory, extra: int) -> None:
    """Row i's action was taken at the frame with barcode extra + i."""
    numbers = [read_barcode(frame) - extra for frame in trajectory.frames]
    assert numbers[:-1] == row_of(trajectory.actions).tolist()
    assert numbers == list(range(len(trajectory)))


@pytest.mark.parametrize(("extra", "hidden"), [(0, 0), (1, 0), (7, 33), (0, 33)])
def test_actions_belong_to_the_frames_they_were_taken_at(tmp_path: Path, extra: int, hidden: int):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), extra=extra, hidden=hidden)
    trajectory = read(tmp_path)
    assert_aligned(trajectory, extra)
    assert trajectory.frames.shape == (STEPS + 1, 64, 64, 3) and trajectory.actions.shape == (STEPS, 10)


@pytest.mark.parametrize("shift", [-1, 1])
def test_the_alignment_check_sees_a_shift_of_one_frame(folder: Path, monkeypatch: pytest.MonkeyPatch, shift: int):
    """The planted bug: frames and actions one off. The check above must go red, or it proves nothing."""
    monkeypatch.setattr(read_module, "decode_blocks", lambda path, *_: [np.roll(decode_video(path), shift, axis=0)])
    trajectory = read(folder.parents[1])
    with pytest.raises(AssertionError):
        assert_aligned(trajectory, 7)


def test_the_metadata_frame_count_is_not_believed(folder: Path):
    content = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**content, "true_video_frame_count": 9999}))
    assert_aligned(read(folder.parents[1], check_metadata=False), 7)


def test_labels_alone_are_the_same_and_decode_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    whole = read(folder.parents[1])
    monkeypatch.delattr(read_module, "decode_blocks")
    labels = read(folder.parents[1], frames=False)
    assert labels.frames.shape == (STEPS + 1, 0, 0, 3)
    for name in ("actions", "rewards", "terminals", "valid"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(whole, name))


def test_last_frame_is_masked_but_its_reward_and_the_end_are_kept(tmp_path: Path):
    write_minerl_recording(tmp_path, navigate_arrays(STEPS), env="MineRLNavigate-v0")
    trajectory = read(tmp_path, action_space("minerl_navigate"))
    assert trajectory.valid.tolist() == [True] * STEPS + [False]
    assert trajectory.terminals.tolist() == [False] * (STEPS - 1) + [True]
    assert trajectory.rewards.dtype == np.float32 and trajectory.rewards.tolist() == [0] * (STEPS - 1) + [100]


@pytest.mark.parametrize("dialect", [3, 4])
@pytest.mark.parametrize(("name", "arrays"), [("minerl_obtain", obtain_arrays), ("minerl_navigate", navigate_arrays)])
def test_both_dialects_are_read(tmp_path: Path, dialect: int, name: str, arrays):
    write_minerl_recording(tmp_path, arrays(STEPS, dialect))
    (recording,) = find_recordings(tmp_path)
    assert guess_space(recording).name == name
    assert_aligned(read_recording(recording, action_space(name)), 0)


def test_both_dialects_name_observations_alike():
    dialects = [list(obtain_arrays(2, dialect) | navigate_arrays(2, dialect)) for dialect in (3, 4)]
    for v3, v4 in zip(*dialects, strict=True):
        assert minerl.canonical_key(v3) == minerl.canonical_key(v4) == v4


def test_folders_count_by_endings_and_version(tmp_path: Path):
    whole = write_minerl_recording(tmp_path, treechop_arrays(3))
    for number, change in enumerate(("no mp4", "no npz", "no version", "renamed", "black-listed", "half-written"), 1):
        name = whole.name.replace("-0_", f"-{number}_")
        if change == "no version":
            name = name.removeprefix("v3_")
        if change == "black-listed":
            name = "v3_tempting_capers_shapeshifter-14_39-520"
        copy = shutil.copytree(whole, whole.parent / (f".{name}.tmp-77" if change == "half-written" else name))
        if change == "no mp4":
            (copy / "recording.mp4").unlink()
        if change == "no npz":
            (copy / "rendered.npz").unlink()
        if change == "renamed":
            (copy / "recording.mp4").rename(copy / "a.mp4")
            (copy / "rendered.npz").rename(copy / "b.npz")
    found = find_recordings(tmp_path)
    assert [recording.name for recording in found] == [whole.name, whole.name.replace("-0_", "-4_")]
    assert {recording.env for recording in found} == {"MineRLTreechop-v0"}
    assert len(read_recording(found[1], TREECHOP)) == 4
    reasons = dict(find_incomplete(tmp_path))
    assert len(reasons) == 4
    assert "no version" in reasons[whole.name.replace("-0_", "-3_").removeprefix("v3_")]
    assert "no .mp4" in reasons[whole.name.replace("-0_", "-1_")]
    assert "no .npz" in reasons[whole.name.replace("-0_", "-2_")]
    assert "black-listed" in reasons["v3_tempting_capers_shapeshifter-14_39-520"]


def test_a_stream_in_two_environments_gets_two_names(tmp_path: Path):
    for env in ("MineRLObtainDiamond-v0", "MineRLObtainIronPickaxe-v0"):
        write_minerl_recording(tmp_path, obtain_arrays(3), env=env)
    names = [recording.name for recording in find_recordings(tmp_path)]
    assert len(set(names)) == 2 and names[0].startswith("MineRLObtainDiamond-v0.v3_")


@pytest.mark.parametrize(("content", "is_readable"), [("3", True), ("4\n", True), ("2", False)])
def test_the_version_file_is_heeded(folder: Path, content: str, is_readable: bool):
    root = folder.parents[1]
    (root / "VERSION").write_text(content)
    if is_readable:
        assert len(find_recordings(root)) == 1
    else:
        with pytest.raises(UserError, match="'2'.*3 and 4"):
            find_recordings(root)


def test_a_version_file_that_is_something_else_is_not_printed_whole(folder: Path):
    root = folder.parents[1]
    (root / "VERSION").write_text("7.1 " * 2**20)
    with pytest.raises(UserError, match=r"VERSION says '7\.1 .*3 and 4") as error:
        find_recordings(root)
    assert len(str(error.value)) < 200 + len(str(root))


def test_missing_and_empty_folders_are_a_users_mistake(tmp_path: Path):
    with pytest.raises(UserError, match="there is no folder"):
        find_recordings(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no recording"):
        find_recordings(tmp_path)


def test_metadata_may_be_missing(tmp_path: Path):
    write_minerl_recording(tmp_path, treechop_arrays(STEPS), metadata=False)
    assert read(tmp_path).metadata == {}


def test_too_few_frames_name_the_episode(tmp_path: Path):
    folder = write_minerl_recording(tmp_path, treechop_arrays(STEPS))
    write_video(folder / "recording.mp4", STEPS)
    for frames in (True, False):
        with pytest.raises(DamagedRecording, match=f"{folder.name}.*{STEPS} frames.*need {STEPS + 1}"):
            read(tmp_path, frames=frames)


def _break(folder: Path, how: str) -> None:
    video, arrays = folder / "recording.mp4", dict(np.load(folder / "rendered.npz"))
    match how:
        case "empty video":
            video.write_bytes(b"")
        case "truncated video":
            video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        case "empty npz":
            (folder / "rendered.npz").write_bytes(b"")
        case "truncated npz":
            data = (folder / "rendered.npz").read_bytes()
            (folder / "rendered.npz").write_bytes(data[: len(data) // 2])
        case "flipped byte in npz":
            data = bytearray((folder / "rendered.npz").read_bytes())
            data[120] ^= 255
            (folder / "rendered.npz").write_bytes(bytes(data))
        case "npz is a pickle":
            np.array([{}], dtype=object).dump(folder / "rendered.npz")
        case "pickled array":
            arrays["action$attack"] = np.array([{"a": 1}] * STEPS, dtype=object)
        case "short action":
            arrays["action$jump"] = arrays["action$jump"][:-1]
        case "all actions long":
            arrays = {key: np.concatenate([a, a[:1]]) if "action" in key else a for key, a in arrays.items()}
        case "short observation":
            arrays["observation$inventory$dirt"] = np.zeros(STEPS, np.int64)
        case "no reward":
            del arrays["reward"]
        case "empty reward":
            arrays = {key: array[:0] for key, array in arrays.items()}
        case "reward is not finite":
            arrays["reward"][3] = np.nan
        case "missing action":
            del arrays["action$sneak"]
        case "broken metadata":
            (folder / "metadata.json").write_text("{")
    if "npz" not in how:
        np.savez_compressed(folder / "rendered.npz", **arrays)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("empty video", r"recording.mp4.*empty \(0 bytes\)"),
        ("truncated video", "recording.mp4.*truncated"),
        ("empty npz", "rendered.npz"),
        ("truncated npz", "rendered.npz cannot be read"),
        ("flipped byte in npz", "rendered.npz cannot be read"),
        ("npz is a pickle", "pickled data .*refused"),
        ("pickled array", r"pickled data \(action\$attack\), refused"),
        ("short action", r"action\$jump.*40 rewards need 40 rows"),
        ("all actions long", r"action\$.*\(41,.*40 rewards need 40 rows"),
        ("short observation", r"observation\$inventory\$dirt.*40 rewards need 41 rows"),
        ("no reward", "no array `reward`"),
        ("empty reward", r"reward is .*shape \(0,\)"),
        ("reward is not finite", "reward is not finite"),
        ("missing action", r"action\$sneak is missing"),
        ("broken metadata", "metadata.json is damaged"),
    ],
)
def test_damage_is_told_in_one_line_that_names_the_episode(folder: Path, how: str, words: str):
    _break(folder, how)
    with pytest.raises(DamagedRecording, match=words) as error:
        read(folder.parents[1])
    assert str(error.value).startswith(f"recording {folder.name}: ") and "\n" not in str(error.value)


def test_a_pickle_is_never_run(folder: Path, tmp_path: Path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    arrays = dict(np.load(folder / "rendered.npz"))
    np.savez(folder / "rendered.npz", **arrays, extra=np.array([Bomb()], dtype=object))
    with pytest.raises(DamagedRecording, match="pickled"):
        read(folder.parents[1])
    assert not (tmp_path / "exploded").exists()


def test_the_wrong_space_is_named(folder: Path):
    with pytest.raises(DamagedRecording, match=r"action\$place is missing for action space minerl_obtain"):
        read(folder.parents[1], action_space("minerl_obtain"))


def test_actions_that_no_space_has_are_refused_by_their_keys(tmp_path: Path):
    arrays = {"reward": np.zeros(4, np.float32), "action$strange": np.ones((4, 64), np.float32)}
    write_minerl_recording(tmp_path, arrays)
    with pytest.raises(DamagedRecording, match=r"there are: action\$strange"):
        guess_space(find_recordings(tmp_path)[0])
