"""Repair: rebuilds online snapshots of the current publication from the lake, and restores its streamed events.

Invariants: a snapshot is immutable and a function of its lake files, so building it again changes no value; a build is
put in place whole or not at all, and building an existing one changes nothing, so a healer may be killed anywhere and
two may run. When the lake has lost a snapshot too, a refresh of the view reads its source again. The fence of prunes
keeps every event that the current publication needs; but it is lost with an overlay that was damaged, and does not know
of a catalog that was restored from a backup, so missing events are looked for, and read again from the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.disk import file_lock
from antiphon.core.errors import AntiphonError, CorruptionError, NotFoundError
from antiphon.core.retry_delays import RetryDelays
from antiphon.core.scope import Scope
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.ports import OnlineSnapshots
from antiphon.features.publication.publish import Publisher

_log = logging.getLogger("antiphon.features")

READ_SECONDS = 3_600.0
"""Interval of reading every byte of the current snapshots, to find silent disk errors; first when a healer starts."""

_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
"""Backoff after a snapshot could not be built or its events not be restored, at first and at most (seconds)."""


class Damage(msgspec.Struct, frozen=True):
    """A snapshot of the current publication that cannot be read online: ``key`` is ``view@definition_version``,
    ``since`` the time of its first detection here."""

    key: str
    snapshot: str
    since: datetime

    @property
    def view(self) -> str:
        """The view's name."""
        return self.key.partition("@")[0]


@dataclass
class SnapshotHealth:
    """Finds snapshots of the current publication that cannot be read. Safe to share between threads.

    Every method raises ``UnavailableError`` while catalog or online store do not answer.

    Attributes:
        believed: seconds for which the publication that was read last is looked at, unless it :meth:`changed`.
        healed: view to the moment at which a snapshot of it was last built again.
    """

    catalog: FeatureCatalog
    online: OnlineSnapshots
    believed: float = 0.0
    healed: dict[str, datetime] = field(default_factory=dict)
    _read: tuple[list[tuple[str, str]], float] | None = field(default=None, init=False)
    _since: dict[tuple[str, str], datetime] = field(default_factory=dict, init=False)

    def damaged(self) -> list[Damage]:
        """Find snapshots that are gone or known to be damaged, by a few system calls for each."""
        return self._failing(self.online.sealed)

    def unreadable(self) -> list[Damage]:
        """Find snapshots that are gone or damaged, by reading every byte."""
        return self._failing(self.online.whole)

    def condemn(self) -> None:
        """Read every byte, and take damaged snapshots out of use."""
        for key, snapshot in self._current():
            self.online.condemn(self.catalog.scope, key.partition("@")[0], snapshot)

    def _failing(self, readable: Callable[[Scope, str, str], bool]) -> list[Damage]:
        found = self._found(readable, self.last())
        if found:  # What a newer publication does not need may be gone.
            found = self._found(readable, self._current())
        self._since = found
        return [Damage(key, snapshot, since) for (key, snapshot), since in found.items()]

    def _found(
        self, readable: Callable[[Scope, str, str], bool], snapshots: list[tuple[str, str]]
    ) -> dict[tuple[str, str], datetime]:
        return {
            (key, snapshot): self._since.get((key, snapshot)) or self.catalog.clock.now()
            for key, snapshot in snapshots
            if not readable(self.catalog.scope, key.partition("@")[0], snapshot)
        }

    def changed(self) -> None:
        """Read the current publication with the next look."""
        self._read = None

    def last(self) -> list[tuple[str, str]]:
        """The snapshots of the publication that was read last, each behind its ``view@definition_version``."""
        read = self._read
        if read is not None and self.catalog.clock.monotonic() - read[1] < self.believed:
            return read[0]
        return self._current()

    def _current(self) -> list[tuple[str, str]]:
        at = self.catalog.clock.monotonic()
        self._read = ([], float("-inf"))  # A change while it is read makes it unread again.
        unread = self._read
        current = self.catalog.publications.current(self.catalog.scope)
        snapshots = [] if current is None else list(current.snapshots.items())
        if self._read is unread:
            self._read = (snapshots, at)
        return snapshots


