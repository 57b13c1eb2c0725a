"""Checkpoints: a folder of safetensors and JSON that appears whole, with a SHA-256 of every file, checked on load.

A checkpoint holds everything a phase needs to go on bit for bit: trainable modules and running scales, EMA, optimiser,
random generators, the data position and the step; and the frozen modules, so that it stands alone.
No pickle is written or read.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.files import atomic_directory, sha256_file
from fastdreamer.settings import to_dict

FORMAT = 1
KEEP = 2
SECTIONS = ("tokenizer", "dynamics", "forcing", "heads")
TASKS = "tasks.names"
FREE = ("micro_batch", "recompute", "max_skipped")  # of a phase: what a resumed run may change


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
    def averages(self) -> dict[str, Tensor]:
        """The averaged weights to use: the best ones where they were looked for (see `Best`), else the last."""
        return self.tensors.get("best") or self.tensors.get("ema", {})


def architecture(config: Config) -> dict[str, Any]:
    """The part of a configuration that weights depend on; a checkpoint of another one is refused."""
    parts = {name: to_dict(getattr(config, name)) for name in SECTIONS}
    parts["tokenizer"].pop("trust_jit")  # how a file is read, not what it holds
    return {"env": config.data.env, TASKS: list(config.tasks.names)} | parts


def training(config: Config, phase: int) -> dict[str, Any]:
    """The settings of a phase that its result depends on; resuming with others is refused."""
    settings = to_dict(getattr(config, f"phase{phase}" if phase else "decoder"))
    return {name: value for name, value in settings.items() if name not in FREE}


def save_checkpoint(
    folder: Path,
    phase: int,
    step: int,
    groups: Mapping[str, Mapping[str, Tensor]],
    config: Config,
    latents: str,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Writes folder/step-XXXXXXXX atomically and keeps the newest two.

    Args:
        folder: the phase's checkpoint folder.
        phase: 0 (pixel decoder) to 3.
        step: steps done.
        groups: tensors by group (model, ema, optimizer, random, frozen, ...); empty groups are left out.
        config: stored, so that a mismatch can be named.
        latents: fingerprint of the tokenizer that made the latents it was trained on.
        notes: more for its JSON state.

    Raises:
        UserError: if the disk refuses; older checkpoints stay.
    """
    final = folder / f"step-{step:08d}"
    with atomic_directory(final, replace=True) as temporary:
        for name, tensors in groups.items():
            if tensors:
                plain = {k: v.detach().contiguous().cpu() for k, v in tensors.items()}
                save_file(plain, temporary / f"{name}.safetensors")
        state: dict[str, Any] = {
            "format": FORMAT,
            "phase": phase,
            "step": step,
            "torch": torch.__version__,
            "latents": latents,
            "architecture": architecture(config),
            "training": training(config, phase),
        } | dict(notes or {})
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        hashes = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        (temporary / "manifest.json").write_text(json.dumps(hashes, indent=1))
    for old in steps_in(folder)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def steps_in(folder: Path) -> list[Path]:
    """The checkpoints of a phase's folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if re.fullmatch(r"step-\d{8}", p.name))


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint (its folder, a file in it, or a phase's folder: then the newest) and checks every byte.

    Raises:
        UserError: if it is missing, incomplete, damaged, or from a newer format.
    """
    found = path.parent if path.is_file() else path
    if not (found / "manifest.json").exists() and steps_in(found):
        found = steps_in(found)[-1]
    try:
        hashes = json.loads((found / "manifest.json").read_text())
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}: train that phase first, or give --checkpoint") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{found / 'manifest.json'} cannot be read ({error}): delete {found} and resume") from None
    for name, expected in hashes.items():
        file = found / name
        if not file.exists():
            raise UserError(f"checkpoint {found} lacks {name}: delete that folder, an older step takes its place")
        if sha256_file(file) != expected:
            raise UserError(f"{file} is damaged (SHA-256 differs): delete {found}, an older step takes its place")
    try:
        state = json.loads((found / "state.json").read_text())
        tensors = {p.stem: load_file(p) for p in sorted(found.glob("*.safetensors"))}
    except (ValueError, SafetensorError) as error:
        raise UserError(f"checkpoint {found} cannot be read ({error}): delete that folder") from None
    if state.get("format") != FORMAT:
        raise UserError(f"checkpoint {found} has format {state.get('format')}, this version reads {FORMAT}: upgrade")
    return Checkpoint(found, tensors, state)


def check_architecture(checkpoint: Checkpoint, config: Config) -> None:
    """Refuses weights of another configuration, naming the first setting that differs.

    A setting that is newer than the checkpoint had its default then.

    Raises:
        UserError: on any difference in `architecture`.
    """
    saved, wanted = {TASKS: []} | checkpoint.state["architecture"], architecture(config)
    for name in SECTIONS:
        defaults = to_dict(type(getattr(config, name))())
        saved[name] = {key: defaults[key] for key in wanted[name]} | saved[name]
    if checkpoint.phase < 2:  # the world model knows neither heads nor tasks
        saved |= {name: wanted[name] for name in ("heads", TASKS)}
    _refuse_difference(saved, wanted, checkpoint.path, "")


def check_resumable(checkpoint: Checkpoint, config: Config) -> None:
    """As `check_architecture`, and the phase's own training settings too: a resumed run equals an uninterrupted one.

    Raises:
        UserError: on any difference.
    """
    check_architecture(checkpoint, config)
    section = f"phase{checkpoint.phase}" if checkpoint.phase else "decoder"
    wanted = training(config, checkpoint.phase)
    defaults = to_dict(type(getattr(config, section))())
    saved = {key: defaults[key] for key in wanted} | checkpoint.state["training"]  # a newer setting had its default
    _refuse_difference(saved, wanted, checkpoint.path, f"{section}.")


def _refuse_difference(saved: Mapping[str, Any], wanted: Mapping[str, Any], path: Path, prefix: str) -> None:
    for key in sorted(saved.keys() | wanted.keys()):
        then, now = saved.get(key), wanted.get(key)
        if isinstance(then, dict) and isinstance(now, dict):
            _refuse_difference(then, now, path, f"{prefix}{key}.")
        elif json.dumps(then) != json.dumps(now):
            raise UserError(
                f"checkpoint {path} was made with {prefix}{key}={then}, the configuration says {now}: "
                f"set it back or use another --run-dir"
            )


def check_latents(checkpoint: Checkpoint, fingerprint: str, where: str) -> None:
    """Refuses latents of another tokenizer than the one the weights were trained on.

    Raises:
        UserError: naming the checkpoint and `where` the other latents come from.
    """
    if checkpoint.state["latents"] != fingerprint:
        raise UserError(
            f"checkpoint {checkpoint.path} was trained on latents of tokenizer {checkpoint.state['latents'][:12]}, "
            f"{where} has {fingerprint[:12]}: use the tokenizer it was trained with, or train phase 1 again"
        )


def strip_compiled_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameter names without the `_orig_mod.` that torch.compile puts at any depth (for foreign checkpoints)."""
    return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
