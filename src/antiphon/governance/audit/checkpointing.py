"""Signs and witnesses checkpoints while there is something new, and tells receipts the newest one.

Order at each: the head is read from what is committed, the checkpoint is signed, appended to the witness file with a
proof against the last one there, and only then kept with the head. A crash between any two leaves a log that
verifies, and the next round does what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from math import inf

from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.governance.audit import merkle
from antiphon.governance.audit.checkpoint import Checkpoint, parse
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.witness import Witness, forked

_log = logging.getLogger("antiphon.audit")

LEASE_SECONDS = 1.0
"""Time for which a process takes a checkpoint for the newest."""
_MOST_REMEMBERED = 1_000


class CheckpointSigner:
    """Makes checkpoints of every scope's log: in :meth:`run_until`, ``every`` so many seconds."""

    def __init__(self, log: AuditLog, key: CheckpointKey, witness: Witness, *, every: float = 10.0) -> None:
        self._log = log
        self._key = key
        self._witness = witness
        self._every = every

    def sign(self, scope: Scope) -> Checkpoint | None:
        """Sign and witness the log as it is now; ``None`` while it is empty.

        Raises:
            CorruptionError: the log is damaged, or no continuation of what was witnessed: nothing is signed.
            SetupError: the witness file cannot be written.
        """
        with self._witness.turn() as turn:
            # In one's turn, in which no key is replaced.
            key = self._key = self._key.fresh()
            with self._log.database.read() as connection:
                head = self._log.head(scope, within=connection)
                last = turn.last(key.origin(scope))
                if last is not None and last.size > head.tree.size:
                    raise forked(last, head.tree.size)
                if head.tree.size == 0:
                    return None
                kept = self._log.kept(scope, connection)
                proof = merkle.consistency(kept, last.size, head.tree.size) if last is not None else ()
            signed = key.sign(scope, head.tree.size, head.tree.root)
            turn.append(signed, proof)
            if head.checkpoint != signed.note:
                # Still in one's turn, so that no older checkpoint is kept after a newer one.
                self._log.set_checkpoint(scope, signed.note)
        return signed

    def sign_all(self) -> int:
        """Sign every scope with something new; how many. A log that cannot be signed is told loudly and left out."""
        signed = 0
        for scope in self._log.scopes():
            try:
                head = self._log.head(scope)
                if not head.checkpoint or parse(head.checkpoint).size != head.tree.size:
                    signed += self.sign(scope) is not None
            except AntiphonError:
                _log.critical("No checkpoint of the audit log of %s.", scope, exc_info=True)
        return signed

    async def run_until(self, stop: asyncio.Event) -> None:
        """Sign now and then until ``stop``, and once more at the end."""
        while not stop.is_set():
            await self._round()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._every)
        await self._round()

    async def _round(self) -> None:
        try:
            await asyncio.to_thread(self.sign_all)
        except AntiphonError:
            # The next round tries again: the catalog may be busy, or away for a moment.
            _log.exception("Checkpoints of the audit log could not be signed.")


class NewestCheckpoint:
    """The newest signed checkpoint of a scope, for receipts: read at most once a second."""

    def __init__(self, log: AuditLog, clock: Clock, *, renewer: Renewer | None = None) -> None:
        self._log = log
        self._leases: Leases[Scope, str] = Leases(
            clock, seconds=LEASE_SECONDS, bound=inf, most=_MOST_REMEMBERED, renewer=renewer
        )

    def __call__(self, scope: Scope) -> str | None:
        """The note's text; ``None`` before the first. A log that cannot be read keeps the one that was known."""
        try:
            return self._leases.look(scope, lambda: self._log.head(scope).checkpoint or "") or None
        except AntiphonError:
            return self._leases.last(scope) or None
