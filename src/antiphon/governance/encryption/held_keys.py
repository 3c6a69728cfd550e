"""The data keys a process holds: unwrapped once, learned on first sight, looked up at a bounded rate.

Invariants:
- Nothing is sealed with a key that is not in the catalog. A key made inside a write transaction counts as committed
  only once another connection sees it; until then it is looked up again for each use, and a rollback takes it away
  together with what it sealed.
- No lock is held while the catalog's write lock is waited for.
"""

from __future__ import annotations

import threading

from antiphon.core.errors import AntiphonError, CorruptionError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.data_keys import DataKeyRecord, DataKeys, Purpose

LEASE_SECONDS = 1.0
"""Time for which a process goes on sealing with a key that another process rotated."""

_FORGET_SECONDS = 1.0
_MOST_MISSES = 64


class HeldKeys:
    """Data keys of a process, by tenant and environment. Safe to share between threads."""

    def __init__(self, keys: DataKeys) -> None:
        self._keys = keys
        self._database = keys.database
        self._clear: dict[tuple[Scope, str], bytes] = {}
        self._active: dict[Scope, tuple[str, bytes, float]] = {}
        self._index: dict[Scope, bytes] = {}
        self._misses: dict[tuple[Scope, str], tuple[float, AntiphonError]] = {}
        self._lock = threading.Lock()
        self.lookups = 0
        """Number of reads of a key by id from the catalog."""

    def sealing_key(self, scope: Scope) -> tuple[str, bytes]:
        held = self._active.get(scope)
        now = self._database.clock.monotonic()
        if held is not None and now < held[2]:
            return held[0], held[1]
        try:
            record, committed = self._found(scope, "payload")
        except AntiphonError:
            if held is None:
                raise
            # The catalog is away for a moment: the key in hand is as good as it was.
            return held[0], held[1]
        key = self._unwrapped(record, keep=committed)
        if committed:
            self._active[scope] = (record.id, key, now + LEASE_SECONDS)
        return record.id, key

    def index_key(self, scope: Scope) -> bytes:
        held = self._index.get(scope)
        if held is None:
            record, committed = self._found(scope, "index")
            held = self._unwrapped(record, keep=committed)
            if committed:
                self._index[scope] = held
        return held

    def opening_key(self, scope: Scope, key_id: str) -> bytes:
        place = (scope, key_id)
        held = self._clear.get(place)
        if held is not None:
            return held
        now = self._database.clock.monotonic()
        with self._lock:
            self._misses = {each: miss for each, miss in self._misses.items() if miss[0] > now}
            missed = self._misses.get(place)
            if missed is not None:
                raise missed[1]
            if len(self._misses) >= _MOST_MISSES:
                raise _unknown(scope, key_id)
        self.lookups += 1
        try:
            committed = self._keys.get(scope, key_id)
            record = committed
            if record is None and (writer := self._database.writer) is not None:
                record = self._keys.get(scope, key_id, within=writer)
            if record is None:
                raise _unknown(scope, key_id)
            return self._unwrapped(record, keep=committed is not None)
        except AntiphonError as error:
            with self._lock:
                self._misses[place] = (now + _FORGET_SECONDS, error)
            raise

    def forget(self) -> None:
        """Drop the active keys, so that the next use reads them again."""
        self._active.clear()

    def _found(self, scope: Scope, purpose: Purpose) -> tuple[DataKeyRecord, bool]:
        """The active key, and whether it is committed."""
        record = self._keys.active(scope, purpose)
        if record is not None:
            return record, True
        writer = self._database.writer
        return self._keys.ensure(scope, purpose, within=writer), writer is None

    def _unwrapped(self, record: DataKeyRecord, *, keep: bool) -> bytes:
        place = (record.scope, record.id)
        key = self._clear.get(place)
        if key is None:
            key = self._keys.unwrap(record)
            if keep:
                self._clear[place] = key
        return key


def _unknown(scope: Scope, key_id: str) -> CorruptionError:
    return CorruptionError(
        f"A payload is sealed with the data key {key_id}, which this catalog does not have.",
        where=str(scope),
        next_step="Restore the catalog that has it from a backup; payloads under other keys are not affected.",
    )
