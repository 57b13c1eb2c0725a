"""Folders of installed engines, and the name by which those of a tokenizer are found."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.system.files import NO_FOLDERS, expanded
from fastdreamer.tokenizer.cosmos import architecture


def engine_root(config: Config) -> Path:
    """The folder of all engines: the setting, or the user's cache."""
    if config.engines.directory:
        return expanded(config.engines.directory).absolute()
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if Path(cache).is_absolute():  # any other is to be ignored, says its specification
        return Path(cache) / "fastdreamer" / "engines"
    try:
        return expanded("~/.cache") / "fastdreamer" / "engines"
    except UserError:
        raise UserError(
            "this account has no home directory, so there is no cache for engines: name a folder with engines.directory"
        ) from None


def identity(config: Config) -> str:
    """A tokenizer's name in the cache: what the user calls it, not what it holds, so that changed weights show.

    A run keeps the whole path of its weights: below the current folder both ways to write it are one name, the one
    under which there are engines.
    """
    own, root = config.tokenizer.weights, engine_root(config)
    whole, here = expanded(own).absolute(), Path.cwd()
    ways = [own, *([str(whole.relative_to(here))] if whole.is_relative_to(here) else []), str(whole)]
    names = [_name(config, where) for where in (ways if own not in NO_FOLDERS else [own])]
    return next((name for name in names if any(root.glob(f"{name}.*"))), names[0])


def _name(config: Config, where: str) -> str:
    """Name after the path as it is written: an engine built on another machine is found by the same name."""
    tokenizer = config.tokenizer
    parts = [where, tokenizer.image_size, tokenizer.frames_per_latent, tokenizer.window]
    if tokenizer.weights == "random":
        parts += [json.dumps(architecture(tokenizer), sort_keys=True), tokenizer.seed]
    last = re.sub(r"[^a-z0-9]+", "-", "-".join(Path(where).parts[-2:]).lower()).strip("-")[-40:]
    return f"{last}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]}"
