"""A circuit: a server that failed several times in a row is left alone for a while, and then asked by one request.

Invariant: while it is open nobody waits for the server; at most one request at a time finds out whether it is back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from antiphon.core.errors import UnavailableError


class Circuit:
    """Shared by the threads that ask one server.

    Args:
        failures: so many in a row open it.
        retry: seconds until somebody may ask again.
        where: what is asked, for the error.
    """

    def __init__(self, failures: int, retry: float, *, where: str, monotonic: Callable[[], float]) -> None:
        self._failures = failures
        self._retry = retry
        self._where = where
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failed = 0
        self._closed_from = 0.0
        self._probing = False

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around one request. An ``UnavailableError`` that leaves the block counts as a failure, anything else does
        not.

        Raises:
            UnavailableError: it is open.
        """
        probe = self._enter()
        try:
            yield
        except UnavailableError:
            self._told(failed=True, probe=probe)
            raise
        except BaseException:
            # An answer that says no is an answer; a request that was cancelled tells nothing.
            self._told(failed=False, probe=probe)
            raise
        self._told(failed=False, probe=probe)

    @property
    def open(self) -> bool:
        """Whether requests are refused without asking."""
        with self._lock:
            return self._failed >= self._failures

    def _enter(self) -> bool:
        with self._lock:
            if self._failed < self._failures:
                return False
            wait = self._closed_from - self._monotonic()
            if wait > 0 or self._probing:
                raise UnavailableError(
                    f"{self._where} failed {self._failed} times in a row and rests for {max(wait, 0.0):.1f} s more.",
                    where=self._where,
                    next_step="See that the server runs and is reached from here.",
                )
            self._probing = True
            return True

    def _told(self, *, failed: bool, probe: bool) -> None:
        with self._lock:
            if probe:
                self._probing = False
            if failed:
                self._failed += 1
                self._closed_from = self._monotonic() + self._retry
            else:
                self._failed = 0
