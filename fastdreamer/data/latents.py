"""The latent store: what training reads. One safetensors file an episode and one manifest, keyed and checked.

Layout: STORE/manifest.json and STORE/episodes/<name>.safetensors. An episode holds the raw pooled latents of its steps
(fp16) and, per frame, actions, rewards, terminals, valid bits and, where the recording has them, counters, whose names
are in the manifest. The manifest's key says by what the latents were made; a store whose key is not the expected one,
or a file whose bytes changed, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float16, Float32, Integer, UInt8
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor
from torch.nn import functional as F

from fastdreamer.config import Config
from fastdreamer.data.actions import ActionSpace, action_space
from fastdreamer.data.counter_table import as_tensor, from_tensor
from fastdreamer.data.store_advice import make, mend, rebuild
from fastdreamer.errors import UserError
from fastdreamer.files import sha256_file, write_atomic
from fastdreamer.shapes import CHANNELS, LatentClock

FORMAT = 1
MANIFEST = "manifest.json"
FOLDER = "episodes"
SYNTHETIC = "synthetic"  # the tokenizer of made-up latents
# What ran, by the setting that chooses it: latents differ by rounding, and must still not be mixed.
RUNNERS = {"backend": "engines.backend", "precision": "engines.precision", "resampler": "data.resampler"}
ARRAYS = ("latents", "actions", "rewards", "terminals", "valid")
COUNTERS = "counters"  # a tensor of (t, names) in a file, the names in its manifest entry; older stores have none


class OtherStore(UserError):
    """A store that this configuration cannot go on with: made otherwise, by another version, or without a manifest."""


@dataclass(frozen=True)
class Episode:
    """One episode of the store: t frames, s = t - 1 transitions, l latent steps of raw latents (see Trajectory)."""

    name: str
    split: str
    latents: Float16[Tensor, "l n z"]
    actions: UInt8[Tensor, "m k"]
    rewards: Float32[Tensor, " m"]
    terminals: Bool[Tensor, " m"]
    valid: Bool[Tensor, " t"]
    labelled: bool = True  # False: actions are unknown (plain video)
    task: int = 0
    rewarded: bool = True  # False: rewards and terminals are unknown
    counters: Mapping[str, Integer[Tensor, " t"]] = field(default_factory=dict)  # what the game counts (see `tasks`)

    @property
    def length(self) -> int:
        """Frames."""
        return len(self.valid)

    def to_bytes(self) -> bytes:
        """The episode's file: safetensors; names, split, labelled, rewarded and task are the manifest's."""
        tensors = {name: getattr(self, name).contiguous() for name in ARRAYS}
        if self.counters:
            tensors[COUNTERS] = as_tensor(self.counters)
        return save(tensors)


class LatentStore:
    """An opened store.

    Attributes:
        path, manifest: where it lies and what its manifest says.
        episodes: all of them, in RAM, or memory-mapped when larger than the limit (`is_mapped`).
        size_bytes: of all its episode files.
        clock, space: the latent clock and the action space they were made with.
    """

    def __init__(
        self, path: Path, manifest: Mapping[str, Any], episodes: list[Episode], size_bytes: int, is_mapped: bool
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.episodes = episodes
        self.size_bytes, self.is_mapped = size_bytes, is_mapped
        self.clock = LatentClock(manifest["key"]["frames_per_latent"], manifest["key"]["window"])
        self.space: ActionSpace = action_space(manifest["space"]["name"])

    @classmethod
    def open(
        cls,
        path: Path | str,
        expected_key: Mapping[str, Any] | None = None,
        memory_limit_gb: float = 4.0,
    ) -> LatentStore:
        """Open a store and check the SHA-256 of every file.

        Args:
            path: the store's folder.
            expected_key: what the latents must have been made by (`store_key`); None accepts any.
            memory_limit_gb: a larger store is memory-mapped: its latents are read when used.

        Raises:
            UserError: if it is missing, incomplete, made otherwise than expected, or damaged.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if expected_key is not None:
            check_key(path, manifest["key"], expected_key)
        space = action_space(manifest["space"]["name"])
        if space.fingerprint != manifest["space"]["fingerprint"]:
            raise UserError(f"latent store {path} has another version of the {space.name} actions; {rebuild(path)}")
        files = {name: path / FOLDER / entry["file"] for name, entry in manifest["episodes"].items()}
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing:
            raise UserError(f"latent store {path} lacks the file of episode {missing[0]}; {mend(path)}")
        if not files:
            raise UserError(f"latent store {path} has no episodes; {mend(path)}")
        size = sum(file.stat().st_size for file in files.values())
        mapped = size > memory_limit_gb * 2**30
        episodes = [read_episode(path, name, entry, mapped) for name, entry in manifest["episodes"].items()]
        return cls(path, manifest, episodes, size, mapped)

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


