"""Latent pooling: p x p block means of the tokenizer's latents, written once in the order the dynamics reads.

Reads every latent once and writes every token once: one launch, no intermediate, forward and backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastdreamer_kernels import reference
from fastdreamer_kernels.launch import jit, launch, next_power_of_2, tl, use_kernel, wrap_triton

if TYPE_CHECKING:
    from jaxtyping import Float

CHANNELS = 16
POOLS = (1, 2, 4, 8)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TILE = 4096  # latents a program: 16 channels x p rows x (tokens x p) columns


@jit
def latent_pool_kernel(
    p_in,  # (b, 16, l, h, w), any strides
    p_scale,  # (l, 16) or unused
    p_shift,  # (l, 16) or unused
    p_out,  # (b, l, rows * cols, 16), contiguous
    steps,
    rows,
    cols,
    width,
    s_b,
    s_z,
    s_l,
    s_h,
    s_w,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_AFFINE: tl.constexpr,
):
    """A program makes BLOCK tokens of one token row, all 16 channels."""
    i_line = tl.program_id(0)
    i_row, i_step, i_batch = i_line % rows, (i_line // rows) % steps, i_line // (rows * steps)
    i_z = tl.arange(0, 16)
    i_y = tl.arange(0, P).to(tl.int64)
    i_x = (tl.program_id(1) * (BLOCK * P) + tl.arange(0, BLOCK * P)).to(tl.int64)
    start = p_in + i_batch.to(tl.int64) * s_b + i_step.to(tl.int64) * s_l + (i_row * P).to(tl.int64) * s_h
    o_in = i_z[:, None, None].to(tl.int64) * s_z + i_y[None, :, None] * s_h + i_x[None, None, :] * s_w
    tile = tl.load(start + o_in, mask=(i_x < width)[None, None, :], other=0.0).to(tl.float32)
    mean = tl.sum(tl.sum(tl.reshape(tile, (16, P, BLOCK, P)), axis=3), axis=1) * (1.0 / (P * P))
    if HAS_AFFINE:
        o_affine = i_step * 16 + i_z
        mean = mean * tl.load(p_scale + o_affine).to(tl.float32)[:, None]
        mean += tl.load(p_shift + o_affine).to(tl.float32)[:, None]
    i_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    o_out = (i_line.to(tl.int64) * cols + i_col)[None, :] * 16 + i_z[:, None]
    tl.store(p_out + o_out, mean.to(p_out.dtype.element_ty), mask=(i_col < cols)[None, :])


@jit
def latent_pool_backward_kernel(
    p_gradient,  # (b, l, rows * cols, 16), any strides
    p_scale,  # (l, 16) or unused
    p_out,  # (b, 16, l, h, w), strides below
    steps,
    rows,
    cols,
    width,
    s_b,
    s_z,
    s_l,
    s_h,
    s_w,
    g_b,
    g_l,
    g_n,
    g_z,
    P: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_AFFINE: tl.constexpr,
):
    """A program spreads the gradient of BLOCK tokens of one token row over their blocks."""
    i_line = tl.program_id(0)
    i_row, i_step, i_batch = i_line % rows, (i_line // rows) % steps, i_line // (rows * steps)
    i_z = tl.arange(0, 16)
    i_y = tl.arange(0, P).to(tl.int64)
    i_col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    given = p_gradient + i_batch.to(tl.int64) * g_b + i_step.to(tl.int64) * g_l
    o_gradient = (i_row * cols + i_col).to(tl.int64)[None, :] * g_n + i_z.to(tl.int64)[:, None] * g_z
    share = tl.load(given + o_gradient, mask=(i_col < cols)[None, :], other=0.0).to(tl.float32) * (1.0 / (P * P))
    if HAS_AFFINE:
        share *= tl.load(p_scale + i_step * 16 + i_z).to(tl.float32)[:, None]
    tile = tl.reshape(tl.broadcast_to(share[:, None, :, None], (16, P, BLOCK, P)), (16, P, BLOCK * P))
    i_x = (tl.program_id(1) * (BLOCK * P) + tl.arange(0, BLOCK * P)).to(tl.int64)
    start = p_out + i_batch.to(tl.int64) * s_b + i_step.to(tl.int64) * s_l + (i_row * P).to(tl.int64) * s_h
    o_out = i_z[:, None, None].to(tl.int64) * s_z + i_y[None, :, None] * s_h + i_x[None, None, :] * s_w
    tl.store(start + o_out, tile.to(p_out.dtype.element_ty), mask=(i_x < width)[None, None, :])


def block_of(cols: int, pool: int) -> int:
    """Tokens a program makes: what fills its tile, and no more than a token row has."""
    return min(TILE // (CHANNELS * pool * pool), next_power_of_2(cols))


def _launch(
    wrapped: Any, latents: Tensor, tokens: Tensor, *affine: Tensor | None, pool: int, is_forward: bool = True
) -> None:
    """Launch on both tensors, in the kernel's order: the forward reads `latents`, the backward writes it."""
    batch, _, steps, height, width = latents.shape
    rows, cols = height // pool, width // pool
    block = block_of(cols, pool)
    grid = (batch * steps * rows, -(-cols // block))
    given = [tokens if vector is None else vector for vector in affine]  # an unused pointer must still be one
    tensors = (latents, *given, tokens) if is_forward else (tokens, *given, latents)
    strides = (*latents.stride(), *(() if is_forward else tokens.stride()))
    constants = {"P": pool, "BLOCK": block, "HAS_AFFINE": affine[0] is not None, "num_warps": 4}
    launch(wrapped, grid, *tensors, steps, rows, cols, width, *strides, **constants)


@torch.library.triton_op("fastdreamer::latent_pool", mutates_args={})
def latent_pool_op(
    latents: Tensor, pool: int, scale: Tensor | None, shift: Tensor | None, out_dtype: torch.dtype, kernel: bool
) -> Tensor:
    """Run the registered op, whose arguments `latent_pool` has checked."""
    if not kernel:
        return reference.latent_pool(latents, pool, scale, shift, out_dtype).contiguous()
    out = latent_pool_shape(latents, pool, scale, shift, out_dtype, kernel)
    _launch(wrap_triton(latent_pool_kernel), latents, out, scale, shift, pool=pool)
    return out


@torch.library.register_fake("fastdreamer::latent_pool")
def latent_pool_shape(
    latents: Tensor, pool: int, scale: Tensor | None, shift: Tensor | None, out_dtype: torch.dtype, kernel: bool
) -> Tensor:
    """Return an empty result of the op's shape."""
    batch, channels, steps, height, width = latents.shape
    return latents.new_empty((batch, steps, (height // pool) * (width // pool), channels), dtype=out_dtype)


@torch.library.triton_op("fastdreamer::latent_pool_backward", mutates_args={})
def latent_pool_backward_op(
    gradient: Tensor,
    pool: int,
    scale: Tensor | None,
    size: list[int],
    dtype: torch.dtype,
    is_channels_last: bool,
    kernel: bool,
) -> Tensor:
    """The latents' gradient, of shape `size`."""
    if not kernel:
        spread = reference.latent_pool_backward(gradient, pool, scale, size[-2], size[-1]).to(dtype)
        return spread.contiguous(memory_format=_format(is_channels_last))
    out = latent_pool_backward_shape(gradient, pool, scale, size, dtype, is_channels_last, kernel)
    _launch(wrap_triton(latent_pool_backward_kernel), out, gradient, scale, pool=pool, is_forward=False)
    return out


@torch.library.register_fake("fastdreamer::latent_pool_backward")
def latent_pool_backward_shape(
    gradient: Tensor,
    pool: int,
    scale: Tensor | None,
    size: list[int],
    dtype: torch.dtype,
    is_channels_last: bool,
    kernel: bool,
) -> Tensor:
    """Return an empty result of the op's shape."""
    return torch.empty(size, dtype=dtype, device=gradient.device, memory_format=_format(is_channels_last))


def _format(is_channels_last: bool) -> torch.memory_format:
    return torch.channels_last_3d if is_channels_last else torch.contiguous_format


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    latents, ctx.pool, scale, _, _, ctx.kernel = inputs
    ctx.size, ctx.dtype = list(latents.shape), latents.dtype
    ctx.is_channels_last = not latents.is_contiguous() and latents.is_contiguous(memory_format=torch.channels_last_3d)
    ctx.save_for_backward(*([] if scale is None else [scale]))


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    scale = ctx.saved_tensors[0] if ctx.saved_tensors else None
    spread = latent_pool_backward_op(gradient, ctx.pool, scale, ctx.size, ctx.dtype, ctx.is_channels_last, ctx.kernel)
    return spread, None, None, None, None, None


latent_pool_op.register_autograd(_backward, setup_context=_setup)


def latent_pool(
    latents: Float[Tensor, "b 16 l h w"],
    pool: int,
    scale: Float[Tensor, "l 16"] | None = None,
    shift: Float[Tensor, "l 16"] | None = None,
    *,
    out_dtype: torch.dtype | None = None,
    kernel: bool | None = None,
) -> Float[Tensor, "b l n 16"]:
    """Mean over pool x pool blocks, accumulated in fp32; tokens row-major over the pooled grid.

    Args:
        latents: bf16, fp16 or fp32; contiguous and channels_last_3d are read at full width, other strides correctly.
        pool: 1, 2, 4 or 8.
        scale: factor of scale * mean + shift by (step, channel), such as a normalisation. Not differentiated.
        shift: see `scale`.
        out_dtype: type of the result; the latents' own by default.
        kernel: True or False ask for Triton or for PyTorch; by default the device decides.

    Raises:
        ValueError: if a type, a shape or a device does not fit; the message names it.

    Source: the plan's "Spatial Pooling (avg_pool 8x8)": (B,16,L,32,32) -> (B,L,16,16) at pool 8.
    """
    if latents.dtype not in DTYPES or (out_dtype or latents.dtype) not in DTYPES:
        raise ValueError(f"latents are {latents.dtype}, out_dtype {out_dtype}; use float32, bfloat16 or float16")
    if latents.ndim != 5 or latents.shape[1] != CHANNELS:
        raise ValueError(f"latents have shape {tuple(latents.shape)}; expected (b, {CHANNELS}, l, h, w)")
    height, width = latents.shape[-2:]
    if pool not in POOLS or height % pool or width % pool:
        raise ValueError(f"latents of {height}x{width} do not divide into {pool}x{pool} blocks; pool is one of {POOLS}")
    if (scale is None) != (shift is None):
        raise ValueError("scale and shift come together: one of them is None")
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is None:
            continue
        if vector.shape != (latents.shape[2], CHANNELS) or not vector.is_contiguous():
            raise ValueError(
                f"{name} has shape {tuple(vector.shape)}; expected {(latents.shape[2], CHANNELS)}, contiguous"
            )
        if vector.requires_grad or vector.device != latents.device:
            raise ValueError(f"{name} is a statistic on the latents' device ({latents.device}); it takes no gradient")
    return latent_pool_op(latents, pool, scale, shift, out_dtype or latents.dtype, use_kernel(latents, kernel))
