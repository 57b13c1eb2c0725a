"""A trained run made small enough to give away: averaged weights, some held-out play, and a card.

    DIR/config.yaml      the run's configuration, without what is its machine's
    DIR/card.json        what it was trained on and what it can do (see `card`), with the SHA-256 of every file
    DIR/checkpoints      the newest of every phase, with averaged weights alone; each tensor stands once
    DIR/recordings       a few held-out recordings, to begin a dream from
    DIR/store            their latents
    DIR/evaluation.json, world_model.json    what `eval` found in the whole run

It is a run directory like any other; what is missing is what training goes on with: see `check_resumable`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer.config import Config, EnginesConfig
from fastdreamer.envs.mix import kind_of
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import Episode
from fastdreamer.latents.manifest import FOLDER, write_manifest
from fastdreamer.latents.store import LatentStore
from fastdreamer.recordings.find import find_recordings
from fastdreamer.recordings.identity import behind, check_unchanged, files_of, place
from fastdreamer.run import run_files, sharing
from fastdreamer.run.checkpoint import STATE, Checkpoint, write_files
from fastdreamer.run.directory import RunDirectory
from fastdreamer.settings import dump_config
from fastdreamer.system.files import atomic_directory, sha256_file
from fastdreamer.tools.packing.card import write_card

PHASES = (0, 1, 2, 3)
SHARED = {"frozen-world": (1, "world."), "frozen-agent": (2, "agent."), "frozen-prior": (2, "agent.policy.")}
"""Groups that stand in the averages of another phase, and how their names begin there."""
ENOUGH = 120
"""Frames of a recording that has something to begin from; shorter ones go along where there are no others."""
FILLED = ("policy.", "value.")  # of phase 3's frozen agent: its own averages take their place wherever it is used


@dataclass(frozen=True)
class Pack:
    """What `pack` is asked for.

    Attributes:
        recordings: how many held-out recordings go along.
        half: whether weights are stored in half precision; they are used in full.
        licence: the data's licence; empty: the environment's, where it is ours to say.
    """

    recordings: int = 3
    half: bool = False
    licence: str = ""


def pack(run_dir: Path, out: Path, how: Pack = Pack()) -> dict[str, Any]:  # noqa: B008
    """Packs a run into `out`, which appears whole or not at all; returns its card.

    Raises:
        UserError: if nothing is trained there, a part of it is damaged, too little is held out, or `out` exists.
    """
    if how.recordings < 0:
        raise UserError(f"--recordings is {how.recordings}; it must be at least 0 (0: none)")
    run = RunDirectory(run_dir)
    config = run.config()
    trained = run.trained_phases()
    if trained[0] != 1:
        raise UserError(f"{run_dir} has no phase 1 checkpoint, and a world model is what is packed")
    checkpoints = {phase: run.load(phase, config) for phase in PHASES if run.has_phase(phase)}
    with atomic_directory(out) as temporary:
        own = given_away(config)
        dump_config(own, temporary / run_files.CONFIG)
        for checkpoint in checkpoints.values():
            _write(temporary, checkpoint, checkpoints, how.half)
        store = _open_store(run, config, how.recordings)
        chosen = held_out(store, how.recordings) if store is not None else []
        if store is not None and chosen:
            _copy_recordings(run, config, store, chosen, RunDirectory(temporary).recordings(own))
            _copy_store(store, chosen, RunDirectory(temporary).store(own))
        for file in (run_files.EVALUATION, run_files.WORLD_MODEL):
            if found := file.read(run_dir):
                file.write(temporary, found)
        card = write_card(temporary, config, checkpoints, store, chosen, how.half, how.licence)
    return card | {"out": str(out), "bytes": sum(p.stat().st_size for p in out.rglob("*") if p.is_file())}


def given_away(config: Config) -> Config:
    """The configuration without what is this machine's: its folders, device, memory and engines."""
    data = replace(config.data, recordings="", store="", decoder="auto", decode_threads=0)
    return replace(config, device="auto", compile="auto", memory_gb=0.0, engines=EnginesConfig(), data=data)


