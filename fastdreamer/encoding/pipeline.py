"""Recordings to latent store: decoding, encoding and writing at once, by any number of processes, resumable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.encoding.episode_locks import EpisodeLocks
from fastdreamer.encoding.manifest_writer import Entry, ManifestWriter
from fastdreamer.encoding.producers import BoundedQueue, Producers, Writer
from fastdreamer.encoding.recount import is_aligned_before, recount
from fastdreamer.encoding.stream import Chunk, Finished, Restart, Streamer
from fastdreamer.errors import UserError
from fastdreamer.latents.episode import Episode, fault
from fastdreamer.latents.manifest import COUNTERS, FORMAT, described
from fastdreamer.latents.store import store_key
from fastdreamer.recordings.actions import ActionSpace, action_space
from fastdreamer.recordings.frame_times import count_rates, describe_mix
from fastdreamer.recordings.read import find_incomplete, find_recordings, how_to_read, read_labels
from fastdreamer.recordings.recording import DamagedRecording, Recording
from fastdreamer.system.advice import command
from fastdreamer.system.cores import count_cores
from fastdreamer.system.progress import track
from fastdreamer.system.ranges import span
from fastdreamer.tokenizer.dali import can_nvdec, dali_available, numbered, nvdec_blocks, require_dali
from fastdreamer.tokenizer.engines.installed import describe, open_tokenizer
from fastdreamer.tokenizer.frozen import FrozenTokenizer
from fastdreamer.tokenizer.resample import resampler

AHEAD_BYTES = 2**30  # frames decoded but not yet encoded, of all episodes in hand
MOST_THREADS = 8
SHOWN = 10  # entries of what is left out
WRITTEN_AHEAD = 2  # episodes encoded but not yet on the disk
SHOWN_LINKS = 5


@dataclass(frozen=True)
class _Kept:
    """The store has this episode already, and it is current; if it had no counters, here it is with them."""

    recording: Recording
    counted: Entry | None = None


def encode_recordings(
    config: Config,
    recordings: Path,
    store: Path,
    tokenizer: FrozenTokenizer | None = None,
    heirlooms: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Encode every recording into the latent store, keeping the episodes that are there and still current.

    Any number of processes (or torchrun ranks) may do so at once: each episode is encoded by one of them, and none
    ends before all are done. Each episode is noted when it is written, so that a kill loses only what is in hand.
    Episodes keep their names, splits and tasks when recordings are added or moved, and leave when theirs is gone; what
    is found more than once counts once; damaged recordings are set aside, with the reason in the manifest. Episodes of
    before counters were kept get theirs without being encoded again.

    Args:
        tokenizer: already open; default: what the configuration names.
        heirlooms: what a new store's manifest begins with (`replace.heirlooms`).

    Returns:
        episodes, kept, frames, steps (of the whole store); encoded_frames, seconds, frames_per_s, bound_by and the
        shares of time that this process waited for frames (decode), encoded, and waited for the disk (write);
        skipped, mended, by_pyav (name to reason: damaged recordings; recordings of which something was put right;
        recordings that PyAV decoded because the GPU could not, or showed other frames); incomplete (how much looks
        like a recording and is none, or is a folder that cannot be listed); rates (frames a second to episodes); links
        (name to the name of the recording that it leads to); left (how many episodes the store had and has no more);
        changes (in words: what is new, gone or made anew, beside what the store had).

    Raises:
        UserError: if the store was made with another key, or more than `data.max_damaged` of the recordings (or all)
            cannot be read.
    """
    space = action_space(config.data.env)
    found = find_recordings(recordings)
    tokenizer = tokenizer or open_tokenizer(config, choose_device(config).device)
    print(f"tokenizer: {describe(tokenizer)}", flush=True)
    resampled_by = _attach_resampler(config, tokenizer)
    key = store_key(config, tokenizer.fingerprint, tokenizer.precision, tokenizer.backend, resampled_by)
    streamer = _streamer(config, tokenizer)
    print(f"frames: decoded by {'nvdec' if streamer.gpu else 'pyav'}, resampled by {resampled_by}", flush=True)
    threads = min(config.data.decode_threads or min(MOST_THREADS, count_cores()), len(found))
    with EpisodeLocks(store, most=2 * threads + WRITTEN_AHEAD) as locks:
        manifest_writer = ManifestWriter(store, locks, recordings, config.data.held_out, heirlooms)
        manifest_writer.open({"format": FORMAT, "key": key, **described(space)}, found)
        for link, other in list(manifest_writer.links.items())[:SHOWN_LINKS]:
            print(f"{link} is a link to {other}: it counts once", flush=True)

        def read(recording: Recording, queue: BoundedQueue) -> None:
            try:
                entry = manifest_writer.current(recording)
                if entry is not None and COUNTERS in entry and not is_aligned_before(entry):
                    locks.give_back(recording.name)
                    return queue.put(_Kept(recording))
                labels = read_labels(recording, space, **how_to_read(config))
                counted = None if entry is None else recount(store, recording, entry, labels)
                if counted is not None:
                    return queue.put(_Kept(recording, counted))
                streamer.stream(labels, queue)
            except DamagedRecording as error:
                queue.put((recording, str(error)))

        run = _Run(tokenizer, manifest_writer, space, config.data.max_damaged)
        with (
            track("encode", total=len(manifest_writer.found), unit="episodes") as bar,
            Writer(manifest_writer.enter, WRITTEN_AHEAD) as writer,
            Producers(
                partial(locks.each, list(manifest_writer.found.values())), read, threads, AHEAD_BYTES
            ) as producers,
        ):
            for event in producers:
                done = run.take(event, writer)
                run.times |= {"decode": producers.waited, "write": writer.waited}
                bar.advance(done, **run.figures())
        run.times["write"] = writer.waited  # leaving it waits for the last episodes
        return run.finish(recordings)


