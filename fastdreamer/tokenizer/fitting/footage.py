"""The frames that a tokenizer is fitted on: held in memory, and so no larger and no more than fit there.

Frames of more pixels than the encoder sees, or of several sizes, are brought to its size as they are decoded. Where
all of them would still take more than `data.memory_limit_gb`, each recording gives the same share of its frames, in
stretches spread evenly over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.latents.splits import divide, natural_split, same_videos
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.identity import contents, without_links
from fastdreamer.recordings.recording import DamagedRecording, Recording
from fastdreamer.system.progress import track
from fastdreamer.tokenizer.fitting.origins import recorded_by
from fastdreamer.tokenizer.fitting.quality import BASELINE_WINDOW, Episodes
from fastdreamer.tokenizer.preprocess import preprocess


def read_footage(config: Config, recordings: Path) -> tuple[Episodes, Episodes, dict[str, Any]]:
    """Frames to train on, held-out frames by the latent store's rule, and what the card says of them.

    Raises:
        UserError: if fewer than two recordings can be read.
    """
    from fastdreamer.recordings.read import find_recordings, glance, how_to_read

    space, how = action_space(config.data.env), how_to_read(config)
    found, links = without_links(find_recordings(recordings), recordings)
    sights: dict[Recording, tuple[int, int, int]] = {}
    for recording in found:
        try:
            sights[recording] = glance(recording, space, **how)
        except DamagedRecording:
            continue
    size = config.tokenizer.image_size
    sizes = {sight[1:] for sight in sights.values()}
    is_resampled = len(sizes) > 1 or any(height * width > size * size for height, width in sizes)
    frame_bytes = 3 * max([size * size] if is_resampled else [h * w for h, w in sizes], default=1)
    total = sum(frames for frames, _, _ in sights.values())
    share = config.data.memory_limit_gb * 2**30 / max(total * frame_bytes, 1)
    episodes: dict[str, Episodes] = {}
    origins: list[dict[str, Any]] = []
    with track("read recordings", total=len(sights), unit="episodes") as bar:
        for recording, (frames, _, _) in sights.items():
            rows = None if share >= 1 else stretches(frames, share, max(config.tokenizer.window, BASELINE_WINDOW))
            try:
                parts, metadata = _read(config, recording, rows, is_resampled)
                episodes[recording.name] = {f"{recording.name}#{i}": part for i, part in enumerate(parts)}
                origins.append({"env": recording.env, **metadata})
            except DamagedRecording:
                pass
            bar.advance(1)
    if len(episodes) < 2:
        raise UserError(f"{recordings} has {len(episodes)} usable episodes; fitting needs 2, one of them held out")
    seen = {r.name: content.video for r, content in zip(found, contents(found), strict=True) if content is not None}
    natural = {name: natural_split(name, config.data.held_out) for name in episodes}
    shown = {
        name: {"video_sha256": seen.get(name), "sampled_sha256": _digest(parts.values())}
        for name, parts in episodes.items()
    }
    splits = divide(natural, same_videos(shown), {})
    train, held_out = (
        {part: pixels for name, parts in episodes.items() if splits[name] == split for part, pixels in parts.items()}
        for split in ("train", "held_out")
    )
    kept = [sum(map(len, part.values())) for part in (train, held_out)]
    data = {
        "episodes": len(episodes),
        "recorded_by": recorded_by(origins),
        "train_frames": kept[0],
        "held_out_frames": kept[1],
        "damaged": len(found) - len(episodes),
    }
    if sum(kept) < total and share < 1:
        data["frames_there_are"] = total
        print(
            f"{sum(kept):,} of {total:,} frames are held, spread evenly: more do not fit into "
            f"data.memory_limit_gb={config.data.memory_limit_gb:g}",
            flush=True,
        )
    return train, held_out, data | ({"links": len(links)} if links else {})


def _digest(parts: Iterable[UInt8[np.ndarray, "t h w 3"]]) -> str:
    """SHA-256 of pixels: a clip in another container has the same."""
    digest = sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def stretches(frames: int, share: float, length: int) -> Bool[Tensor, " t"]:
    """Mask of the frames that are kept: stretches of `length`, evenly spread, of that share in all; at least one."""
    count = max(1, int(frames * share / length))
    starts = np.linspace(0, max(frames - length, 0), count).round().astype(int) if count > 1 else [0]
    rows = torch.zeros(frames, dtype=torch.bool)
    for start in starts:
        rows[start : start + length] = True
    return rows


def _read(
    config: Config, recording: Recording, rows: Bool[Tensor, " t"] | None, is_resampled: bool
) -> tuple[Sequence[UInt8[np.ndarray, "n h w 3"]], dict[str, Any]]:
    """The stretches that are kept of a recording, and its metadata."""
    from fastdreamer.recordings.read import how_to_read, read_frames

    def keep(row: int, part: UInt8[Tensor, "n h w 3"]) -> UInt8[Tensor, "n2 h2 w2 3"]:
        if rows is not None:
            wanted, known = torch.zeros(len(part), dtype=torch.bool), rows[row : row + len(part)]
            wanted[: len(known)] = known
            part = part[wanted]
        return resampled(part, config.tokenizer) if is_resampled else part

    aligned, pixels = read_frames(recording, action_space(config.data.env), keep=keep, **how_to_read(config))
    metadata = aligned.trajectory.metadata
    if rows is None:
        return [pixels], metadata
    numbers = rows.nonzero()[:, 0].numpy()[: len(pixels)]
    return np.split(pixels, np.flatnonzero(np.diff(numbers) > 1) + 1), metadata


def resampled(frames: UInt8[Tensor, "n h w 3"], config: TokenizerConfig) -> UInt8[Tensor, "n s s 3"]:
    """Frames at the size that the encoder sees."""
    if not len(frames):
        return frames.new_zeros((0, config.image_size, config.image_size, 3))
    shown = preprocess(frames[None].permute(0, 1, 4, 2, 3), config.clock, config.image_size, "btchw")
    return ((shown[0, :, : len(frames)] + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous()
