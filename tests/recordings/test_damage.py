"""200 randomly damaged copies of good recordings: none crashes or hangs the reader, none is read with rows misaligned.

Rows and frames say which recording they are of and their number in it, so a swapped file shows as well as a shifted
frame. H.264 has no checksums: a flipped bit that leaves a valid stream damages pictures without a trace. Those are
counted, and told from misaligned rows by comparing them with the pictures of every row.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.read import find_recordings, read_recording
from fastdreamer.recordings.recording import DamagedRecording
from recordings.fixtures import read_barcode, row_of, treechop_arrays, write_minerl_recording

COPIES = 200
FILES = ("recording.mp4", "rendered.npz", "metadata.json")
SPACE = action_space("minerl_treechop")
APART = 1000  # between the numbers of one recording's rows and the next one's
SECONDS = 20.0  # a copy that takes longer hangs
MEMORY = 4 * 2**30
SAME = 6.0  # of 255, mean: pictures of one number, coded apart; those of two differ by more

# Files of every kind, all of different lengths: what is swapped shows somewhere.
GOOD: tuple[dict[str, Any], ...] = (
    {"steps": 60, "extra": 7, "hidden": 33},
    {"steps": 75, "extra": 2, "x264": "open-gop=1:keyint=12:min-keyint=12:bframes=3"},
    {"steps": 90, "extra": 5, "x264": "keyint=217:bframes=3"},
    {"steps": 60, "extra": 4, "times": lambda i: i + i // 3},
    {"steps": 105, "extra": 1, "codec": "mpeg4", "bf": "2", "g": "30", "qscale": "4"},
    {"steps": 60, "extra": 9, "codec": "libx264rgb", "pixels": "rgb24", "qp": "0"},
)


def write_good(root: Path) -> list[Path]:
    """The recordings; a row and its frame have the same number, which no other recording has."""
    folders = []
    for number, options in enumerate(GOOD):
        start, video = (number + 1) * APART, dict(options)
        arrays = treechop_arrays(video.pop("steps"), start)
        arrays["reward"][0] += number
        video["start"] = start - video["extra"]
        folders.append(write_minerl_recording(root, arrays, number=number, **video))
    return folders


def damage(copy: Path, number: int, others: list[Path]) -> str:
    """Damage one file of the copy; how depends on the number alone. Returns the kind of damage."""
    random = np.random.default_rng(number)
    kind, file = ("truncated", "flipped", "flipped", "swapped")[number % 4], FILES[number // 4 % 3]
    path = copy / file
    data = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(data[: random.integers(len(data))])
    elif kind == "flipped":
        for position in random.integers(len(data), size=random.integers(1, 4)):
            data[position] ^= 1 << random.integers(8)
        path.write_bytes(data)
    else:
        shutil.copyfile(others[random.integers(len(others))] / file, path)
    return f"{kind} {file}"


def judge(rows: np.ndarray, frames: np.ndarray, clean: dict[int, np.ndarray]) -> dict[str, Any]:
    """How many pictures are not those of the good recording, and which rows show another row's picture."""
    expected = [*rows.tolist(), int(rows[-1]) + 1]
    damaged, misaligned, before = 0, [], -1
    for number, frame in zip(expected, frames.astype(np.int16), strict=True):
        is_frozen, before = read_barcode(frame) == before, read_barcode(frame)
        if number in clean and np.array_equal(frame, clean[number]):
            continue
        damaged += 1
        shown = clean.get(before)
        # A decoder hides a damaged picture behind the one before it: that is no shift, which moves on with the rows.
        if before != number and not is_frozen and shown is not None and np.abs(frame - shown).mean() < SAME:
            misaligned.append(number)
    return {"damaged": damaged, "misaligned": misaligned, "rows": len(rows)}


def work(root: Path) -> None:
    """Runs in a process of its own and prints what became of each copy as JSON; a copy that hangs ends the process."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    clean = {}
    for recording in find_recordings(root / "good"):
        frames = read_recording(recording, SPACE).frames.astype(np.int16)
        clean |= {read_barcode(frame): frame for frame in frames}
    assert len(clean) == sum(options["steps"] + 1 for options in GOOD)
    for folder in sorted((root / "copies").iterdir()):
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        result: dict[str, Any] = {"copy": folder.name}
        try:
            trajectory = read_recording(find_recordings(folder)[0], SPACE)
            result |= judge(row_of(trajectory.actions), trajectory.frames, clean)
        except DamagedRecording as error:
            result["refused"] = str(error)
        print(json.dumps(result), flush=True)
    faulthandler.cancel_dump_traceback_later()


def outcome(result: dict[str, Any]) -> str:
    """One word or two for what became of a copy."""
    reason = result.get("refused")
    if reason is None:
        if result["misaligned"]:
            return "MISALIGNED"
        return "silent payload damage" if result["damaged"] else "unnoticed, rows right"
    for pattern, name in (
        ("metadata", "named by metadata"),
        ("rewards need", "named by lengths"),
        (r"recording\.mp4: ", "named by decoder"),
    ):
        if re.search(pattern, reason):
            return name
    return "named by arrays"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Copy's folder to what became of it and how it was damaged."""
    root = tmp_path_factory.mktemp("damage")
    good = write_good(root / "good")
    found: dict[str, dict[str, Any]] = {}
    for number in range(COPIES):
        source = good[number % len(good)]
        copy = root / "copies" / f"{number:03d}" / source.relative_to(root / "good")
        shutil.copytree(source, copy)
        kind = damage(copy, number, [folder for folder in good if folder != source])
        found[f"{number:03d}"] = {"kind": kind, "folder": copy}
    script = f"from pathlib import Path; from recordings.test_damage import work; work(Path({str(root)!r}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        result = json.loads(line)
        found[result["copy"]] |= result
    ended = next((name for name in found if "copy" not in found[name]), None)
    assert done.returncode == 0 and ended is None, f"crash or hang at copy {ended}: {done.stderr[-2000:]}"
    return found


def test_no_damage_crashes_hangs_or_shifts_a_row(results: dict[str, dict[str, Any]]):
    counts = Counter((result["kind"], outcome(result)) for result in results.values())
    print("\n" + "\n".join(f"{kind:26} {what:24} {count}" for (kind, what), count in sorted(counts.items())))
    assert sum(counts.values()) == COPIES
    misaligned = {name: result for name, result in results.items() if outcome(result) == "MISALIGNED"}
    assert not misaligned
    for result in results.values():
        if result["kind"].startswith(("swapped", "truncated")):
            assert outcome(result).startswith("named"), result


def test_every_refusal_is_one_line_that_names_the_recording(results: dict[str, dict[str, Any]]):
    refused = [result for result in results.values() if "refused" in result]
    assert len(refused) > COPIES / 3
    for result in refused:
        assert result["refused"].startswith(f"recording {result['folder'].name}: "), result
        assert "\n" not in result["refused"] and len(result["refused"]) < 600, result


def test_only_flipped_pictures_are_damaged_in_silence(results: dict[str, dict[str, Any]]):
    silent = [result for result in results.values() if outcome(result) == "silent payload damage"]
    assert {result["kind"] for result in silent} == {"flipped recording.mp4"}
    assert all(result["damaged"] <= result["rows"] + 1 for result in silent)
