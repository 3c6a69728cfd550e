"""A vector as it leaves the engine: of length 1, the same bytes as feature views keep of the same text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from antiphon.core.errors import EngineError


def unit_bytes(vector: NDArray[np.floating]) -> bytes:
    """The vector with length 1, as float32, little-endian; the length is a sum in float64 in a fixed order.

    Raises:
        EngineError: it has a NaN or an infinity in it, or is zero.
    """
    exact = vector.astype(np.float64)
    length = np.sqrt(float((exact * exact).sum()))
    if not np.isfinite(length) or length == 0:
        raise EngineError("The embedding model made a vector that is zero or not finite.")
    made: bytes = (exact / length).astype("<f4").tobytes()
    return made