def held_out(store: LatentStore, count: int) -> list[str]:
    """Names of held-out episodes, of every kind of player in turn: the shortest that is long enough, then the next.

    Raises:
        UserError: if there are fewer than `count`.
    """
    by_kind: dict[str, list[str]] = {}

    def rank(episode: Episode) -> tuple[bool, int, str]:
        return len(episode.valid) < ENOUGH, abs(len(episode.valid) - ENOUGH), episode.name

    for episode in sorted(store.split("held_out"), key=rank):
        by_kind.setdefault(kind_of(episode.name), []).append(episode.name)
    turns = chain.from_iterable(zip_longest(*(by_kind[kind] for kind in sorted(by_kind))))
    names = [name for name in turns if name is not None]
    if len(names) < count:
        raise UserError(f"{store.path} holds {len(names)} held-out episodes: give --recordings {len(names)} or fewer")
    return names[:count]


def _open_store(run: RunDirectory, config: Config, recordings: int) -> LatentStore | None:
    """The run's store; None where nothing of it is asked for and it is not there."""
    try:
        return LatentStore.open(run.store(config), memory_limit_gb=config.data.memory_limit_gb)
    except UserError as error:
        if recordings:
            raise UserError(f"{error}; or pack without recordings: --recordings 0") from None
        return None


def _write(out: Path, checkpoint: Checkpoint, others: Mapping[int, Checkpoint], half: bool) -> None:
    """Writes one checkpoint with what no other one of the pack has."""
    frozen = {name: group for name, group in checkpoint.tensors.items() if name.startswith("frozen-")}
    shares: dict[str, Any] = {}
    for name, (phase, prefix) in SHARED.items():
        owner = others.get(phase)
        if name not in frozen or owner is None:
            continue
        if _are_same(frozen[name], sharing.beginning_with(prefix, owner.averages), name == "frozen-agent"):
            path = run_files.checkpoints_of(out, phase) / owner.path.name / "ema.safetensors"
            shares[name] = {"phase": phase, "prefix": prefix, "sha256": sha256_file(path)}
            del frozen[name]
    groups = {"ema": checkpoint.averages} | frozen
    if half:
        groups = {name: sharing.halved(group) for name, group in groups.items()}
    state = {name: value for name, value in checkpoint.state.items() if name != "best"}
    state[sharing.PACKED] = {"precision": sharing.HALF if half else "float32", "shares": shares}
    folder = run_files.checkpoints_of(out, checkpoint.phase) / checkpoint.path.name
    folder.mkdir(parents=True)
    write_files(folder, groups, state)
    for file in folder.iterdir():  # safetensors lets nobody but the owner read
        file.chmod((folder / STATE).stat().st_mode)


def _are_same(group: Mapping[str, Tensor], averages: Mapping[str, Tensor], is_agent: bool) -> bool:
    used = [name for name in group if not (is_agent and name.startswith(FILLED))]
    return group.keys() == averages.keys() and all(torch.equal(group[name], averages[name]) for name in used)


def _copy_recordings(run: RunDirectory, config: Config, store: LatentStore, names: Sequence[str], out: Path) -> None:
    root = run.recordings(config)
    entries = store.manifest["episodes"]
    found = behind(find_recordings(root), entries, root)
    for name in names:
        if name not in found:
            raise UserError(f"the recording of {name} is not in {root}: pack without recordings (--recordings 0)")
        check_unchanged(found[name], entries[name])
        where = out / place(found[name], root)
        is_folder = found[name].path.is_dir()
        (where if is_folder else where.parent).mkdir(parents=True, exist_ok=True)
        for file in files_of(found[name]):
            shutil.copyfile(file, (where if is_folder else where.parent) / file.name)


def _copy_store(store: LatentStore, names: Sequence[str], out: Path) -> None:
    """Writes the store as far as these episodes go."""
    entries = {name: store.manifest["episodes"][name] for name in names}
    (out / FOLDER).mkdir(parents=True)
    for entry in entries.values():
        shutil.copyfile(store.path / FOLDER / entry["file"], out / FOLDER / entry["file"])
    kept = {name: value for name, value in store.manifest.items() if name not in ("sha256", "skipped", "heirlooms")}
    write_manifest(out, kept | {"episodes": entries, "skipped": {}})
