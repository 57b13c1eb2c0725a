"""Decoding two-hot logits to the expected scalar: one pass over the logits, for acting and for values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastdreamer_kernels import reference
from fastdreamer_kernels.launch import jit, launch, tl, use_kernel, wrap_triton
from fastdreamer_kernels.rows import as_rows, check_logits, expectation_of, grid_of, load_rows, tile_of

if TYPE_CHECKING:
    from jaxtyping import Float


@jit
def two_hot_decode_kernel(
    p_logits,  # (rows, COLS), rows `stride` apart
    p_centres,  # (BINS,)
    p_out,  # (rows,)
    rows,
    stride,
    BINS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Expectations of rows, without loss or gradient."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < rows
    i_col = tl.arange(0, BLOCK)
    m_bin = i_col < BINS
    x = load_rows(p_logits, i_row, m_row, i_col, stride, BINS, COLS)
    top = tl.max(x, 1)
    e = tl.exp(x - top[:, None])
    centre = tl.load(p_centres + i_col, mask=m_bin, other=0.0)
    tl.store(p_out + i_row, expectation_of(x, top, e, tl.sum(e, 1), centre, m_bin), mask=m_row)


@torch.library.triton_op("fastdreamer::two_hot_decode", mutates_args={})
def two_hot_decode_op(logits: Tensor, centres: Tensor, kernel: bool) -> Tensor:
    """Run the registered op, whose arguments `two_hot_decode` has checked."""
    if not kernel:
        return reference.two_hot_decode(logits, centres)
    out = two_hot_decode_shape(logits, centres, kernel)
    tile = tile_of(logits.shape[1])
    rows = logits.shape[0]
    constants = {"BINS": len(centres)} | tile
    kernel_of_op = wrap_triton(two_hot_decode_kernel)
    launch(kernel_of_op, grid_of(rows, tile), logits, centres, out, rows, logits.stride(0), **constants)
    return out


@torch.library.register_fake("fastdreamer::two_hot_decode")
def two_hot_decode_shape(logits: Tensor, centres: Tensor, kernel: bool) -> Tensor:
    """Return an empty result of the op's shape."""
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


def _setup_decode(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output)


def _backward_decode(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    logits, centres, expectation = ctx.saved_tensors
    p = torch.softmax(logits[:, : len(centres)].float(), -1)
    slope = p * (centres - expectation[:, None]) * gradient[:, None]
    return torch.nn.functional.pad(slope, (0, logits.shape[1] - len(centres))).to(logits.dtype), None, None


two_hot_decode_op.register_autograd(_backward_decode, setup_context=_setup_decode)


def two_hot_decode(
    logits: Float[Tensor, "*r cols"], centres: Float[Tensor, " bins"], *, kernel: bool | None = None
) -> Float[Tensor, "*r"]:
    """The expectation under the predicted bins, in fp32; equal logits give exactly 0. Arguments as `two_hot_loss`.

    Raises:
        ValueError: if a type, a shape or a device does not fit; the message names it.
    """
    check_logits(logits, centres)
    return two_hot_decode_op(as_rows(logits), centres, use_kernel(logits, kernel)).view(logits.shape[:-1])
