"""The JSON files of a run directory: where each lies, what must stand in it, and the one way to read and write them.

A file that is missing reads as empty: that part was not made. One that is damaged is a UserError that names file and
key; who can do without it says so and goes on (`read_or_note`). Writing is whole or not at all.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run import contents
from fastdreamer.system.files import write_atomic
from fastdreamer.system.folders import expanded
from fastdreamer.system.json_files import AGAIN, ANYTHING, Every, read_object

CONFIG, CHECKPOINTS = "config.yaml", "checkpoints"


def checkpoints_of(run_dir: Path, phase: int) -> Path:
    """The folder of a phase's checkpoints; 0 is the pixel decoder."""
    return run_dir / CHECKPOINTS / f"phase{phase}"


def recordings_of(config: Config, run_dir: Path) -> Path:
    """Folder of a run's recordings: the one that its configuration names, else its own."""
    return expanded(config.data.recordings) if config.data.recordings else run_dir / "recordings"


def store_of(config: Config, run_dir: Path) -> Path:
    """Folder of a run's latent store: the one that its configuration names, else its own."""
    return expanded(config.data.store) if config.data.store else run_dir / "store"


@dataclass(frozen=True)
class RunFile:
    """A JSON file of a run: its name, what must stand in it, and what helps where it is damaged.

    Attributes:
        name: the file's path below the run directory.
        shape: what must stand in it (see `json_files`).
        remedy: what helps where it is damaged.
        has_nulls: whether numbers that are not finite are written as null, for they are what the file has to tell.
    """

    name: str
    shape: Any
    remedy: str = AGAIN
    has_nulls: bool = False

    def path(self, run_dir: Path) -> Path:
        """Path of the file in a run."""
        return run_dir / self.name

    def read(self, run_dir: Path, *, shape: Any = None, remedy: str = "", follows_links: bool = True) -> dict[str, Any]:
        """Content of the file, empty where it is missing.

        Args:
            run_dir: the run.
            shape: what is needed of it, where that is less than all of it.
            remedy: what helps, in place of the file's own remedy.
            follows_links: off for what is shown to others.

        Raises:
            UserError: if it is damaged.
        """
        return read_object(self.path(run_dir), shape or self.shape, remedy or self.remedy, follows_links=follows_links)

    def read_or_note(self, run_dir: Path, remedy: str, say: Callable[[str], None] | None = None) -> dict[str, Any]:
        """Content of the file, empty where it is missing or damaged; the latter is said, by default on stderr."""
        try:
            return self.read(run_dir, remedy=remedy)
        except UserError as error:
            (say or _to_stderr)(f"note: {error}")
            return {}

    def write(self, run_dir: Path, value: Mapping[str, Any]) -> None:
        """Writes the file whole or not at all; what is not finite is a bug, not a value, unless it `has_nulls`."""
        told = _without_nan(value) if self.has_nulls else value
        write_atomic(self.path(run_dir), (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())


def _without_nan(value: Any) -> Any:
    """A copy with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {name: _without_nan(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


EVALUATION = RunFile("evaluation.json", contents.EVALUATION)
WORLD_MODEL = RunFile("world_model.json", contents.world_model)
PICTURES = RunFile("pictures/pictures.json", contents.PICTURES)
DIAGNOSIS = RunFile("diagnosis.json", {"phases?": Every(contents.phase)}, has_nulls=True)
AUDIT = RunFile("diagnosis/audit.json", contents.audit)
FLAGS = RunFile("flags.json", contents.FLAGS, "move it elsewhere, and training writes it anew")
TIMINGS = RunFile("timings.json", Every(contents.SECONDS))
RECORDED = RunFile("recordings.json", Every(ANYTHING))
TRAINED_ON = RunFile("store.json", contents.trained_on)
SUMMARY = RunFile("summary.json", Every(ANYTHING))