def read_manifest(path: Path) -> dict[str, Any]:
    """A store's manifest.

    Raises:
        UserError: if there is none or it cannot be read.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        complete = manifest["format"] == FORMAT and {"key", "space", "episodes"} <= set(manifest)
    except FileNotFoundError as error:
        raise UserError(f"no latent store in {path}; make one with: {make(path)}") from error
    except OSError as error:
        raise UserError(f"the manifest of latent store {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise OtherStore(f"the manifest of latent store {path} cannot be read ({error}); {rebuild(path)}") from error
    if not complete:
        raise OtherStore(f"latent store {path} has a manifest of another version; {rebuild(path)}")
    return dict(manifest)


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest in one piece."""
    write_atomic(path / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())


def check_key(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse latents that were made otherwise.

    Raises:
        UserError: naming what differs and the command that rebuilds the store.
    """
    before = {"resampler": "torch", "skip_null": False}  # so it was before it was noted
    found, expected = before | dict(found), before | dict(expected)
    names = [name for name in {**expected, **found} if found.get(name) != expected.get(name)]
    if names:
        shown = ", ".join(f"{name} {found.get(name)} instead of {expected.get(name)}" for name in names[:3])
        same = set(names) <= set(RUNNERS)  # the one before can go on
        settings = " ".join(f"{setting}={found.get(name)}" for name, setting in RUNNERS.items())
        keep = f", or go on with {settings}" if same else ""
        raise OtherStore(f"latent store {path} was made with {shown}; {rebuild(path)}{keep}")


def read_episode(path: Path, name: str, entry: Mapping[str, Any], mapped: bool = False) -> Episode:
    """The episode of a manifest entry, its bytes checked.

    Raises:
        UserError: if its file is damaged.
    """
    file = path / FOLDER / entry["file"]
    try:
        data = None if mapped else file.read_bytes()
        found = sha256_file(file) if data is None else sha256(data).hexdigest()
        if found != entry["sha256"]:
            raise UserError(f"{file} is damaged: its SHA-256 is not the manifest's; {mend(path)}")
        tensors = load_file(file) if data is None else load(data)
        latents, actions, rewards, terminals, valid = (tensors[key] for key in ARRAYS)
        known = {"labelled": entry["labelled"], "task": entry.get("task", 0), "rewarded": entry.get("rewarded", True)}
        names = entry.get(COUNTERS)
        counters = from_tensor(tensors[COUNTERS], names, len(valid)) if names else {}
        return Episode(name, entry["split"], latents, actions, rewards, terminals, valid, **known, counters=counters)
    except UserError:
        raise
    except (OSError, TypeError, KeyError, ValueError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error}); {mend(path)}") from error


def write_episode(path: Path, episode: Episode, source: str) -> dict[str, Any]:
    """Write an episode's file in one piece; returns its manifest entry (`source`: hash of what it was made from)."""
    data = episode.to_bytes()
    file = f"{episode.name}.safetensors"
    write_atomic(path / FOLDER / file, data)
    return {
        "file": file,
        "sha256": sha256(data).hexdigest(),
        "source_sha256": source,
        "frames": episode.length,
        "steps": len(episode.latents),
        "split": episode.split,
        "labelled": episode.labelled,
        "rewarded": episode.rewarded,
        "task": episode.task,
        COUNTERS: list(episode.counters),
    }


def described(space: ActionSpace) -> dict[str, Any]:
    """What the manifest says of the actions."""
    return {"space": {"name": space.name, "fingerprint": space.fingerprint}}
