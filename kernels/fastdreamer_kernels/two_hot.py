"""Two-hot cross-entropy over symexp bins: loss, gradient and decoded expectation in one pass over the logits.

The forward kernel reads each logit once and writes its gradient; the backward scales that gradient in place, and does
not touch rows whose incoming gradient is 1. Plain PyTorch moves 45 times as much in about 55 kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from fastdreamer_kernels import reference
from fastdreamer_kernels.launch import jit, launch, tl, use_kernel, wrap_triton
from fastdreamer_kernels.rows import as_rows, check_logits, expectation_of, grid_of, load_rows, tile_of

if TYPE_CHECKING:
    from typing import Literal

    from jaxtyping import Float


@jit
def two_hot_kernel(
    p_logits,  # (rows, COLS), rows `stride` apart
    p_targets,  # (rows,)
    p_weights,  # (rows,) or unused
    p_centres,  # (BINS,)
    p_loss,  # (rows,)
    p_gradient,  # (rows, COLS), contiguous, or unused
    p_expectation,  # (rows,) or unused
    rows,
    stride,
    BINS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    HAS_WEIGHTS: tl.constexpr,
    WANT_GRADIENT: tl.constexpr,
    WANT_EXPECTATION: tl.constexpr,
):
    """A program takes ROWS rows; a row's bins lie in BLOCK columns."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < rows
    i_col = tl.arange(0, BLOCK)
    m_bin = i_col < BINS
    x = load_rows(p_logits, i_row, m_row, i_col, stride, BINS, COLS)
    top = tl.max(x, 1)
    e = tl.exp(x - top[:, None])
    total = tl.sum(e, 1)

    # The target's weight on a bin is a hat over its neighbours: 1 at the centre, 0 from the next centres on.
    centre = tl.load(p_centres + i_col, mask=m_bin, other=0.0)
    left = tl.load(p_centres + i_col - 1, mask=m_bin & (i_col > 0), other=0.0)
    right = tl.load(p_centres + i_col + 1, mask=i_col < BINS - 1, other=0.0)
    target = tl.load(p_targets + i_row, mask=m_row, other=0.0).to(tl.float32)
    first, last = tl.load(p_centres), tl.load(p_centres + BINS - 1)
    target = tl.minimum(target, last, propagate_nan=tl.PropagateNan.ALL)
    target = tl.maximum(target, first, propagate_nan=tl.PropagateNan.ALL)
    rising = (target[:, None] - left[None, :]) / tl.where(m_bin & (i_col > 0), centre - left, 1.0)[None, :]
    falling = (right[None, :] - target[:, None]) / tl.where(i_col < BINS - 1, right - centre, 1.0)[None, :]
    rising = tl.where((i_col > 0)[None, :], rising, 1.0)
    falling = tl.where((i_col < BINS - 1)[None, :], falling, 1.0)
    hat = tl.minimum(rising, falling, propagate_nan=tl.PropagateNan.ALL)
    hat = tl.maximum(hat, 0.0, propagate_nan=tl.PropagateNan.ALL)
    hat = tl.where(m_bin[None, :], hat, 0.0)

    shifted = tl.where(hat == 0.0, 0.0, hat * (x - top[:, None]))  # a bin at -inf counts only where it is meant
    loss = tl.log(total) - tl.sum(shifted, 1)
    weight = tl.full((ROWS,), 1.0, tl.float32)
    if HAS_WEIGHTS:
        weight = tl.load(p_weights + i_row, mask=m_row, other=0.0).to(tl.float32)
    tl.store(p_loss + i_row, loss * weight, mask=m_row)
    if WANT_GRADIENT:
        gradient = tl.where(m_bin[None, :], (e / total[:, None] - hat) * weight[:, None], 0.0)
        o_gradient = i_row[:, None] * COLS + i_col[None, :]
        m_gradient = m_row[:, None] & (i_col < COLS)[None, :]
        tl.store(p_gradient + o_gradient, gradient.to(p_gradient.dtype.element_ty), mask=m_gradient)
    if WANT_EXPECTATION:
        tl.store(p_expectation + i_row, expectation_of(x, top, e, total, centre, m_bin), mask=m_row)


