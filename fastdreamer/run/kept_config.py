"""The configuration that a run keeps: what may change in it, when it is written, and whether it is what was written."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastdreamer.config import Config, load_config
from fastdreamer.errors import UserError
from fastdreamer.run.run_files import CHECKPOINTS, CONFIG, checkpoints_of, store_of
from fastdreamer.settings import RESOLVED, differences, dump_config
from fastdreamer.settings.fields import free_settings
from fastdreamer.system.files import anchored, write_atomic
from fastdreamer.system.yaml_text import parse_yaml

# What a killed command leaves that nothing depends on; and where there is something only if such a file is there.
NOTES = re.compile(r"config\.yaml|metrics\.jsonl|tensorboard|store\.json|flags\.json|error-[\w-]+\.txt|\..+")
MADE = {CHECKPOINTS: "phase*/step-*", "store": "episodes/*.safetensors", "recordings": "**/*.*"}


def run_config(run_dir: Path) -> Path:
    """The file of a run's configuration, whose content is held against the hash in its first line.

    A file without that line is somebody's own and passes: so can one that was changed on purpose.

    Raises:
        UserError: if there is none, or it is not what was written.
    """
    path = run_dir / CONFIG
    if not path.is_file():
        raise UserError(f"{run_dir} is not a run directory (no {CONFIG}): give --config to start one there")
    if _says_nothing(path):
        raise UserError(f"{path} is empty, and would stand for the defaults: put the old content back")
    if not _is_as_written(path):
        raise UserError(
            f"{path} is not what was written (its first line holds another hash): put the old content back; if it was "
            "changed on purpose, take that line out"
        )
    return path


def _is_as_written(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return True  # reading it as settings says what is wrong
    written = _written(text)
    if written is None:
        return True
    try:
        canonical = json.dumps(parse_yaml(text, str(path)), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    except TypeError:
        return False
    return hashlib.sha256(canonical.encode()).hexdigest()[:16] == written[1]


def _says_nothing(path: Path) -> bool:
    """Whether the file lost its content, all or all but comments; a file of somebody's own says something."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False  # reading it as settings says what is wrong
    return all(line.strip() in ("", "---") or line.lstrip().startswith("#") for line in lines)


def _written(text: str) -> re.Match[str] | None:
    """The first line of what a command of ours wrote, with its hash; None for a file of somebody's own."""
    return re.fullmatch(f"{RESOLVED} ([0-9a-f]{{16}})", text.partition("\n")[0])


def is_binding(run_dir: Path) -> bool:
    """Whether a run's configuration may not change: something was made with it, or somebody wrote it by hand.

    A command that was killed before it made anything leaves a configuration that binds nobody. What is not known to
    tell nothing is taken for something that was made.
    """
    saved = run_dir / CONFIG
    try:
        if _written(saved.read_text(encoding="utf-8")) is None or not _is_as_written(saved):
            return True
        others = [path for path in run_dir.iterdir() if not NOTES.fullmatch(path.name)]
        return any(path.name not in MADE or any(path.glob(MADE[path.name])) for path in others)
    except (OSError, UnicodeDecodeError, UserError):
        return True


def check_run(run_dir: Path, config: Config) -> None:
    """A run keeps its configuration: refuse another one, apart from what its fields say is free.

    One with which nothing was made yet is no reason to refuse (see `is_binding`).

    Raises:
        UserError: naming the first setting that differs.
    """
    saved = run_dir / CONFIG
    if not saved.is_file() or not is_binding(run_dir):
        return
    is_cloned = any(any(checkpoints_of(run_dir, phase).glob("step-*")) for phase in (2, 3))
    free = free_settings(Config, is_cloned)
    for path, (then, now) in _changed(saved, config).items():
        if path not in free:
            raise UserError(
                f"{run_dir} was made with {path}={then}, not {now}: a run keeps its configuration (leave --config "
                f"out), so use another --run-dir"
            )


def _changed(saved: Path, config: Config) -> dict[str, tuple[Any, Any]]:
    """What differs from a saved configuration; a folder may be written in several ways."""
    return differences(anchored(load_config(saved), weights=True), anchored(config, weights=True))


@contextmanager
def kept_configuration(run_dir: Path | None, config: Config) -> Iterator[None]:
    """Save the configuration with the run before the work begins.

    Where the work fails before it made anything with it, the old one comes back, so that a corrected command is not
    refused; an interrupted run goes on with the new one.
    """
    if run_dir is None:
        yield
        return
    check_run(run_dir, config)
    saved, made = run_dir / CONFIG, _made(run_dir, config)
    before = saved.read_bytes() if saved.is_file() else None
    if before is None or _changed(saved, config) or not _is_as_written(saved):
        dump_config(anchored(config, weights=True), saved)
    try:
        yield
    except BaseException as error:
        if _made(run_dir, config) == made and (before is None or isinstance(error, Exception)):
            with suppress(OSError, UserError):  # a full disk: what failed first says more
                _put_back(saved, before)
        raise


def _put_back(saved: Path, before: bytes | None) -> None:
    if before is not None:
        if saved.parent.is_dir():  # else it was moved, and nobody looks for it here
            write_atomic(saved, before)
    else:
        saved.unlink()
        saved.parent.rmdir()


def _made(run_dir: Path, config: Config) -> set[Path]:
    """What depends on the configuration: checkpoints, and episodes of the store."""
    store = store_of(config, run_dir)
    return {*checkpoints_of(run_dir, 0).parent.glob("phase*/step-*"), *store.glob("episodes/*.safetensors")}
