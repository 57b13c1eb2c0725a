"""Read the contractors' recordings of VPT: `<name>.mp4` and `<name>.jsonl`, a line for the action at each frame.

Line i is frame i unless their times say that some were lost (`vpt_clock`).

Key names and camera scale are those of VPT's loader (github.com/openai/Video-Pre-Training), which converts one line to
one action as here, with these differences: the camera is never truncated to whole degrees; a hotbar slot that the wheel
selects is the action of the frame before the change, not after it; keys that cannot be pressed together cancel, as they
do in VPT's own action space; ESC that closes a window is `inventory`, as in VPT's training (says the loader); null
actions are kept unless `data.skip_null`; damage is told instead of skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8

from fastdreamer.errors import UserError
from fastdreamer.recordings.actions import VPT_BUTTONS, ActionSpace
from fastdreamer.recordings.decode import frame_times
from fastdreamer.recordings.frame_times import FrameTimes
from fastdreamer.recordings.recording import Aligned, Recording
from fastdreamer.recordings.trajectory import Trajectory
from fastdreamer.recordings.vpt_clock import Clock, Match, Ticks, line_clocks, match
from fastdreamer.recordings.vpt_counters import Tally
from fastdreamer.recordings.vpt_lines import KEYS, Line, is_other, parse_line, read_lines
from fastdreamer.system.json_files import parse, read_loosely

SPACE = "vpt"
ENDING = ".jsonl"
DEGREES_PER_PIXEL = 360 / 2400

# Recorder and video encoder stop a few frames apart, and may lose some on the way. A larger difference means that they
# are not of one recording. A recording has at most 6000 frames: 200 of them are 10 s.
MAX_LENGTH_DIFFERENCE = 200  # frames
MAX_LENGTH_SHARE = 0.1
WINDOW_HEIGHT = 720  # pixels of the recorded game's window, in which the mouse is reported
HEIGHT_SHARE = 16 / 360  # the share of the frame's height: 16 pixels where it is 360, as in Minecraft's own window


def claims(path: Path) -> bool:
    """Whether a file holds VPT's lines, whole or not."""
    return path.name.endswith(ENDING) and not is_other(path)


def read_indices(root: Path) -> Iterator[tuple[str, str]]:
    """Name and reason for all that the index files in `root` list: {"basedir": ..., "relpaths": [...]}."""
    for path in sorted(root.glob("*.json")):
        index = (path.is_file() and read_loosely(path)) or {}
        relpaths = index.get("relpaths") if "basedir" in index else None
        for relpath in relpaths if isinstance(relpaths, list) else []:
            name = Path(str(relpath)).name.removesuffix(".mp4")
            yield name, f"{path.name} lists {relpath}, but there is no {name}.mp4 with {name}{ENDING}"


