"""Environments for policies: Crafter, or the user's own Minecraft, or none, which is said in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.store import read_manifest
from fastdreamer.latents.store_advice import rebuild
from fastdreamer.run.directory import RunDirectory

if TYPE_CHECKING:
    from fastdreamer.envs.pool import EnvPool
    from fastdreamer.tokenizer.acting import ActingEncoder


def check(config: Config) -> None:
    """Refuse a Minecraft simulator that was asked for by name and cannot run.

    Raises:
        UserError: naming what is missing.
    """
    from fastdreamer.envs.minecraft_backends import find_backend

    if config.data.env != "crafter" and config.evaluation.backend != "auto":
        find_backend(config.data.env, config.evaluation.backend)


def missing(config: Config) -> str | None:
    """The note that says why nothing can be played here, or None."""
    from fastdreamer.envs.minecraft_backends import find_backend

    if config.data.env == "crafter":
        return None
    try:
        find_backend(config.data.env, config.evaluation.backend)
    except UserError as error:
        return (
            f"No policy was played: {config.data.env} has no environment to act in here ({error}). Only the world "
            "model was evaluated."
        )
    return None


def waves(config: Config, seeds: Sequence[int]) -> list[Sequence[int]]:
    """The worlds that are played at once: all of Crafter's; of Minecraft's one a simulator."""
    if config.data.env == "crafter":
        return [seeds]
    at_once = config.evaluation.workers or 1  # each is a Java process of 2 GB that keeps some cores busy
    return [seeds[first : first + at_once] for first in range(0, len(seeds), at_once)]


def open_pool(config: Config, seeds: Sequence[int]) -> EnvPool:
    """Open the environments that play `seeds`."""
    from fastdreamer.envs.minecraft import MinecraftSettings
    from fastdreamer.envs.pool import EnvPool

    settings = config.evaluation
    if config.data.env == "crafter":
        return EnvPool(config.data.env, seeds, settings.max_steps, settings.workers)
    minecraft = MinecraftSettings(settings.backend, settings.minerl_task, settings.leave_out, config.data.frame_size)
    return EnvPool(config.data.env, seeds, settings.max_steps, minecraft=minecraft)


def open_encoder(config: Config, run: RunDirectory, batch: int, device: torch.device) -> ActingEncoder:
    """What `batch` episodes are seen by.

    Raises:
        UserError: if the run's latents were made by another tokenizer.
    """
    from fastdreamer.tokenizer.acting import ActingEncoder
    from fastdreamer.tokenizer.engines.installed import describe, open_tokenizer

    tokenizer = open_tokenizer(config, device)
    print(f"tokenizer: {describe(tokenizer)}", flush=True)
    store = run.store(config)
    if store.exists() and read_manifest(store)["key"].get("tokenizer") != tokenizer.fingerprint:
        raise UserError(
            f"latent store {store} was made with another tokenizer than the agent would see by; {rebuild(store)}"
        )
    return ActingEncoder(tokenizer, batch)


def notes(config: Config, stopped: UserError | None) -> list[str]:
    """What a reader of the evaluation must know about how it was played."""
    said = []
    if config.data.env != "crafter" and config.evaluation.leave_out:
        said.append(f"Kept at their no-op while playing: {', '.join(config.evaluation.leave_out)}.")
    if stopped is not None:
        said.append(f"Play stopped, and policies that had not played every world are left out: {stopped}.")
    return said
