"""Settings of the frozen tokenizer and of the engines that run it."""

from __future__ import annotations

from dataclasses import dataclass

from fastdreamer.settings.fields import SEED_MOST, setting
from fastdreamer.shapes import LatentClock


@dataclass(frozen=True)
class TokenizerConfig:
    """The frozen tokenizer: Cosmos architecture, resampling before it, pooling after it.

    weights: `embedded` (the small one that ships with the package), `random` (tests, debugging), a folder in the
    diffusers layout (config.json + safetensors), or NVIDIA's own .pt or .jit. The architecture fields apply to
    `random`, `fit-tokenizer`, .pt and .jit; a diffusers folder brings its own.
    """

    weights: str = "embedded"  # `embedded`, `random`, or the folder or file of the weights
    frames_per_latent: int = setting(1, choices=(1, 2, 4, 8))  # c: frames that one latent step covers
    window: int = setting(1, at_least=1)  # frames that are encoded together: 1 + k c
    # Frames are resampled (bicubic, a=-0.5) to this many pixels a side before the encoder.
    image_size: int = setting(64, at_least=8, at_most=2**13)
    pool: int = setting(2, choices=(1, 2, 4, 8))  # neighbouring latents a side that are averaged into one token
    encoder_channels: tuple[int, ...] = (48, 80, 80)  # channels of the encoder's levels
    decoder_channels: tuple[int, ...] = (48, 64, 80)  # channels of the decoder's levels
    layers: int = setting(1, at_least=1, at_most=2**6)  # residual blocks a level
    patch_size: int = setting(4, choices=(1, 2, 4))  # pixels a side of the wavelet patches that the encoder reads
    spatial_compression: int = setting(8, choices=(4, 8, 16))  # pixels a side that one latent covers before pooling
    seed: int = setting(0, at_least=0, at_most=SEED_MOST)  # the seed of random weights
    trust_jit: bool = setting(False, free="always")  # whether a .jit may be loaded, which can run code that is in it

    def __post_init__(self) -> None:
        LatentClock(self.frames_per_latent, self.window)
        if not all(1 <= n <= 2**14 for n in (*self.encoder_channels, *self.decoder_channels)):
            raise ValueError(f"encoder_channels and decoder_channels must be from 1 to {2**14}")

    @property
    def clock(self) -> LatentClock:
        return LatentClock(self.frames_per_latent, self.window)


@dataclass(frozen=True)
class EnginesConfig:
    """What runs the frozen tokenizer, and what `build-engines` builds. Free to change in a run."""

    # What runs the tokenizer; auto: the fastest engine that is installed for this machine, or eager where none is.
    backend: str = setting(
        "auto",
        choices=("auto", "eager", "inductor", "aot-inductor", "tensorrt_rtx", "tensorrt", "torch-tensorrt"),
    )
    # The arithmetic of engines; auto: fp16 on a GPU, fp32 on a CPU.
    precision: str = setting("auto", choices=("auto", "fp32", "fp16", "bf16"))
    # Clips at once that engines are built for; empty: 1 and 4 on a CPU, 1, 4 and 16 on a GPU.
    batches: tuple[int, ...] = ()
    acting_frames: tuple[int, ...] = ()  # lengths in frames that are served for one clip besides the whole window
    resample_inside: bool = False  # whether the engine takes uint8 frames of data.frame_size
    pool_inside: bool = False  # whether the engine returns pooled tokens
    channels_last: bool = False  # whether eager on a GPU runs in channels_last_3d
    directory: str = ""  # the engines' folder; empty: fastdreamer/engines in the user's cache
    memory_gb: float = setting(0.0, at_least=0.0)  # GiB of activations of one chunk; 0: 0.25 on a CPU, 2 on a GPU

    def __post_init__(self) -> None:
        if any(n < 1 for n in (*self.batches, *self.acting_frames)):
            raise ValueError("batches and acting_frames must be 1 or more")
