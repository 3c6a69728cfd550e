"""Every column of the catalog that holds a payload, and how to go through them all: to check, or to seal them anew.

Invariant: a payload that is sealed anew changes in the transaction that moves the cursor, and only if it is still what
was read. So a re-encryption may be killed anywhere and goes on where it was, and nothing that is written meanwhile is
lost.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.codec import Envelope, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import AntiphonError, CorruptionError
from antiphon.core.scope import Scope


class SealedColumn(msgspec.Struct, frozen=True):
    """A column with payloads.

    Attributes:
        schema: of its payloads.
        subject: the columns whose values, joined by ``:``, are a payload's subject.
        text: whether the envelope stands in it as base64.
        indexed: the column that holds the index of the payload's first element, and the column it begins with.
        named: the column that holds the index of the payload, and the purpose of that index. Nothing that seals, and
            the payload itself stands there while this column is empty.
    """

    table: str
    column: str
    schema: str
    subject: tuple[str, ...]
    text: bool = False
    indexed: tuple[str, str] | None = None
    named: tuple[str, str] | None = None

    @property
    def name(self) -> str:
        """``table.column``."""
        return f"{self.table}.{self.column}"


ORIGINATOR = SealedColumn(
    "audit_entries", "originator_sealed", "audit-originator/1", ("sequence",), named=("originator", "audit")
)
RUN_KEY = SealedColumn("runs", "key_sealed", "run-key/1", ("id",), named=("key", "run-key"))

SEALED_COLUMNS = (
    SealedColumn("answers", "document", "answer/1", ("release", "subject", "question_hash", "prediction")),
    SealedColumn("applied_projects", "document", "project/1", ("number",)),
    ORIGINATOR,
    SealedColumn("backfill_partitions", "document", "backfill-partition/1", ("id",)),
    SealedColumn("batches", "errors", "batch-errors/1", ("id",)),
    SealedColumn("batches", "metadata", "batch-metadata/1", ("id",)),
    SealedColumn("blobs", "payload", "blob/1", ("hash",)),
    SealedColumn("conversation_turns", "payload", "conversation-turn/1", ("conversation", "number")),
    SealedColumn("datasets", "document", "dataset/1", ("id",)),
    SealedColumn("definition_versions", "document", "view/1", ("view", "version")),
    SealedColumn("evaluation_answers", "answer", "evaluation-answer/1", ("evaluation", "question")),
    SealedColumn("evaluations", "document", "evaluation/1", ("id",)),
    SealedColumn("events", "payload", "event/1", ("stream", "event_id"), indexed=("event_id", "stream")),
    SealedColumn("files", "filename", "file-name/1", ("id",)),
    SealedColumn("followed_streams", "position", "followed-position/1", ("stream", "place")),
    SealedColumn("job_rows", "payload", "job-row/1", ("job", "line")),
    SealedColumn("jobs", "error", "job-error/1", ("id",), text=True),
    SealedColumn("jobs", "settings", "job-settings/1", ("id",)),
    SealedColumn("incidents", "document", "incident/1", ("id",)),
    SealedColumn("notifications", "document", "notification/1", ("id", "state")),
    SealedColumn("outcomes", "payload", "outcome/1", ("id",)),
    SealedColumn("playbook_permissions", "document", "playbook-permission/1", ("playbook",)),
    SealedColumn("playbook_runs", "document", "playbook-run/1", ("id",)),
    SealedColumn("prediction_annotations", "payload", "annotation/1", ("id",)),
    SealedColumn("prompt_trials", "document", "prompt-trial/1", ("id",)),
    SealedColumn("receipts", "payload", "receipt/1", ("prediction",)),
    SealedColumn("regression_cases", "payload", "regression-case/1", ("id",)),
    SealedColumn("regression_runs", "document", "regression-run/1", ("id",)),
    SealedColumn("regression_sets", "document", "regression-set/1", ("name", "version")),
    SealedColumn("releases", "bundle", "release/1", ("id",)),
    SealedColumn("run_attempts", "error", "run-attempt-error/1", ("run", "epoch"), text=True),
    SealedColumn("runs", "arguments", "run-arguments/1", ("id",)),
    SealedColumn("runs", "error", "run-error/1", ("id",), text=True),
    RUN_KEY,
    SealedColumn("runs", "result", "run-result/1", ("id",)),
    SealedColumn("safety_reports", "document", "safety-report/1", ("id",)),
    SealedColumn("skew_reports", "document", "skew/1", ("id", "view")),
    SealedColumn("snapshots", "document", "snapshot/1", ("id",)),
    SealedColumn("steps", "result", "step/1", ("run", "name", "occurrence")),
    SealedColumn("tool_calls", "payload", "tool-call/1", ("key",)),
    SealedColumn("verdicts", "document", "verdict/1", ("id",)),
)

CLEAR_COLUMNS = {
    "judgements.document": "figures of rollouts",
    "measurements.payload": "counts and durations by names of applications, views and workflows",
    "model_versions.document": "hashes, settings and losses of trainings",
    "objective_states.state": "shares and burn rates",
    "policy_requests.payload": "changes of policies that wait for approval",
    "policy_versions.document": "policies, which are no secret",
    "publications.snapshots": "ids; read by every process several times a second",
    "release_watches.state": "sums of gains, and counts of values by bins of an evaluation's",
    "rollouts.plan": "shares and thresholds",
    "shadow_pairs.live_probabilities": "probabilities of declared labels",
    "shadow_pairs.shadow_probabilities": "the same of the candidate",
    "watch_decisions.document": "figures of live releases",
}
"""Columns of bytes that hold no payload, and what they hold instead; hashes, salts and wrapped keys aside."""


class SealedName:
    """A text that rows are found by: in an encrypted project its column holds a keyed hash, and the text lies sealed
    beside it.

    Invariant: the sealed text belongs to its row, and the index to the text: one that was changed, moved or taken away
    does not open. What was stored before a project was encrypted is read as it is, until it is sealed anew.

    Args:
        column: of the sealed text; it says which one holds the index (``named``).
    """

    def __init__(self, column: SealedColumn) -> None:
        if column.named is None:
            raise ValueError(f"{column.name} is no name")
        self._column = column
        self._index, self._purpose = column.named

    def stored(self, database: Database, scope: Scope, subject: str, text: str) -> tuple[str, bytes | None]:
        """Returns the values of the two columns: index and envelope, or in plaintext the text and nothing."""
        if not database.codec.sealing:
            return text, None
        sealed = database.seal(scope, self._column.schema, subject, text.encode())
        return database.codec.index(text, scope, self._purpose), sealed

    def opened(self, database: Database, scope: Scope, subject: str, index: str | None, sealed: Any) -> str | None:
        """The text of a row.

        Raises:
            CorruptionError: it does not open, or stands under another index.
        """
        if sealed is None:
            return index
        text = b""
        if database.codec.sealing and isinstance(sealed, bytes):  # in plaintext, what stands there was put there
            text = database.unseal(scope, self._column.schema, subject, sealed)
        name = text.decode(errors="replace")
        if index is None or index != database.codec.index(name, scope, self._purpose):
            raise CorruptionError(
                f"A name in {self._column.table} stands under another index.",
                where=f"{scope} {subject}",
                next_step="`antiphon encryption check` lists what does not open; restore this one from a backup.",
            )
        return name

    def is_(self, database: Database, scope: Scope, text: str) -> sa.ColumnElement[bool]:
        """The condition that a row's text is this one."""
        columns = schema.metadata.tables[self._column.table].c
        index, sealed = columns[self._index], columns[self._column.column]
        if not database.codec.sealing:
            return index == text
        return sa.or_(
            sa.and_(index == database.codec.index(text, scope, self._purpose), sealed.is_not(None)),
            sa.and_(index == text, sealed.is_(None)),
        )


