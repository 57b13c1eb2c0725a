"""What a fitted tokenizer says about itself: how it was made, and how close it comes on held-out frames."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fastdreamer.system.advice import PROGRAM, plain, shell
from fastdreamer.config import Config, TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.system.files import sha256_file
from fastdreamer.system.json_files import TEXT, Every, read_object
from fastdreamer.settings import differences, load_config
from fastdreamer.tokenizer.fitting.dense import DenseDecoder, shrink
from fastdreamer.tokenizer.fetch import FILES, check_fetched
from fastdreamer.tokenizer.preprocess import preprocess

if TYPE_CHECKING:
    from fastdreamer.tokenizer.fitting.fit import Bottleneck

CARD = "card.json"
BASELINE_WINDOW = 33  # frames; the repeated-first-frame baseline

Episodes = dict[str, UInt8[np.ndarray, "t h w 3"]]


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of a tokenizer's files by name, for its card."""
    return {name: sha256_file(folder / name) for name in FILES}


def check_weights(folder: Path) -> None:
    """Compare the files of a tokenizer with what was fetched, or with its card; one that has neither passes.

    Raises:
        UserError: naming the file that is not what was written.
    """
    check_fetched(folder)
    remedy = "copy the folder again from where it is whole, or fit a tokenizer again"
    hashes = read_object(folder / CARD, {"sha256?": Every(TEXT)}, remedy).get("sha256", {})
    try:
        for name in FILES:
            if name in hashes and sha256_file(folder / name) != hashes[name]:
                raise UserError(f"{folder / name} is damaged or changed (SHA-256 differs from its card's): {remedy}")
    except OSError as error:
        raise UserError(f"tokenizer in {folder} cannot be read ({error.strerror}): let this account read it") from error


@torch.no_grad()
def psnr_table(
    bottleneck: Bottleneck,
    train: Episodes,
    held_out: Episodes,
    config: TokenizerConfig,
    dense: DenseDecoder | None = None,
) -> dict[str, float]:
    """PSNR in dB on held-out frames, at image_size: tokenizer, training mean, a window's first frame repeated.

    With `dense` also what that decoder makes of the same latents (at its own size).
    """
    bottleneck.eval()
    device = next(bottleneck.parameters()).device
    mean = torch.from_numpy(np.mean([f.mean(0, dtype=np.float64) for f in train.values()], 0)).float()
    mean_image = preprocess(mean.permute(2, 0, 1)[None, :, None] / 255, config.clock, config.image_size)
    sums = dict.fromkeys(("tokenizer", "mean_frame", "first_frame_repeated"), 0.0)
    if dense is not None:
        sums["dense_decoder"] = 0.0
    count = 0
    for frames in held_out.values():
        for start in range(0, len(frames), BASELINE_WINDOW):
            window = _tensor(frames[start : start + BASELINE_WINDOW])
            clip = preprocess(window, config.clock, config.image_size)
            used = len(frames[start : start + BASELINE_WINDOW])
            if config.frames_per_latent == 1:
                single = clip.transpose(0, 2).to(device)
                decoded = bottleneck(single).transpose(0, 2).cpu()
                if dense is not None:
                    error = dense(bottleneck.encode(single)[:, 0]).clamp(-1, 1) - shrink(single)
                    sums["dense_decoder"] += float((error / 2).square().mean((1, 2, 3)).sum())
            else:
                decoded = bottleneck(clip.to(device)).cpu()
            clip, decoded = clip[:, :, :used], decoded[:, :, :used]
            for name, picture in (
                ("tokenizer", decoded.clamp(-1, 1)),
                ("mean_frame", mean_image[:, :, :1]),
                ("first_frame_repeated", clip[:, :, :1]),
            ):
                sums[name] += float(((picture - clip) / 2).square().mean((0, 1, 3, 4)).sum())
            count += used
    return {name: round(psnr_of(total / count), 2) for name, total in sums.items()}


def refit_command(config: Config, recordings: Path, out: Path) -> str:
    """The command line that repeats a fit: the crafter preset and every setting of the fit that differs from it."""
    sections = ("tokenizer", "tokenizer_fit", "seed", "precision", "data.held_out")
    changed = differences(load_config("crafter"), config)
    overrides = [
        f"{path}={json.dumps(value, separators=(',', ':')) if isinstance(value, list) else value}"
        for path, (_, value) in changed.items()
        if path.startswith(sections)
    ]
    return plain("fit-tokenizer", *overrides, config="crafter", recordings=recordings, out=out)


def recorded_by(origins: list[dict[str, Any]]) -> list[str]:
    """How recordings with this metadata were made: the commands for our own, folder and number for others."""
    groups: dict[str, list[int]] = {}
    for origin in origins:
        kind = f"{origin['env']}"
        seed = origin.get("seed")
        if {"policy", "noise", "max_steps"} <= set(origin) and isinstance(seed, int):
            noise = [f"record.noise={origin['noise']}"] if origin["policy"] == "expert" else []
            how = ["--policy", origin["policy"], f"record.max_steps={origin['max_steps']}", *noise]
            kind = shell(PROGRAM, "record", *how)
        groups.setdefault(kind, []).append(seed if isinstance(seed, int) else 0)
    return [f"{kind}{_how_many(seeds, kind.startswith(PROGRAM))}" for kind, seeds in groups.items()]


def _how_many(seeds: list[int], is_ours: bool) -> str:
    if not is_ours:
        return f": {len(seeds)} episodes"
    if max(seeds) - min(seeds) < len(seeds):
        return f" --seed {min(seeds)} --episodes {len(seeds)}"
    return f": {len(seeds)} of the seeds {min(seeds)} to {max(seeds)}"  # others of them were played otherwise


def psnr_of(mse: float) -> float:
    """Decibels of a mean squared error of pixels in [0, 1]."""
    return -10 * math.log10(max(mse, 1e-12))


def _tensor(frames: UInt8[np.ndarray, "t h w 3"]) -> UInt8[Tensor, "1 3 t h w"]:
    return torch.from_numpy(frames).permute(3, 0, 1, 2)[None]
