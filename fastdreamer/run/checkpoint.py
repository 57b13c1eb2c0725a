"""Checkpoints: a folder of safetensors and JSON that appears whole, with a SHA-256 of every file, checked on load.

A checkpoint holds everything a phase needs to go on bit for bit: trainable modules and running scales, EMA, optimiser,
random generators, the data position and the step; and the frozen modules, so that it stands alone.
No pickle is written or read.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run import rank_files, sharing
from fastdreamer.run.run_files import CHECKPOINTS
from fastdreamer.settings import to_dict
from fastdreamer.settings.fields import free_settings
from fastdreamer.system.advice import command
from fastdreamer.system.files import atomic_directory, remove_directory, sha256_file
from fastdreamer.system.json_files import ANYTHING, COUNT, NUMBER, TEXT, Every, Leaf, fault, parse

FORMAT, IN_PARTS = 1, 2  # the second, where several ranks wrote
KEEP = 2
SECTIONS = ("tokenizer", "dynamics", "forcing", "heads")
TASKS = "tasks.names"
MANIFEST, STATE = "manifest.json", "state.json"
STEP = re.compile(r"step-\d{8}")
NAME = re.compile(r"[\w-]+\.(safetensors|json)")  # names a file in a checkpoint, never a path
GROUPS = ("model", "ema")  # what every checkpoint holds; a packed one has the averages alone
CONTENT = {
    "phase": Leaf("a phase", lambda value: type(value) is int and 0 <= value <= 3),
    "step": COUNT,
    "latents": TEXT,
    "architecture": {"env": TEXT, f"{TASKS}?": [TEXT], **{name: Every(ANYTHING) for name in SECTIONS}},
    "training": Every(ANYTHING),
    "skipped?": lambda counts: fault(counts, [COUNT]) or ("" if len(counts) == 2 else "it is no pair"),
    "forced?": [{"phase": COUNT, "name": TEXT}],
    f"{sharing.PACKED}?": sharing.CONTENT,
    "best?": lambda best: (
        fault(best, [NUMBER]) or ("" if len(best) == 3 and all(map(math.isfinite, best)) else "no triple")
    ),
}
"""What state.json must hold (see `json_files`)."""


class Damaged(UserError):
    """A checkpoint is there, can be read, and is not what was saved."""


@dataclass(frozen=True)
class Checkpoint:
    """One loaded checkpoint: named groups of tensors and the JSON state."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]

    @property
    def phase(self) -> int:
        return int(self.state["phase"])

    @property
    def step(self) -> int:
        return int(self.state["step"])

    @property
    def is_packed(self) -> bool:
        """Whether it holds averaged weights alone, so that nothing can go on from it (see `tools.packing`)."""
        return sharing.PACKED in self.state

    @property
    def averages(self) -> dict[str, Tensor]:
        """The averaged weights to use: the best ones where they were looked for (see `Best`), else the last."""
        return self.tensors.get("best") or self.tensors.get("ema", {})


def architecture(config: Config) -> dict[str, Any]:
    """The part of a configuration that weights depend on; a checkpoint of another one is refused."""
    sections = {name: getattr(config, name) for name in SECTIONS}
    parts = {name: without(to_dict(part), free_settings(type(part))) for name, part in sections.items()}
    return {"env": config.data.env, TASKS: list(config.tasks.names)} | parts


def training(config: Config, phase: int) -> dict[str, Any]:
    """The settings of a phase, as its checkpoints carry them."""
    return to_dict(config.phase(phase) if phase else config.decoder)


