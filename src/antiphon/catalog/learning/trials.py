"""Prompt trials: what a draft answered to sampled production requests.

Invariant: a trial names predictions and holds figures; the texts are those of the predictions, and go with them.
"""

from __future__ import annotations

import builtins
from datetime import datetime

import msgspec
from sqlalchemy import delete
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.releases.releases import Bundle
from antiphon.catalog.rows import SealedRows
from antiphon.core.scope import Scope


class AnswerFigures(msgspec.Struct, frozen=True):
    """Figures of one answer.

    Attributes:
        prediction: whose text it is; ``None`` where there was none.
        error: code of the error in its place, ``reason`` in words.
        valid: whether the first attempt, as the model wrote it, meets the schema (without one: is not empty).
        characters: of the text as it was served.
        prompt_tokens, completion_tokens, engine_seconds: of all attempts.
        seconds: wall seconds; an answer of a trial is made at batch priority.
        guards: what guards did, without those that let it pass.
        own: values of the metrics that the tried application declares, of functions and of judge models; ``own_failed``
            why others have none.
    """

    prediction: str | None = None
    error: str | None = None
    reason: str = ""
    valid: bool | None = None
    characters: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    engine_seconds: float = 0.0
    seconds: float = 0.0
    guards: tuple[str, ...] = ()
    fingerprint: str = ""
    own: dict[str, float] = {}
    own_failed: dict[str, str] = {}


class TrialAnswer(msgspec.Struct, frozen=True):
    """One production request and what the draft answered to it.

    Attributes:
        request: the prediction that users got.
        live: figures of that; ``draft`` those of the draft's answer.
        identical: whether both texts, as served, are the same bytes; ``None`` without an answer.
    """

    request: str
    live: AnswerFigures
    draft: AnswerFigures
    identical: bool | None = None


class Trial(msgspec.Struct, frozen=True):
    """A release or draft, tried on a sample of production requests.

    Attributes:
        release: a release's id, or ``draft_`` and a hash of what would be one; ``bundle`` is all of it.
        prompt: version of its prompt.
        sample: as it was drawn, in words; ``erased``: requests left out because a text of theirs is erased.
    """

    id: str
    scope: Scope
    application: str
    release: str
    prompt: str
    bundle: Bundle
    answers: tuple[TrialAnswer, ...]
    sample: str
    erased: int
    author: str
    created_at: datetime

    @property
    def identical(self) -> int:
        """Answers that are production's, byte for byte."""
        return sum(one.identical is True for one in self.answers)


class Trials:
    """Repository of trials. A trial never changes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "prompt_trials.document", Trial)

    def add(self, trial: Trial, *, within: Connection | None = None) -> Trial:
        """Record a trial in the place of the answers that were kept for it. Of two processes that made the same one,
        the first records it, and both get that."""
        kept, scope = schema.evaluation_answers, trial.scope
        with self._database.writing(within) as connection:
            row = self._documents.row(trial)
            connection.execute(upsert(schema.prompt_trials).values(row).on_conflict_do_nothing())
            connection.execute(delete(kept).where(schema.owned(kept, scope, evaluation=trial.id)))
            return self.get(scope, trial.id, within=connection)

    def get(self, scope: Scope, trial: str, *, within: Connection | None = None) -> Trial:
        """One trial; raises ``NotFoundError`` when there is none of this id here."""
        return self._documents.require(scope, trial, "trial", "Run `antiphon prompts try APPLICATION`.", within=within)

    def list(
        self, scope: Scope, application: str | None = None, release: str | None = None, limit: int = 50
    ) -> builtins.list[Trial]:
        """Trials, latest first."""
        table = schema.prompt_trials
        conditions = schema.given(table, application=application, release=release)
        order = (table.c.created_at.desc(), table.c.id.desc())
        return self._documents.find(scope, *conditions, order=order, limit=limit)
