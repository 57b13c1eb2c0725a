"""How much of the user's own frames the frozen tokenizer keeps, before anyone believes its latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastdreamer_kernels import latent_pool
from jaxtyping import Float, UInt8
from torch import Tensor

from fastdreamer.config import Config
from fastdreamer.device import choose_device
from fastdreamer.errors import UserError
from fastdreamer.plotting.png import png, strip
from fastdreamer.recordings.actions import action_space
from fastdreamer.recordings.identity import without_links
from fastdreamer.recordings.read import find_recordings, guess_space, how_to_read, read_frames, read_recording
from fastdreamer.tokenizer.engines.installed import describe, open_tokenizer
from fastdreamer.tokenizer.preprocess import preprocess

# dB that pooling may cost: 6 dB is twice the error's amplitude, so from there on most of the error is the pool's.
MAX_DROP = 6.0
FRAMES = 16  # frames of a window, where the tokenizer sees single frames and so has no window of its own
LOWEST_MSE = 1e-10  # 100 dB stands for a perfect picture
SHOWN = 8  # frames in the filmstrip


def measure_reconstruction(
    root: Path, config: Config, space: str = "auto", windows: int = 4, seed: int = 0, pictures: Path | None = None
) -> dict[str, Any]:
    """PSNR of frames that went through the tokenizer and back, unpooled and pooled, on windows of the recordings.

    Pictures are compared at `tokenizer.image_size` in [0, 1], where the encoder sees them: the resampling before it is
    no loss of the tokenizer's. The mean picture of each window is the baseline; latents worth less than that
    say little of what moves.

    Args:
        root: the recordings; damaged ones are passed over.
        config: names the tokenizer, its engine and the device.
        space: name of the action space, or `auto`.
        windows: how many to draw, as evenly over the recordings as they divide.
        seed: the seed of the draw.
        pictures: a PNG to write: original, unpooled, pooled, of the first window.

    Returns:
        Ready for JSON: `tokenizer`, `backend`, `image_size`, `windows`, `frames`; `unpooled_db`, `pooled_db` and
        `mean_frame_db` (PSNR over all windows' squared error), `drop_db` and `pooling_too_aggressive`. Or only
        `not_measured`, the reason: no weights, or nothing readable.
    """
    try:
        return _measure(root, config, space, windows, seed, pictures)
    except UserError as error:
        return {"not_measured": " ".join(str(error).split())}


def _measure(root: Path, config: Config, space: str, windows: int, seed: int, pictures: Path | None) -> dict[str, Any]:
    engines = config.engines
    if engines.pool_inside or engines.resample_inside:
        engines = replace(engines, backend="eager")  # an engine that pools inside has no unpooled latents to give
    tokenizer = open_tokenizer(replace(config, engines=engines), choose_device(config).device, decodes=True)
    clock, size = tokenizer.clock, config.tokenizer.image_size
    length = FRAMES if clock.frames_per_latent == 1 else clock.window
    errors, frames = torch.zeros(3, dtype=torch.float64), 0
    drawn = 0
    for clip in _draw(root, config, space, windows, length, np.random.default_rng(seed)):
        batch = torch.from_numpy(clip)[None].permute(0, 1, 4, 2, 3)
        original = (preprocess(batch, clock, size, "btchw") + 1)[:, :, : len(clip)] / 2
        raw = tokenizer.encode_raw(batch, "btchw")
        unpooled, pooled = (
            decoded.cpu()[:, :, : len(clip)]
            for decoded in (
                tokenizer.decode_raw(raw),
                tokenizer.decode_pooled(latent_pool(raw, config.tokenizer.pool)),
            )
        )
        shown = (unpooled, pooled, original.mean(2, keepdim=True))
        errors += torch.stack([(picture - original).square().double().mean() for picture in shown]) * len(clip)
        if pictures is not None and not drawn:
            _write_filmstrip(pictures, [original, unpooled, pooled])
        frames, drawn = frames + len(clip), drawn + 1
    if not drawn:
        raise UserError("no recording can be read")
    decibels = -10 * np.log10(np.maximum(errors.numpy() / frames, LOWEST_MSE))
    unpooled_db, pooled_db, mean_db = (round(float(value), 2) for value in decibels)
    drop = round(unpooled_db - pooled_db, 2)
    return {
        "tokenizer": config.tokenizer.weights,
        "backend": describe(tokenizer),
        "image_size": size,
        "pool": config.tokenizer.pool,
        "windows": drawn,
        "frames": frames,
        "unpooled_db": unpooled_db,
        "pooled_db": pooled_db,
        "mean_frame_db": mean_db,
        "drop_db": drop,
        "pooling_too_aggressive": not drop <= MAX_DROP,
    }


def _draw(
    root: Path, config: Config, space: str, windows: int, length: int, random: np.random.Generator
) -> Iterator[UInt8[np.ndarray, "t h w 3"]]:
    """Windows of up to `length` frames, from as many different readable recordings as there are."""
    recordings, _ = without_links(find_recordings(root), root)
    order = [recordings[i] for i in random.permutation(len(recordings))]
    left = windows
    while left > 0 and order:
        for recording in order[:left]:
            try:
                chosen = guess_space(recording) if space == "auto" else action_space(space)
                count = len(read_recording(recording, chosen, frames=False, **how_to_read(config)))
                start = int(random.integers(max(1, count - length + 1)))
                _, frames = read_frames(recording, chosen, slice(start, start + length), **how_to_read(config))
            except UserError:  # inspect lists it with its reason
                order.remove(recording)
                continue
            yield frames
            left -= 1


def _write_filmstrip(file: Path, rows: list[Float[Tensor, "1 3 t s s"]]) -> None:
    count = min(SHOWN, rows[0].shape[2])
    picked = np.linspace(0, rows[0].shape[2] - 1, count).round().astype(int)
    pixels = [(row[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()[picked] for row in rows]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(np.concatenate([strip(frames) for frames in pixels])))
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror or error})") from error


def render_reconstruction(found: dict[str, Any]) -> str:
    """The result as text for a terminal."""
    if "not_measured" in found:
        return f"reconstruction not measured: {found['not_measured']}"
    text = (
        f"reconstruction by tokenizer {found['tokenizer']} at {found['image_size']}x{found['image_size']}, "
        f"{found['frames']} frames of {found['windows']} windows (PSNR)\n"
        f"  unpooled {found['unpooled_db']:.1f} dB, pooled {found['pooled_db']:.1f} dB; "
        f"each window's mean picture {found['mean_frame_db']:.1f} dB"
    )
    if found["drop_db"] < 0:
        return f"{text}\n  pooled is better: this tokenizer was trained through the pool, and nothing reads it unpooled"
    if not found["pooling_too_aggressive"]:
        return text
    smaller = f"tokenizer.pool={found['pool'] // 2} tokenizer.image_size={found['image_size'] // 2}"
    return (
        f"{text}\n  pooling too aggressive: it costs {found['drop_db']:.1f} dB (more than {MAX_DROP:g}); "
        f"try {smaller}, or a tokenizer that was trained through the pool (fit-tokenizer)"
    )
