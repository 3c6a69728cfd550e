"""Notifications: what parts of the platform have to say to people about its operation.

Invariants:
- A notification stands in the transaction of what it is about: both are committed, or neither.
- An id and a state are said once; handing the same over again changes nothing.
- Their numbers have no gap and grow in the order of commits, so that "everything up to a number" is complete.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, get_args

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, or_, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import SealedRows
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.core.settings_notifications import Severity

NotificationState = Literal["firing", "resolved"]

MOST_TITLE, MOST_TEXT = 200, 20_000
"""Characters of a title and of a text at most; both are cut where they are longer."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}\Z")
_KIND = re.compile(r"[a-z][a-z0-9_-]*(\.[a-z][a-z0-9_-]*)*\Z")
_table, _deliveries = schema.notifications, schema.notification_deliveries


class Notification(msgspec.Struct, frozen=True):
    """One thing to be said, about something that begins or that is over.

    Attributes:
        id: of one occurrence, such as ``drift:desk:1365595200000000``: what begins again has another one. Letters,
            digits and ``._:/@+-``.
        kind: dotted words such as ``release.live``, which channels select by.
        state: ``firing`` when it begins, ``resolved`` when it is over. What has no duration fires alone, with
            ``ended_at``.
        application: that it is about; ``None``: about the platform.
        title: one line. text: more of it, in plain text. Neither quotes requests, answers or values of features.
        labels: names and values by which receivers group; the same for both states.
        link: to where more is shown.
        public: the sentence that outside users may read instead of title and text; ``None``: nothing of it.
    """

    id: str
    kind: str
    severity: Severity
    state: NotificationState
    title: str
    started_at: datetime
    text: str = ""
    application: str | None = None
    ended_at: datetime | None = None
    labels: dict[str, str] = {}
    link: str | None = None
    public: str | None = None

    @property
    def lasts(self) -> bool:
        """True until a notification of the same id says that it is resolved."""
        return self.state == "firing" and self.ended_at is None


class NumberedNotification(msgspec.Struct, frozen=True):
    """A notification with its place in the order of commits."""

    sequence: int
    notification: Notification


