"""The frozen tokenizer: the only way from frames to latents, whatever runs the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from fastdreamer_engines import DecoderGraph, EncoderGraph, Engine, EngineSpec, eager_engine
from fastdreamer_engines.graph import Graph
from fastdreamer_engines.spec import Part, Precision
from fastdreamer_kernels import latent_pool
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from fastdreamer.config import TokenizerConfig
from fastdreamer.errors import UserError
from fastdreamer.shapes import CHANNELS, TOKENS, LatentClock
from fastdreamer.system.json_files import digest
from fastdreamer.system.ranges import span
from fastdreamer.tokenizer.cosmos import load_autoencoder, weights_fingerprint
from fastdreamer.tokenizer.preprocess import RESAMPLING, channels_first, padded_length, preprocess, unpool
from fastdreamer.tokenizer.single_frame import fold_single_frame
from fastdreamer.tokenizer.windows import chunk_sizes, into_chunks

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

# Activations of the eager Cosmos encoder: 0.12 GiB in bf16 for 33 frames of 256 x 256, twice that in fp32.
BYTES_PER_PIXEL = 120
RESAMPLED_BYTES = 2**26  # recorded pixels resampled at once: many windows of MineRL's, one or two of VPT's
WINDOWS = "bthwc"  # the layout of recorded frames in whole windows
CHUNK_GB = {"cpu": 0.25, "cuda": 2.0}  # one Cosmos window on a CPU: more at once only takes memory there


class FrozenTokenizer:
    """Preprocess, encoder engine, pool; and the decoder for pictures. Nothing in it trains.

    Attributes:
        clock: frames to latent steps.
        fingerprint: identifies weights, preprocessing, pool and window; part of the latent store's key.
        precision: the encoder's precision; `backend`: what runs it. Both are part of the store's key.
        encoder, decoder: what runs; eager unless others were given.
        resampler: what makes an encoder's input of recorded windows; None is `preprocess`.
        graphs: eager fp32, the reference of every engine.
    """

    def __init__(
        self,
        model: AutoencoderKLCosmos,
        config: TokenizerConfig,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        memory_gb: float = 0.0,
    ) -> None:
        check_grid(config)
        self.config = config
        self.clock: LatentClock = config.clock
        self.device = torch.device(device)
        self.fingerprint = tokenizer_fingerprint(config)
        self.resampler: Callable[[Shaped[Tensor, "b t h w 3"]], Tensor] | None = None
        self.chunk_bytes = int((memory_gb or CHUNK_GB[self.device.type]) * 2**30)
        # One-frame clips need no temporal work; the folded copy equals the network up to rounding.
        single = self.clock.frames_per_latent == 1
        model = (fold_single_frame(model) if single else model).to(self.device).eval().requires_grad_(False)
        spec = eager_spec(config, "encoder", precision)
        self.graphs: dict[str, Graph] = {
            "encoder": EncoderGraph(model.encoder, model.quant_conv, spec).to(self.device),
            "decoder": DecoderGraph(model.decoder, model.post_quant_conv, spec),
        }
        self.encoder: Engine = eager_engine(self.graphs["encoder"], spec)
        self.decoder: Engine = eager_engine(self.graphs["decoder"], eager_spec(config, "decoder", "fp32"))

    @classmethod
    def from_config(
        cls,
        config: TokenizerConfig,
        device: torch.device | str = "cpu",
        precision: str = "fp32",
        memory_gb: float = 0.0,
    ) -> FrozenTokenizer:
        """The tokenizer that the configuration names, eager (see `load_autoencoder` for what it raises)."""
        check_grid(config)
        return cls(load_autoencoder(config), config, device, precision, memory_gb)

    def graph(self, spec: EngineSpec) -> Graph:
        """What an engine compiles: the part on the same weights, with what the spec wants inside."""
        plain = self.graphs[spec.part]
        if isinstance(plain, DecoderGraph):
            return plain
        return EncoderGraph(plain.encoder, plain.quant_conv, spec).to(self.device)

    @property
    def precision(self) -> str:
        """Precision of the encoder: `fp32`, `fp16` or `bf16`."""
        return self.encoder.precision

    @property
    def backend(self) -> str:
        """The encoder engine's name."""
        return self.encoder.name

    def encode(self, frames: Shaped[Tensor, "b _ _ h w"], layout: str | None = None) -> Float[Tensor, "b l n z"]:
        """Clips (see `preprocess` for shapes and types) to raw pooled latents, each clip by itself.

        With one frame a latent step every frame is a clip of its own. The result may be used under autograd.
        """
        return self._pool(self._encode(frames, layout))

    def _pool(self, encoded: Tensor) -> Tensor:
        with span("pool"):
            return encoded if self.encoder.spec.pool else latent_pool(encoded, self.config.pool)

    def encode_raw(self, frames: Shaped[Tensor, "b _ _ h w"], layout: str | None = None) -> Float[Tensor, "b z l h w"]:
        """Encode as `encode` does, without the pool.

        Raises:
            UserError: if the encoder engine pools inside.
        """
        if self.encoder.spec.pool:
            raise UserError("the encoder engine pools inside and has no unpooled latents; use engines.backend=eager")
        return self._encode(frames, layout)

    def _encode(self, frames: Tensor, layout: str | None) -> Tensor:
        with torch.inference_mode():
            parts = [self._encode_part(part, layout) for part in frames.split(self._clips_at_once(frames, layout))]
        # A tensor made in inference mode cannot be saved for a backward pass; a copy made outside can.
        return torch.cat(parts).clone()

    def encode_episode(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float[Tensor, "l n z"]:
        """An episode by the window protocol: its latent sequence on the CPU, float32.

        Windows of `clock.window` frames share their border frame and are encoded each by itself; the sequence is the
        first latent of the first window, then latents 1.. of every window. The last window is padded.

        Source: ALGORITHM 1. The encoder's past is unbounded, so another cut would give other latents.
        """
        pieces = [torch.from_numpy(np.ascontiguousarray(frames))]
        chunks = into_chunks(pieces, chunk_sizes(len(frames), self.clock, self.windows_at_once), self.clock)
        return self.join([self.encode_windows(chunk) for chunk in chunks], len(frames))

    @property
    def windows_at_once(self) -> int:
        """Windows that `encode_windows` takes in one chunk: always as many, so that latents do not depend on timing."""
        return self._at_once(self.clock.window)

    def encode_windows(self, frames: UInt8[Tensor, "t h w 3"]) -> Float[Tensor, "l n z"]:
        """Whole windows end to end (`into_chunks`) to their latents on the CPU, float32, the shared ones once."""
        frames = frames.to(self.device, non_blocking=self.device.type != "cpu")
        window = self.clock.window
        clips = frames[None] if window == 1 else frames.unfold(0, window, window - 1).movedim(-1, 1)
        encoded = self._pool(self._encode(clips, WINDOWS)).cpu()
        return encoded[0] if window == 1 else torch.cat([encoded[0, :1], encoded[:, 1:].flatten(0, 1)])

    def join(self, chunks: list[Float[Tensor, "l n z"]], frames: int) -> Float[Tensor, "l n z"]:
        """The latents of an episode's chunks as one sequence, without what the padding made."""
        shared = int(self.clock.window > 1)
        whole = torch.cat([chunk[shared if i else 0 :] for i, chunk in enumerate(chunks)])
        return whole[: self.clock.steps(frames)]

    def decode_raw(self, latents: Float[Tensor, "b z l h w"]) -> Float[Tensor, "b 3 t h2 w2"]:
        """Unpooled latents to pictures in [0, 1] at image_size."""
        side = self.config.image_size // self.config.spatial_compression
        if latents.shape[1] != CHANNELS or tuple(latents.shape[3:]) != (side, side):
            raise UserError(
                f"latents are {tuple(latents.shape)}; this tokenizer decodes (b, {CHANNELS}, l, {side}, {side})"
            )
        with torch.inference_mode():
            latents = latents.to(self.device, torch.float32)
            if self.clock.frames_per_latent == 1:
                folded = latents.transpose(1, 2).flatten(0, 1).unsqueeze(2)
                decoded = torch.cat([self.decoder.run(part) for part in folded.split(64)])
                decoded = decoded.squeeze(2).unflatten(0, (len(latents), -1)).transpose(1, 2)
            else:
                decoded = torch.cat([self.decoder.run(clip) for clip in latents.split(1)])
        return ((decoded.clone() + 1) / 2).clamp(0, 1)

    def decode_pooled(self, latents: Float[Tensor, "b l n z"]) -> Float[Tensor, "b 3 t h w"]:
        """Raw pooled latents to pictures in [0, 1]; a token is repeated over its block (lossy, see the model card)."""
        return self.decode_raw(unpool(latents, int(TOKENS**0.5), self.config.pool))

    def _encode_part(self, frames: Tensor, layout: str | None) -> Tensor:
        spec = self.encoder.spec
        with span("resample"):
            clips = self._clips(frames, layout)
        if self.clock.frames_per_latent > 1:
            with span("encoder"):
                return self.encoder.run(clips)
        single = clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)
        with span("encoder"):
            encoded = torch.cat([self.encoder.run(part) for part in single.split(64)])
        if spec.pool:
            return encoded.squeeze(1).unflatten(0, (len(frames), -1))
        return encoded.squeeze(2).unflatten(0, (len(frames), -1)).transpose(1, 2)

    def _clips(self, frames: Tensor, layout: str | None) -> Tensor:
        """Clips as the encoder engine takes them."""
        spec = self.encoder.spec
        if layout == WINDOWS:
            if self.resampler is not None and not spec.frame_size:
                pieces = frames.split(max(1, RESAMPLED_BYTES // frames[0].numel()))
                made = [self.resampler(piece) for piece in pieces]
                return made[0] if len(made) == 1 else torch.cat(made)
            frames, layout = frames.movedim(-1, 2), "btchw"
        if not spec.frame_size:
            return preprocess(frames.to(self.device), self.clock, self.config.image_size, layout)
        clips = channels_first(frames, layout).to(self.device)
        if clips.dtype != torch.uint8 or tuple(clips.shape[3:]) != (spec.frame_size, spec.frame_size):
            raise UserError(
                f"frames are {clips.dtype} of {tuple(clips.shape[3:])}, and the encoder engine resamples uint8 of "
                f"{spec.frame_size} x {spec.frame_size}; use engines.resample_inside=false"
            )
        missing = padded_length(clips.shape[2], self.clock) - clips.shape[2]
        return torch.cat([clips, clips[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)

    def _clips_at_once(self, frames: Tensor, layout: str | None) -> int:
        if frames.ndim != 5:
            return max(1, len(frames))  # refused by preprocess, with the shape
        count = frames.shape[2 if layout == "bcthw" or (layout is None and frames.shape[1] == 3) else 1]
        return self._at_once(padded_length(max(1, count), self.clock))

    def _at_once(self, frames: int) -> int:
        """Clips of that many frames that a chunk may hold: what memory allows, and a whole number of engine calls."""
        allowed = max(1, self.chunk_bytes // (BYTES_PER_PIXEL * frames * self.config.image_size**2))
        served = [b for b, t in self.encoder.spec.shapes if t >= frames]
        return max(allowed, *served) if served else allowed  # an engine's memory is bounded by its own batch


def eager_spec(config: TokenizerConfig, part: Part, precision: str = "fp32") -> EngineSpec:
    """The tokenizer's part at any shape."""
    size, c, spatial = config.image_size, config.frames_per_latent, config.spatial_compression
    return EngineSpec(part, cast(Precision, precision), (), size, CHANNELS, c, spatial)


def tokenizer_fingerprint(config: TokenizerConfig) -> str:
    """Weights, resampling, size, pool, clock as 32 hex characters. Needs the weights' files but not diffusers."""
    sizes = {name: getattr(config, name) for name in ("image_size", "pool", "frames_per_latent", "window")}
    return digest({"weights": weights_fingerprint(config), "resampling": RESAMPLING, **sizes})[:32]


def check_grid(config: TokenizerConfig) -> None:
    """Refuse sizes that do not divide or do not give the 16 tokens of a step.

    Raises:
        UserError: naming the three settings involved.
    """
    block = config.spatial_compression * config.pool
    if config.image_size % block or (config.image_size // block) ** 2 != TOKENS:
        raise UserError(
            f"tokenizer.image_size {config.image_size} with spatial_compression {config.spatial_compression} and pool "
            f"{config.pool} does not give {TOKENS} tokens a step; image_size must be {int(TOKENS**0.5) * block}"
        )
