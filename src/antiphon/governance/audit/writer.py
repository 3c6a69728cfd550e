"""Evidence in volume: one thread commits what was enqueued in groups, a disk flush for each group.

Invariants: nothing that was accepted is dropped; a group whose commit was done and then reported as failed is there
twice. A full queue makes the caller wait, and after :data:`WAIT_SECONDS` refuses the request (``OverloadedError``), so
that no request goes on without its evidence. A group whose commit fails stays in front of the queue and is tried again;
:meth:`AuditWriter.flush` returns only once everything enqueued before it is on disk.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Unpack

from antiphon.core.errors import AntiphonError, OverloadedError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.record import Act, ActOptions, Detail

_log = logging.getLogger("antiphon.audit")

WAIT_SECONDS = 1.0
FLUSH_SECONDS = 10.0
_RETRY_SECONDS = (0.05, 0.2, 1.0)


class AuditWriter:
    """Commits audit records in groups.

    Args:
        largest_group: most records in one transaction.
        most_waiting: records that may wait for the disk before callers wait for them.
    """

    def __init__(self, log: AuditLog, *, largest_group: int = 2_048, most_waiting: int = 20_000) -> None:
        self._log = log
        self._largest = largest_group
        self._most = most_waiting
        self._waiting: deque[Act] = deque()
        self._changed = threading.Condition()
        self._accepted = self._committed = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    def enqueue(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Detail = None,
        **options: Unpack[ActOptions],
    ) -> int:
        """Accept a record of now; it is on disk within a group's time, a few milliseconds. A number for :meth:`flush`.

        Raises:
            InvalidInputError: a name is too long.
            OverloadedError: the disk did not keep up for :data:`WAIT_SECONDS`.
            UnavailableError: the writer is closed.
        """
        one = self._log.act(scope, principal, action, subject, detail, **options)
        with self._changed:
            if len(self._waiting) >= self._most:
                self._changed.wait_for(lambda: len(self._waiting) < self._most or self._closed, WAIT_SECONDS)
            if self._closed:
                raise UnavailableError(
                    "The audit log is closed.", where="audit", next_step="Send it to a process that runs."
                )
            if len(self._waiting) >= self._most:
                raise OverloadedError(
                    f"{len(self._waiting)} audit records wait for the disk; nothing is done without its evidence.",
                    where="audit",
                    next_step="Try again in a second.",
                )
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="audit", daemon=True)
                self._thread.start()
            self._waiting.append(one)
            self._accepted += 1
            if len(self._waiting) == 1:
                self._changed.notify_all()
            return self._accepted

    def flush(self, through: int | None = None, *, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until the records up to this number are on disk; until all are, when none is given.

        Raises:
            UnavailableError: they were not within ``seconds``.
        """
        with self._changed:
            target = self._accepted if through is None else through
            if not self._changed.wait_for(lambda: self._committed >= target, seconds):
                raise UnavailableError(
                    f"The audit log was not written within {seconds:.0f} s.",
                    where="audit",
                    next_step="Try again; if it stays, see the log of this process.",
                )

    def record(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Detail = None,
        **options: Unpack[ActOptions],
    ) -> None:
        """Enqueue and flush: shares its disk flush with others, and is on disk when this returns.

        Raises:
            OverloadedError, UnavailableError: as :meth:`enqueue` and :meth:`flush`.
        """
        self.flush(self.enqueue(scope, principal, action, subject, detail, **options))

    def close(self, *, seconds: float = FLUSH_SECONDS) -> None:
        """Write what was accepted and stop; what could not be written in time is told. More than once is harmless."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)
        if left := self._accepted - self._committed:
            _log.critical("%d audit records could not be written before the end.", left)

    def _write(self) -> None:
        failures = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                group = [self._waiting[number] for number in range(min(len(self._waiting), self._largest))]
            try:
                with self._log.database.transaction() as connection:
                    self._log.append_all(group, within=connection)
            except Exception as error:
                if failures == 0 or not isinstance(error, AntiphonError):
                    _log.critical("Audit records wait for the catalog: %s", error, exc_info=error)
                pause = _RETRY_SECONDS[min(failures, len(_RETRY_SECONDS) - 1)]
                failures += 1
                with self._changed:
                    if self._closed and failures > len(_RETRY_SECONDS):
                        return
                    self._changed.wait_for(lambda: False, pause)
                continue
            failures = 0
            with self._changed:
                for _ in group:
                    self._waiting.popleft()
                self._committed += len(group)
                self._changed.notify_all()
