"""All rows of the gate. Folders follow the data, and so does this list."""

from __future__ import annotations

from bench.gate.rows import communication, imagination, install, kernels, phases, recordings, store
from bench.gate.rows.base import GateRow, Place, RowWork, Wrong

ROWS: tuple[GateRow, ...] = (
    *install.ROWS,
    *recordings.ROWS,
    *recordings.ENGINES,
    *kernels.ROWS,
    *store.ROWS,
    *phases.ROWS,
    *imagination.ROWS,
    *phases.GRAPHS,
    *phases.LOOPS,
    *communication.ROWS,
)

__all__ = ["ROWS", "GateRow", "Place", "RowWork", "Wrong"]
