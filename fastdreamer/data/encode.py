"""Recordings to latent store: decode in the background, encode, one file an episode, resumable after any kill."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from fastdreamer.config import Config
from fastdreamer.data.actions import ActionSpace, action_space
from fastdreamer.data.latents import (
    FOLDER,
    FORMAT,
    MANIFEST,
    Episode,
    assign_splits,
    check_key,
    read_manifest,
    store_key,
    write_episode,
    write_manifest,
)
from fastdreamer.data.read import find_recordings, read_recording
from fastdreamer.data.recording import DamagedRecording, Recording
from fastdreamer.data.trajectory import Trajectory
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.files import sha256_file
from fastdreamer.progress import track
from fastdreamer.tokenizer.engines import describe, open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer

AHEAD = 2  # episodes decoded but not yet encoded; a MineRL episode of 8000 frames is 0.1 GB


def encode_recordings(config: Config, recordings: Path, store: Path) -> dict[str, Any]:
    """Encode every recording into the latent store, keeping the episodes that are there and still current.

    The manifest is rewritten after every episode, so that a kill loses at most the episode in hand. Episodes whose
    recording is gone leave the store; damaged recordings are skipped, with the reason in the manifest.

    Returns:
        episodes, kept, frames, steps (of the whole store); encoded_frames, seconds, frames_per_s (of this run);
        skipped (name to reason).

    Raises:
        UserError: if the store was made with another key, or no recording can be read.
    """
    space = action_space(config.data.env)
    found = find_recordings(recordings)
    tokenizer = open_tokenizer(config, choose_device(config).device)
    print(f"tokenizer: {describe(tokenizer)}", flush=True)
    key = store_key(config, tokenizer.fingerprint, tokenizer.precision, tokenizer.backend)
    environments = {recording.name: recording.env for recording in found}
    tasks = sorted(set(environments.values()))  # a task is the environment's folder that a recording lies in
    splits = assign_splits((recording.name for recording in found), config.data.held_out)
    entries = _existing(store, key)
    entries = {name: entry for name, entry in entries.items() if name in splits}
    skipped: dict[str, str] = {}
    began = time.perf_counter()
    kept = encoded_frames = 0

    def save() -> None:
        final = assign_splits(entries, config.data.held_out)
        for name, entry in entries.items():
            entry["split"], entry["task"] = final[name], tasks.index(environments[name])
        described = {"name": space.name, "fingerprint": space.fingerprint}
        contents = {"tasks": tasks, "episodes": entries, "skipped": skipped}
        write_manifest(store, {"format": FORMAT, "key": key, "space": described} | contents)

    with track("encode", total=len(found), unit="episodes") as bar:
        for recording, source, outcome in _read_ahead(found, space, entries, store):
            if isinstance(outcome, Trajectory):
                episode = _encode(tokenizer, outcome, splits[recording.name])
                entries[recording.name] = write_episode(store, episode, source)
                encoded_frames += len(outcome)
                save()
            elif isinstance(outcome, DamagedRecording):
                entries.pop(recording.name, None)
                skipped[recording.name] = str(outcome)
            else:
                kept += 1
            rate = encoded_frames / max(time.perf_counter() - began, 1e-9)
            bar.advance(1, frames_per_s=rate, skipped=float(len(skipped)))
    if not entries:
        first = next(iter(skipped.values()))
        raise UserError(f"none of the {len(found)} recordings in {recordings} can be read; the first: {first}")
    save()
    current = {entry["file"] for entry in entries.values()}
    for file in (store / FOLDER).iterdir():  # of recordings that are gone, and temporary ones of killed runs
        if file.name not in current:
            file.unlink()
    seconds = time.perf_counter() - began
    return {
        "episodes": len(entries),
        "kept": kept,
        "frames": sum(entry["frames"] for entry in entries.values()),
        "steps": sum(entry["steps"] for entry in entries.values()),
        "encoded_frames": encoded_frames,
        "seconds": round(seconds, 3),
        "frames_per_s": round(encoded_frames / seconds, 1),
        "skipped": skipped,
    }


def _encode(tokenizer: FrozenTokenizer, trajectory: Trajectory, split: str) -> Episode:
    return Episode(
        name=trajectory.name,
        split=split,
        latents=tokenizer.encode_episode(trajectory.frames).half(),
        actions=torch.from_numpy(trajectory.actions),
        rewards=torch.from_numpy(trajectory.rewards),
        terminals=torch.from_numpy(trajectory.terminals),
        valid=torch.from_numpy(trajectory.valid),
    )


def _existing(store: Path, key: dict[str, Any]) -> dict[str, Any]:
    """The manifest entries of a store that is being continued."""
    if not (store / MANIFEST).exists():
        return {}
    manifest = read_manifest(store)
    check_key(store, manifest["key"], key)
    return dict(manifest["episodes"])


def _read_ahead(
    recordings: list[Recording], space: ActionSpace, entries: dict[str, Any], store: Path
) -> Iterator[tuple[Recording, str, Trajectory | DamagedRecording | None]]:
    """Each recording with the hash of its files and its trajectory, or why it is damaged, or None if it is current.

    A thread reads ahead of the consumer: PyAV releases the interpreter lock while it decodes.
    """

    def read(recording: Recording, entry: dict[str, Any] | None) -> tuple[str, Trajectory | DamagedRecording | None]:
        source = source_hash(recording)
        if entry and entry["source_sha256"] == source and _intact(store / FOLDER / entry["file"], entry["sha256"]):
            return source, None
        try:
            return source, read_recording(recording, space)
        except DamagedRecording as error:
            return source, error

    executor = ThreadPoolExecutor(1)
    queue: deque[tuple[Recording, Future[tuple[str, Trajectory | DamagedRecording | None]]]] = deque()
    try:
        for recording in recordings:
            queue.append((recording, executor.submit(read, recording, entries.get(recording.name))))
            if len(queue) > AHEAD:
                first, future = queue.popleft()
                yield first, *future.result()
        while queue:
            first, future = queue.popleft()
            yield first, *future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def source_hash(recording: Recording) -> str:
    """SHA-256 over names and contents of a recording's files."""
    files = sorted(p for p in recording.path.iterdir() if p.suffix in (".mp4", ".npz", ".json") and p.is_file())
    return hashlib.sha256("|".join(f"{p.name}:{sha256_file(p)}" for p in files).encode()).hexdigest()


def _intact(file: Path, digest: str) -> bool:
    return file.is_file() and sha256_file(file) == digest
