"""Checkpoints that several ranks write: each some whole tensors of the groups, in files of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from safetensors.torch import save_file
from torch import Tensor

from fastdreamer.system.files import sha256_file, sync

PART = re.compile(r"([\w-]+)-part\d{4}")
"""The name, without its ending, of a rank's file of a group; the main rank's has the group's own name."""


class Others(Protocol):
    """The other ranks that write, as the main one knows them."""

    def begin(self, folder: Path) -> None:
        """Tells them the folder that is being filled."""

    def finish(self) -> Mapping[str, str]:
        """Waits for their files: each one's SHA-256 by its name."""


def write_group(folder: Path, name: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """Writes a group's file, if there is anything to write, and returns its name."""
    if not tensors:
        return []
    file = f"{name}.safetensors"
    save_file({k: v.detach().contiguous().cpu() for k, v in tensors.items()}, folder / file)
    return [file]


def write_part(folder: Path, rank: int, groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Writes a rank's tensors, to the disk itself; returns the SHA-256 of its files by their names."""
    named = [file for name, group in groups.items() for file in write_group(folder, f"{name}-part{rank:04d}", group)]
    for file in named:
        sync(folder / file)
    return {file: sha256_file(folder / file) for file in named}


def merged(files: Mapping[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """The groups of what was read from files, by their names without the ending.

    Raises:
        ValueError: if a tensor is in two files.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensors in files.items():
        match = PART.fullmatch(name)
        group = match[1] if match else name
        held = groups.setdefault(group, {})
        if twice := held.keys() & tensors.keys():
            raise ValueError(f"{min(twice)} of {group} is in two files")
        held |= tensors
    return groups
