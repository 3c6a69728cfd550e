"""Sends the events of runs to the receiver of the settings, in the order in which runs ended, until it has them.

Invariants:
- An event is acknowledged here after the receiver took it: one that it took just before a crash is sent again, the
  same to the byte. None is left out, however long the receiver is away.
- There is no queue: what is due follows from the runs and what is acknowledged, so a backlog takes no room of its own.
- An event that the receiver refuses as malformed is recorded as refused and said; it does not hold up the others.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import msgspec

from antiphon.catalog.lineage_acknowledgments import ALL_EVENTS, DueRun, LineageBacklog, LineageProgress, RefusedLineage
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.http_client import HttpClient
from antiphon.core.tls import ClientTls
from antiphon.services.lineage import openlineage
from antiphon.services.lineage.runs import RunLineage
from antiphon.services.lineage.values import LineageEvent
from antiphon.services.project.credentials import secret
from antiphon.services.project.store import Store, open_store

WHERE = "[lineage] url"

LOOK_SECONDS = 5.0
"""Interval of looks for events that were not sent."""

AT_ONCE = 100
"""Runs of a look at most, so that a worker that is told to stop does not wait for a long absence to be made up."""

SECONDS = 10.0
"""Time of a request at most."""

SETTLED = timedelta(hours=1)
"""A run that has ended is in the catalog by then, whatever the clocks of hosts and the length of transactions."""

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=2.5), timedelta(minutes=5)
"""After a failure nothing is sent for twice the first pause, after the next for twice as long."""

REFUSALS = frozenset((400, 413, 415, 422))
"""Answers that say the event itself is at fault; every other one but 2xx is tried again."""

_MOST_BYTES = 65_536
_log = logging.getLogger("antiphon.lineage")


class EventRefusedError(InvalidInputError):
    """The receiver says that an event is malformed."""


class DeliveryStatus(msgspec.Struct, frozen=True):
    """The delivery to the receiver, for people.

    Attributes:
        receiver: its URL; ``None``: the settings name none.
        backlog: runs with events that it does not have. refused: of the last hour, those that it never gets.
        sentence: all of it in words.
    """

    receiver: str | None
    state: Literal["off", "well", "behind", "failing"]
    backlog: LineageBacklog
    refused: tuple[RefusedLineage, ...]
    sentence: str


class LineageDelivery:
    """Delivery of one project's lineage."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lineage = RunLineage(store)

    def begin(self) -> None:
        """Note from when on runs are told to the receiver of the settings, where that is another one than before."""
        if self._store.settings.lineage.url is not None:
            self._store.lineage_acknowledgments.begin(self._store.scope, self._store.settings.lineage.url)

    def send_due(self) -> int:
        """Send what is due; how many events it were. One failure ends it, for the next look after a longer pause.

        Raises:
            SetupError: the receiver's key is not set, or the client is not installed.
            InvalidInputError: the URL may not be called.
        """
        url = self._store.settings.lineage.url
        if url is None:
            return 0
        acknowledgments, scope = self._store.lineage_acknowledgments, self._store.scope
        progress, now = acknowledgments.begin(scope, url), self._store.database.clock.now()
        if _pausing(progress, now):
            return 0
        due = acknowledgments.due(scope, AT_ONCE)
        sent = 0
        try:
            if due:
                sent = self._send_all(due)
        except (UnavailableError, SetupError, InvalidInputError) as error:
            acknowledgments.failed(scope, error.what)
            if not isinstance(error, UnavailableError):
                raise
            _log.warning("%s", error)
            return sent
        if len(due) < AT_ONCE:
            acknowledgments.complete(scope, now - SETTLED)
        return sent

    def due(self) -> list[LineageEvent]:
        """The events that the next look would send, at most those of :data:`AT_ONCE` runs."""
        scope = self._store.scope
        runs = self._store.lineage_acknowledgments.due(scope, AT_ONCE)
        return [event for one in runs for event in self._lineage.events(scope, one.run)[one.sent :]]

    def send(self, events: list[LineageEvent]) -> int:
        """Send these events at once, whether the receiver has them or not; how many it took.

        Raises:
            SetupError: the settings name no receiver, or as :meth:`send_due`.
            UnavailableError: it did not take one; those before were taken. EventRefusedError: it refused one.
        """
        client = self._client()
        try:
            for event in events:
                self._post(client, openlineage.encode(event), event.run)
        finally:
            client.close()
        return len(events)

    def status(self) -> DeliveryStatus:
        """Describes the delivery: receiver, backlog, and the failure that keeps it."""
        url, acknowledgments, scope = (
            self._store.settings.lineage.url,
            self._store.lineage_acknowledgments,
            self._store.scope,
        )
        if url is None:
            return DeliveryStatus(None, "off", LineageBacklog(0, None), (), "no receiver: kept here alone")
        progress, backlog, refused = (
            acknowledgments.progress(scope),
            acknowledgments.backlog(scope),
            tuple(acknowledgments.refused(scope)),
        )
        since = "" if backlog.since is None else f", since {backlog.since:%Y-%m-%d %H:%MZ}"
        behind = f"{backlog.runs} runs are not sent{since}" if backlog.runs else "everything is sent"
        if refused:
            behind += f"; {len(refused)} of the last hour were refused"
        if progress is not None and progress.receiver == url and progress.failures:
            said = f"{url} took nothing in {progress.failures} attempts: {progress.error} {behind}."
            return DeliveryStatus(url, "failing", backlog, refused, said)
        return DeliveryStatus(url, "behind" if backlog.runs else "well", backlog, refused, f"{url}: {behind}")

    def _send_all(self, due: list[DueRun]) -> int:
        acknowledgments, scope, sent = self._store.lineage_acknowledgments, self._store.scope, 0
        client = self._client()
        try:
            for one in due:
                try:
                    for number, body in enumerate(self._written(one), one.sent + 1):
                        self._post(client, body, one.run)
                        acknowledgments.acknowledge(scope, one.run, number)
                        sent += 1
                        if sent == 1:
                            acknowledgments.succeeded(scope)
                except EventRefusedError as error:  # It does not hold up the others.
                    _log.warning("The lineage of %s is not sent: %s", one.run, error.what)
                    acknowledgments.acknowledge(scope, one.run, ALL_EVENTS, refused=error.what)
        finally:
            client.close()
        return sent

    def _written(self, due: DueRun) -> list[bytes]:
        """The events that the receiver does not have; raises ``EventRefusedError`` where the run cannot be told of."""
        try:
            return [openlineage.encode(event) for event in self._lineage.events(self._store.scope, due.run)[due.sent :]]
        except UnavailableError:
            raise  # The catalog is away.
        except Exception as error:
            # By its kind alone: what it says may quote what was read, and this is kept in the clear.
            why = error.code if isinstance(error, AntiphonError) else type(error).__name__
            _log.exception("The run %s cannot be told of", due.run)
            raise EventRefusedError(
                f"The run cannot be told of: {why}; the worker's log says more.", where=due.run
            ) from error

    def _client(self) -> HttpClient:
        settings = self._store.settings.lineage
        if settings.url is None:
            raise SetupError(
                "The settings name no receiver of lineage.",
                where=WHERE,
                next_step="Set it in antiphon.toml, or print the events: `antiphon lineage events --json`.",
            )
        openlineage.require_client()
        key = secret(settings.api_key_variable, "api_key_variable", "lineage")
        return HttpClient(
            settings.url, where=WHERE, secret=key is not None, timeout=SECONDS, most_bytes=_MOST_BYTES,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            tls=ClientTls(None if settings.authority is None else self._store.paths.root / settings.authority),
        )  # fmt: skip

    def _post(self, client: HttpClient, body: bytes, run: str) -> None:
        try:
            answer = client.post("", msgspec.Raw(body))
        except OSError as error:
            raise UnavailableError(
                f"The receiver of lineage did not take it: {error}.", where=WHERE, next_step="It is sent again."
            ) from error
        if answer.status in REFUSALS:
            raise EventRefusedError(f"The receiver of lineage refused it: {answer.status}.", where=run)
        if not 200 <= answer.status < 300:
            raise UnavailableError(
                f"The receiver of lineage answered {answer.status}.", where=WHERE, next_step="It is sent again."
            )


def require_delivered(root: Path) -> str:
    """Describes the delivery of the project in a folder, for ``antiphon doctor``.

    Raises:
        SetupError: the client is not installed, the receiver takes nothing, or it refused events.
    """
    openlineage.require_client()
    with open_store(root) as store:
        found = LineageDelivery(store).status()
    if found.state == "failing":
        raise SetupError(
            found.sentence, where=WHERE, next_step="Start it or correct the settings: what it lacks is sent then."
        )
    if found.refused:
        one = found.refused[0]
        raise SetupError(
            f"{found.sentence}; {one.run}: {one.refused}",
            where=WHERE,
            next_step="`antiphon lineage send --run RUN` sends one again.",
        )
    return found.sentence


def _pausing(progress: LineageProgress, now: datetime) -> bool:
    """Tells whether the pause after the last failure is not over; a clock that was set back ends it."""
    if progress.failed_at is None:
        return False
    pause: timedelta = min(FIRST_PAUSE * 2 ** min(progress.failures, 16), LONGEST_PAUSE)
    return timedelta() <= now - progress.failed_at < pause
