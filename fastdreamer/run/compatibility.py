"""Whether a checkpoint fits a configuration and a store: what it was made with must be what it goes on with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.run.checkpoint import SECTIONS, TASKS, Checkpoint, architecture, training, without
from fastdreamer.settings import to_dict
from fastdreamer.settings.fields import free_settings
from fastdreamer.system.folders import whole


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
    for tree in (saved, wanted):  # a run keeps the whole path of what was typed; `check_latents` says whose they are
        if isinstance(named := tree["tokenizer"]["weights"], str):
            tree["tokenizer"] = tree["tokenizer"] | {"weights": whole(named)}
    if checkpoint.phase < 2:  # the world model knows neither heads nor tasks
        saved |= {name: wanted[name] for name in ("heads", TASKS)}
    _refuse_difference(saved, wanted, checkpoint.path, "")


def check_resumable(checkpoint: Checkpoint, config: Config) -> None:
    """Checks as `check_architecture`, and the phase's training settings: a resumed run equals an uninterrupted one.

    What is free may change, and so may `steps`: from then on the learning rate is that of a phase of so many steps.

    Raises:
        UserError: on any other difference, where more steps are done than the phase is to have, and of a packed
            checkpoint, which has neither optimiser nor random state to go on with.
    """
    if checkpoint.is_packed:
        raise UserError(
            f"checkpoint {checkpoint.path} is packed, without the optimiser, so phase {checkpoint.phase} cannot go on "
            "from it: train that phase in another --run-dir; the phase after it may build on this one (--checkpoint)"
        )
    check_architecture(checkpoint, config)
    section = f"phase{checkpoint.phase}" if checkpoint.phase else "decoder"
    schema = type(config.phase(checkpoint.phase) if checkpoint.phase else config.decoder)
    wanted, defaults = training(config, checkpoint.phase), to_dict(schema())
    saved = {key: defaults[key] for key in wanted} | checkpoint.state["training"]  # a newer setting had its default
    free = free_settings(schema)
    then, now = without(saved, free), without(wanted, free)
    _refuse_difference(then, now, checkpoint.path, f"{section}.")
    done, before, steps = checkpoint.step, checkpoint.state["training"].get("steps"), wanted["steps"]
    if steps < done:
        raise UserError(
            f"checkpoint {checkpoint.path} has done {done} steps, {section}.steps is {steps}: set it to {done} or more"
        )
    if before not in (None, steps):
        rate = f", and from step {done + 1} on the learning rate is that of step {done + 1} of {steps}"
        print(f"{section}: {steps} steps instead of {before}{rate if done < steps else ''}", flush=True)


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