@dataclass(frozen=True)
class VPTLabels:
    """The lines of one recording, read.

    Attributes:
        actions: one a line that can be read.
        clocks: the ticks of those lines (`vpt_clock.line_clocks`).
        lines: how many there are, broken ones included.
        cursors: the mouse's place, by line, while a window is open.
        counters: what the game counts, one value a line that can be read.
    """

    recording: Recording
    actions: UInt8[np.ndarray, "n k"]
    noop: tuple[int, ...]
    clocks: list[Clock]
    lines: int
    cursors: dict[int, tuple[float, float]]
    mended: tuple[str, ...]
    skip_null: bool
    counters: dict[str, Integer[np.ndarray, " n"]]

    def align(self, visible: int) -> Aligned:
        """Each frame with its line, as far as there are both; the last frame's action leads nowhere and is left out.

        A frame before which some are missing is no target of the world model: one action does not lead there. With
        `skip_null` frames whose action is the no-op go, with their rows; the last frame stays.

        Raises:
            DamagedRecording: if lines and frames differ by much, no time says which is whose, or nothing is left.
        """
        video = self.recording.video
        names = f"{video.name} has {visible} frames, but {video.stem}{ENDING} has {self.lines} lines"
        found = self._match(visible)
        unread = self.lines - len(self.actions)
        between = int(found.missing.sum())
        most = min(MAX_LENGTH_DIFFERENCE, MAX_LENGTH_SHARE * max(visible, self.lines))
        if abs(visible - self.lines) > most or between > most:
            raise self.recording.damaged(f"{names}: they cannot belong together")
        last = len(found.frames) - 1
        if last < 1:
            raise self.recording.damaged(f"{last + 1} frames have an action that can be read; one step needs 2")
        rows = np.arange(last)
        if self.skip_null:
            rows = np.flatnonzero((self.actions[found.lines[:last]] != self.noop).any(1))
            if not len(rows):
                raise self.recording.damaged(f"nothing is done in {last} steps, and data.skip_null leaves those out")
        kept = np.append(rows, last)
        picked, lines = found.frames[kept], found.lines[kept]
        frames = np.zeros((len(kept), 0, 0, 3), np.uint8)
        trajectory = replace(
            Trajectory.unpaid(self.recording.name, frames, self.actions[lines[:-1]]),
            valid=found.missing[kept] == 0,
            rewarded=False,
            counters={name: values[lines] for name, values in self.counters.items()},
        )
        cursors = {int(f): self.cursors[int(n)] for f, n in zip(picked, lines, strict=True) if int(n) in self.cursors}
        retouch = partial(_draw, cursors) if cursors else None
        mended = self._mended(found, visible, names, unread)
        is_by_number = found.is_by_number(min(visible, len(self.actions)))
        return Aligned(trajectory, picked, is_by_number, mended=mended, retouch=retouch)

    def _match(self, visible: int) -> Match:
        try:
            times = frame_times(self.recording.video)
            if len(times.times) != visible:  # the packets promised another number than came
                times = FrameTimes(np.arange(visible), times.unit)
            return match(self.clocks, times)
        except ValueError as error:
            what = error if isinstance(error, UserError) else f"{self.recording.video.name}: {error}"
            raise self.recording.damaged(what) from error

    def _mended(self, found: Match, visible: int, names: str, unread: int) -> tuple[str, ...]:
        if len(found.gaps):
            first = int(found.gaps[0])
            frame, line = found.frames[first - 1], found.lines[first - 1] + 1
            lost = f"{found.missing.sum()} ticks have no frame or no line, the first after frame {frame}, line {line}"
            return (*self.mended, f"{names}: matched by their times; {lost}")
        if found.frames[0] or found.lines[0]:
            return (*self.mended, f"{names}: matched by their times; the first of them are lost")
        return (*self.mended, f"{names}: read to the shorter") if visible != self.lines else self.mended


def _draw(cursors: dict[int, tuple[float, float]], number: int, frame: UInt8[np.ndarray, "h w 3"]) -> None:
    if number in cursors:
        draw_cursor(frame, *cursors[number])


def draw_cursor(frame: UInt8[np.ndarray, "h w 3"], x: float, y: float) -> None:
    """Draw an arrow, white with a black rim, into `frame`, its tip at the mouse's place in the window, cut at the rims.

    Source: VPT's loader puts its cursor at (x, y) * frame height / 720 as well; the arrow is ours.
    """
    height, width = frame.shape[:2]
    size = max(round(height * HEIGHT_SHARE), 2)
    left, top = int(x * height / WINDOW_HEIGHT), int(y * height / WINDOW_HEIGHT)
    rows, columns = slice(max(top, 0), max(top + size, 0)), slice(max(left, 0), max(left + size, 0))
    part = frame[rows, columns]
    cut = (slice(max(-top, 0), max(-top, 0) + part.shape[0]), slice(max(-left, 0), max(-left, 0) + part.shape[1]))
    part[_arrow(size, 0.0)[cut]] = 0
    part[_arrow(size, 1.2)[cut]] = 255


def _arrow(size: int, rim: float) -> Bool[np.ndarray, "size size"]:
    """The pixels of a triangle with its tip in the upper left corner that are at least `rim` pixels inside."""
    v, u = np.mgrid[:size, :size] + 0.5
    return np.asarray((u >= rim) & (v - u >= rim * 2**0.5 - 0.5) & (v + 0.45 * u <= size - rim))


