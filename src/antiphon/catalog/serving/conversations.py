"""Conversations of applications: their turns, as later prompts show them.

Invariants: turns are only ever added at the end, by compare-and-swap on their number, so that of two requests that go
on from the same turn one is refused. A turn's texts are its own: deleting a conversation takes them from no receipt.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import SealedRows, missing, row_of, value_of
from antiphon.core.errors import ConflictError, WriteConflictError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import ChatTurn


class ConversationRecord(msgspec.Struct, frozen=True):
    """A conversation, apart from what was said in it.

    Attributes:
        subject: keyed hash (hex) of the entity's keys; ``speaker``: of the user, or of the principal without one.
        release: the one that answered last.
        rollout: the rollout in whose arm it began, if it did.
        turns: their number.
    """

    id: str
    scope: Scope
    application: str
    subject: str
    speaker: str
    release: str
    rollout: str | None
    turns: int
    created_at: datetime
    updated_at: datetime


class ConversationTurn(msgspec.Struct, frozen=True):
    """A question and its answer.

    Attributes:
        number: from 1.
        prediction: of the answer; empty for a turn that the caller gave and that was not answered here.
        shown: the question as the prompt shows it: its template with the features of its moment.
        prints: those features, as they were printed.
        first: number of the first turn that stood whole in this turn's prompt.
        summary: of the turns before that one, as the prompt showed it.
        transcript: keyed hash of all that was said up to its answer.
        exchanged: calls of tools and their results, as the prompt shows them between question and answer.
    """

    number: int
    prediction: str
    question: str
    shown: str
    answer: str
    prints: dict[str, str | None] = {}
    first: int = 1
    summary: str = ""
    transcript: str = ""
    exchanged: tuple[ChatTurn, ...] = ()


class TurnPlace(msgspec.Struct, frozen=True):
    """A turn's place: its conversation and number."""

    conversation: str
    number: int


_table, _turns = schema.conversations, schema.conversation_turns
_LATEST_FIRST = (_table.c.updated_at.desc(), _table.c.id.desc())


class Conversations:
    """Repository of conversations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "conversation_turns.payload", ConversationTurn)

    def get(self, scope: Scope, id: str) -> ConversationRecord:
        """A conversation by id.

        Raises:
            NotFoundError: there is none here.
        """
        row = self._database.first(select(_table).where(schema.owned(_table, scope, id=id)))
        if row is None:
            raise missing("conversation", id, scope, "Leave it out to begin one.")
        return value_of(ConversationRecord, row)

    def turns(self, scope: Scope, id: str, through: int | None = None) -> builtins.list[ConversationTurn]:
        """The turns of a conversation, or those up to one, in order."""
        conditions = [_turns.c.conversation == id]
        if through is not None:
            conditions.append(_turns.c.number <= through)
        return self._documents.find(scope, *conditions, order=(_turns.c.number,))

    def of_prediction(self, scope: Scope, prediction: str) -> TurnPlace | None:
        """The turn that a prediction answered, preferably one that nothing follows."""
        return self._place(scope, _turns.c.prediction == prediction)

    def of_transcripts(self, scope: Scope, transcripts: Sequence[str]) -> TurnPlace | None:
        """The latest turn up to which one of these was said, preferably one that nothing follows."""
        return self._place(scope, _turns.c.transcript.in_(transcripts)) if transcripts else None

    def append(
        self,
        record: ConversationRecord,
        turns: Sequence[ConversationTurn],
        *,
        within: Connection | None = None,
    ) -> None:
        """Add turns; ``record`` is the conversation with them in it.

        Raises:
            WriteConflictError: another request added one meanwhile. ConflictError: it was deleted meanwhile.
        """
        scope, first = record.scope, turns[0].number
        with self._database.writing(within) as connection:
            if first == 1:
                connection.execute(insert(_table).values(row_of(_table, record)))
            else:
                self._extend(connection, record, first - 1)
            now = record.updated_at
            rows = [self._documents.row(one, scope, conversation=record.id, created_at=now) for one in turns]
            connection.execute(insert(_turns), rows)

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        subject: str | None = None,
        speaker: str | None = None,
        before: datetime | None = None,
        limit: int = 50,
    ) -> builtins.list[ConversationRecord]:
        """Conversations, the latest first; ``before``: those that went on before that moment."""
        conditions: builtins.list[ColumnElement[bool]] = [
            schema.owned(_table, scope),
            *schema.given(_table, application=application, subject=subject, speaker=speaker),
        ]
        if before is not None:
            conditions.append(_table.c.updated_at < before)
        rows = self._database.rows(select(_table).where(*conditions).order_by(*_LATEST_FIRST).limit(limit))
        return [value_of(ConversationRecord, row) for row in rows]

    def delete(self, scope: Scope, id: str) -> int:
        """Delete a conversation with its turns; returns how many turns there were.

        Raises:
            NotFoundError: there is none here.
        """
        self.get(scope, id)
        return self._deleted(scope, _table.c.id == id)["turns"]

    def forget(self, scope: Scope, subject: str) -> Mapping[str, int]:
        """Delete every conversation about a subject; returns how many ``conversations`` and ``turns`` there were."""
        return self._deleted(scope, _table.c.subject == subject)

    def _deleted(self, scope: Scope, condition: ColumnElement[bool]) -> Mapping[str, int]:
        ids = select(_table.c.id).where(schema.owned(_table, scope), condition)
        with self._database.transaction() as connection:
            of_these = schema.owned(_turns, scope) & _turns.c.conversation.in_(ids)
            turns = connection.execute(delete(_turns).where(of_these)).rowcount
            conversations = connection.execute(delete(_table).where(schema.owned(_table, scope), condition)).rowcount
        return {"conversations": conversations, "turns": turns}

    def _extend(self, connection: Connection, record: ConversationRecord, turns: int) -> None:
        own = schema.owned(_table, record.scope, id=record.id)
        values = {name: getattr(record, name) for name in ("release", "turns", "updated_at")}
        if connection.execute(update(_table).where(own, _table.c.turns == turns).values(values)).rowcount:
            return
        if connection.execute(select(func.count()).select_from(_table).where(own)).scalar():
            raise WriteConflictError(
                "Another request went on with the conversation meanwhile.",
                where="conversation",
                next_step="Wait for an answer before the next question, or begin another conversation.",
            )
        raise ConflictError(
            f"The conversation {record.id!r} was deleted meanwhile.",
            where="conversation",
            next_step="Leave it out to begin one.",
        )

    def _place(self, scope: Scope, condition: ColumnElement[bool]) -> TurnPlace | None:
        joined = _turns.join(
            _table,
            (_table.c.tenant == _turns.c.tenant)
            & (_table.c.environment == _turns.c.environment)
            & (_table.c.id == _turns.c.conversation),
        )
        statement = (
            select(_turns.c.conversation, _turns.c.number)
            .select_from(joined)
            .where(schema.owned(_turns, scope), condition)
            .order_by(_turns.c.number.desc(), (_table.c.turns - _turns.c.number), *_LATEST_FIRST)
            .limit(1)
        )
        row = self._database.first(statement)
        return None if row is None else TurnPlace(row.conversation, row.number)
