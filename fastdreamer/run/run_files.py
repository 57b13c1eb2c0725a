"""The JSON files of a run directory: where each lies, what must stand in it, and the one way to read and write them.

A file that is missing reads as empty: that part was not made. One that is damaged is a UserError that names file and
key; who can do without it says so and goes on (`read_or_note`). Writing is whole or not at all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.entries import is_sound
from fastdreamer.system.files import expanded, write_atomic
from fastdreamer.system.json_files import AGAIN, ANYTHING, COUNT, NUMBER, TEXT, Every, Leaf, Maybe, fault, read_object
from fastdreamer.system.output import strict

CONFIG, CHECKPOINTS, METRICS, REPORT = "config.yaml", "checkpoints", "metrics.jsonl", "report.html"
BOARD_FOLDER, PICTURE_FOLDER, DIAGNOSIS_FOLDER = "tensorboard", "pictures", "diagnosis"


def checkpoints_of(run_dir: Path, phase: int) -> Path:
    """The folder of a phase's checkpoints; 0 is the pixel decoder."""
    return run_dir / CHECKPOINTS / f"phase{phase}"


@overload
def recordings_of(config: Config, run_dir: Path) -> Path: ...
@overload
def recordings_of(config: Config, run_dir: Path | None) -> Path | None: ...
def recordings_of(config: Config, run_dir: Path | None) -> Path | None:
    """Folder of a run's recordings: the one that its configuration names, else its own; None without either."""
    return _named_or_own(config.data.recordings, run_dir, "recordings")


@overload
def store_of(config: Config, run_dir: Path) -> Path: ...
@overload
def store_of(config: Config, run_dir: Path | None) -> Path | None: ...
def store_of(config: Config, run_dir: Path | None) -> Path | None:
    """Folder of a run's latent store: the one that its configuration names, else its own; None without either."""
    return _named_or_own(config.data.store, run_dir, "store")


def _named_or_own(named: str, run_dir: Path | None, own: str) -> Path | None:
    if named:
        return expanded(named)
    return None if run_dir is None else run_dir / own


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

        `shape` is what is needed of it, where that is not all. No link is followed for what is shown to others.

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
        told = strict(value) if self.has_nulls else value
        write_atomic(self.path(run_dir), (json.dumps(told, indent=1, allow_nan=False) + "\n").encode())


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


SECONDS = Leaf("a number of seconds", lambda v: type(v) in (int, float) and 0 <= v < 1e12)
PAIR = Leaf("a pair of numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(map(NUMBER.holds, v)))
POINT = Leaf(
    "a pair of numbers", lambda v: isinstance(v, list) and len(v) == 2 and all(x is None or NUMBER.holds(x) for x in v)
)
INTERVAL = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}
BOUNDS = {name: Maybe(NUMBER) for name in INTERVAL}

POLICY = {
    "return_mean": NUMBER, "return_low": NUMBER, "return_high": NUMBER, "episodes": COUNT, "length_mean": NUMBER,
    "returns?": [NUMBER], "achievements?": Every(NUMBER),
}  # fmt: skip
CALIBRATION = {
    "predicted": INTERVAL, "paid": INTERVAL, "ratio": Maybe(BOUNDS), "auc": Maybe(NUMBER),
    "correlation": Maybe(NUMBER), "kinds": Every({"predicted": INTERVAL}),
    "critic?": Maybe({"value": BOUNDS, "with_rest": BOUNDS}),
}  # fmt: skip
TASK = {
    "policies?": Every(POLICY), "differences?": Every(INTERVAL), "reward_calibration?": Every(CALIBRATION),
    "max_steps?": Maybe(COUNT),
}  # fmt: skip

