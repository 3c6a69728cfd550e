"""The nearest-neighbor index: a graph of faiss (HNSW; Malkov and Yashunin, 2018) over vectors of length 1.

Built on one thread, so that the same vectors give the same bytes and an index that is lost can be put back under its
name. It only proposes candidates: similarities are computed from the vectors themselves.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from antiphon.core.errors import CorruptionError, SetupError

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

EXACT_UP_TO = 5_000
"""Different texts that are compared one by one; of more there is an index."""

_LINKS = 16
_BUILDING = 128
_SEARCHING = 128
_threads = threading.Lock()


def build(vectors: NDArray[numpy.float32]) -> bytes:
    """The index of vectors, one row each; rows are known by their number. Raises ``SetupError`` without faiss."""
    faiss = _faiss()
    index = faiss.IndexHNSWFlat(vectors.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = _BUILDING
    with _threads:
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            index.add(vectors)
        finally:
            faiss.omp_set_num_threads(before)
    stored: bytes = faiss.serialize_index(index).tobytes()
    return stored


class NeighborIndex:
    """An index in memory, of what :func:`build` returned, checked by its hash: faiss trusts it. Safe to share between
    threads. Raises ``CorruptionError`` when it is of other vectors, ``SetupError`` without faiss."""

    def __init__(self, stored: bytes, rows: int, dimensions: int) -> None:
        import numpy

        self._faiss = _faiss()
        self._index: Any = self._faiss.deserialize_index(numpy.frombuffer(stored, dtype=numpy.uint8))
        if (self._index.ntotal, self._index.d) != (rows, dimensions):
            raise CorruptionError(
                f"The index holds {self._index.ntotal} vectors of {self._index.d} numbers instead of {rows} of "
                f"{dimensions}.",
                where="index",
                next_step="Materialize the view again.",
            )

    def candidates(self, vector: NDArray[numpy.float32], count: int) -> list[int]:
        """Rows that are probably among the ``count`` nearest."""
        parameters = self._faiss.SearchParametersHNSW()
        parameters.efSearch = max(_SEARCHING, 2 * count)
        _, rows = self._index.search(vector[None], count, params=parameters)
        return [int(row) for row in rows[0] if row >= 0]


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise SetupError(
            "The nearest-neighbor index needs faiss.", next_step="Install it: `pip install antiphon[neighbors]`."
        ) from None
    return faiss
