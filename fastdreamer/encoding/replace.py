"""`encode --replace`: a store that was made otherwise gives way to a new one, once the new one is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.encoding.episode_locks import LOCK_FILE, EpisodeLocks
from fastdreamer.encoding.pipeline import encode_recordings
from fastdreamer.errors import UserError
from fastdreamer.latents.entries import HEIRLOOMS
from fastdreamer.latents.journal import JOURNAL
from fastdreamer.latents.manifest import FOLDER, MANIFEST, OtherStore, read_manifest
from fastdreamer.tokenizer.engines.installed import open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer

_KEPT = ("path", "source_sha256", "video_sha256", "sampled_sha256", "split", "task")  # keys of an entry


def replace_store(
    config: Config, recordings: Path, store: Path, tokenizer: FrozenTokenizer | None = None
) -> dict[str, Any]:
    """Encode as `encode_recordings` does; a store that it refuses is replaced.

    The new one is made beside it, and the old one goes when every episode is there: whatever stops the work loses
    nothing, and the same call goes on. Several processes may do so at once; the last one puts the new store in place.

    Raises:
        UserError: as `encode_recordings`; if the folder holds other things than a store, or cannot be renamed.
    """
    tokenizer = tokenizer or open_tokenizer(config, choose_device(config).device)
    store = Path(os.path.realpath(store))
    fresh, old = (store.with_name(f".{store.name}.{which}") for which in ("new", "old"))
    if store.exists():
        shutil.rmtree(old, ignore_errors=True)  # its successor is in place
    if store.exists() or not fresh.is_dir():  # else stopped between the two renames
        try:
            return encode_recordings(config, recordings, store, tokenizer)
        except OtherStore:
            _check_is_store(store)
    if store.exists():
        print(f"the store in {store} stays until the new one is whole", flush=True)
    source = next((folder for folder in (store, fresh, old) if (folder / MANIFEST).is_file()), store)
    kept = heirlooms(source, config.data.held_out)
    try:
        result = encode_recordings(config, recordings, fresh, tokenizer, kept)
    except OtherStore:  # begun under other settings, and never finished
        shutil.rmtree(fresh)
        result = encode_recordings(config, recordings, fresh, tokenizer, kept)
    if fresh.is_dir():
        with EpisodeLocks(fresh) as locks, locks.manifest(), locks.leave() as is_last:
            if is_last and (fresh / MANIFEST).is_file():
                try:
                    if store.exists():
                        os.rename(store, old)
                    os.rename(fresh, store)
                except OSError as error:
                    raise UserError(f"{store} cannot be replaced ({error.strerror}): choose another --store") from error
                shutil.rmtree(old, ignore_errors=True)
    return result


def heirlooms(store: Path, held_out: float) -> dict[str, Any]:
    """What the new store's manifest takes over: a recording that the old one knew keeps its name, split and task.

    The split begins anew where another share of the episodes is to be held out. Stores of before that was noted do not
    say what it was: their splits stay, and it is not noted in the new one either.
    """
    try:
        old = read_manifest(store)
    except UserError:
        print(f"names and splits in {store} cannot be read: the new store's begin anew", flush=True)
        return {}
    entries = {name: {what: entry[what] for what in _KEPT if what in entry} for name, entry in old["episodes"].items()}
    kept = {"tasks": list(old.get("tasks", [])), HEIRLOOMS: entries}
    if "held_out" not in old:
        print(
            f"the store in {store} does not note what data.held_out was: splits stay; for new ones choose another "
            "--store",
            flush=True,
        )
        return kept | {"held_out": None}
    if old["held_out"] != held_out:
        print(f"data.held_out was {old['held_out']:g} and is {held_out:g}: splits begin anew", flush=True)
        for entry in entries.values():
            entry.pop("split")
    return kept


def _check_is_store(folder: Path) -> None:
    """Refuse to replace a folder in which other things lie."""
    known = (MANIFEST, FOLDER, LOCK_FILE, JOURNAL)
    other = sorted(p.name for p in folder.iterdir() if p.name not in known and not p.name.startswith(f".{MANIFEST}."))
    if other:
        raise UserError(f"{folder} holds {other[0]}, which is no part of a latent store: choose another --store")
