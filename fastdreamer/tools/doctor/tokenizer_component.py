"""The frozen tokenizer of a configuration: its weights, and the installed engines. Imported by `probe` alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from fastdreamer_engines import EngineError, EngineSpec, local_target
from fastdreamer_engines.manifest import MANIFEST, check_files, check_key, check_private, read_manifest

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.latents.manifest import MANIFEST as STORE_MANIFEST
from fastdreamer.latents.store import SYNTHETIC
from fastdreamer.latents.store import read_manifest as read_store
from fastdreamer.system.advice import command
from fastdreamer.system.files import expanded
from fastdreamer.tokenizer.cosmos import CONFIG_FILE, can_be_fetched, check_fits, weights_folder
from fastdreamer.tokenizer.engines.engine_names import engine_root, identity
from fastdreamer.tokenizer.engines.installed import engine_key
from fastdreamer.tokenizer.fetch import fetch_command
from fastdreamer.tokenizer.frozen import check_grid, tokenizer_fingerprint
from fastdreamer.tokenizer.model_card import check_weights
from fastdreamer.tools.doctor.ask import Component, one_line

WEIGHTS = "tokenizer weights"
HASHED_BYTES = 2**30
"""So much of the engines is compared with SHA-256; of what is beyond it the sizes alone, or it would take too long."""
STALE, DAMAGED = "stale", "damaged"
OF_ANOTHER = "name its configuration with --config, which then says how to rebuild it"


def weights_part(config: Config, store: Path | None = None) -> Component:
    """Whether the weights are there, whole, of the configured architecture, and those that made the run's latents."""
    tokenizer = config.tokenizer
    try:
        folder = None if tokenizer.weights == "random" else weights_folder(tokenizer)
    except UserError:
        where = expanded(tokenizer.weights)
        return Component(
            WEIGHTS, "not there", "missing", fetch_command(where) if can_be_fetched(tokenizer) else "mend the path"
        )
    try:
        check_grid(tokenizer)
        layout = "random, for trying alone"
        if folder is not None:
            check_weights(folder)
            layout = _check_layout(config, folder)
        fingerprint = tokenizer_fingerprint(tokenizer)
        made_by = _tokenizer_of(store)
    except (UserError, OSError, ValueError, TypeError) as error:
        return _wrong(error)
    found = f"{layout}, fingerprint {fingerprint[:12]}"
    if made_by not in (None, SYNTHETIC, fingerprint):
        found += f", but the run's latents are of {str(made_by)[:12]}"
        mend = f"set tokenizer.weights back, or encode again: {command('encode', replace=True)}"
        return Component(WEIGHTS, found, "wrong", mend)
    return Component(WEIGHTS, found)


