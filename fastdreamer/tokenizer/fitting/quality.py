"""How close a fitted tokenizer comes to held-out frames, beside what costs nothing: PSNR in dB."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import UInt8

from fastdreamer.config import TokenizerConfig
from fastdreamer.tokenizer.fitting.bottleneck import Bottleneck, DenseDecoder, shrink
from fastdreamer.tokenizer.preprocess import preprocess

BASELINE_WINDOW = 33  # frames; the repeated-first-frame baseline

Episodes = dict[str, UInt8[np.ndarray, "t h w 3"]]


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
            window = torch.from_numpy(frames[start : start + BASELINE_WINDOW])
            clip = preprocess(window.permute(3, 0, 1, 2)[None], config.clock, config.image_size)
            used = len(window)
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


def psnr_of(mse: float) -> float:
    """Decibels of a mean squared error of pixels in [0, 1]."""
    return -10 * math.log10(max(mse, 1e-12))
