"""Matches an arriving outcome to its predictions and refuses one that cannot be true of them.

Invariant: what is refused or found depends on the outcome, the declared application and committed receipts alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES, Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.learning.evaluation.metrics import scoring_of
from antiphon.learning.outcomes.submission import (
    DeclaredValue,
    OutcomeSubmission,
    check_whose,
    declared_value,
    in_utc,
    reference_of,
)
from antiphon.serving.answering.context import subject_of
from antiphon.serving.answering.probabilities import outcome_probabilities, said_of

_log = logging.getLogger(__name__)

AHEAD = timedelta(seconds=60)
"""Allowed difference of clocks before an outcome counts as one from the future."""

TOLERANCE = timedelta(seconds=1)
"""Allowed distance of a prediction's time from the time that a sender names."""

_MOST_OF_A_SUBJECT = 10_000


class MatchedPrediction(msgspec.Struct, frozen=True):
    """A prediction that an outcome belongs to, with its receipt and entity keys.

    Attributes:
        probabilities: those that it gave to the labels that are scored.
        said: the number that it said.
        scores: metrics of its text beside the reference, so that the text itself may be erased.
    """

    receipt: Receipt
    entity: dict[str, str]
    probabilities: dict[str, float] = {}
    said: str | None = None
    scores: dict[str, float] = {}


class MatchedOutcome(msgspec.Struct, frozen=True):
    """A valid outcome with the predictions that it belongs to."""

    arriving: OutcomeSubmission
    application: ApplicationSpec
    declared: DeclaredValue
    reference: str
    predictions: tuple[MatchedPrediction, ...]

    def identity(self, prediction: str | None) -> str:
        """The id under which it is recorded for a prediction, or for none yet."""
        return f"out_{content_hash([self.application.name, self.reference, prediction])[:26]}"

    def identities(self) -> list[str]:
        """The ids under which it may be recorded already."""
        named = self.arriving.prediction
        return [self.identity(named), *(self.identity(one.receipt.prediction) for one in self.predictions)]


