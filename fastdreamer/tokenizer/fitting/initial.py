"""The start of a fit: a nearly linear network whose pooled latents already carry as much as linear algebra can give.

From the usual random start a small autoencoder on a CPU finds textures first and objects of a few pixels hours later.
Measured on Crafter (dB of the best linear decoding of the 256 pooled numbers, held out): 30 minutes of training from
random weights 23.5; this start, without any training, 25.1 to 25.8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fastdreamer.shapes import CHANNELS, TOKENS

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCosmos

KERNEL = 3  # size of the encoder's last convolution, in space
EQUATIONS = 20  # equations for each unknown of one output


@torch.no_grad()
def start_linear(model: AutoencoderKLCosmos, draw: Callable[[], Tensor], pool: int) -> None:
    """Close the residual branches of a random network and solve for the encoder's last convolution, in place.

    The last convolution and the pool are one linear map of the features of a token's neighbourhood. Its 16 output
    channels are those that explain the token's own pixels best (reduced-rank regression), uncorrelated, mean 0.

    Args:
        model: fresh from `build_random`.
        draw: gives batches of clips (b, 3, t, h, w) in [-1, 1].
        pool: side of the latent blocks that make a token.
    """
    close_branches(model)
    features: list[Tensor] = []
    pixels: list[Tensor] = []
    while sum(f.shape[:3].numel() for f in features) < EQUATIONS * (features[0].shape[-1] if features else 1):
        clips = draw()
        features.append(_neighbourhoods(_last_features(model, clips), pool))
        pixels.append(_own_pixels(clips, features[-1].shape[1]))
    x, y = torch.cat(features).flatten(0, 2).double(), torch.cat(pixels).double()
    mean = x.mean(0)
    x, y = x - mean, (y - y.mean((0, 1))).flatten(0, 2)  # less the mean picture: every token has its own
    gram = x.T @ x
    # Weaker regularisation explains hardly more, by large weights that cancel and do not survive bf16.
    gram += 1e-3 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution = torch.linalg.solve(gram, x.T @ y)
    explained = (x @ solution).T @ (x @ solution)
    directions = torch.linalg.eigh(explained).eigenvectors[:, -CHANNELS:]
    weight = solution @ directions
    weight = weight / (x @ weight).std(0)
    _write(model.encoder.conv_out, weight, mean)
    _pass_through(model.quant_conv)


def close_branches(model: nn.Module) -> None:
    """Zero the last layer of every residual branch: the network starts as its shortcuts and resampling alone."""
    from diffusers.models.autoencoders.autoencoder_kl_cosmos import CosmosCausalAttention, CosmosResnetBlock3d

    for module in model.modules():
        if isinstance(module, CosmosResnetBlock3d):
            _zero(module.conv2.conv_t)
        elif isinstance(module, CosmosCausalAttention):
            _zero(module.to_out[0])


def _last_features(model: AutoencoderKLCosmos, clips: Tensor) -> Float[Tensor, "b i l h w"]:
    """What the encoder's last convolution is given."""
    kept: list[Tensor] = []
    handle = model.encoder.conv_out.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    try:
        model.encoder(clips)
    finally:
        handle.remove()
    return kept[0]


def _neighbourhoods(features: Float[Tensor, "b i l h w"], pool: int) -> Float[Tensor, "b l n f"]:
    """Every tap of the last convolution, after the pool: f = i * 9 numbers a token."""
    size = features.shape[-2:]
    images = features.transpose(1, 2)
    taps = F.unfold(images.flatten(0, 1), KERNEL, padding=KERNEL // 2).unflatten(-1, size)
    return F.avg_pool2d(taps, pool).flatten(2).transpose(1, 2).unflatten(0, images.shape[:2])


def _own_pixels(clips: Float[Tensor, "b 3 t h w"], steps: int) -> Float[Tensor, "b l n q"]:
    """The pixels under each token in the last frame of each step and in the first."""
    count = clips.shape[2]
    chunk = max(1, (count - 1) // max(1, steps - 1))
    last = torch.arange(steps) * chunk
    first = (last - chunk + 1).clamp_min(0)
    side = clips.shape[-1] // int(TOKENS**0.5)
    pictures = [clips[:, :, frames].transpose(1, 2) for frames in (last, first)]
    blocks = torch.cat(pictures, 2).unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # b l 6 rows side columns side
    return blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)


def _write(projection: Any, weight: Float[Tensor, "f z"], mean: Float[Tensor, " f"]) -> None:
    """Put the solution into the spatial convolution; the temporal one passes the newest step on."""
    space = projection.conv_s
    taps = weight.T.unflatten(1, (-1, KERNEL, KERNEL)).unsqueeze(2)
    space.weight.copy_(taps.to(space.weight.dtype))
    space.bias.copy_(-(mean @ weight).to(space.bias.dtype))
    _pass_through(projection.conv_t)


def _pass_through(conv: Any) -> None:
    _zero(conv)
    conv.weight[:, :, -1, 0, 0].fill_diagonal_(1)


def _zero(conv: Any) -> None:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
