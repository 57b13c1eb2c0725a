"""A store's manifest: what it is made by, and an entry an episode; it hashes itself, and what stands in it is checked.

Its journal (`latents.journal`) holds what an unfinished `encode` has added; `read_manifest` gives both as one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastdreamer.errors import UserError
from fastdreamer.latents import journal
from fastdreamer.latents.entries import digest, fault, is_sound
from fastdreamer.latents.store_advice import make, mend, rebuild
from fastdreamer.recordings.actions import ActionSpace
from fastdreamer.system.files import write_atomic

FORMAT = 2
UNHASHED = 1  # the format before manifests hashed themselves
MANIFEST = "manifest.json"
FOLDER = "episodes"
COUNTERS = "counters"  # a tensor of (t, names) in a file, the names in its manifest entry; older stores have none
# What ran, by the setting that chooses it: latents differ by rounding, and must still not be mixed.
RUNNERS = {"backend": "engines.backend", "precision": "engines.precision", "resampler": "data.resampler"}


class OtherStore(UserError):
    """A store that cannot be gone on with: made otherwise, by another version, or without a manifest."""


def read_manifest(path: Path) -> dict[str, Any]:
    """What a store holds, its journal included.

    Raises:
        UserError: if there is none, it cannot be read, a byte of it changed, or it says what no store can.
    """
    while True:
        content, base = read_settled(path)
        lines, damaged = journal.read(path, base)
        if read_base(path) == base:  # nobody settled the journal meanwhile
            break
    if damaged:
        raise UserError(f"the journal of latent store {path} is damaged in line {damaged[0]}; {mend(path)}")
    return journal.settled(content, lines) if lines else content


def read_settled(path: Path) -> tuple[dict[str, Any], str]:
    """The manifest without its journal, and what a journal that goes on from it names.

    Raises:
        UserError: as `read_manifest`.
    """
    try:
        data = (path / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no latent store in {path}; make one with: {make(path)}") from error
    except OSError as error:
        raise UserError(f"the manifest of latent store {path} cannot be read ({error.strerror})") from error
    try:
        manifest = json.loads(data)
        version = manifest["format"]
        if version not in (FORMAT, UNHASHED):
            wrong = "it is of another version"
        elif (version == FORMAT or "sha256" in manifest) and not is_sound(manifest):
            wrong = "its SHA-256 is not that of its content"
        else:
            wrong = fault(manifest)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        wrong = f"it cannot be read: {type(error).__name__}"
    if wrong:
        raise OtherStore(f"the manifest of latent store {path} is damaged ({wrong}); {rebuild(path)}")
    manifest.pop("sha256", None)
    return dict(manifest), sha256(data).hexdigest()


def read_base(path: Path) -> str:
    """What a journal that goes on from the manifest names; empty if there is none."""
    try:
        return sha256((path / MANIFEST).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def write_manifest(path: Path, manifest: Mapping[str, Any], only_new: bool = False) -> None:
    """Replace the manifest in one piece; `only_new`: unless there is one."""
    content = {**{name: value for name, value in manifest.items() if name != "sha256"}, "format": FORMAT}
    data = json.dumps({"sha256": digest(content), **content}, indent=1) + "\n"
    write_atomic(path / MANIFEST, data.encode(), only_new)


def described(space: ActionSpace) -> dict[str, Any]:
    """What the manifest says of the actions."""
    return {"space": {"name": space.name, "fingerprint": space.fingerprint}}


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