def read_labels(recording: Recording, space: ActionSpace, skip_null: bool = False) -> VPTLabels:
    """Read all lines up to the first broken one.

    Raises:
        DamagedRecording: if the space is another, or there is no line that can be read.
        OSError: if the file cannot be read.
    """
    if space.name != SPACE:
        raise recording.damaged(f"it is a VPT recording: its actions are read with data.env=vpt, not {space.name}")
    path = recording.path.with_suffix(ENDING)
    lines: list[Line] = []
    tally, mended, broken, count = Tally(), list[str](), "", 0
    for count, text in read_lines(path):
        try:
            if not broken:
                lines.append(parse_line(content := parse(text)))
                tally.add(content)
        except ValueError as error:
            broken = f"line {count} of {{}} in {path.name} is broken ({str(error)[:80]})"
    if broken and not lines:
        raise recording.damaged(broken.replace("{}", str(count), 1))
    if broken:
        mended.append(f"{broken.replace('{}', str(count), 1)}: read up to it")
    if not lines:
        raise recording.damaged(f"{path.name} is empty")
    if silent := sum(line.is_silent for line in lines):
        mended.append(f"{silent} lines without mouse or keyboard are read as no input")
    if tally.unread:
        mended.append(f"inventory or stats of {tally.unread} lines cannot be read: counters stay as before them")
    if stuck := _release_stuck_attack(lines):
        mended.append(f"attack was stuck down at the start: left out of {stuck} lines")
    cursors = {number: line.cursor for number, line in enumerate(lines) if line.cursor is not None}
    try:
        clocks = line_clocks([line.tick for line in lines], [line.milli for line in lines])
    except ValueError as error:
        raise recording.damaged(f"{path.name}: {error}, so nothing says which frame it belongs to") from error
    actions = space.from_recording(_arrays(lines, clocks[0].ticks))
    noop, counters = space.noop, tally.counters()
    return VPTLabels(recording, actions, noop, clocks, count, cursors, tuple(mended), skip_null, counters)


def _release_stuck_attack(lines: list[Line]) -> int:
    """Lines from the first on report attack as held though nobody pressed it, until somebody does."""
    if lines[0].new_buttons != (0,):
        return 0
    end = next((i for i, line in enumerate(lines) if i and 0 in line.new_buttons), len(lines))
    for line in lines[:end]:
        line.pressed.discard("attack")
    return end


def _arrays(lines: list[Line], ticks: Ticks) -> dict[str, np.ndarray]:
    """The lines as the arrays of a recording."""
    down: Int[np.ndarray, "n k"] = np.array([[name in line.pressed for name in VPT_BUTTONS] for line in lines], int)
    pressed = dict(zip(VPT_BUTTONS, down.T, strict=True))
    for one, other in (("forward", "back"), ("left", "right")):
        both = (pressed[one] & pressed[other]) == 1
        pressed[one][both] = pressed[other][both] = 0
    camera: Float[np.ndarray, "n 2"] = np.array([[line.dy, line.dx] for line in lines]) * DEGREES_PER_PIXEL
    hotbar = np.array(_hotbar(lines, ticks))
    alone = pressed["inventory"] == 1
    for name in VPT_BUTTONS:
        if name != "inventory":
            pressed[name][alone] = 0
    camera[alone], hotbar[alone] = 0.0, "none"
    return {f"action${name}": column for name, column in pressed.items()} | {
        "action$camera": camera,
        "action$hotbar": hotbar,
    }


def _hotbar(lines: list[Line], ticks: Ticks) -> list[str]:
    """The slot that each line selects: by its key, or by the wheel, which only the state of the next line shows.

    A change that the next line's own key explains is that line's, in case its state already counts it; one that came
    while lines are missing is nobody's.
    """
    selected = [line.slots[-1] if line.slots else "none" for line in lines]
    for i, (line, following) in enumerate(zip(lines, lines[1:], strict=False)):
        if line.hotbar is None or following.hotbar is None or line.hotbar == following.hotbar or line.slots:
            continue
        if ticks[i + 1] - ticks[i] > 1:
            continue
        if str(following.hotbar + 1) not in following.slots:
            selected[i] = str(following.hotbar + 1)
    return selected


assert set(KEYS.values()) < set(VPT_BUTTONS)
