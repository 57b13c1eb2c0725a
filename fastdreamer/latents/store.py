"""The latent store: what training reads. One safetensors file an episode and one manifest, keyed and checked.

Layout: STORE/manifest.json and STORE/episodes/<name>.safetensors. An episode holds the raw pooled latents of its steps
(fp16) and, per frame, actions, rewards, terminals, valid bits and, where the recording has them, counters, whose names
are in the manifest. The manifest's key says by what the latents were made; a store whose key is not the expected one,
or a file whose bytes changed, is refused.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float32
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import Episode, check_episode, read_episode
from fastdreamer.latents.episode_on_disk import EpisodeOnDisk
from fastdreamer.latents.manifest import FOLDER, RUNNERS, OtherStore, check_key, read_manifest
from fastdreamer.latents.store_advice import mend, rebuild
from fastdreamer.latents.tensor_files import TensorFile, identity_of
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.shapes import CHANNELS, LatentClock

__all__ = ["RUNNERS", "SYNTHETIC", "Episode", "LatentStore", "check_key", "read_manifest", "step_valid", "store_key"]

SYNTHETIC = "synthetic"  # the tokenizer of made-up latents


@dataclass
class LatentStore:
    """An opened latent store.

    Attributes:
        path, manifest: its folder and what its manifest says.
        episodes: all of them, in RAM, or on disk when larger than the limit (`is_on_disk`).
        size_bytes: bytes of all its episode files.
        clock, space: the latent clock and the action space they were made with.
    """

    path: Path
    manifest: Mapping[str, Any]
    episodes: list[Episode]
    size_bytes: int
    is_on_disk: bool

    def __post_init__(self) -> None:
        self.clock = LatentClock(self.manifest["key"]["frames_per_latent"], self.manifest["key"]["window"])
        self.space: ActionSpace = action_space(self.manifest["space"]["name"])

    @classmethod
    def open(
        cls,
        path: Path | str,
        expected_key: Mapping[str, Any] | None = None,
        memory_limit_gb: float = 4.0,
    ) -> LatentStore:
        """Open a store and check the SHA-256 of every file, and what is in it.

        Args:
            path: the store's folder.
            expected_key: what the latents must have been made by (`store_key`); None accepts any.
            memory_limit_gb: a larger store stays on disk: what is in it is read when used.

        Raises:
            UserError: if it is missing, incomplete, made otherwise than expected, or damaged.
        """
        with uncollected():
            return cls._open(Path(path), expected_key, memory_limit_gb)

    @classmethod
    def _open(cls, path: Path, expected_key: Mapping[str, Any] | None, memory_limit_gb: float) -> LatentStore:
        manifest = read_manifest(path)
        if expected_key is not None:
            check_key(path, manifest["key"], expected_key)
        space = action_space(manifest["space"]["name"])
        if space.fingerprint != manifest["space"]["fingerprint"]:
            raise OtherStore(f"latent store {path} has another version of the {space.name} actions; {rebuild(path)}")
        files = {name: f"{path}/{FOLDER}/{entry['file']}" for name, entry in manifest["episodes"].items()}
        if not files:
            raise UserError(f"latent store {path} has no episodes; {mend(path)}")
        size, identities = 0, list[tuple[int, int]]()
        for name, file in files.items():
            try:
                about = os.stat(file)
            except OSError as error:
                raise UserError(f"latent store {path} lacks the file of episode {name}; {mend(path)}") from error
            size += about.st_size
            identities.append(identity_of(about))
        store = cls(path, manifest, [], size, size > memory_limit_gb * 2**30)
        for (name, entry), identity in zip(manifest["episodes"].items(), identities, strict=True):
            episode = read_episode(path, name, entry)
            check_episode(path, episode, store.clock, space)
            if store.is_on_disk:
                episode = EpisodeOnDisk(path, TensorFile(files[name], identity), episode)
            store.episodes.append(episode)
        return store

    @property
    def tokenizer(self) -> str:
        """Fingerprint of the tokenizer that made the latents, or SYNTHETIC."""
        return str(self.manifest["key"]["tokenizer"])

    def split(self, name: str) -> list[Episode]:
        """The episodes of `train` or `held_out`."""
        assert name in ("train", "held_out"), name
        return [episode for episode in self.episodes if episode.split == name]

    def statistics(self) -> tuple[Float32[Tensor, "p z"], Float32[Tensor, "p z"]]:
        """Mean and standard deviation of the training split by (position in the window, channel), in one pass.

        Steps that hold a padded or untrusted frame do not count. A position that occurs in no training episode takes
        the statistics over all positions.
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        shape = (self.clock.positions, CHANNELS)
        count, total, squares = torch.zeros(shape[0]).double(), torch.zeros(shape).double(), torch.zeros(shape).double()
        shift: Tensor | None = None  # sums of squares around a rough mean keep their digits
        for episode in self.split("train"):
            keep = step_valid(episode.valid, self.clock)
            latents = episode.latents.double()[keep]
            if not len(latents):
                continue
            shift = latents.mean((0, 1)) if shift is None else shift
            centred = latents - shift
            positions = torch.tensor([self.clock.position(step) for step in range(len(keep))])[keep]
            count.index_add_(0, positions, torch.ones(len(positions)).double() * latents.shape[1])
            total.index_add_(0, positions, centred.sum(1))
            squares.index_add_(0, positions, centred.square().sum(1))
        if shift is None:
            raise UserError(f"latent store {self.path} has no valid step in its training split; encode more recordings")
        never = count == 0
        count[never], total[never], squares[never] = count.sum(), total.sum(0), squares.sum(0)
        mean = total / count[:, None]
        std = (squares / count[:, None] - mean.square()).clamp_min(0).sqrt().clamp_min(1e-4)
        return (mean + shift).float(), std.float()


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage in the block: it would go through a growing heap of objects that all stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def step_valid(valid: Bool[Tensor, " t"], clock: LatentClock) -> Bool[Tensor, " l"]:
    """Steps all of whose frames exist and are to be trusted; step 0 is one frame."""
    c, steps = clock.frames_per_latent, clock.steps(len(valid))
    later = F.pad(valid[1:], (0, (steps - 1) * c - len(valid) + 1), value=False).view(steps - 1, c).all(1)
    return torch.cat([valid[:1], later])


def store_key(
    config: Config,
    tokenizer_fingerprint: str,
    precision: str = "fp32",
    backend: str = "eager",
    resampler: str = "torch",
) -> dict[str, Any]:
    """What the latents depend on: tokenizer (weights, resampling), clock, pool, and what ran (`RUNNERS`)."""
    tokenizer = config.tokenizer
    return {
        "tokenizer": tokenizer_fingerprint,
        "image_size": tokenizer.image_size,
        "frames_per_latent": tokenizer.frames_per_latent,
        "window": tokenizer.window,
        "stride": max(1, tokenizer.window - 1),
        "pool": tokenizer.pool,
        "precision": precision,
        "backend": backend,
        "resampler": resampler,
        "actions": action_space(config.data.env).fingerprint,
        "skip_null": config.data.skip_null,
    }