@dataclass
class _Run:
    """What the consumer knows: latents of the episodes in hand, and what bounds the rate."""

    tokenizer: FrozenTokenizer
    manifest_writer: ManifestWriter
    space: ActionSpace
    max_damaged: float
    latents: dict[str, list[Tensor]] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("decode", "encode", "write"), 0.0))
    began: float = field(default_factory=time.perf_counter)
    seen_frames: int = 0
    encoded_frames: int = 0
    kept: int = 0

    def take(self, event: object, writer: Writer[Entry]) -> int:
        """One event of the readers; returns how many episodes are through."""
        match event:
            case Chunk():
                began = time.perf_counter()
                with span("encode"):
                    encoded = self.tokenizer.encode_windows(event.frames)
                self.latents.setdefault(event.recording.name, []).append(encoded)
                self.times["encode"] += time.perf_counter() - began
                self.seen_frames += len(event.frames)
                return 0
            case Restart():
                self.latents.pop(event.recording.name, None)
                return 0
            case Finished():
                chunks = self.latents.pop(event.recording.name)
                episode = _episode(event, self.tokenizer.join(chunks, len(event.trajectory)))
                if wrong := fault(episode, self.tokenizer.clock, self.space):
                    self._set_aside(
                        event.recording, f"recording {episode.name} encoded by {describe(self.tokenizer)}: {wrong}"
                    )
                else:
                    writer.put((episode, event.proof))
                    self.encoded_frames += len(event.trajectory)
            case (Recording() as recording, str(reason)):
                self.latents.pop(recording.name, None)
                self._set_aside(recording, reason)
            case _Kept():
                if event.counted is not None:
                    writer.put(event.counted)
                self.kept += 1
        return 1

    def _set_aside(self, recording: Recording, reason: str) -> None:
        self.manifest_writer.set_aside(recording, reason)
        self.manifest_writer.check_damage(self.max_damaged)

    def figures(self) -> dict[str, float | str]:
        """Frames a second, what bounds them, how many episodes were set aside."""
        rate = self.seen_frames / max(time.perf_counter() - self.began, 1e-9)
        bound = max(self.times, key=self.times.__getitem__)
        share = self.times[bound] / max(sum(self.times.values()), 1e-9)
        shown: dict[str, float | str] = {"frames_per_s": rate, "bound_by": f"{bound} ({share:.0%})"}
        if self.manifest_writer.skipped:
            shown["damaged"] = str(len(self.manifest_writer.skipped))
        return shown

    def finish(self, recordings: Path) -> dict[str, Any]:
        """The summary; what no recording stands behind leaves the store.

        Raises:
            UserError: if the store is empty.
        """
        entries = self.manifest_writer.close()
        if not entries:
            first = next(iter(self.manifest_writer.skipped.values()))
            total = len(self.manifest_writer.found)
            raise UserError(f"none of the {total} recordings in {recordings} can be read; the first: {first}")
        self.manifest_writer.check_damage(self.max_damaged)
        incomplete = find_incomplete(recordings)
        for name, reason in incomplete[:SHOWN]:
            print(f"left out: {name}: {reason}", flush=True)
        if len(incomplete) > SHOWN:
            print(f"left out: {len(incomplete) - SHOWN:,} more, which {command('inspect')} lists", flush=True)
        if left := self.manifest_writer.left:
            more = f" and {len(left) - 1:,} more" if len(left) > 1 else ""
            print(f"{left[0]}{more} left the store: not in {recordings} any more", flush=True)
        if changes := self.manifest_writer.changes:
            print(f"the store changed; episodes: {changes}", flush=True)
        seconds, working = time.perf_counter() - self.began, max(sum(self.times.values()), 1e-9)
        rates = count_rates(entry.get("frames_per_s", 0.0) for entry in entries.values())
        if mix := describe_mix(rates):
            print(mix, flush=True)
        return {
            "episodes": len(entries),
            "kept": self.kept,
            "frames": sum(entry["frames"] for entry in entries.values()),
            "steps": sum(entry["steps"] for entry in entries.values()),
            "encoded_frames": self.encoded_frames,
            "seconds": round(seconds, 3),
            "frames_per_s": round(self.encoded_frames / seconds, 1),
            "bound_by": max(self.times, key=self.times.__getitem__) if self.encoded_frames else "nothing to encode",
            "shares": {stage: round(spent / working, 3) for stage, spent in self.times.items()},
            "skipped": self.manifest_writer.skipped,
            "incomplete": len(incomplete),
            "rates": rates,
            "links": self.manifest_writer.links,
            "left": len(self.manifest_writer.left),
            "changes": self.manifest_writer.changes,
            **{what: {n: e[what] for n, e in entries.items() if what in e} for what in ("mended", "by_pyav")},
        }