def without(tree: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A copy of `tree` that lacks `names`."""
    return {name: value for name, value in tree.items() if name not in names}


def save_checkpoint(
    folder: Path,
    phase: int,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Config,
    latents: str,
    notes: Mapping[str, Any] | None = None,
    others: rank_files.Others | None = None,
) -> Path:
    """Writes folder/step-XXXXXXXX atomically and keeps that and the one before it.

    Args:
        groups: tensors by group (model, ema, optimizer, random, frozen, ...); empty groups are left out.
        config: stored, so that a mismatch can be named.
        latents: fingerprint of the tokenizer that made the latents it was trained on.
        notes: more for its JSON state.
        others: ranks that write the rest of the tensors into the same folder (`rank_files.write_part`).

    Raises:
        UserError: if the disk refuses; older checkpoints stay.
    """
    final = folder / f"step-{step:08d}"
    if not final.is_dir():  # a link that leads nowhere, or a file
        remove_directory(final)
    with atomic_directory(final, replace=True) as temporary:
        state: dict[str, Any] = {
            "format": FORMAT if others is None else IN_PARTS,
            "phase": phase,
            "step": step,
            "torch": torch.__version__,
            "latents": latents,
            "architecture": architecture(config),
            "training": training(config, phase),
        } | dict(notes or {})
        write_files(temporary, groups, state, others)
    steps = steps_in(folder)
    kept = [path for path in steps if path.name <= final.name][-KEEP:]
    for other in set(steps) - set(kept):  # a later one could not be read, or the run would have gone on from it
        remove_directory(other)
    return final


def write_files(
    folder: Path,
    groups: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    others: rank_files.Others | None = None,
) -> None:
    """Fills the empty folder of a checkpoint, with other ranks if there are any."""
    if others is not None:
        others.begin(folder)
    own = [file for name, tensors in groups.items() for file in rank_files.write_group(folder, name, tensors)]
    (folder / STATE).write_text(json.dumps(state, indent=1))
    hashes = {file: sha256_file(folder / file) for file in (*own, STATE)}
    if others is not None:
        hashes |= others.finish()
    (folder / MANIFEST).write_text(json.dumps(dict(sorted(hashes.items())), indent=1))


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints of a phase's folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if STEP.fullmatch(p.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint (its folder, a file in it, or a phase's folder: then the newest) and checks every byte.

    Raises:
        UserError: if it is missing, incomplete, damaged, cannot be read, or is from a newer format.
    """
    try:
        found = path.parent if path.is_file() and not STEP.fullmatch(path.name) else path
        if not (found / MANIFEST).exists() and steps_in(found):
            found = steps_in(found)[-1]
        is_step = STEP.fullmatch(found.name) and (found.exists() or found.is_symlink())
        if not is_step and not (found / MANIFEST).exists():
            raise UserError(f"no checkpoint at {path}: train that phase first, or give --checkpoint")
        return _read(found)
    except OSError as error:
        raise UserError(
            f"checkpoint {path} cannot be read ({error.filename or 'a file'}: {error.strerror}): it may be whole, so "
            "let this account read it, or mend the disk"
        ) from error


def _read(found: Path) -> Checkpoint:
    if not (found / MANIFEST).is_file():
        raise _damaged(found, f"it lacks {MANIFEST}")
    hashes = _object(found, MANIFEST, Every(TEXT))
    there = {path.name for path in found.glob("*.safetensors")}
    for name in sorted({STATE, *hashes, *there}):
        if not NAME.fullmatch(name):
            raise _damaged(found, f"its manifest names {name!r}, which is no file of a checkpoint")
        if not (found / name).is_file():
            raise _damaged(found, f"it lacks {name}")
        if sha256_file(found / name) != hashes.get(name):
            raise _damaged(found, f"the SHA-256 of {name} is not the manifest's")
    state = _object(found, STATE, {})
    if state.get("format") not in (FORMAT, IN_PARTS):
        version = f"has format {state.get('format')}, this version reads {FORMAT} and {IN_PARTS}"
        raise UserError(f"checkpoint {found} {version}: upgrade")
    wrong = fault(state, CONTENT)
    if not wrong and STEP.fullmatch(found.name) and found.name != f"step-{state['step']:08d}":
        wrong = f"it is of step {state['step']}"
    if wrong or ("best" in state and "best.safetensors" not in hashes):
        raise _damaged(found, f"{STATE}: {wrong or 'it tells of the best weights, which are missing'}")
    packed = state.get(sharing.PACKED)
    if lacking := [group for group in GROUPS[packed is not None :] if f"{group}.safetensors" not in hashes]:
        raise _damaged(found, f"it lacks {lacking[0]}.safetensors")
    try:
        tensors = {Path(name).stem: load_file(found / name) for name in sorted(hashes) if name.endswith(".safetensors")}
        if packed is not None:
            tensors |= sharing.shared(found, packed)
            tensors = {name: sharing.whole(group) for name, group in tensors.items()}
        elif state["format"] == IN_PARTS:
            tensors = rank_files.merged(tensors)
    except (ValueError, SafetensorError, sharing.Missing) as error:
        raise _damaged(found, str(error)) from None
    if wrong := not_finite({name: group for name, group in tensors.items() if name not in ("optimizer", "random")}):
        raise _damaged(found, f"{wrong} is not finite")
    return Checkpoint(found, tensors, state)


def not_finite(groups: Mapping[str, Mapping[str, Tensor]]) -> str:
    """The first tensor that holds a value which is not finite, with its group; empty where all are."""
    named = [(f"{group} {name}", x) for group, tensors in groups.items() for name, x in tensors.items()]
    named = [(name, x) for name, x in named if x.is_floating_point() and x.numel()]
    if not named:
        return ""
    sound = torch.stack([x.detach().isfinite().all() for _, x in named]).tolist()
    return next((name for (name, _), is_sound in zip(named, sound, strict=True) if not is_sound), "")


def _object(found: Path, name: str, shape: Any) -> dict[str, Any]:
    try:
        value = parse((found / name).read_bytes())
        wrong = fault(value, shape)
    except ValueError as error:
        wrong = str(error)
    if wrong:
        raise _damaged(found, f"{name}: {wrong}")
    return dict(value)


def _damaged(found: Path, reason: str) -> Damaged:
    """The error of a damaged checkpoint, with the command that goes on from the one before it and writes it again."""
    text = f"checkpoint {found} is damaged ({reason})"
    phase, older = found.parent.name.removeprefix("phase"), [p for p in steps_in(found.parent) if p.name < found.name]
    if found.parent.parent.name != CHECKPOINTS or phase not in ("0", "1", "2", "3"):
        return Damaged(f"{text}: copy it again, or give another --checkpoint")
    resume = partial(command, "train", run_dir=found.parents[2], resume=True)
    if phase == "0":
        return Damaged(f"{text}: the pixel decoder is trained again by: {resume(phase=1)}")
    if not older:
        return Damaged(f"{text}, and there is none before it: train phase {phase} in another --run-dir")
    return Damaged(f"{text}: go on from the one before it with: {resume(phase=phase, checkpoint=older[-1])}")


def strip_compiled_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameter names without the `_orig_mod.` that torch.compile puts at any depth (for foreign checkpoints)."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
