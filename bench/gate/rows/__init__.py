"""All rows of the gate. Folders follow the data, and so does this list."""

from __future__ import annotations

from bench.gate.rows import compiled, imagination, install, kernels, phases, recordings, store, tokenizer, training
from bench.gate.rows.base import GateRow, Place, RowWork, Wrong

ROWS: tuple[GateRow, ...] = (
    *install.ROWS,
    *recordings.ROWS,
    *tokenizer.ROWS,
    *kernels.ROWS,
    *store.ROWS,
    *phases.ROWS,
    *imagination.ROWS,
    *compiled.ROWS,
    *training.ROWS,
)

__all__ = ["ROWS", "GateRow", "Place", "RowWork", "Wrong"]
