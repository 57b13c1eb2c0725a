"""Files that cost nothing to make and everything to read (pipes, holes, bombs) are set aside, and the others go on."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings import bounds, decode, minerl
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.identity import content_of
from fastdreamer.recordings.inspect import inspect_recordings
from fastdreamer.recordings.recording import DamagedRecording
from recordings.fixtures import treechop_arrays, write_minerl_recording
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import write_vpt_recording

TERABYTE = 2**40


def hollow(path: Path) -> None:
    """Make a file a terabyte long; it takes no room."""
    with path.open("ab") as file:
        file.truncate(TERABYTE)


def reasons(root: Path) -> list[str]:
    return [item["reason"] for item in inspect_recordings(root)["damaged"]]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a pipe fails where it would wait for ever."""
    plain = io.open

    def checked(file: object, *args: object, **kwargs: object) -> object:
        if isinstance(file, str | Path):
            assert not Path(file).is_fifo(), f"{file} would be read for ever"
        return plain(file, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(io, "open", checked)
    monkeypatch.setattr("builtins.open", checked)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ["a.jsonl", "x.npz", "p.mp4", "index.json"])
def test_a_link_to_a_pipe_is_not_waited_for(tmp_path: Path, name: str):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 3)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "clips" / name).symlink_to(tmp_path / "pipe")
    assert [recording.name for recording in find_recordings(tmp_path)] == ["a"]


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", ["rendered.npz", "recording.mp4", "metadata.json"])
def test_a_pipe_in_the_place_of_a_recordings_file_is_none(tmp_path: Path, name: str):
    file = write_minerl_recording(tmp_path, treechop_arrays(3)) / name
    file.rename(file.with_stem("other"))
    os.mkfifo(file)
    found = inspect_recordings(tmp_path)
    assert (found["episodes"], found["damaged"]) == (1, [])


@pytest.mark.parametrize("name", ["metadata.json", "rendered.npz"])
def test_a_terabyte_of_nothing_beside_a_video_is_set_aside(tmp_path: Path, name: str):
    write_minerl_recording(tmp_path, treechop_arrays(3), number=1)
    hollow(write_minerl_recording(tmp_path, treechop_arrays(3)) / name)
    found = inspect_recordings(tmp_path)
    assert found["episodes"] == 1 and len(found["damaged"]) == 1


def test_a_terabyte_of_lines_is_set_aside(tmp_path: Path):
    write_vpt_recording(tmp_path, 3, name="good")
    hollow(write_vpt_recording(tmp_path, 3, name="hollow").with_suffix(".jsonl"))
    assert reasons(tmp_path) == ["hollow.jsonl: it has 1,099,511,627,776 bytes; more than 4,294,967,296 are not read"]


def test_a_line_without_end_is_set_aside(tmp_path: Path):
    lines = write_vpt_recording(tmp_path, 3, name="long").with_suffix(".jsonl")
    with lines.open("ab") as file:
        file.truncate(2**22)
    assert reasons(tmp_path) == [f"long.jsonl: line 4 has {2**20 + 1:,} bytes; more than {2**20:,} are not read"]


def test_a_version_or_an_index_of_a_terabyte_is_not_read(tmp_path: Path):
    write_minerl_recording(tmp_path, treechop_arrays(3))
    hollow(tmp_path / "index.json")
    assert len(find_recordings(tmp_path)) == 1
    hollow(tmp_path / "VERSION")
    with pytest.raises(UserError, match="VERSION: it has 1,099,511,627,776 bytes"):
        find_recordings(tmp_path)


def test_nothing_of_a_terabyte_is_hashed(tmp_path: Path):
    write_video(tmp_path / "a.mp4", 3)
    (recording,) = find_recordings(tmp_path)
    content_of(recording)
    hollow(tmp_path / "a.mp4")
    with pytest.raises(DamagedRecording, match=r"a.mp4: it has 1,099,511,627,776 bytes"):
        content_of(recording)


def test_what_unpacks_to_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(minerl, "MOST_ARRAY_BYTES", 2**20)
    folder = write_minerl_recording(tmp_path, treechop_arrays(3))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (4, 2**20)})
    with zipfile.ZipFile(folder / "rendered.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("observation$more.npy", header.getvalue() + bytes(2**22))
    assert (folder / "rendered.npz").stat().st_size < 2**16
    (reason,) = reasons(tmp_path)
    assert reason.startswith("rendered.npz: what is in it has 4,19") and reason.endswith("1,048,576 are not read")


def large(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=20)
        stream.width, stream.height = 8000, 4400
        container.mux(stream.encode(av.VideoFrame(8000, 4400, "yuv420p")))
        container.mux(stream.encode())


def test_frames_larger_than_8k_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert bounds.MOST_PIXELS >= 7680 * 4320
    monkeypatch.setattr(decode, "_decode", lambda *_: pytest.fail("it was decoded"))
    large(tmp_path / "a.mp4")
    with pytest.raises(UserError, match="its frames are 8000x4400; more than 33,554,432 pixels are not read"):
        decode.count_frames(tmp_path / "a.mp4")


REWARDS: dict[str, Callable[[], np.ndarray]] = {
    "too large for float32": lambda: np.full(3, 1e300),
    "infinite": lambda: np.full(3, np.inf),
}


@pytest.mark.parametrize("kind", REWARDS)
def test_rewards_that_are_not_finite_are_one_line(tmp_path: Path, kind: str):
    folder = write_minerl_recording(tmp_path, treechop_arrays(3))
    np.savez(folder / "rendered.npz", **(treechop_arrays(3) | {"reward": REWARDS[kind]()}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reasons(tmp_path) == ["a reward is not finite"]