def engine_rows(config: Config) -> dict[str, Any]:
    """Every engine in the root, of whatever tokenizer, with its state; the configuration's own beside its weights.

    Returns:
        root; error: why nothing can be read; lacking: the backend that the settings name and that is not installed;
        rows: tokenizer, part, backend, target, precision, state, reason, mend, and `blocks`: commands here refuse it.
    """
    try:
        root = engine_root(config)
    except UserError as error:  # this account has no home directory
        return {"root": "", "rows": [], "error": one_line(str(error)), "lacking": ""}
    settings, own = config.engines, identity(config)
    here = local_target(torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu"))
    found: dict[str, Any] = {"root": str(root), "rows": [], "error": "", "lacking": ""}
    try:
        folders = sorted(root.iterdir()) if root.is_dir() else []
        if root.is_dir():
            check_private(root)
    except (EngineError, OSError) as error:
        return found | {"error": one_line(str(error))}
    hashed = 0
    for folder in folders:
        fields = folder.name.rsplit(".", 4)
        if not folder.is_dir() or folder.name.startswith(".") or len(fields) != 5:
            continue
        tokenizer, part, precision, backend, target = fields
        row = {"tokenizer": tokenizer, "part": part, "backend": backend, "target": target, "precision": precision}
        hashed += _size(folder)
        state, reason = _state(config, folder, may_hash=hashed <= HASHED_BYTES)
        is_bad = state in (STALE, DAMAGED)
        is_wanted = settings.backend in ("auto", backend) and tokenizer == own
        mend = (_rebuild(row, here) if tokenizer == own else OF_ANOTHER) if is_bad else ""
        row |= {"state": state, "reason": reason, "mend": mend}
        found["rows"].append(row | {"blocks": is_bad and is_wanted and target == here})
    served = {row["backend"] for row in found["rows"] if row["tokenizer"] == own and row["target"] == here}
    if settings.backend not in ("auto", "eager", *served):
        found["lacking"] = settings.backend
    return found


def _state(config: Config, folder: Path, may_hash: bool) -> tuple[str, str]:
    """`verified`, `built, not yet run`, `stale` or `damaged`, and why."""
    try:
        check_private(folder)
        manifest = read_manifest(folder)
        fields = dict(manifest["spec"], shapes=tuple((b, t) for b, t in manifest["spec"]["shapes"]))
        spec, key, state = EngineSpec(**fields), manifest["key"], str(manifest["status"])
        if may_hash:
            check_files(folder, manifest)
        else:
            _check_sizes(folder, manifest)
    except EngineError as error:
        return DAMAGED, _without(folder, error)
    except (KeyError, TypeError, ValueError, OSError) as error:
        return DAMAGED, f"its manifest cannot be read ({type(error).__name__})"
    if not folder.name.startswith(f"{identity(config)}."):
        return state, "of another tokenizer than the configuration's: not compared with its weights"
    try:
        check_key(folder, key, engine_key(config, spec, str(key["backend"]), folder.name.rpartition(".")[2]))
    except (EngineError, UserError, KeyError) as error:
        return STALE, _without(folder, error)
    return state, ""


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:
        return 0


def _check_sizes(folder: Path, manifest: dict[str, Any]) -> None:
    there = {file.name: file.stat().st_size for file in folder.iterdir() if not file.name.startswith(".")}
    there.pop(MANIFEST)
    if there != {name: entry["bytes"] for name, entry in manifest["files"].items()}:
        raise EngineError("its files are not those of its manifest")


def _rebuild(row: dict[str, str], here: str) -> str:
    """The command that builds an engine anew, or where to run it: a CPU's is built on such a CPU alone."""
    is_here = row["target"] == here
    is_built_here = is_here or row["backend"] == "tensorrt_rtx"
    target = row["target"] if is_built_here and not is_here else None
    decoder = True if row["part"] == "decoder" else None
    build = command("build-engines", backend=row["backend"], precision=row["precision"], decoder=decoder, target=target)
    return build if is_built_here else f"on a machine that is {row['target']}: {build}"


def _check_layout(config: Config, folder: Path) -> str:
    """The layout's name; a diffusers folder brings an architecture, which must be the configured one."""
    if not (folder / CONFIG_FILE).is_file():
        return "NVIDIA's layout"
    from diffusers import AutoencoderKLCosmos

    arguments = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = AutoencoderKLCosmos(**{k: v for k, v in arguments.items() if not k.startswith("_")})
    check_fits(model, config.tokenizer)
    return "embedded" if config.tokenizer.weights == "embedded" else "diffusers' layout"


def _tokenizer_of(store: Path | None) -> str | None:
    """The fingerprint of the tokenizer that made a store's latents; None where there is no store."""
    if store is None or not (store / STORE_MANIFEST).is_file():
        return None
    return str(read_store(store)["key"].get("tokenizer"))


def _wrong(error: Exception) -> Component:
    """What is wrong before the first semicolon, what mends it behind."""
    said, _, mend = str(error).partition("; ")
    return Component(WEIGHTS, one_line(said), "wrong", mend)


def _without(folder: Path, error: Exception) -> str:
    """The error without the folder's path, which the table names once for all engines."""
    text = str(error).replace(f"{folder}/", "").replace(f"engine {folder} ", "").replace(str(folder), "its folder")
    return one_line(text)
