"""Pauses of training: the parts of a worker that decide and obey them, and those that a person orders."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import NamedTuple

from antiphon.catalog.training_pauses import EVERY_HOST, TrainingHost, TrainingPause, TrainingPauses
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.routing.routed_engine import RoutedEngine
from antiphon.operations.processes import ProcessIdentity
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.training_pauses import TrainingPauseExchange
from antiphon.orchestration.worker import WorkerPart
from antiphon.services.project.store import Store
from antiphon.training.processes import TrainingProcesses


class TrainingGovernance(NamedTuple):
    """The parts of a worker that pause its trainings, and tell other workers to; no governor where none is declared."""

    exchange: TrainingPauseExchange
    governor: Governor | None

    @property
    def parts(self) -> list[WorkerPart]:
        return [self.exchange] if self.governor is None else [self.governor, self.exchange]


def training_governance(
    store: Store,
    engine: EngineClient | RoutedEngine,
    training: TrainingProcesses,
    worker: str,
    process: ProcessIdentity,
) -> TrainingGovernance:
    """The parts of a worker of this name that pause trainings."""
    settings, host, environment = store.settings.worker, socket.gethostname(), store.scope.environment
    everywhere = settings.training_pause == "everywhere"
    exchange = TrainingPauseExchange(
        TrainingPauses(store.database, environment),
        training,
        host=host,
        worker=worker,
        holder=str(process),
        governed=settings.training_governed,
        everywhere=everywhere,
        poll=parse_duration(settings.poll).total_seconds(),
        wakeup=store.database.doorbell.wakeup(environment, "training"),
    )
    if not settings.training_governed:
        return TrainingGovernance(exchange, None)
    governor = Governor(
        engine,
        training,
        host=host,
        everywhere=everywhere,
        exchange=exchange,
        quiet=parse_duration(settings.training_quiet).total_seconds(),
        poll=parse_duration(settings.training_poll).total_seconds(),
        watch=engine.describe_when_online,
    )
    return TrainingGovernance(exchange, governor)


class OrderedPauses:
    """Pauses of a project's trainings that a person orders and ends."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pauses = TrainingPauses(store.database, store.scope.environment)

    def pause(self, principal: str, reason: str, duration: str, host: str = EVERY_HOST) -> TrainingPause:
        """Pause every training of the environment, or those on one host, for a while; once more prolongs or shortens
        it. It is on record."""
        seconds = parse_duration(duration).total_seconds()
        if seconds <= 0:
            raise InvalidInputError("A pause lasts for some time.", where="--for", next_step="Say `2h` or `30m`.")
        if not host or "/" in host:
            raise InvalidInputError(f"{host!r} is no host name.", where="--host")
        with self._store.database.transaction() as connection:
            held = self._pauses.hold(host, principal, reason, seconds, ordered=True, within=connection)
            detail = {"reason": reason}
            self._store.audit.append(self._store.scope, principal, "training.pause", host, detail, within=connection)
        return held

    def resume(self, principal: str, host: str | None = None) -> Sequence[TrainingPause]:
        """End the pauses that persons ordered, of all hosts or of one; those for online users end by themselves.

        Raises:
            NotFoundError: none is ordered.
        """
        found = [one for one in self.list() if one.ordered and host in (None, one.host)]
        if not found:
            raise NotFoundError(
                "No pause of training is ordered" + (f" for {host}." if host else "."),
                where="training",
                next_step="`antiphon training list` shows the pauses that hold.",
            )
        with self._store.database.transaction() as connection:
            self._pauses.end([(one.host, one.writer) for one in found], within=connection)
            for one in found:
                self._store.audit.append(self._store.scope, principal, "training.resume", one.host, within=connection)
        return found

    def list(self) -> Sequence[TrainingPause]:
        """The pauses that hold now."""
        return self._pauses.known()[0]

    def trainings(self) -> Sequence[TrainingHost]:
        """The workers that train now."""
        return self._pauses.known()[1]
