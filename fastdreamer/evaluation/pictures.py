"""Filmstrips for the report: real, reconstructed and imagined frames of the same moments, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.errors import UserError
from fastdreamer.evaluation.open_loop import Crop, Imagine
from fastdreamer.latents.batch import Batch
from fastdreamer.latents.store import read_manifest
from fastdreamer.plotting.png import png, strip
from fastdreamer.recordings.actions import action_space
from fastdreamer.run.directory import RunDirectory
from fastdreamer.shapes import LatentClock
from fastdreamer.system.files import write_atomic

FRAMES_SHOWN = 16  # the most of a strip; of a longer window every second, third, ... step is shown


def decoded_steps(decoder: Callable[[Tensor], Tensor], latents: Float[Tensor, "l n z"]) -> UInt8[ndarray, "l h w 3"]:
    """The last frame of every latent step, from normalised pooled latents through the pixel decoder."""
    frames = decoder(latents)[:, -1].clamp(0, 1)
    return np.asarray((frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def spread(errors: Float[ndarray, " b"], count: int) -> list[int]:
    """Crops at evenly spaced quantiles of their error (for 3: lower quartile, median, upper quartile), easy to hard.

    Chosen by rule, so that the pictures are neither the best nor the worst.
    """
    order = np.argsort(errors, kind="stable")
    places = [round((i + 1) / (count + 1) * (len(order) - 1)) for i in range(count)]
    return list(dict.fromkeys(int(order[place]) for place in places))


@torch.no_grad()
def write_filmstrips(
    folder: Path, crops: Sequence[Crop], batch: Batch, errors: Float[ndarray, " b"], count: int,
    truth: Float[Tensor, "b l n z"], imagine: Imagine, decoder: Callable[[Tensor], Tensor],
    real_frames: Callable[[str], UInt8[ndarray, "t h w 3"] | None], clock: LatentClock, context: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Imagine `count` crops, easy to hard; write a PNG a row.

    Returns {"context", "steps", "shown", "strips": [{"episode", "start", "error", "rows": {...}}]}.

    Args:
        batch: the crops themselves; `errors` their errors, `truth` their normalised latents.
        real_frames: an episode's frames by name, or None where the recording is gone.
    """
    picked = spread(errors, count)
    chosen = batch.take(torch.tensor(picked, device=truth.device))
    imagined = imagine(chosen, torch.Generator().manual_seed(seed), None)
    folder.mkdir(parents=True, exist_ok=True)
    steps = truth.shape[1]
    shown = list(range(0, steps, -(-steps // FRAMES_SHOWN)))
    strips = []
    for place, (index, rollout) in enumerate(zip(picked, imagined, strict=True)):
        where = crops[index]
        rows = {"reconstructed": decoded_steps(decoder, truth[index]), "imagined": decoded_steps(decoder, rollout)}
        frames = real_frames(where.episode)
        if frames is not None:
            last = [clock.frames_per_latent * (where.start + step) for step in range(steps)]
            rows = {"real": frames[last], **rows}
        files = {}
        for name, images in rows.items():
            files[name] = f"crop{place}_{name}.png"
            write_atomic(folder / files[name], png(strip([images[step] for step in shown])))
        strips.append({"episode": where.episode, "start": where.start, "error": float(errors[index]), "rows": files})
    described = {"context": context, "steps": steps, "shown": shown, "frames_per_latent": clock.frames_per_latent}
    return described | {"strips": strips}


class RealFrames:
    """Frames of a recorded episode by its name; None where the recording is gone, has changed or cannot be read."""

    def __init__(self, config: Config, run: RunDirectory) -> None:
        self.config, self.space = config, action_space(config.data.env)
        self.recordings: Mapping[str, Any] = {}
        self.entries: Mapping[str, Any] = {}
        folder = run.recordings(config)
        if folder.is_dir():
            from fastdreamer.recordings.identity import behind
            from fastdreamer.recordings.read import find_recordings

            try:
                self.entries = read_manifest(run.store(config))["episodes"]
                self.recordings = behind(find_recordings(folder), self.entries, folder)
            except UserError:
                self.recordings = {}

    def __call__(self, name: str) -> UInt8[np.ndarray, "t h w 3"] | None:
        """The frames of the named episode, or None."""
        if name not in self.recordings:
            return None
        from fastdreamer.recordings.identity import check_unchanged
        from fastdreamer.recordings.read import how_to_read, read_recording

        how, size = how_to_read(self.config), self.config.data.frame_size
        try:
            check_unchanged(self.recordings[name], self.entries[name])
            return read_recording(self.recordings[name], self.space, size=size, **how).frames
        except UserError as error:
            print(f"pictures: {error}; its frames are not shown", flush=True)
            return None