@jit
def two_hot_scale_kernel(
    p_gradient,  # (rows, COLS), contiguous, in place
    p_factor,  # (rows,), `stride` apart (0: one factor for all)
    rows,
    stride,
    COLS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Multiplies rows by their factor; a row whose factor is 1 is neither read nor written."""
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    i_col = tl.arange(0, BLOCK)
    factor = tl.load(p_factor + i_row * stride, mask=i_row < rows, other=1.0).to(tl.float32)
    m_gradient = (factor != 1.0)[:, None] & (i_col < COLS)[None, :]
    o_gradient = i_row[:, None] * COLS + i_col[None, :]
    gradient = tl.load(p_gradient + o_gradient, mask=m_gradient, other=0.0).to(tl.float32) * factor[:, None]
    tl.store(p_gradient + o_gradient, gradient.to(p_gradient.dtype.element_ty), mask=m_gradient)


@torch.library.triton_op("fastdreamer::two_hot", mutates_args={})
def two_hot_op(
    logits: Tensor,
    targets: Tensor,
    centres: Tensor,
    weights: Tensor | None,
    want_gradient: bool,
    want_expectation: bool,
    kernel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, gradient, expectation); what is not wanted is empty. Arguments are checked by `two_hot_loss`."""
    arguments = (logits, targets, centres, weights, want_gradient, want_expectation, kernel)
    if not kernel:
        given = (logits, targets, centres, weights)
        loss = reference.two_hot_loss(*given)
        accurate = (logits.float() if logits.dtype == torch.float16 else logits, *given[1:])
        gradient = reference.two_hot_gradient(*accurate) if want_gradient else accurate[0].new_empty(0)
        return loss, gradient, reference.two_hot_decode(logits, centres) if want_expectation else loss.new_empty(0)
    loss, gradient, expectation = two_hot_shapes(*arguments)
    rows, tile = logits.shape[0], tile_of(logits.shape[1])
    tensors = (logits, targets, targets if weights is None else weights, centres, loss, gradient, expectation)
    wanted = {"WANT_GRADIENT": want_gradient, "WANT_EXPECTATION": want_expectation}
    constants = {"BINS": len(centres), "HAS_WEIGHTS": weights is not None} | wanted | tile
    launch(wrap_triton(two_hot_kernel), grid_of(rows, tile), *tensors, rows, logits.stride(0), **constants)
    return loss, gradient, expectation


@torch.library.register_fake("fastdreamer::two_hot")
def two_hot_shapes(
    logits: Tensor,
    targets: Tensor,
    centres: Tensor,
    weights: Tensor | None,
    want_gradient: bool,
    want_expectation: bool,
    kernel: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return empty results of the op's shapes."""
    rows, cols = logits.shape
    loss = logits.new_empty(rows, dtype=torch.float32)
    # In fp16 a weight of 1/rows would underflow before the loss scale comes: its gradient waits in fp32.
    accurate = torch.float32 if logits.dtype == torch.float16 else logits.dtype
    gradient = logits.new_empty((rows, cols) if want_gradient else (0,), dtype=accurate)
    return loss, gradient, logits.new_empty(rows if want_expectation else 0, dtype=torch.float32)


@torch.library.triton_op("fastdreamer::two_hot_scale_", mutates_args={"gradient"})
def two_hot_scale_op(gradient: Tensor, factor: Tensor, kernel: bool) -> None:
    """gradient *= factor, a row at a time, in place."""
    if not kernel:
        gradient.mul_(factor.unsqueeze(-1))
        return
    rows, tile = gradient.shape[0], tile_of(gradient.shape[1])
    launch(wrap_triton(two_hot_scale_kernel), grid_of(rows, tile), gradient, factor, rows, factor.stride(0), **tile)


def _setup_loss(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # or autograd writes a gradient of zeros for what takes none
    ctx.save_for_backward(output[1])
    ctx.dtype, ctx.kernel = inputs[0].dtype, inputs[-1]


def _backward_loss(ctx: Any, gradient: Tensor | None, *unused: None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 7
    (logits_gradient,) = ctx.saved_tensors
    if type(logits_gradient) is Tensor and logits_gradient.dtype == ctx.dtype:
        two_hot_scale_op(logits_gradient, gradient, ctx.kernel)
    else:  # fp16; or traced for torch.compile, which takes no in-place change of a saved tensor and fuses the product
        logits_gradient = (logits_gradient * gradient.unsqueeze(-1)).to(ctx.dtype)
    return logits_gradient, None, None, None, None, None, None


two_hot_op.register_autograd(_backward_loss, setup_context=_setup_loss)


@overload
def two_hot_loss(
    logits: Tensor, targets: Tensor, centres: Tensor, weights: Tensor | None = None, *, kernel: bool | None = None
) -> Tensor: ...


@overload
def two_hot_loss(
    logits: Tensor,
    targets: Tensor,
    centres: Tensor,
    weights: Tensor | None = None,
    *,
    expectation: Literal[True],
    kernel: bool | None = None,
) -> tuple[Tensor, Tensor]: ...


def two_hot_loss(
    logits: Float[Tensor, "*r cols"],
    targets: Float[Tensor, "*r"],
    centres: Float[Tensor, " bins"],
    weights: Float[Tensor, "*r"] | None = None,
    *,
    expectation: bool = False,
    kernel: bool | None = None,
) -> Float[Tensor, "*r"] | tuple[Float[Tensor, "*r"], Float[Tensor, "*r"]]:
    """Cross-entropy between the logits and the two-hot target, a value a row (times its weight), in fp32.

    Only the logits are differentiated, and once: the backward pass scales the gradient that the forward pass wrote. A
    row's incoming gradient of 1, as `.sum()` gives it, costs nothing; another one costs a second rounding.

    Args:
        logits: bf16, fp32, or fp16 (whose gradient waits in fp32, lest small weights underflow). `cols` is the number
            of bins, or that number padded to a multiple of 8: padded rows are aligned, which a GPU reads at full
            width. Padding is ignored and gets gradient 0.
        targets: clipped to the range of the centres.
        centres: fp32, strictly rising, symmetric about 0 (see `symexp_bins`); at most 512.
        weights: weights of the rows.
        expectation: also return the decoded expectation (see `two_hot_decode`; no gradient) at no further pass.
        kernel: True or False ask for Triton or for PyTorch; by default the device decides.

    Raises:
        ValueError: if a type, a shape or a device does not fit; the message names it.

    Source: DreamerV3, arXiv:2301.04104, Eq. 10, with interpolation in raw space (see `reference.two_hot_loss`).
    """
    check_logits(logits, centres)
    for name, given in (("targets", targets), ("weights", weights)):
        if given is None:
            continue
        if given.shape != logits.shape[:-1] or given.device != logits.device:
            raise ValueError(
                f"{name} have shape {tuple(given.shape)} on {given.device}; the logits' rows are "
                f"{tuple(logits.shape[:-1])} on {logits.device}"
            )
        if not given.is_floating_point() or given.requires_grad:
            raise ValueError(f"{name} are {given.dtype}, requires_grad {given.requires_grad}; pass detached floats")
    shape = logits.shape[:-1]
    loss, _, decoded = two_hot_op(
        as_rows(logits),
        targets.reshape(-1).contiguous(),
        centres,
        None if weights is None else weights.reshape(-1).contiguous(),
        logits.requires_grad and torch.is_grad_enabled(),
        expectation,
        use_kernel(logits, kernel),
    )
    return (loss.view(shape), decoded.view(shape)) if expectation else loss.view(shape)