@dataclass(frozen=True)
class OutcomeMatcher:
    """Matches the outcomes of one call; what it read of a subject it does not read again.

    Attributes:
        subject_key: the key by which serving hashes entity keys.
        texts: where receipts keep entity keys.
        applications: returns an application as it is applied; raises ``NotFoundError``.
        tolerance: how far a prediction's moment may be from the moment that a sender names.
    """

    scope: Scope
    _: KW_ONLY
    receipts: Receipts
    texts: Blobs
    applications: Callable[[Scope, str], ApplicationSpec]
    subject_key: bytes
    clock: Clock
    tolerance: timedelta = TOLERANCE
    _declared: dict[str, ApplicationSpec] = field(init=False, default_factory=dict)
    _subjects: dict[tuple[str, str], list[Receipt]] = field(init=False, default_factory=dict)

    def with_applications(self, arriving: Sequence[OutcomeSubmission]) -> tuple[OutcomeSubmission, ...]:
        """The same outcomes; one that names a prediction and no application has that of the prediction's receipt, where
        there is one."""
        open_ones = {sent.prediction for sent in arriving if sent.application is None and sent.prediction}
        known = self.receipts.applications(self.scope, sorted(open_ones)) if open_ones else {}
        return tuple(
            msgspec.structs.replace(sent, application=known.get(sent.prediction or ""))
            if sent.application is None
            else sent
            for sent in arriving
        )

    def match(self, arriving: OutcomeSubmission) -> MatchedOutcome:
        """The outcome with its predictions; none when they do not exist (yet).

        Raises:
            NotFoundError: there is no such application; of an outcome that names none, no such prediction.
            InvalidInputError: the outcome cannot be used; says why.
        """
        sent = in_utc(arriving)
        name = _named_application(sent)
        application = self._declared.get(name)
        if application is None:
            application = self.applications(self.scope, name)
            self._declared[name] = application
        declared = declared_value(sent, application)
        check_whose(sent, application)
        if sent.prediction is not None:
            receipts = self._named(sent.prediction, application)
        else:
            receipts = self._of_moment(sent.entity or {}, sent.at, application)
        for receipt in receipts:
            self._check_times(sent, receipt.as_of)
        if not receipts and sent.at is not None:
            self._check_times(sent, sent.at)
        elif not receipts and sent.available_at is not None:
            self._check_ahead(sent.available_at, None)
        predictions = tuple(
            MatchedPrediction(receipt, sent.entity or self._entity(receipt), **self._forecast(receipt, declared))
            for receipt in receipts
        )
        return MatchedOutcome(sent, application, declared, reference_of(sent, declared), predictions)

    def _named(self, prediction: str, application: ApplicationSpec) -> tuple[Receipt, ...]:
        try:
            receipt = self.receipts.get(self.scope, prediction)
        except NotFoundError:
            return ()
        if receipt.application != application.name:
            raise InvalidInputError(
                f"The prediction {prediction} is one of {receipt.application}, not of {application.name}.",
                where="prediction",
                next_step=f"Send it with application {receipt.application!r}, or without one.",
            )
        if receipt.role not in SEEN_ROLES + STAND_IN_ROLES:
            raise InvalidInputError(
                f"The prediction {prediction} was made for {receipt.role}: no user saw it.",
                where="prediction",
                next_step="Send the outcome of the prediction that the user was answered with.",
            )
        return (receipt,)

    def _of_moment(
        self, entity: Mapping[str, str], at: datetime | None, application: ApplicationSpec
    ) -> tuple[Receipt, ...]:
        assert at is not None  # check_whose
        subject = subject_of(self.subject_key, self.scope, entity)
        place = (application.name, subject)
        if place not in self._subjects:
            made = self.receipts.list(self.scope, application.name, subject=subject, limit=_MOST_OF_A_SUBJECT)
            self._subjects[place] = [*reversed(made)]
        return tuple(
            receipt
            for receipt in self._subjects[place]
            if receipt.role in SEEN_ROLES and abs(receipt.as_of - at) <= self.tolerance
        )

    def _check_times(self, sent: OutcomeSubmission, as_of: datetime) -> None:
        known = sent.available_at
        if known is None:
            return
        if known < as_of:
            raise InvalidInputError(
                f"An outcome before its prediction: it was known at {known.isoformat()}, and the question is as of "
                f"{as_of.isoformat()}.",
                where="available_at",
                next_step="Send the moment at which the outcome was known.",
            )
        self._check_ahead(known, as_of)

    def _check_ahead(self, known: datetime, as_of: datetime | None) -> None:
        # A replay may run ahead of the wall clock as a whole; then only its own moments tell what is the future.
        latest = self.clock.now() + AHEAD
        if known > latest and (as_of is None or as_of <= latest):
            raise InvalidInputError(
                f"An outcome from the future: it says that it is known at {known.isoformat()}.",
                where="available_at",
                next_step="Send it once it is known.",
            )

    def _forecast(self, receipt: Receipt, declared: DeclaredValue) -> dict[str, Any]:
        """The fields of a prediction about an outcome, as a :class:`MatchedPrediction` has it."""
        shape = declared.shape
        if shape is None:
            return {}
        if shape.form == "label" and (shape.positive is not None or receipt.classes.get(shape.property or "")):
            return {"probabilities": outcome_probabilities(shape, receipt.classes, "")}
        try:
            text = self.texts.get(self.scope, receipt.text_blob).decode()
        except NotFoundError:
            return {}  # erased: nothing says what it forecast
        if shape.form == "label":
            return {"probabilities": outcome_probabilities(shape, receipt.classes, text)}
        said = said_of(shape, text)
        if shape.form == "number" or said is None:
            return {"said": said}
        try:
            return {"scores": scoring_of(shape).of(said, declared.value)}
        except SetupError as error:
            _log.warning("A reference text is kept and not scored: %s", error)
            return {}

    def _entity(self, receipt: Receipt) -> dict[str, str]:
        try:
            return msgspec.json.decode(self.texts.get(self.scope, receipt.entity_blob), type=dict[str, str])
        except NotFoundError:
            return {}  # erased: the outcome is then in no slice


def _named_application(sent: OutcomeSubmission) -> str:
    """The application's name; raises for an outcome without one, of which :meth:`OutcomeMatcher.with_applications`
    found no receipt. It is not looked for here: the caller's right to it was not asked about."""
    if sent.application is not None:
        return sent.application
    if sent.prediction:
        raise NotFoundError(
            f"There is no prediction {sent.prediction!r} here: its outcome is not kept.",
            where="prediction",
            next_step="Check the id. With its application too an outcome is kept until its prediction is there.",
        )
    raise InvalidInputError(
        "The outcome names neither an application nor a prediction.",
        where="application",
        next_step="Send application, or prediction.",
    )