CURVES = ("one_sample", "copy_last", "shuffled_actions", "noop_actions")
CORRELATIONS = ("imagined_against_real", "imagined_against_recorded", "real_against_recorded")
WINDOWS = {
    "samples?": COUNT, "ratios?": Every(INTERVAL), "notes?": [TEXT],
    "one_step?": {"over_copy": INTERVAL, "shuffled_over_real": INTERVAL}, "one_sample_over_copy?": [INTERVAL],
    "reward_correlation?": Maybe({name: Maybe(INTERVAL) for name in CORRELATIONS} | {"steps": COUNT}),
}  # fmt: skip

CHECK = {name: TEXT for name in ("group", "name", "value", "expected", "verdict", "remedy")}
ROLLOUTS = {
    "values": [POINT], "positive": COUNT, "negative": COUNT, "imagined_reward": Maybe(NUMBER),
    "real_reward?": Maybe(NUMBER),
}  # fmt: skip
AUDITED = {"states": COUNT, "points": [PAIR], "figures": Every(Maybe(INTERVAL))}
STRIP = {"rows": Every(TEXT), "episode": TEXT, "start": COUNT, "error": NUMBER}


def _world_model(value: Any) -> str:
    """What is wrong with world_model.json: its curves are as long as their horizons."""
    if (wrong := fault(value, WINDOWS)) or not {"horizons", "one_step"} & value.keys():
        return wrong
    needed = ("copy_last", f"mean_of_{value.get('samples', 8)}")
    shape = {"horizons": [COUNT], "context": COUNT, "crops": COUNT} | {f"{name}?": [NUMBER] for name in CURVES}
    shape |= {name: [NUMBER] for name in needed}
    if "one_step" in value:
        shape["one_sample_over_copy"] = [INTERVAL]
    if wrong := fault(value, shape):
        return wrong
    many = len(value["horizons"])
    for name in (*CURVES, *needed, "one_sample_over_copy"):
        if name in value and len(value[name]) != many:
            return f"{name} has {len(value[name])} values, not one for each of {many} horizons"
    return "" if many else "horizons is empty"


def _phase(value: Any) -> str:
    """What is wrong with a phase of diagnosis.json."""
    has_rollouts = isinstance(value, dict) and "values" in value
    return fault(value, {"step?": COUNT, "checks": [CHECK]} | (ROLLOUTS if has_rollouts else {}))


def _audit(value: Any) -> str:
    """What is wrong with audit.json."""
    tried = {"tries": COUNT, "phase": COUNT, "horizon": COUNT}
    shape = {"kinds?": Every(AUDITED), "notes?": [TEXT], "checks?": [CHECK]}
    return fault(value, shape | (tried if isinstance(value, dict) and value.get("kinds") else {}))


def _trained_on(value: Any) -> str:
    """What is wrong with store.json, which hashes itself."""
    if not isinstance(value, dict) or not is_sound(value):
        return "its SHA-256 is not that of its content"
    return fault(value, {"episodes": Every({"split": TEXT, "task": COUNT, "sha256": TEXT})})


EVALUATION = RunFile(
    "evaluation.json", TASK | {"env?": TEXT, "notes?": [TEXT], "task?": Maybe(TEXT), "tasks?": Every(TASK)}
)
WORLD_MODEL = RunFile("world_model.json", _world_model)
PICTURES = RunFile(
    f"{PICTURE_FOLDER}/pictures.json",
    {"context": COUNT, "shown": [COUNT], "frames_per_latent?": COUNT, "strips": [STRIP]},
)
DIAGNOSIS = RunFile("diagnosis.json", {"phases?": Every(_phase)}, has_nulls=True)
AUDIT = RunFile(f"{DIAGNOSIS_FOLDER}/audit.json", _audit)
FLAGS = RunFile("flags.json", Every([{"step": COUNT, "name": TEXT}]), "move it elsewhere, and training writes it anew")
TIMINGS = RunFile("timings.json", Every(SECONDS))
RECORDED = RunFile("recordings.json", Every(ANYTHING))
TRAINED_ON = RunFile("store.json", _trained_on)
SUMMARY = RunFile("summary.json", Every(ANYTHING))