def _attach_resampler(config: Config, tokenizer: FrozenTokenizer) -> str:
    """Give the tokenizer what resamples its windows, and say which."""
    if tokenizer.encoder.spec.frame_size:
        if config.data.resampler == "dali":
            raise UserError("data.resampler=dali and engines.resample_inside=true resample twice: drop one of them")
        return "torch"  # the engine has the same arithmetic inside
    chosen = resampler(config, tokenizer.device)
    tokenizer.resampler = chosen
    return chosen.name


def _streamer(config: Config, tokenizer: FrozenTokenizer) -> Streamer:
    """PyAV, or NVDEC where it is asked for or there is a GPU and DALI."""
    clock, at_once, on_gpu = tokenizer.clock, tokenizer.windows_at_once, tokenizer.device.type == "cuda"
    if config.data.decoder == "nvdec":
        require_dali("data.decoder=nvdec", gpu=True)
    if config.data.decoder == "nvdec" or (config.data.decoder == "auto" and on_gpu and dali_available()):
        gpu = numbered(tokenizer.device if on_gpu else torch.device("cuda"))  # here: a thread starts on the first GPU
        return Streamer(clock, at_once, partial(nvdec_blocks, device=gpu), can_nvdec, pinned=True)
    return Streamer(clock, at_once, pinned=on_gpu)


def _episode(finished: Finished, latents: Tensor) -> Episode:
    trajectory = finished.trajectory
    return Episode(
        name=trajectory.name,
        split="train",  # the manifest's to say
        latents=latents.half(),
        actions=torch.from_numpy(trajectory.actions),
        rewards=torch.from_numpy(trajectory.rewards),
        terminals=torch.from_numpy(trajectory.terminals),
        valid=torch.from_numpy(trajectory.valid),
        labelled=trajectory.labelled,
        rewarded=trajectory.rewarded,
        counters={name: torch.from_numpy(values) for name, values in trajectory.counters.items()},
    )
