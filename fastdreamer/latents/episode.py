"""One episode of a latent store: its file, and what must be in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float16, Float32, Integer, UInt8
from safetensors.torch import save
from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import COUNTERS, FOLDER
from fastdreamer.latents.store_advice import mend
from fastdreamer.latents.tensor_files import tensors_of
from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.recordings.counters import compact
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock
from fastdreamer.system.files import write_atomic

ARRAYS = ("latents", "actions", "rewards", "terminals", "valid")
_INFINITE = 0x7C00  # the exponent of fp16's infinities and NaN


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
        """Length of the episode in frames."""
        return len(self.valid)

    @property
    def counted(self) -> Sequence[str]:
        """Names of the counters."""
        return tuple(self.counters)

    def changed(self, **changes: Any) -> Episode:
        """The episode with other values of some attributes."""
        return replace(self, **changes)

    def until(self, frames: int, steps: int) -> Episode:
        """The first so many frames and latent steps of the episode."""
        rows = {name: getattr(self, name)[: frames - 1] for name in ("actions", "rewards", "terminals")}
        counters = {name: values[:frames] for name, values in self.counters.items()}
        return replace(self, latents=self.latents[:steps], valid=self.valid[:frames], counters=counters, **rows)

    def to_bytes(self) -> bytes:
        """The episode's file: safetensors; names, split, labelled, rewarded and task are the manifest's."""
        tensors = {name: getattr(self, name).contiguous() for name in ARRAYS}
        if self.counters:
            columns = [values.numpy() for values in self.counters.values()]  # whose names the manifest has
            tensors[COUNTERS] = torch.from_numpy(compact(np.stack(columns, 1)))
        return save(tensors)


def read_episode(path: Path, name: str, entry: Mapping[str, Any]) -> Episode:
    """The episode of a manifest entry, its bytes checked.

    Raises:
        UserError: if its file is damaged.
    """
    file = f"{path}/{FOLDER}/{entry['file']}"
    try:
        with open(file, "rb", buffering=0) as opened:
            data = opened.readall()
        if sha256(data).hexdigest() != entry["sha256"]:
            raise UserError(f"{file} is damaged: its SHA-256 is not the manifest's; {mend(path)}")
        tensors = tensors_of(data)
        latents, actions, rewards, terminals, valid = (tensors[key] for key in ARRAYS)
        known = {"labelled": entry["labelled"], "task": entry.get("task", 0), "rewarded": entry.get("rewarded", True)}
        names = entry.get(COUNTERS)
        counters = columns(names, tensors[COUNTERS], len(valid)) if names else {}
        return Episode(name, entry["split"], latents, actions, rewards, terminals, valid, **known, counters=counters)
    except UserError:
        raise
    except (OSError, TypeError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{file} cannot be read ({error}); {mend(path)}") from error


def columns(names: Sequence[str], table: Tensor, frames: int) -> dict[str, Tensor]:
    """The counters of an episode by their names.

    Raises:
        ValueError: if the table is not one of whole numbers, a row a frame and a column a name.
    """
    if table.shape != (wanted := (frames, len(names))) or table.is_floating_point():
        raise ValueError(f"counters are {table.dtype} {tuple(table.shape)}, not integers {wanted}")
    return dict(zip(names, table.unbind(1), strict=True))


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


def check_episode(path: Path, episode: Episode, clock: LatentClock, space: ActionSpace) -> None:
    """Refuse an episode that nothing can be learned from, however right its hash is.

    Raises:
        UserError: naming the store at `path`, the episode and what is wrong with it.
    """
    if wrong := fault(episode, clock, space):
        raise UserError(f"episode {episode.name} of latent store {path} is damaged: {wrong}; {mend(path)}")


def fault(episode: Episode, clock: LatentClock, space: ActionSpace) -> str:
    """What no episode of this clock and these actions can hold; empty if there is nothing of the kind."""
    frames = episode.valid.numel()
    if not frames:
        return "it has no frame"
    wanted = {
        "latents": (torch.float16, (clock.steps(frames), TOKENS, CHANNELS)),
        "actions": (torch.uint8, (frames - 1, len(space.sizes))),
        "rewards": (torch.float32, (frames - 1,)),
        "terminals": (torch.bool, (frames - 1,)),
        "valid": (torch.bool, (frames,)),
    }
    for name, (dtype, shape) in wanted.items():
        found = getattr(episode, name)
        if (found.dtype, tuple(found.shape)) != (dtype, shape):
            return f"its {name} are {_kind(found.dtype, found.shape)}, not {_kind(dtype, shape)}"
    actions, rewards, latents = (getattr(episode, name).numpy() for name in ("actions", "rewards", "latents"))
    above = actions >= np.array(space.sizes)
    if above.any():
        row, column = (int(i) for i in np.argwhere(above)[0])
        return f"row {row} of its actions says {actions[row, column]} where {space.sizes[column]} are possible"
    if not np.isfinite(rewards).all():
        return "its rewards are not finite"
    bits = np.ascontiguousarray(latents).view(np.uint16)  # isfinite takes 30 times as long
    if (bits & _INFINITE).max() == _INFINITE:
        return "its latents are not finite"
    return ""


def _kind(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"
