"""Groups of tensors that a packed checkpoint has from another phase of its run, so that nothing is stored twice.

A trained run keeps the world model in the checkpoints of phases 1, 2 and 3, and the cloned agent in those of 2 and 3.
A packed one (see `tools.packing`) keeps each once; its state says where the other groups are, with the SHA-256 of the
file that they are taken from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fastdreamer.system.files import sha256_file
from fastdreamer.system.json_files import TEXT, Every, Leaf

PACKED = "packed"
"""The key of a checkpoint's state that says so; what it holds are the averaged weights alone."""
HALF = "float16"
CONTENT = {
    "precision": Leaf("a precision", lambda value: value in ("float32", HALF)),
    "shares": Every({"phase": Leaf("a phase", lambda value: value in (1, 2)), "prefix": TEXT, "sha256": TEXT}),
}
"""What the state says of it (see `json_files`)."""


class Missing(Exception):
    """A group that a packed checkpoint shares is not where it should be, or not what it was."""


def shared(checkpoint: Path, packed: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """The groups that a packed checkpoint has from others, under the names that they have in it.

    Args:
        checkpoint: its folder, `step-XXXXXXXX` in that of its phase.
        packed: what its state says under `PACKED`.

    Raises:
        Missing: if one is not there, or has changed.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for group, share in packed["shares"].items():
        folder = checkpoint.parent.parent / f"phase{share['phase']}"
        files = sorted(folder.glob("step-*/ema.safetensors"))
        if not files or sha256_file(files[-1]) != share["sha256"]:
            raise Missing(f"its {group} is that of phase {share['phase']}, which is gone or another one")
        try:
            averages = load_file(files[-1])
        except (ValueError, SafetensorError) as error:
            raise Missing(f"its {group}: {error}") from None
        found[group] = beginning_with(share["prefix"], averages)
    return found


def beginning_with(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with half precision, which is for storage alone, made whole."""
    return {name: x.float() if x.dtype == torch.float16 else x for name, x in tensors.items()}


def halved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in half precision, but for those whose values it does not reach."""
    most = torch.finfo(torch.float16).max / 2
    return {
        name: x.half() if x.dtype == torch.float32 and x.numel() and float(x.abs().max()) < most else x
        for name, x in tensors.items()
    }
