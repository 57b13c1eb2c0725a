"""A recording before it is decoded: where it lies, what it says of itself, and which of its frames are which.

Every format's reader returns `Labels`. Only when the video's frames have been counted, by decoding them, does
`Labels.align` say which of them are the trajectory's, so no format can take a container's word for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Int, UInt8

from fastdreamer.errors import UserError
from fastdreamer.recordings.printable import printable, said
from fastdreamer.recordings.trajectory import Trajectory

# Which rules say which frame belongs to which row: 2 since times are read, of the video and of VPT's lines. A store's
# entries note it; those that do not were aligned by the frames' numbers alone.
ALIGNMENT = 2


class DamagedRecording(UserError):
    """One episode that cannot be read; the message names it and the reason."""


@dataclass(frozen=True)
class Recording:
    """The place, name and format of one recorded episode.

    Attributes:
        path: MineRL: its folder; otherwise its video.
        name: unique among the recordings found together, and a file name.
        env: the folder above it, which is its task.
        format: `minerl`, `vpt` or `video` (no actions).
    """

    path: Path
    name: str
    env: str
    format: str = "minerl"

    @property
    def video(self) -> Path:
        """The file with the frames; of a MineRL folder the usual one, or the first."""
        return self.file("recording.mp4") if self.path.is_dir() else self.path

    def file(self, usual: str) -> Path:
        """The file of that name in a MineRL folder, or else the first with the same ending."""
        path = self.path / usual
        others = [path] if path.is_file() else [p for p in self.path.glob(f"*{path.suffix}") if p.is_file()]
        return min(others, default=path)

    def damaged(self, reason: object) -> DamagedRecording:
        """The error that says why this recording cannot be read, in one line."""
        return DamagedRecording(f"recording {self.name}: {printable(reason)}")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Whatever goes wrong inside is this recording's damage: it is set aside, and the others go on.

        Raises:
            DamagedRecording: in place of any other exception.
        """
        try:
            yield
        except DamagedRecording:
            raise
        except UserError as error:
            raise self.damaged(error) from error
        except OSError as error:
            name = Path(os.fsdecode(error.filename)).name if isinstance(error.filename, str | bytes) else "a file"
            raise self.damaged(f"{name} cannot be read ({said(error)})") from error
        except Exception as error:
            raise self.damaged(f"it cannot be read ({said(error)})") from error


@dataclass(frozen=True)
class Aligned:
    """What a recording is, given how many frames its video shows.

    Attributes:
        trajectory: all but the pixels: its `frames` are (t, 0, 0, 3).
        picked: the numbers of the decoded frames that are the trajectory's t frames, strictly ascending.
        is_by_number: each row's frame has its row's number, and as far as there are both; before any were left out
            because nothing was done at them (`data.skip_null`).
        sha256: hash of the picked frames' bytes, where the recording says it.
        mended: what was wrong and could be put right, a line each.
        retouch: changes a decoded frame in place, given its number, before anything sees it; None leaves all as is.
    """

    trajectory: Trajectory
    picked: Int[np.ndarray, " t"]
    is_by_number: bool
    sha256: str | None = None
    mended: tuple[str, ...] = ()
    retouch: Callable[[int, UInt8[np.ndarray, "h w 3"]], None] | None = None


class Labels(Protocol):
    """A recording's actions and rewards, read and checked; its video not yet."""

    @property
    def recording(self) -> Recording: ...

    def align(self, visible: int) -> Aligned:
        """Decide which of `visible` decoded frames belong to which row.

        Raises:
            DamagedRecording: if that many frames contradict the labels.
        """
        ...