class UnreadablePayload(msgspec.Struct, frozen=True):
    """A payload that does not open."""

    store: str
    scope: str
    subject: str
    problem: str


class ColumnCheck(msgspec.Struct, frozen=True):
    """Result of checking a store: payloads by data key (``plaintext`` without one), and those that do not open."""

    store: str
    by_key: dict[str, int]
    problems: tuple[UnreadablePayload, ...]


class ResealProgress(msgspec.Struct, frozen=True):
    """Progress of sealing a store anew. ``changed`` counts in this call, ``done`` all rows gone through."""

    store: str
    changed: int
    done: int
    problems: tuple[UnreadablePayload, ...]


def check(database: Database, column: SealedColumn, batch: int = 500) -> ColumnCheck:
    """Open every payload of a column; one that does not open does not keep the others from being checked."""
    by_key: dict[str, int] = {}
    problems: list[UnreadablePayload] = []
    after: list[Any] | None = None
    while True:
        with database.read() as connection:
            rows = _rows(connection, column, after, batch)
        for row in rows:
            try:
                _, envelope, _ = _opened(database, column, row)
                key = envelope.key_id or "plaintext"
                by_key[key] = by_key.get(key, 0) + 1
            except AntiphonError as error:
                problems.append(_problem(column, row, error))
        if len(rows) < batch:
            return ColumnCheck(column.name, by_key, tuple(problems))
        after = _place(column, rows[-1])


