"""What `encode` takes of a GPU. No fake run: an engine's memory is its compiler's, so only what is known is sized."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import torch

from fastdreamer.config import Config
from fastdreamer.shapes import CHANNELS
from fastdreamer.tokenizer.frozen import BYTES_PER_PIXEL, CHUNK_GB
from fastdreamer.tools.planning.gpus import CONTEXT, Budget

GPU_BATCH = 16
"""Windows in the largest call of a GPU's engine, unless `engines.batches` says otherwise."""
SURFACES = 8
"""Decoded frames that NVDEC holds beside a block."""
BUFFERS = 2
"""Outputs that a DALI pipeline keeps: the one that is read and the one that is made."""


def encode_rows(config: Config, budget: Budget) -> dict[str, int]:
    """Bytes by component, each named with what it rests on; nothing on a CPU.

    Weights are counted on the real architecture (left out where diffusers is not installed), activations are the eager
    encoder's 120 bytes a pixel in fp32 (60 in half precision) for one chunk of windows, and surfaces are the arrays
    that DALI is asked for.
    """
    if not budget.is_gpu:
        return {}
    from fastdreamer.recordings.decode import BLOCK  # the decoder's libraries are not for those who train

    tokenizer, engines = config.tokenizer, config.engines
    width = 4 if engines.precision == "fp32" else 2
    pixels = tokenizer.window * tokenizer.image_size**2
    allowed = int((engines.memory_gb or CHUNK_GB["cuda"]) * 2**30) // (BYTES_PER_PIXEL * pixels)
    windows = max(1, allowed, *(engines.batches or (GPU_BATCH,)))
    frame = 3 * config.data.frame_size**2
    recorded = windows * tokenizer.window * frame
    rows = {
        f"encoder weights ({8 * width} bits)": _encoder_parameters(config) * width,
        f"activations of {windows} windows": BYTES_PER_PIXEL * windows * pixels * width // 4,
        "DALI: resampled windows, two buffers": BUFFERS * 3 * windows * pixels * 4,
        "recorded windows, NVDEC's block": BUFFERS * recorded + (BLOCK + SURFACES) * frame,
        "latents": windows * CHANNELS * tokenizer.clock.positions * (tokenizer.image_size // 8) ** 2 * width,
        "CUDA context (assumed)": CONTEXT,
    }
    return {name: size for name, size in rows.items() if size}


def _encoder_parameters(config: Config) -> int:
    if find_spec("diffusers") is None:
        return 0
    from diffusers import AutoencoderKLCosmos  # noqa: F401  (its module makes tensors, which must be real)

    from fastdreamer.tokenizer.cosmos import load_autoencoder

    with torch.device("meta"):
        model = load_autoencoder(replace(config.tokenizer, weights="random"))
    return sum(p.numel() for part in (model.encoder, model.quant_conv) for p in part.parameters())
