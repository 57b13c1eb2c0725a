"""The data path's report, on a CPU and at a small size. On a GPU: python -m bench.suites data_path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.suites import data_path
from bench.suites.command import main
from bench.suites.data_path import batches
from bench.suites.results import read
from fastdreamer.tokenizer.dali import dali_available
from fastdreamer.tokenizer.resample import TorchResampler

RUN = ["--device", "cpu", "--frames", "70", "--pairs", "2", "--image-size", "32"]


def test_every_path_is_timed_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data_path", *RUN, "--size", "48x32", "--out", str(tmp_path / "report.json")]) == 0
    contents = read(tmp_path / "report.json")
    rows = {row["arm"]: row for row in contents["rows"]}
    names = ["pyav", "pyav+torch", "pyav+torch-uint8", *(["pyav+dali"] if dali_available() else [])]
    assert list(rows) == names and contents["machine"]["libraries"]["av"]
    for row in rows.values():
        assert row["row"] == "48x32 to 32" and row["frames_per_s"] == pytest.approx(70 / (row["median_us"] / 1e6))
        assert row["speedup"] > 0 and row["gb_per_s"] > 0 and row["cache"] == "host"
    assert rows["pyav+torch"]["max_error"] == 0 and rows["pyav+torch"]["reason"] == ""
    assert 0.1 < rows["pyav+torch-uint8"]["max_error"] < 4
    if dali_available():
        assert 0 < rows["pyav+dali"]["max_error"] < 0.5 and rows["pyav+dali"]["reason"] == ""
    printed = capsys.readouterr().out
    assert all(f" {name} " in printed for name in names)


def test_a_path_that_is_wrong_or_fails_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = data_path.paths

    def spoiled(video: Path, image_size: int, device: torch.device) -> dict[str, data_path.Route]:
        found = plain(video, image_size, device)

        def dark() -> data_path.Iterator[Tensor]:
            return (images - 0.02 for images in found["pyav+torch"]())

        def broken() -> data_path.Iterator[Tensor]:
            raise RuntimeError("no such\ncodec")

        return {"pyav+torch": found["pyav+torch"], "dark": dark, "broken": broken}

    monkeypatch.setattr(data_path, "paths", spoiled)
    assert main(["data_path", *RUN, "--size", "48x32", "--out", str(tmp_path / "report.json")]) == 0
    rows = {row["arm"]: row for row in read(tmp_path / "report.json")["rows"]}
    assert rows["dark"]["reason"] == "off by 2.55/255" and rows["dark"]["frames_per_s"] > 0
    assert rows["broken"]["reason"] == "RuntimeError: no such codec" and rows["broken"]["gb_per_s"] == 0


def test_a_path_that_is_known_to_be_wrong_is_an_answer_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    monkeypatch.setattr(data_path, "decode_video", lambda _: frames)
    assert main(["data_path", *RUN, "--out", str(tmp_path / "report.json")]) == 0
    rows = {row["arm"]: row for row in read(tmp_path / "report.json")["rows"]}
    assert rows["pyav+torch-uint8"]["reason"].startswith("not offered: off by ")
    assert rows["pyav+torch-uint8"]["max_error"] > 2


def test_windows_share_their_border_frame() -> None:
    frames = torch.arange(1 + 32 * 6 + 5)[:, None, None, None].expand(-1, 2, 4, 3)
    found = list(batches(frames))
    assert [part.shape for part in found] == [(4, 33, 2, 4, 3), (2, 33, 2, 4, 3)]
    starts = torch.cat(found)[:, [0, -1], 0, 0, 0].tolist()
    assert starts == [[32 * i, 32 * i + 32] for i in range(6)]
    assert TorchResampler(16, "fp32", torch.device("cpu"))(torch.cat(found).byte()).shape == (6, 3, 33, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "64"], "--size 64: give width and height"),
        (["--frames", "32"], "give --frames of 33 or more"),
        (["--pairs", "1"], "--pairs of 2 or more"),
    ],
)
def test_a_users_mistake_is_one_line_and_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["data_path", *RUN, *options])
    error = capsys.readouterr().err
    assert left.value.code == 2 and message in error and error.count("\n") == 1