def reseal(database: Database, column: SealedColumn, target: str, batch: int = 200) -> Iterator[ResealProgress]:
    """Seal every payload of a column with the database's codec, a batch a transaction; tells after each.

    Args:
        target: what it is done for; one that was cut off under the same target goes on where it was.
    """
    problems: list[UnreadablePayload] = []
    while True:
        changed = 0
        with database.transaction() as connection:
            after, done, finished = _progress(connection, column.name, target)
            if finished:
                return
            rows = _rows(connection, column, after, batch)
            for row in rows:
                try:
                    changed += _resealed(database, connection, column, row)
                except AntiphonError as error:
                    # It was lost before; it is told and left as it is.
                    problems.append(_problem(column, row, error))
            done += len(rows)
            finished = len(rows) < batch
            place = _place(column, rows[-1]) if rows else after
            # One pass goes through the rows of all tenants.
            key = {"tenant": "", "environment": "", "store": column.name}
            _keep(connection, key, target, place, done, finished, database.clock.now())
        yield ResealProgress(column.name, changed, done, tuple(problems))


def forget_progress(database: Database) -> None:
    """Let the next pass begin at the first row."""
    with database.transaction() as connection:
        connection.execute(sa.delete(schema.reencryptions))


def _resealed(database: Database, connection: Connection, column: SealedColumn, row: Row[Any]) -> int:
    table = schema.metadata.tables[column.table]
    scope, codec = Scope(row.tenant, row.environment), database.codec
    content, envelope, stored = _opened(database, column, row)
    values = {name: getattr(row, name) for name in column.subject}
    if column.indexed is not None:
        indexed, first = column.indexed
        # The first element of the payload is what the index stands for.
        values[indexed] = codec.index(f"{getattr(row, first)}:{msgspec.json.decode(content)[0]}", scope, "event")
    if column.named is not None:
        name, purpose = column.named
        values[name] = codec.index(content.decode(), scope, purpose)
    selected = codec.current_key(scope)
    moved = any(values[name] != getattr(row, name) for name in values)
    if envelope.key_id == selected and not moved:
        return 0
    if column.named is not None and not codec.sealing:
        values[column.column] = None
    else:
        sealed = codec.seal(content, PayloadContext(column.schema, scope, _subject(column, values)))
        values[column.column] = base64.b64encode(pack(sealed)).decode() if column.text else pack(sealed)
    keys = [key == getattr(row, key.name) for key in table.primary_key.columns]
    changed = connection.execute(
        sa.update(table).where(*keys, table.c[column.column].is_not_distinct_from(stored)).values(values)
    ).rowcount
    return int(changed)


def _opened(database: Database, column: SealedColumn, row: Row[Any]) -> tuple[bytes, Envelope, Any]:
    stored = getattr(row, column.column)
    if stored is None and column.named is not None:
        clear: str = getattr(row, column.named[0])
        return clear.encode(), Envelope(column.schema, PlainCodec.name, None, b""), None
    subject = _subject(column, {name: getattr(row, name) for name in column.subject})
    try:
        packed = base64.b64decode(stored, validate=True) if column.text else stored
    except (binascii.Error, ValueError) as error:
        raise CorruptionError("Stored text is no envelope.", where=column.name) from error
    envelope = unpack(packed)
    content = database.codec.open(envelope, PayloadContext(column.schema, Scope(row.tenant, row.environment), subject))
    return content, envelope, stored


