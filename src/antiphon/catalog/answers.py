"""Stored answers: found again by release, subject and question, or by an identical prompt."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.receipts import Path, UsageReceipt
from antiphon.core.clock import microseconds
from antiphon.core.scope import Scope


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer that may be served again.

    Attributes:
        release: the release it is found by; an arm of a rollout has a namespace of its own, ``RELEASE~ROLLOUT``.
        subject: keyed hash (hex) of the entity keys.
        question_hash: hash of the question's words.
        fingerprint: of the printed figures it was made from.
        prompt_key: hash of engine fingerprint, prompt, decoding, schema, guards and printed figures: the same
            key gives the same text.
        prediction: the prediction that generated it; ``text_blob`` its final text.
        as_of: event time at which it was last made or confirmed.
        classes: class probabilities, by property and label.
        usage: what generating it cost; ``seconds`` how long it took.
    """

    scope: Scope
    release: str
    subject: str
    question_hash: str
    fingerprint: str
    prompt_key: str
    prediction: str
    as_of: datetime
    text_blob: str
    finish_reason: str
    classes: dict[str, dict[str, float]]
    usage: UsageReceipt
    seconds: float
    origin_path: Path
    made_path: Path
    """The path that put it here last: ``batch`` for a precomputed answer."""
    replaced: bool = False
    """True where the text is a guard's fallback."""


_SCHEMA = "answer/1"
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StoredAnswer)

# Built once: it runs for every answer that may be served again.
_put = insert(schema.answers)
_put = _put.on_conflict_do_update(
    set_={name: _put.excluded[name] for name in ("as_of", "created_at", "prompt_key", "document")}
)


class Answers:
    """Repository of stored answers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, answer: StoredAnswer, *, within: Connection | None = None) -> None:
        """Store an answer, or confirm one: the same prediction put again replaces what was stored of it."""
        row = {
            "tenant": answer.scope.tenant,
            "environment": answer.scope.environment,
            "release": answer.release,
            "subject": answer.subject,
            "question_hash": answer.question_hash,
            "prediction": answer.prediction,
            "as_of": microseconds(answer.as_of),
            "created_at": microseconds(self._database.clock.now()),
            "prompt_key": answer.prompt_key,
            "document": self._database.seal(
                answer.scope,
                _SCHEMA,
                f"{answer.release}:{answer.subject}:{answer.question_hash}:{answer.prediction}",
                _encoder.encode(answer),
            ),
        }
        with self._database.writing(within) as connection:
            connection.execute(_put, row)

    def latest(
        self,
        scope: Scope,
        release: str,
        subject: str,
        question_hash: str,
        *,
        as_of: datetime | None = None,
        within: Connection | None = None,
    ) -> StoredAnswer | None:
        """The answer with the latest event time, not later than ``as_of`` when that is given."""
        table = schema.answers
        condition = (
            (table.c.release == release) & (table.c.subject == subject) & (table.c.question_hash == question_hash)
        )
        if as_of is not None:
            condition &= table.c.as_of <= microseconds(as_of)
        return self._first(scope, condition, within)

    def by_prompt(self, scope: Scope, prompt_key: str, *, within: Connection | None = None) -> StoredAnswer | None:
        """The latest answer that was made from an identical prompt, whatever its release, subject and question."""
        return self._first(scope, schema.answers.c.prompt_key == prompt_key, within)

    def forget(self, scope: Scope, subject: str, *, within: Connection | None = None) -> int:
        """Delete every stored answer about a subject; returns how many there were."""
        table = schema.answers
        with self._database.writing(within) as connection:
            return connection.execute(
                delete(table).where(schema.owned(table, scope), table.c.subject == subject)
            ).rowcount

    def _first(self, scope: Scope, condition: ColumnElement[bool], within: Connection | None) -> StoredAnswer | None:
        table = schema.answers
        statement = (
            select(table.c.document, table.c.release, table.c.subject, table.c.question_hash, table.c.prediction)
            .where(schema.owned(table, scope), condition)
            .order_by(table.c.as_of.desc(), table.c.created_at.desc(), table.c.prediction.desc())
            .limit(1)
        )
        with self._database.reading(within) as connection:
            row = connection.execute(statement).first()
        if row is None:
            return None
        subject = f"{row.release}:{row.subject}:{row.question_hash}:{row.prediction}"
        return _decoder.decode(self._database.unseal(scope, _SCHEMA, subject, row.document))