@dataclass
class Healer:
    """Builds damaged snapshots of one scope again, one at a time on a machine, and restores missing streamed events.

    Args:
        publisher: whose online store and stream consumer are used.
        lock: a lock file, held while healing.
        rebuild: starts a refresh of a damaged view that reads all of its source, or withdraws an unused one; the key
            makes it start once.
        reads: read every byte every ``READ_SECONDS``.
        overlay: the file of streamed events, checked with the snapshots and set aside when it is damaged.
    """

    catalog: FeatureCatalog
    health: SnapshotHealth
    publisher: Publisher
    lock: Path
    rebuild: Callable[[Damage, str], object]
    reads: bool = True
    overlay: LmdbOverlay | None = None
    _reported: set[str] = field(default_factory=set, init=False)
    _manifests: dict[str, SnapshotManifest] = field(default_factory=dict, init=False)
    _read_at: float = field(default=float("-inf"), init=False)
    _delays: RetryDelays = field(default_factory=partial(RetryDelays, _FIRST_DELAY, _LONGEST_DELAY), init=False)

    def heal(self) -> str | None:
        """Rebuild damaged snapshots and restore missing events; say which, or ``None`` without any. Raises
        ``UnavailableError`` when catalog or online store do not answer."""
        now = self.catalog.clock.monotonic()
        if self.reads and now - self._read_at >= READ_SECONDS:
            self.health.condemn()
            if self.overlay is not None and (found := self.overlay.check()).damaged:
                self.overlay.renew(found.problem or "an event does not open")
            self._read_at = now
        return ", ".join([*self._rebuilt(now), *self._restored(now)]) or None

    def _rebuilt(self, now: float) -> list[str]:
        due = [one for one in self.health.damaged() if not self._delays.waiting(one.snapshot, now)]
        if not due:
            return []
        self.lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file_lock(self.lock, wait=False) as held:  # unless another process on this machine heals
            built = [one for one in due if self._built(one, now)] if held is not None else []
        return [f"{one.view} ({one.snapshot})" for one in built]

    def _built(self, one: Damage, now: float) -> bool:
        _log.warning("The online snapshot %s of %s is gone or damaged; it is built again.", one.snapshot, one.view)
        from pyarrow import ArrowException

        try:
            manifest = self.catalog.snapshots.get(self.catalog.scope, one.snapshot)
            self.publisher.online.build(manifest, self.catalog.definition(one.key), self.catalog.lake)
        except (CorruptionError, NotFoundError, OSError, ArrowException) as error:
            self._delays.failed(one.snapshot, now)
            self._ask_source(one, error)
            return False
        except AntiphonError as error:
            self._delays.failed(one.snapshot, now)
            _log.error("%s of %s could not be built and is tried again: %s", one.snapshot, one.view, error)
            return False
        self._delays.succeeded(one.snapshot)
        self._reported.discard(one.snapshot)
        self.health.healed[one.view] = self.catalog.clock.now()
        return True

    def _restored(self, now: float) -> list[str]:
        """Restore streamed events that the current publication lacks; return their views."""
        if self.publisher.consumer is None:
            return []
        self._manifests = {  # They never change, and this is asked every few seconds.
            snapshot: self._manifests.get(snapshot) or self.catalog.snapshots.get(self.catalog.scope, snapshot)
            for _, snapshot in self.health.last()
        }
        missing, restored = self.publisher.missing_events(self._manifests.values()), list[str]()
        current = self.catalog.publications.current(self.catalog.scope) if missing else None
        if current is None:
            return []
        for snapshot, number in missing.items():
            manifest, name = self._manifests[snapshot], f"events/{snapshot}"
            if snapshot not in current.snapshots.values() or self._delays.waiting(name, now):
                continue
            try:
                self.publisher.restore_events(manifest, self.catalog.definition(manifest.key), current.number)
            except AntiphonError as error:
                self._delays.failed(name, now)
                _log.error("Streamed events of %s could not be restored; tried again later: %s", manifest.view, error)
                continue
            self._delays.succeeded(name)
            _log.warning("%d streamed events of %s were missing and are restored.", number, manifest.view)
            restored.append(f"streamed events of {manifest.view}")
        return restored

    def _ask_source(self, one: Damage, why: Exception) -> None:
        known = one.snapshot in self._reported
        self._reported.add(one.snapshot)
        if not known:
            _log.error("The lake cannot give %s back, so %s is built from its source: %s", one.snapshot, one.key, why)
        try:
            # One refresh an hour: a source that cannot be read is not read without end.
            self.rebuild(one, f"heal:{one.snapshot}:{self.catalog.clock.now():%Y%m%d%H}")
        except AntiphonError as error:
            if not known:
                _log.error("The view %s cannot be rebuilt: %s", one.key, error)
