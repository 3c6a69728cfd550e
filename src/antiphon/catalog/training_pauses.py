"""Pauses of training: rows that say on which host it stands still, for whom, and until when; and who trains where.

Invariants: a row ends by itself, no later than its writer last said, so that one that died stops nothing for long; it
names the host whose users it speaks for, or every host. Both kinds of row are leases, which
their holder alone writes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.scope import Scope

_log = logging.getLogger("antiphon.catalog")

EVERY_HOST = "*"

_PAUSE, _TRAINING = "training/pause/", "training/under-way/"


class TrainingPause(msgspec.Struct, frozen=True):
    """A pause that holds.

    Attributes:
        host: where training is paused; ``*`` is everywhere.
        writer: the process that sees online requests there, or the person who ordered it.
        ordered: by a person, and so obeyed whatever is served.
    """

    host: str
    writer: str
    reason: str
    since: datetime
    until: datetime
    ordered: bool = False


class TrainingHost(msgspec.Struct, frozen=True):
    """A worker that trains. ``everywhere``: it is to pause for users of any host, not of its own alone."""

    host: str
    worker: str
    everywhere: bool = False


class _PauseDetail(msgspec.Struct, frozen=True):
    host: str
    reason: str
    since: datetime
    ordered: bool = False


_pause = msgspec.json.Decoder(_PauseDetail).decode
_host = msgspec.json.Decoder(TrainingHost).decode


class TrainingPauses:
    """Repository of the pauses of one environment, and of its trainings."""

    def __init__(self, database: Database, environment: str) -> None:
        self._database = database
        self._leases = ProcessLeases(database, environment)
        self._scope = Scope(environment=environment)

    def hold(
        self,
        host: str,
        writer: str,
        reason: str,
        seconds: float,
        *,
        ordered: bool = False,
        within: Connection | None = None,
    ) -> TrainingPause:
        """Pause training on a host for so many seconds from now, or prolong one's own pause."""
        with self._database.writing(within) as connection:
            now = self._database.clock.now()
            name = f"{_PAUSE}{host}/{writer}"
            found = self._leases.find(name, within=connection)
            lasting = found is not None and found.until >= now
            since = _pause(found.detail or "").since if found is not None and lasting else now
            detail = _PauseDetail(host, reason, since, ordered)
            self._leases.acquire_all({name: _text(detail)}, writer, seconds, within=connection)
            if not lasting or ordered:
                self._database.ring("training", self._scope)
            written = self._leases.find(name, within=connection)
        assert written is not None
        return TrainingPause(host, writer, reason, since, written.until, ordered)

    def end(self, pauses: Iterable[tuple[str, str]], *, within: Connection | None = None) -> int:
        """End pauses, by host and writer; returns how many there were."""
        ended = 0
        with self._database.writing(within) as connection:
            for host, writer in pauses:
                ended += self._leases.release_all([f"{_PAUSE}{host}/{writer}"], writer, within=connection)
            self._database.ring("training", self._scope)
        return ended

    def announce(self, training: TrainingHost, holder: str, seconds: float, *, first: bool) -> None:
        """Say that a worker trains, for so many seconds; the first time others are woken."""
        with self._database.transaction() as connection:
            name = f"{_TRAINING}{training.worker}"
            self._leases.acquire_all({name: _text(training)}, holder, seconds, lambda _: True, within=connection)
            if first:
                self._database.ring("training", self._scope)

    def withdraw(self, worker: str, holder: str) -> None:
        """Say that a worker trains no more."""
        self._leases.release(f"{_TRAINING}{worker}", holder)

    def known(self) -> tuple[tuple[TrainingPause, ...], tuple[TrainingHost, ...]]:
        """The pauses that hold now, and the workers that train, by name."""
        pauses, trainings = [], []
        for lease in self._leases.living("training/"):
            try:
                if lease.name.startswith(_PAUSE):
                    said = _pause(lease.detail or "")
                    pauses.append(
                        TrainingPause(said.host, lease.holder, said.reason, said.since, lease.until, said.ordered)
                    )
                else:
                    trainings.append(_host(lease.detail or ""))
            except msgspec.MsgspecError as error:
                _log.warning("What %s says cannot be read, and it is left out: %s", lease.name, error)
        return tuple(pauses), tuple(trainings)

    def remaining(self, pause: TrainingPause) -> float:
        """Seconds until a pause ends by itself."""
        return (pause.until - self._database.clock.now()).total_seconds()


def _text(detail: msgspec.Struct) -> str:
    return msgspec.json.encode(detail).decode()
