"""One bad recording is set aside with its reason, whatever the exception, and the others go on, in every command."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from fastdreamer.recordings import minerl, vpt
from fastdreamer.recordings.frame_times import count_rates, describe_mix
from fastdreamer.recordings.inspect import inspect_recordings, render_inspection
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from fastdreamer.system import cores
from recordings.fixtures import treechop_arrays, write_minerl_recording
from recordings.test_alignment import encode
from recordings.video_fixtures import write_video
from recordings.vpt_fixtures import vpt_line, write_vpt_recording

GOOD = 9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Nine good clips and a tenth to be spoiled."""
    folder = tmp_path / "recordings" / "clips"
    folder.mkdir(parents=True)
    write_video(folder / "z.mp4", 3)
    for number in range(GOOD):
        shutil.copyfile(folder / "z.mp4", folder / f"{number}.mp4")
        with (folder / f"{number}.mp4").open("ab") as file:
            file.write(b"\0\0\0\x0cfree" + bytes([0, 0, 0, number]))  # so that no two are the same
    return tmp_path / "recordings"


def spoil_codec(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))


def spoil_playlist(path: Path) -> None:
    path.write_text("ffconcat version 1.0\nfile 0.mp4\n")


def spoil_name(path: Path) -> None:
    path.with_name("\x1b[2J\udce9\n.mp4").write_bytes(b"")
    path.unlink()


def spoil_link(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


SPOILT: dict[str, Callable[[Path], None]] = {
    "codec": spoil_codec,
    "playlist": spoil_playlist,
    "name": spoil_name,
    "link": spoil_link,
}


@pytest.mark.parametrize("kind", SPOILT)
def test_the_others_go_on(root: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]):
    SPOILT[kind](root / "clips" / "z.mp4")
    inspected = inspect_recordings(root)
    assert inspected["episodes"] == GOOD and len(inspected["damaged"]) == 1
    encode(root, tmp_path / "store", "c1", "pyav-torch")
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert len(manifest["episodes"]) == GOOD and len(manifest["skipped"]) == 1
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [OSError(5, "Input/output error"), MemoryError(), RuntimeError("what\nis this"), KeyError("x")]
)
def test_any_exception_of_labels_is_the_recordings(tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch):
    write_minerl_recording(tmp_path, treechop_arrays(3))
    write_vpt_recording(tmp_path, 3)

    def refuse(*_: object) -> None:
        raise error

    for module, name in ((minerl, "_load_metadata"), (vpt, "parse")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(Path, "read_bytes", refuse)
    found = inspect_recordings(tmp_path)
    assert found["episodes"] == 0 and len(found["damaged"]) == 2
    for item in found["damaged"]:
        assert "cannot be read" in item["reason"] and item["reason"].isprintable()
        assert (getattr(error, "strerror", None) or type(error).__name__) in item["reason"]


@pytest.mark.parametrize("name", ["recording.mp4", "rendered.npz", "metadata.json"])
def test_a_file_without_permission_is_named(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    """Refused by the file layer, for the tests may run as an account that may read everything."""
    folder = write_minerl_recording(tmp_path, treechop_arrays(3))

    def refuse(plain: Callable[..., object], file: object, *args: object, **kwargs: object) -> object:
        if isinstance(file, str | os.PathLike) and Path(file).name == name:
            raise PermissionError(13, "Permission denied", str(file))
        return plain(file, *args, **kwargs)

    for place, plain in (("io.open", io.open), ("builtins.open", io.open), ("os.open", os.open)):
        monkeypatch.setattr(place, partial(refuse, plain))
    with pytest.raises(DamagedRecording, match=f"recording {folder.name}: .*{name}.*Permission denied"):
        read_recording(find_recordings(tmp_path)[0], minerl.SPACES["minerl_treechop"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["reward", "action$camera", "action$attack", "observation$inventory$log"])
def test_values_that_are_not_finite_are_set_aside(tmp_path: Path, key: str, value: float):
    arrays = {name: array.astype(float) for name, array in treechop_arrays(20).items()}
    arrays["observation$inventory$log"] = np.zeros(21)
    arrays[key][7] = value
    write_minerl_recording(tmp_path, arrays)
    with pytest.raises(DamagedRecording):
        read_recording(find_recordings(tmp_path)[0], minerl.SPACES["minerl_treechop"])


@pytest.mark.parametrize("field", ["x", "y", "dx", "dy", "hotbar"])
def test_a_line_that_is_not_finite_is_broken(tmp_path: Path, field: str):
    line = json.dumps(vpt_line(**{field: float("inf")}, isGuiOpen=True))
    write_vpt_recording(tmp_path, 20, change=lambda lines: lines.__setitem__(15, line))
    (mended,) = inspect_recordings(tmp_path)["mended"]
    assert "line 16 of 20" in mended["reason"]


def test_achievements_that_are_none_are_not_counted(tmp_path: Path):
    folder = write_minerl_recording(tmp_path, treechop_arrays(5))
    content = json.loads((folder / "metadata.json").read_text())
    for value in (5, "wood", [["wood"]], {"a": 1}, [1]):
        (folder / "metadata.json").write_text(json.dumps({**content, "achievements": value}))
        found = inspect_recordings(tmp_path)
        assert found["episodes"] == 1 and found["achievements"] == {}


def test_seconds_and_rates_are_those_of_the_videos(tmp_path: Path):
    """Two clips of ten seconds: 60 frames a second, and 10."""
    for name, frames, step in (("a", 201, 1), ("b", 51, 4)):
        write_video(tmp_path / f"{name}.mp4", frames, times=lambda i, step=step: i * step)
    found = inspect_recordings(tmp_path, decode=False)
    assert found["seconds"] == pytest.approx(20.0) and found["rates"] == {"20": 1, "5": 1}
    assert "frames a second differ: 20 (1 recordings), 5 (1 recordings)" in render_inspection(found)


def test_encode_says_that_rates_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "recordings").mkdir()
    for name, step in (("a", 1), ("b", 4)):
        write_video(tmp_path / "recordings" / f"{name}.mp4", 30, times=lambda i, step=step: i * step)
    encode(tmp_path / "recordings", tmp_path / "store", "c1", "pyav-torch")
    assert "frames a second differ: 20 (1 recordings), 5 (1 recordings)" in capsys.readouterr().out
    entries = json.loads((tmp_path / "store" / "manifest.json").read_text())["episodes"]
    assert {entry["frames_per_s"] for entry in entries.values()} == {20.0, 5.0}


@pytest.mark.parametrize(
    ("rates", "differ"), [([20.0, 20.0], False), ([20.0, 19.98], False), ([20.0, 30.0], True), ([0.0], False)]
)
def test_rates_that_round_differently_are_one(rates: list[float], differ: bool):
    assert bool(describe_mix(count_rates(rates))) == differ


def test_worker_counts_are_those_of_the_processs_own_cores(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cores, "quota", lambda: 64.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    assert cores.count_cores() == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert cores.count_cores() == 7