class Notifications:
    """Repository of the notifications of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._rows = SealedRows(database, "notifications.document", Notification)

    def append(self, scope: Scope, notification: Notification, *, within: Connection | None = None) -> int | None:
        """Hand a notification over, in the caller's transaction if there is one; its number, or ``None`` where this id
        and state were handed over before.

        Raises:
            InvalidInputError: its id, kind, severity or state is none, or a moment has no time zone.
        """
        checked = _checked(notification)
        with self._database.writing(within) as connection:
            if self.known(scope, checked.id, checked.state, within=connection):
                return None
            number = self.last(scope, within=connection) + 1
            row = self._rows.row(
                checked, scope, sequence=number, lasting=checked.lasts, created_at=self._database.clock.now()
            )
            connection.execute(insert(_table).values(row))
            self._database.ring("notifications", scope)
        return number

    def resolve(
        self, scope: Scope, id: str, at: datetime, text: str = "", *, within: Connection | None = None
    ) -> int | None:
        """Say that something is over, in the words and with the labels of its beginning; the notification's number, or
        ``None`` where nothing of this id lasts.

        Args:
            text: how it ended.
        """
        with self._database.writing(within) as connection:
            begun = self.get(scope, id, "firing", within=connection)
            if begun is None or not begun.lasts:
                return None
            over = Notification(
                id, begun.kind, begun.severity, "resolved", begun.title, begun.started_at, text, begun.application,
                max(at, begun.started_at), begun.labels, begun.link, begun.public,
            )  # fmt: skip
            return self.append(scope, over, within=connection)

    def get(
        self, scope: Scope, id: str, state: NotificationState, *, within: Connection | None = None
    ) -> Notification | None:
        """One notification; ``None`` where there is none, or no more."""
        found = self._rows.find(scope, _table.c.id == id, _table.c.state == state, within=within)
        return found[0] if found else None

    def known(self, scope: Scope, id: str, state: NotificationState, *, within: Connection | None = None) -> bool:
        """Tells whether this id and state were handed over."""
        found = select(_table.c.sequence).where(schema.owned(_table, scope, id=id, state=state))
        return self._database.first(found, within) is not None

    def active(
        self, scope: Scope, kind: str | None = None, *, limit: int = 1_000, within: Connection | None = None
    ) -> builtins.list[Notification]:
        """Notifications of beginnings that are not over, of one kind or of all, the oldest first."""
        conditions = [_table.c.lasting.is_(True), ~_is_resolved(scope), *schema.given(_table, kind=kind)]
        return self._rows.find(scope, *conditions, order=[_table.c.sequence], limit=limit, within=within)

    def last(self, scope: Scope, *, within: Connection | None = None) -> int:
        """The number of the newest notification; 0 before the first."""
        newest = select(func.max(_table.c.sequence)).where(schema.owned(_table, scope))
        return int(self._database.scalar(newest, within) or 0)

    def page(
        self, scope: Scope, after: int, limit: int, *, within: Connection | None = None
    ) -> builtins.list[NumberedNotification]:
        """The notifications after a number, in order."""
        newer = select(_table.c.sequence).where(schema.owned(_table, scope), _table.c.sequence > after)
        numbers = [row.sequence for row in self._database.rows(newer.order_by(_table.c.sequence).limit(limit), within)]
        return self.numbered(scope, numbers, within=within)

    def latest(
        self,
        scope: Scope,
        limit: int,
        *,
        kind: str = "",
        statuses: Sequence[str] | None = None,
        before: int | None = None,
        within: Connection | None = None,
    ) -> builtins.list[int]:
        """The numbers of notifications before a number, the latest first.

        Args:
            kind: with the kinds below it; empty: every kind.
            statuses: of a delivery of theirs; none of them: without any delivery; ``None``: all.
        """
        chosen = [schema.owned(_table, scope)]
        if kind:
            chosen.append(or_(_table.c.kind == kind, _table.c.kind.startswith(f"{kind}.", autoescape=True)))
        if before is not None:
            chosen.append(_table.c.sequence < before)
        if statuses is not None:
            delivered = select(_deliveries.c.sequence).where(schema.owned(_deliveries, scope))
            of_status = _table.c.sequence.in_(delivered.where(_deliveries.c.status.in_(statuses)))
            chosen.append(of_status if statuses else _table.c.sequence.not_in(delivered))
        numbers = select(_table.c.sequence).where(*chosen).order_by(_table.c.sequence.desc()).limit(limit)
        return [row.sequence for row in self._database.rows(numbers, within)]

    def kinds(self, scope: Scope) -> builtins.list[str]:
        """The kinds of all that are kept, in order."""
        known = select(_table.c.kind).where(schema.owned(_table, scope)).distinct().order_by(_table.c.kind)
        return [row.kind for row in self._database.rows(known)]

    def numbered(
        self, scope: Scope, numbers: builtins.list[int], *, within: Connection | None = None
    ) -> builtins.list[NumberedNotification]:
        """The notifications of these numbers, in order; those that are pruned are left out."""
        found = self._rows.find(scope, _table.c.sequence.in_(numbers), order=[_table.c.sequence], within=within)
        named = {(one.id, one.state): one for one in found}
        chosen = select(_table.c.sequence, _table.c.id, _table.c.state)
        chosen = chosen.where(schema.owned(_table, scope), _table.c.sequence.in_(numbers))
        rows = self._database.rows(chosen.order_by(_table.c.sequence), within)
        return [NumberedNotification(row.sequence, named[row.id, row.state]) for row in rows]

    def prune(self, scope: Scope, before: datetime, *, within: Connection | None = None) -> int:
        """Remove what was handed over before a moment and is over; how many they were. The newest stays: numbers go on
        from it."""
        with self._database.writing(within) as connection:
            newest = self.last(scope, within=connection)
            old = schema.owned(_table, scope), _table.c.created_at < before, _table.c.sequence < newest
            over = or_(_table.c.lasting.is_(False), _is_resolved(scope))
            return int(connection.execute(delete(_table).where(*old, over)).rowcount)


def one_line(text: str, most: int = MOST_TITLE) -> str:
    """A text on one line, without control characters, cut after so many characters."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"


def _is_resolved(scope: Scope) -> ColumnElement[bool]:
    resolved = select(_table.c.id).where(schema.owned(_table, scope, state="resolved")).correlate(None)
    return _table.c.id.in_(resolved)


def _checked(notification: Notification) -> Notification:
    wrong = [
        name
        for name, right in (
            ("id", _ID.match(notification.id)),
            ("kind", _KIND.match(notification.kind)),
            ("severity", notification.severity in get_args(Severity)),
            ("state", notification.state in get_args(NotificationState)),
        )
        if not right
    ]
    if wrong:
        raise InvalidInputError(
            f"A notification has no usable {wrong[0]}.",
            where="notifications",
            next_step="See Notification for the form of each field.",
        )
    text = notification.text
    return Notification(
        notification.id, notification.kind, notification.severity, notification.state, one_line(notification.title),
        utc(notification.started_at), text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…",
        notification.application, None if notification.ended_at is None else utc(notification.ended_at),
        {one_line(name): one_line(value) for name, value in notification.labels.items()},
        notification.link, None if notification.public is None else one_line(notification.public),
    )  # fmt: skip
