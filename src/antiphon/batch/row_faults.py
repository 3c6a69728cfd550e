"""Rows that failed by a fault of ours: each is told by its type and a reference, and the log stays small."""

from __future__ import annotations

import logging

from antiphon.core.errors import InternalError
from antiphon.core.logs import unexpected

_log = logging.getLogger(__name__)

TRACEBACKS = 10
"""Of so many rows of a job the log has tracebacks; of a million rows that fail alike, a line each is enough."""


class RowFaults:
    """The faults of one job.

    Args:
        job: its id, which the log names.
    """

    def __init__(self, job: str) -> None:
        self._job = job
        self._seen = 0

    def told(self, error: Exception, which: str) -> InternalError:
        """Log an error and return what its row says of it.

        Args:
            which: the row, such as ``row 3``.
        """
        self._seen += 1
        return unexpected(error, _log, f"{which} of {self._job}", "worker.log", traced=self._seen <= TRACEBACKS)
