"""The command that converts a video: pasted as it is printed, it runs, what it writes is read, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.inspect import inspect_recordings
from fastdreamer.recordings.read import find_recordings, read_recording
from recordings.fixtures import treechop_arrays, write_minerl_recording
from recordings.video_fixtures import barcode, read_barcode, remux, write_video
from recordings.vpt_fixtures import write_vpt_recording

FRAMES = 40
FOLDER = 'it\'s my "data" $HOME'
pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / FOLDER).mkdir()
    monkeypatch.chdir(tmp_path / FOLDER)
    return Path("recs")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder near the root, because pytest's own may be deep."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def in_fragments(path: Path) -> None:
    """The same video in fragments, without the index that counts them."""
    part = path.with_name(".part.mp4")
    remux(path, part, movflags="frag_keyframe+empty_moov")
    data = part.read_bytes()
    path.write_bytes(data[: data.rindex(b"mfra") - 4])
    part.unlink()


def plain(root: Path, name: str = "clip one.mp4", **video: str) -> Path:
    root.mkdir(exist_ok=True)
    write_video(root / name, FRAMES, x264="keyint=10:bframes=2", **video)
    in_fragments(root / name)
    return root / name


def paste(reason: str) -> subprocess.CompletedProcess[bytes]:
    line = re.search(r"convert it: (.*)", reason)
    assert line is not None, reason
    return subprocess.run(["bash", "-c", line[1]], stdin=subprocess.DEVNULL, capture_output=True, check=False)


def pasted(root: Path, space: str = "vpt") -> np.ndarray:
    """Pastes what `inspect` says of the one video that it sets aside; the frames of what is then read."""
    found = inspect_recordings(root, "auto")
    (damaged,) = found["damaged"]
    done = paste(damaged["reason"])
    assert done.returncode == 0, done.stderr[-500:]
    assert inspect_recordings(root, "auto")["damaged"] == []
    return read_recording(find_recordings(root)[0], action_space(space)).frames


def numbers(frames: np.ndarray) -> list[int]:
    return [read_barcode(frame) for frame in frames]


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize(
    "name", ["clip one.mp4", "12:30.mp4", "-i.mp4", "%03d.mp4", "a'b\".MP4", "a.b.mov", "a\nb.mp4", "a\x1b[2Jb.mp4"]
)
def test_a_video_in_fragments_is_read_and_the_old_one_stays(here: Path, name: str, is_whole: bool) -> None:
    path = plain(here, name)
    before = path.read_bytes()
    assert numbers(pasted(here.absolute() if is_whole else here)) == list(range(FRAMES))
    assert path.with_name(f"{name}.original").read_bytes() == before
    assert len(list(here.iterdir())) == 2


def test_a_name_beside_the_folder_is_no_option_and_no_protocol(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("12:30.mp4", "-i.mp4"):
        folder = Path(name[:3].strip(":"))
        plain(folder, name)
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            assert numbers(pasted(Path("."))) == list(range(FRAMES))


@pytest.mark.parametrize("taken", ["clip.mkv", "clip.webm.original"])
def test_what_has_the_name_already_stays_and_the_recording_does_not_vanish(here: Path, taken: str) -> None:
    """An mp4 called webm, whose new file is an mkv."""
    plain(here, "clip.mp4").rename(here / "clip.webm")
    write_video(here / "other.mkv", 30, start=500)
    (here / "other.mkv").rename(here / taken)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    damaged = {found["name"]: found["reason"] for found in inspect_recordings(here, "auto")["damaged"]}
    done = paste(next(reason for reason in damaged.values() if "clip.webm" in reason))
    assert done.returncode != 0 and done.stdout.decode() == f"./{taken} exists\n"
    assert before.items() <= {path.name: path.read_bytes() for path in here.iterdir()}.items()


@pytest.mark.parametrize("is_minerls", [True, False])
def test_a_deep_folder_leaves_a_line_that_can_be_read(short_path: Path, is_minerls: bool) -> None:
    below = "MineRLTreechop-v0/v3_absolute_grape_changeling-0_100-139" if is_minerls else ""
    root = short_path / ("d" * (129 - len(str(short_path / below))))
    if is_minerls:
        in_fragments(write_minerl_recording(root, treechop_arrays(FRAMES - 1)) / "recording.mp4")
    else:
        plain(root, "clip.mp4").rename(root / "clip.webm")
    with pytest.raises(UserError, match="convert it: ") as error:
        read_recording(find_recordings(root)[0], action_space("minerl_treechop" if is_minerls else "vpt"))
    assert len(str(root / below)) in (129, 130) and len(str(error.value)) < 600, str(error.value)


def test_the_video_is_converted_and_not_the_picture_before_it(here: Path) -> None:
    """A still picture as the first stream, without the mark of a cover."""
    here.mkdir()
    write_video(here / "clip.mp4", FRAMES, x264="keyint=10:bframes=2")
    both = here / "both.mp4"
    with (
        av.open(str(here / "clip.mp4")) as film,
        av.open(str(both), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container,
    ):
        still = container.add_stream("mjpeg", rate=20)
        still.width, still.height, still.pix_fmt = 64, 64, "yuvj420p"
        copy = container.add_stream_from_template(film.streams.video[0])
        container.mux(still.encode(av.VideoFrame.from_ndarray(barcode(500), format="rgb24")))
        container.mux(still.encode())
        for packet in [packet for packet in film.demux(video=0) if packet.size]:
            packet.stream = copy
            container.mux(packet)
    (here / "clip.mp4").unlink()
    both.write_bytes(both.read_bytes()[: both.read_bytes().rindex(b"mfra") - 4])
    assert numbers(pasted(here)) == list(range(FRAMES))


def test_a_minerl_recording_is_read_with_its_actions(here: Path) -> None:
    folder = write_minerl_recording(here, treechop_arrays(FRAMES - 1), x264="keyint=10:bframes=2")
    in_fragments(folder / "recording.mp4")
    assert numbers(pasted(here, "minerl_treechop")) == list(range(FRAMES))


def test_a_vpt_recording_is_read_with_its_actions(here: Path) -> None:
    here.mkdir()
    write_vpt_recording(here, FRAMES)
    (video,) = here.rglob("*.mp4")
    in_fragments(video)
    assert len(pasted(here)) == FRAMES
    assert find_recordings(here)[0].format == "vpt"


def test_what_an_edit_list_hides_is_left_out(here: Path) -> None:
    here.mkdir()
    write_video(here / "cut.mp4", FRAMES, hidden=5, x264="keyint=10:bframes=0")
    data = bytearray((here / "cut.mp4").read_bytes())
    duration = data.index(b"elst") + 12
    data[duration : duration + 4] = ((FRAMES - 12) * 50).to_bytes(4, "big")
    (here / "cut.mp4").write_bytes(data)
    assert numbers(pasted(here)) == list(range(FRAMES - 12))


def test_an_odd_size_is_converted(here: Path) -> None:
    here.mkdir()
    with av.open(str(here / "odd.mp4"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=20, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 63, 61, "yuv420p"
        for number in range(FRAMES):
            image = barcode(number)[:61, :63].copy()
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    in_fragments(here / "odd.mp4")
    assert len(pasted(here)) == FRAMES


def test_frames_close_in_time_all_stay(here: Path) -> None:
    """Three milliseconds apart, at what looks like 20 frames a second."""
    here.mkdir()
    with av.open(str(here / "odd.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=20, options={"x264-params": "keyint=10:bframes=2:threads=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(barcode(number), format="rgb24")
            frame.pts, frame.time_base = 50 * number - (number % 7 == 3) * 47, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    in_fragments(here / "odd.mp4")
    assert numbers(pasted(here)) == list(range(FRAMES))
