"""What is compiled: the tokenizer's encoder or decoder as one module of static shapes, mended for the compilers.

Source: diffusers' AutoencoderKLCosmos; the mends were found by comparing each compiler's output with eager.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer_engines.spec import DTYPES, EngineSpec


class EncoderGraph(nn.Module):
    """Frames to raw latents: encoder and quantisation convolution; resampling before and pooling after are options."""

    resample: Tensor
    dtype = torch.float32  # type of the weights

    def __init__(self, encoder: nn.Module, quant_conv: nn.Module, spec: EngineSpec) -> None:
        super().__init__()
        self.encoder, self.quant_conv, self.spec = encoder, quant_conv, spec
        size = spec.frame_size or 1
        self.register_buffer("resample", resampling_matrix(size, spec.image_size), persistent=False)

    def forward(self, frames: Shaped[Tensor, "b 3 t h w"]) -> Float[Tensor, "b ..."]:
        """Frames in [-1, 1] float32, or uint8 of `spec.frame_size`, to float32 latents."""
        spec = self.spec
        if spec.frame_size:
            # Bicubic resampling is linear and separable: two products with one matrix, exact in any compiler.
            matrix = self.resample
            frames = frames.float() / 255
            if spec.frame_size != spec.image_size:
                frames = (matrix @ frames @ matrix.T).clamp(0, 1)
            frames = frames * 2 - 1
        latents = self.quant_conv(self.encoder(frames.to(self.dtype))).float()
        if spec.pool:
            pooled = F.avg_pool2d(latents.transpose(1, 2).flatten(0, 1), spec.pool)  # (b*l, z, 4, 4)
            latents = pooled.flatten(2).transpose(1, 2).unflatten(0, (len(frames), -1))
        return latents


class DecoderGraph(nn.Module):
    """Raw latents to frames in [-1, 1]."""

    dtype = torch.float32

    def __init__(self, decoder: nn.Module, post_quant_conv: nn.Module, spec: EngineSpec) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv, self.spec = decoder, post_quant_conv, spec

    def forward(self, latents: Float[Tensor, "b z l h w"]) -> Float[Tensor, "b 3 t h2 w2"]:
        """Decode float32 latents to float32 frames."""
        return self.decoder(self.post_quant_conv(latents.to(self.dtype))).float()


Graph = EncoderGraph | DecoderGraph


def resampling_matrix(source: int, target: int) -> Float[Tensor, "target source"]:
    """The matrix of bicubic resampling (a = -0.5) along one side, as torch's antialiased path computes it."""
    identity = torch.eye(source).view(1, source, 1, source).transpose(1, 2)  # each row an image of height one
    wide = F.interpolate(identity, (source, target), mode="bicubic", antialias=True, align_corners=False)
    return wide[0, 0].T.contiguous()


def compilable(graph: Graph, spec: EngineSpec) -> Graph:
    """A mended copy in the engine's precision: what compilers get. The graph itself stays the reference."""
    copied = copy.deepcopy(graph).requires_grad_(False)
    float_exponents(copied)
    contiguous_projections(copied)
    copied.dtype = DTYPES[spec.precision]
    copied.to(copied.dtype)
    if isinstance(copied, EncoderGraph) and isinstance(graph, EncoderGraph):
        copied.resample = graph.resample  # pictures are resampled in fp32 whatever follows
    return copied.eval()


def float_exponents(module: nn.Module) -> None:
    """Mend: AOTInductor computes (-1) ** integer tensor as NaN, which the Haar patcher contains."""
    for part in module.modules():
        exponents = getattr(part, "_arange", None)
        if isinstance(exponents, Tensor):
            part.register_buffer("_arange", exponents.float(), persistent=False)


def contiguous_projections(module: nn.Module) -> None:
    """Mend: AOTInductor reads the attention's permuted output wrongly at a dynamic batch of one."""
    for part in module.modules():
        projection = getattr(part, "to_out", None)
        if isinstance(projection, nn.ModuleList) and len(projection):
            projection[0] = nn.Sequential(_Contiguous(), projection[0])


class _Contiguous(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone(memory_format=torch.contiguous_format)
