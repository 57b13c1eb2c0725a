"""Episodes of a store that is larger than memory: what is in their files is read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from fastdreamer.errors import UserError
from fastdreamer.latents.episode import Episode, columns
from fastdreamer.latents.manifest import COUNTERS
from fastdreamer.latents.store_advice import mend
from fastdreamer.latents.tensor_files import TensorFile

_ROWS = ("actions", "rewards", "terminals")
_SMALL = (*_ROWS, "valid")


class EpisodeOnDisk(Episode):
    """An episode whose arrays are read from its file each time they are asked for; of latents also a few steps.

    Attributes:
        steps: how many latent steps it has.

    Args:
        store: the folder of its store.
        file: its file, which was checked.
        episode: what was found in it, of which nothing is kept but what is not an array.
    """

    _store: Path
    _file: TensorFile
    steps: int
    _frames: int
    _counted: tuple[str, ...]

    def __init__(self, store: Path, file: TensorFile, episode: Episode) -> None:
        kept = {name: getattr(episode, name) for name in ("name", "split", "labelled", "task", "rewarded")}
        self.__dict__.update(kept)  # the class is frozen
        self.__dict__.update(_store=store, _file=file, _frames=episode.length, steps=len(episode.latents))
        self.__dict__.update(_counted=_shared(episode.counted))

    def __getattr__(self, name: str) -> Any:
        """An array; Python asks here for what was not set."""
        if name in _SMALL:
            return self._read(name)[: self._frames - (name in _ROWS)]
        if name == "latents":
            return self.some_latents(0, self.steps)
        if name == "counters":
            return self._counters()
        raise AttributeError(f"an episode has no {name}")

    @property
    def length(self) -> int:
        """Length of the episode in frames."""
        return self._frames

    @property
    def counted(self) -> tuple[str, ...]:
        """Names of the counters."""
        return self._counted

    def some_latents(self, start: int, stop: int) -> Tensor:
        """Latents of steps start .. stop-1, (stop - start, n, z); those past its end are left out."""
        return self._told("latents", slice(start, min(stop, self.steps)))

    def changed(self, **changes: Any) -> EpisodeOnDisk:
        """The episode with other values of some attributes, which are kept in memory."""
        other = object.__new__(EpisodeOnDisk)
        other.__dict__.update(self.__dict__ | changes)
        return other

    def until(self, frames: int, steps: int) -> EpisodeOnDisk:
        """The first so many frames and latent steps of the episode."""
        held = {name: self.__dict__[name][: frames - (name in _ROWS)] for name in _SMALL if name in self.__dict__}
        return self.changed(_frames=min(frames, self._frames), steps=min(steps, self.steps), **held)

    def _counters(self) -> Mapping[str, Tensor]:
        if not self._counted:
            return {}
        table = self._told(COUNTERS, slice(0, self._frames))
        return columns(self._counted, table, self._frames)

    def _read(self, name: str) -> Tensor:
        try:
            return _small(self._file)[name]
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise self._lost(error) from error

    def _told(self, name: str, rows: slice) -> Tensor:
        try:
            (found,) = self._file.read((name,), rows)
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise self._lost(error) from error
        return found

    def _lost(self, error: Exception) -> UserError:
        return UserError(f"{self._file.path} cannot be read any more ({error}); {mend(self._store)}")


@lru_cache(16)
def _small(file: TensorFile) -> dict[str, Tensor]:
    """What is small in a file: whoever asks for one of them asks for the others next."""
    return dict(zip(_SMALL, file.read(_SMALL), strict=True))


@lru_cache(1024)
def _shared(names: tuple[str, ...]) -> tuple[str, ...]:
    return names
