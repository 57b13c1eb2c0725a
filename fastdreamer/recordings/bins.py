"""Numbers of a recording as labels: which array's columns are cut into which bins.

The camera's bins are equally wide on VPT's mu-law scale (mu 10, clip 10 degrees, 11 bins an axis; arXiv:2206.11795,
appendix on the action space): fine where the mouse moves slowly. VPT's loader truncates to whole degrees first, which
puts slow movement in the wrong bin, so that step is left out on purpose. The obfuscated vector of MineRL's VectorObf
environments lies in [-1.05, 1.05] and has no scale that anybody knows: 21 bins, equally wide, so that a centre is at
most 0.05 off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import ArrayLike, NDArray

CAMERA_CLIP = 10.0  # degrees; a larger change in one step counts as this
CAMERA_MU = 10.0
CAMERA_BINS = 11
VECTOR_WIDTH = 64  # numbers in one obfuscated action
VECTOR_BINS = 21


@dataclass(frozen=True, eq=False)
class Bins:
    """Ascending centres, and the edges between them; what lies beyond the outermost centres belongs to these."""

    centres: Float[np.ndarray, " n"]
    edges: Float[np.ndarray, " n-1"]

    @property
    def labels(self) -> tuple[str, ...]:
        """The centres as text."""
        return tuple(f"{centre:+.3f}" for centre in self.centres)

    @property
    def noop(self) -> int:
        """The bin of zero."""
        return int(self.encode(0.0))

    def encode(self, values: ArrayLike) -> UInt8[np.ndarray, "..."]:
        """Numbers to bins, as floats throughout."""
        return np.asarray(np.searchsorted(self.edges, np.asarray(values, np.float64)), np.uint8)

    def decode(self, bins: ArrayLike) -> Float[np.ndarray, "..."]:
        """Turn bins into their centres."""
        return np.asarray(self.centres[np.asarray(bins, np.int64)])


def _expand(compressed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the mu-law: from [-1, 1] to degrees."""
    return CAMERA_CLIP * np.sign(compressed) * ((1.0 + CAMERA_MU) ** np.abs(compressed) - 1.0) / CAMERA_MU


def _middles(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((centres[1:] + centres[:-1]) / 2.0)


# The outermost centres sit on the clip itself.
_SCALE = np.linspace(-1.0, 1.0, CAMERA_BINS)
CAMERA = Bins(_expand(_SCALE), _expand(_middles(_SCALE)))
_VECTOR = np.linspace(-1.0, 1.0, VECTOR_BINS)
VECTOR = Bins(_VECTOR, _middles(_VECTOR))


@dataclass(frozen=True, eq=False)
class Column:
    """Place of a binned component's numbers: column `index` of the array `key`, which has `width` columns."""

    key: str
    index: int
    width: int
    bins: Bins


COLUMNS: dict[str, Column] = {
    "camera_pitch": Column("action$camera", 0, 2, CAMERA),
    "camera_yaw": Column("action$camera", 1, 2, CAMERA),
    **{f"vector_{i:02}": Column("action$vector", i, VECTOR_WIDTH, VECTOR) for i in range(VECTOR_WIDTH)},
}
