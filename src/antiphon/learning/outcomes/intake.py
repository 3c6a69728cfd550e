"""Takes outcomes: matches each to its predictions and records it with its status.

Invariants: an outcome that was taken is on disk, whatever its status; of one prediction's labels the first that
came inside the declared window is joined and stays; sending an outcome again changes nothing; senders at the same
time cannot both be first, because what is known is read in the transaction that writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.learning.outcomes import OutcomeKind, OutcomeRecord, Outcomes, OutcomeStatus
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.learning.outcomes.matching import MatchedOutcome, MatchedPrediction, OutcomeMatcher
from antiphon.learning.outcomes.submission import OutcomeSubmission, sent_again

JoinedPlace = tuple[str, OutcomeKind, str]
"""Prediction, kind and name of an outcome: of each the first is joined."""

_STILL_EXPECTED = timedelta(days=1)
_CHUNK = 100
"""Outcomes in one write transaction: answers wait for the same lock."""


class OutcomeResult(msgspec.Struct, frozen=True):
    """The result of taking an outcome: one record for each prediction it belongs to, or the error for which it is not
    kept."""

    outcomes: tuple[OutcomeRecord, ...] = ()
    error: AntiphonError | None = None

    @property
    def status(self) -> OutcomeStatus | None:
        """Of the first of its outcomes; ``unknown`` also where it names no application and an unknown prediction, and
        ``None`` when it was refused."""
        if self.outcomes:
            return self.outcomes[0].status
        of_no_prediction = isinstance(self.error, NotFoundError) and self.error.where == "prediction"
        return "unknown" if of_no_prediction else None


class _Undone(Exception):
    """Ends the transaction of a dry run."""


@dataclass(frozen=True)
class OutcomeJoiner:
    """Joins outcomes to predictions; ``matcher`` makes what matches the outcomes of one call."""

    database: Database
    outcomes: Outcomes
    matcher: Callable[[Scope], OutcomeMatcher]

    def with_applications(self, scope: Scope, arriving: Sequence[OutcomeSubmission]) -> tuple[OutcomeSubmission, ...]:
        """The same outcomes, before any right is asked about; one that names a prediction and no application has that
        of the prediction's receipt, where there is one."""
        return self.matcher(scope).with_applications(arriving)

    def take(self, scope: Scope, principal: str, arriving: OutcomeSubmission) -> OutcomeResult:
        """Takes one outcome.

        Raises:
            NotFoundError: there is no such application, or it names none and an unknown prediction.
            InvalidInputError: the value is none the application knows, the outcome lies before its prediction or in the
                future, or the prediction is one that no user saw.
            ConflictError: its id was used for another outcome.
        """
        (taken,) = self.take_many(scope, principal, (arriving,))
        if taken.error is not None:
            raise taken.error
        return taken

    def take_many(
        self, scope: Scope, principal: str, arriving: Sequence[OutcomeSubmission], *, dry_run: bool = False
    ) -> list[OutcomeResult]:
        """Takes outcomes in order; one that is refused carries its error, and the others are taken all the same. A dry
        run returns the results and keeps nothing."""
        taken: list[OutcomeResult] = []
        matcher = self.matcher(scope)
        for start in range(0, len(arriving), _CHUNK):
            chunk: list[MatchedOutcome | AntiphonError] = []
            for sent in arriving[start : start + _CHUNK]:
                try:
                    chunk.append(matcher.match(sent))
                except (InvalidInputError, NotFoundError) as error:
                    chunk.append(error)
            taken += self._take_chunk(scope, principal, chunk, dry_run)
        return taken

    def rejoin(
        self, scope: Scope, application: str | None = None, *, since: datetime | None = None, most: int = 5_000
    ) -> int:
        """Looks again for the predictions of unknown outcomes: a receipt may be committed after its outcome came.

        Args:
            since: only those that arrived since this instant of wall time; in the last day by default.
            most: of outcomes to look at, latest first.

        Returns:
            How many are unknown no more.
        """
        joined = seen = 0
        last: OutcomeRecord | None = None
        matcher = self.matcher(scope)
        earliest = since if since is not None else self.database.clock.now() - _STILL_EXPECTED
        while seen < most:
            page = self.outcomes.unknown(scope, application, since=earliest, after=last, limit=min(_CHUNK, most - seen))
            if not page:
                break
            seen, last = seen + len(page), page[-1]
            for unknown in page:
                try:
                    sent = matcher.match(sent_again(unknown))
                except (InvalidInputError, NotFoundError):
                    continue  # It stays unknown; it may have been sent by mistake.
                if sent.predictions:
                    joined += self._join(scope, unknown, sent)
        return joined

    def _join(self, scope: Scope, unknown: OutcomeRecord, sent: MatchedOutcome) -> bool:
        with self.database.transaction() as connection:
            known = self._labels(scope, [sent], connection)
            by = [self._outcome(scope, unknown.principal, sent, prediction, known) for prediction in sent.predictions]
            recorded = self.outcomes.find(scope, [one.id for one in by if one.id != unknown.id], within=connection)
            return self.outcomes.replace(unknown, [one for one in by if one.id not in recorded], within=connection)

    def _take_chunk(
        self, scope: Scope, principal: str, chunk: Sequence[MatchedOutcome | AntiphonError], dry_run: bool
    ) -> list[OutcomeResult]:
        taken: list[OutcomeResult] = []
        with suppress(_Undone), self.database.transaction() as connection:
            sound = [sent for sent in chunk if isinstance(sent, MatchedOutcome)]
            known = self._labels(scope, sound, connection)
            recorded = self.outcomes.find(
                scope, [one for sent in sound for one in sent.identities()], within=connection
            )
            for sent in chunk:
                if isinstance(sent, AntiphonError):
                    taken.append(OutcomeResult(error=sent))
                    continue
                try:
                    records = self._take_sound(scope, principal, sent, known, recorded, connection)
                    taken.append(OutcomeResult(records))
                except ConflictError as error:
                    taken.append(OutcomeResult(error=error))
            if dry_run:
                raise _Undone
        return taken

    def _take_sound(
        self,
        scope: Scope,
        principal: str,
        sent: MatchedOutcome,
        known: dict[JoinedPlace, OutcomeRecord],
        recorded: dict[str, OutcomeRecord],
        connection: Connection,
    ) -> tuple[OutcomeRecord, ...]:
        unknown = recorded.get(sent.identity(sent.arriving.prediction))
        if not sent.predictions:
            if unknown is None:
                unknown = self._unknown(scope, principal, sent)
                self.outcomes.add(unknown, within=connection)
                recorded[unknown.id] = unknown
            _same(sent, unknown)
            return (unknown,)
        became: list[OutcomeRecord] = []
        fresh: list[OutcomeRecord] = []
        for prediction in sent.predictions:
            before = recorded.get(sent.identity(prediction.receipt.prediction))
            if before is not None and before.status != "unknown":
                _same(sent, before)
                became.append(before)
                continue
            outcome = self._outcome(scope, principal, sent, prediction, known)
            fresh.append(outcome)
            became.append(outcome)
        if unknown is not None and unknown.status == "unknown":
            _same(sent, unknown)
            self.outcomes.replace(unknown, fresh, within=connection)
            recorded.pop(unknown.id, None)
        else:
            for outcome in fresh:
                self.outcomes.add(outcome, within=connection)
        for outcome in fresh:
            recorded[outcome.id] = outcome
        return tuple(became)

    def _labels(
        self, scope: Scope, sent: Sequence[MatchedOutcome], connection: Connection
    ) -> dict[JoinedPlace, OutcomeRecord]:
        """Returns the outcomes joined so far, by prediction, kind and name: the first of each."""
        predictions = [prediction.receipt.prediction for each in sent for prediction in each.predictions]
        known: dict[JoinedPlace, OutcomeRecord] = {}
        for outcome in self.outcomes.joined(scope, predictions, within=connection):
            known.setdefault((outcome.prediction or "", outcome.kind, outcome.outcome), outcome)
        return known

    def _outcome(
        self,
        scope: Scope,
        principal: str,
        sent: MatchedOutcome,
        prediction: MatchedPrediction,
        known: dict[JoinedPlace, OutcomeRecord],
    ) -> OutcomeRecord:
        declared, receipt = sent.declared, prediction.receipt
        now = self.database.clock.now()
        available_at = sent.arriving.available_at or max(now, receipt.as_of)
        common = _common(scope, principal, sent, now)
        place = (receipt.prediction, declared.kind, common["outcome"])
        first = known.get(place)
        status: OutcomeStatus = "joined"
        if declared.window is not None and available_at > receipt.as_of + declared.window:
            status = "late"
        elif first is not None and first.value == declared.value:
            status = "duplicate"
        elif first is not None and declared.said_once:
            status = "contradictory"
        outcome = OutcomeRecord(
            id=sent.identity(receipt.prediction),
            status=status,
            available_at=available_at,
            prediction=receipt.prediction,
            release=receipt.release,
            role=receipt.role,
            as_of=receipt.as_of,
            probabilities=prediction.probabilities,
            said=prediction.said,
            scores=prediction.scores,
            entity=prediction.entity,
            **common,
        )
        if status == "joined":
            known.setdefault(place, outcome)
        return outcome

    def _unknown(self, scope: Scope, principal: str, sent: MatchedOutcome) -> OutcomeRecord:
        arriving, now = sent.arriving, self.database.clock.now()
        return OutcomeRecord(
            id=sent.identity(arriving.prediction),
            status="unknown",
            available_at=arriving.available_at or max(now, arriving.at or now),
            entity=dict(arriving.entity or {}),
            **_common(scope, principal, sent, now),
        )


def _common(scope: Scope, principal: str, sent: MatchedOutcome, now: datetime) -> dict[str, Any]:
    """Fields of a record that do not depend on a prediction."""
    arriving, declared = sent.arriving, sent.declared
    return {
        "scope": scope,
        "application": sent.application.name,
        "outcome": declared.name,
        "kind": declared.kind,
        "value": declared.value,
        "created_at": now,
        "principal": principal,
        "reference": sent.reference,
        "named": arriving.prediction,
        "at": arriving.at,
    }


def _same(sent: MatchedOutcome, recorded: OutcomeRecord) -> None:
    declared = sent.declared
    if (recorded.kind, recorded.value, recorded.outcome) != (declared.kind, declared.value, declared.name):
        raise ConflictError(
            f"The id {sent.reference!r} was used for another outcome.",
            where="id",
            next_step="Give each outcome an id of its own.",
        )
