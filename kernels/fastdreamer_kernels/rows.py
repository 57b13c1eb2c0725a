"""Rows of logits over two-hot bins: what the loss and the decoding share."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdreamer_kernels.launch import jit, next_power_of_2, tl

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_COLS = 512
ALIGN = 8  # columns: 16 bytes of bf16
TILE = 2048  # logits a program


@jit
def load_rows(p_logits, i_row, m_row, i_col, stride, BINS: tl.constexpr, COLS: tl.constexpr):
    """Logits in fp32, -inf right of the last bin."""
    o_logits = i_row[:, None] * stride + i_col[None, :]
    x = tl.load(p_logits + o_logits, mask=m_row[:, None] & (i_col < COLS)[None, :], other=0.0).to(tl.float32)
    return tl.where((i_col < BINS)[None, :], x, float("-inf"))


@jit
def expectation_of(x, top, e, total, centre, m_bin):
    """sum p * centre, as sum (p - min p) * centre: the centres sum to 0, and equal logits give exactly 0."""
    low = tl.min(tl.where(m_bin[None, :], x, float("inf")), 1)
    above = tl.where(m_bin[None, :], e - tl.exp(low - top)[:, None], 0.0)
    return tl.sum(above * centre[None, :], 1) / total


def tile_of(cols: int) -> dict[str, int]:
    """Block sizes for rows of `cols` columns."""
    block = next_power_of_2(cols)
    return {"COLS": cols, "BLOCK": block, "ROWS": max(1, TILE // block), "num_warps": 4}


def grid_of(rows: int, tile: dict[str, int]) -> tuple[int]:
    """Number of programs for `rows` rows."""
    return (-(-rows // tile["ROWS"]),)


def padded(bins: int) -> int:
    """Columns of aligned rows for that many bins."""
    return -(-bins // ALIGN) * ALIGN


def as_rows(logits: Tensor) -> Tensor:
    """(rows, cols), a row's logits side by side; a view where that is possible."""
    rows = logits.reshape(-1, logits.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def check_logits(logits: Tensor, centres: Tensor) -> None:
    """Refuse what does not fit together.

    Raises:
        ValueError: naming the value.
    """
    if logits.dtype not in DTYPES:
        raise ValueError(f"logits are {logits.dtype}; use float32, bfloat16 or float16")
    if centres.dtype != torch.float32 or centres.ndim != 1 or not centres.is_contiguous():
        raise ValueError(f"centres are {centres.dtype} of shape {tuple(centres.shape)}; expected float32 of (bins,)")
    if centres.device != logits.device:
        raise ValueError(f"centres are on {centres.device}, logits on {logits.device}")
    bins = len(centres)
    if bins % 2 == 0 or logits.ndim == 0:
        raise ValueError(f"{bins} bins, logits of shape {tuple(logits.shape)}: bins are odd, logits at least (bins,)")
    cols = logits.shape[-1]
    if (cols != bins and cols != padded(bins)) or bins < 3 or bins > MAX_COLS:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} do not fit {bins} bins; the last axis is {bins} or {padded(bins)}, "
            f"and bins are 3 to {MAX_COLS}"
        )