def _subject(column: SealedColumn, values: dict[str, Any]) -> str:
    return ":".join(str(values[name]) for name in column.subject)


def _rows(connection: Connection, column: SealedColumn, after: Sequence[Any] | None, batch: int) -> Sequence[Row[Any]]:
    table = schema.metadata.tables[column.table]
    keys = list(table.primary_key.columns)
    names = (*column.subject, column.column, *((column.named[0],) if column.named is not None else ()))
    selected = {key.name: key for key in keys} | {name: table.c[name] for name in names}
    held = table.c[column.column if column.named is None else column.named[0]]
    statement: sa.Select[Any] = sa.select(*selected.values()).where(held.is_not(None)).order_by(*keys).limit(batch)
    if after is not None:
        statement = statement.where(sa.tuple_(*keys) > sa.tuple_(*(sa.literal(value) for value in after)))
    return connection.execute(statement).all()


def _place(column: SealedColumn, row: Row[Any]) -> list[Any]:
    return [getattr(row, key.name) for key in schema.metadata.tables[column.table].primary_key.columns]


def _problem(column: SealedColumn, row: Row[Any], error: AntiphonError) -> UnreadablePayload:
    subject = _subject(column, {name: getattr(row, name) for name in column.subject})
    return UnreadablePayload(column.name, f"{row.tenant}/{row.environment}", subject, error.what)


HOLDS = timedelta(days=1)
"""Validity of a check's progress; after that a check begins anew."""


class CheckPosition(msgspec.Struct, frozen=True):
    """Position of a check: the last offset, payloads by data key, unreadable payloads, and when it was stored."""

    through: int = 0
    by_key: dict[str, int] = {}
    problems: tuple[UnreadablePayload, ...] = ()
    at: datetime | None = None


class CheckProgress:
    """Repository of long checks that are under way; one that was cut off goes on from there.

    It is kept beside the progress of re-encryptions, whose end forgets it: what was checked before may be sealed anew.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, scope: Scope, store: str, target: str) -> CheckPosition:
        """Returns the position to go on from; the beginning when ``target`` is another one now, or it is too long
        ago."""
        table = schema.reencryptions
        row = self._database.first(sa.select(table).where(schema.owned(table, scope, store=f"check {store}")))
        now = self._database.clock.now()
        if row is None or row.target != target or now - from_microseconds(row.updated_at) > HOLDS:
            return CheckPosition()
        return msgspec.json.decode(row.cursor, type=CheckPosition)

    def keep(self, scope: Scope, store: str, target: str, reached: CheckPosition) -> None:
        """Remember it; what two checks at once remember is the later one's."""
        now = self._database.clock.now()
        place = msgspec.structs.replace(reached, at=now)
        key = {"tenant": scope.tenant, "environment": scope.environment, "store": f"check {store}"}
        with self._database.transaction() as connection:
            _keep(connection, key, target, place, reached.through, False, now)

    def end(self, scope: Scope, store: str) -> None:
        """Forget it: the check came to its end."""
        table = schema.reencryptions
        self._database.write(sa.delete(table).where(schema.owned(table, scope, store=f"check {store}")))


def _progress(connection: Connection, store: str, target: str) -> tuple[list[Any] | None, int, bool]:
    table = schema.reencryptions
    row = connection.execute(sa.select(table).where(table.c.store == store, table.c.tenant == "")).first()
    if row is None or row.target != target:
        return None, 0, False
    return msgspec.json.decode(row.cursor), row.done, row.finished


def _keep(
    connection: Connection, key: dict[str, str], target: str, place: Any, done: int, finished: bool, now: datetime
) -> None:
    values = {
        "target": target,
        "cursor": msgspec.json.encode(place).decode(),
        "done": done,
        "finished": finished,
        "updated_at": microseconds(now),
    }
    statement = upsert(schema.reencryptions).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(set_=values))
