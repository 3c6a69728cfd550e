"""Stored answers: found again by release, subject and question, or by an identical prompt."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, delete
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.receipt import Path, UsageReceipt
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


# Built once: it runs for every answer that may be served again.
_put = upsert(schema.answers).on_conflict_replace("as_of", "created_at", "prompt_key", "document")


class Answers:
    """Repository of stored answers."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "answers.document", StoredAnswer)

    def put(self, answer: StoredAnswer, *, within: Connection | None = None) -> None:
        """Store an answer, or confirm one: the same prediction put again replaces what was stored of it."""
        row = self._documents.row(answer, created_at=self._database.clock.now())
        with self._database.writing(within) as connection:
            connection.execute(_put, row)

    def latest(
        self, scope: Scope, release: str, subject: str, question_hash: str, *, as_of: datetime | None = None
    ) -> StoredAnswer | None:
        """The answer with the latest event time, not later than ``as_of`` when that is given."""
        c = schema.answers.c
        conditions = [c.release == release, c.subject == subject, c.question_hash == question_hash]
        if as_of is not None:
            conditions.append(c.as_of <= as_of)
        return self._first(scope, *conditions)

    def by_prompt(self, scope: Scope, prompt_key: str) -> StoredAnswer | None:
        """The latest answer that was made from an identical prompt, whatever its release, subject and question."""
        return self._first(scope, schema.answers.c.prompt_key == prompt_key)

    def forget(self, scope: Scope, subject: str) -> int:
        """Delete every stored answer about a subject; returns how many there were."""
        table = schema.answers
        return self._database.write(delete(table).where(schema.owned(table, scope, subject=subject)))

    def _first(self, scope: Scope, *conditions: ColumnElement[bool]) -> StoredAnswer | None:
        c = schema.answers.c
        order = (c.as_of.desc(), c.created_at.desc(), c.prediction.desc())
        found = self._documents.find(scope, *conditions, order=order, limit=1)
        return found[0] if found else None
