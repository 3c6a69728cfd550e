"""Outcomes as they are sent, and what can be wrong with one in itself, before any prediction is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from antiphon.catalog.learning.outcomes import OutcomeKind, OutcomeRecord
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec

_VALUES: dict[OutcomeKind, tuple[str, ...]] = {"thumbs": ("up", "down")}
_LONGEST = 20_000
_BOOLEANS = {True: ("true", "t", "yes", "y", "1"), False: ("false", "f", "no", "n", "0")}


class OutcomeSubmission(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An outcome as it is sent: of one prediction, or of the predictions of a subject and moment.

    Attributes:
        application: whose prediction it is; also the ``model`` that was asked.
        value: the label, ``up`` or ``down``, the corrected text, the remark.
        prediction: the prediction's id; otherwise
        entity, at: the entity keys and the moment of the question.
        available_at: when it was known (event time); now by default, and never before the prediction's moment.
        id: the sender's own id, unique in the application; a hash of the content by default.
    """

    application: str
    value: str
    kind: OutcomeKind = "label"
    prediction: str | None = None
    entity: dict[str, str] | None = None
    at: datetime | None = None
    available_at: datetime | None = None
    id: str | None = None


def in_utc(sent: OutcomeSubmission) -> OutcomeSubmission:
    """The same with its instants in UTC, so that one instant is written in one way; raises ``InvalidInputError`` for
    one without a zone."""
    return msgspec.structs.replace(
        sent,
        at=None if sent.at is None else utc(sent.at),
        available_at=None if sent.available_at is None else utc(sent.available_at),
    )


def check_value(sent: OutcomeSubmission, application: ApplicationSpec) -> None:
    """Raises ``InvalidInputError``, with what may be sent, for a value that the application cannot mean."""
    if not sent.value or len(sent.value) > _LONGEST:
        raise InvalidInputError(
            f"The value has {len(sent.value)} characters.", where="value", next_step=f"Send 1 to {_LONGEST}."
        )
    allowed = _VALUES.get(sent.kind)
    if sent.kind == "label":
        if application.outcome is None:
            raise InvalidInputError(
                f"The application {application.name!r} declares no outcome, so it knows no label.",
                where="kind",
                next_step="Declare Application(outcome=Outcome(...)) and apply, or send another kind.",
            )
        allowed = labels_of(application)
    if allowed is not None and sent.value not in allowed:
        raise InvalidInputError(
            f"{sent.value!r} is no {sent.kind} of {application.name!r}.",
            where="value",
            next_step=f"Send one of {', '.join(allowed)}.",
        )


def labels_of(application: ApplicationSpec) -> tuple[str, ...]:
    """The labels of the declared outcome, in their order; raises ``InvalidInputError`` when none is declared."""
    if application.outcome is None:
        raise InvalidInputError(
            f"The application {application.name!r} declares no outcome.",
            where="application",
            next_step="Declare Application(outcome=Outcome(...)) and apply.",
        )
    return application.labels


def label_text(value: object, labels: Sequence[str]) -> str | None:
    """A table's value as the label it means: readers take ``yes`` for a boolean and ``1`` for a number.

    What means none of ``labels`` comes back as its plain text.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        words = _BOOLEANS[value]
        return next((label for label in labels if label.lower() in words), str(value).lower())
    if isinstance(value, int | float):
        return next((label for label in labels if _number(label) == value), str(value))
    return str(value)


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def check_whose(sent: OutcomeSubmission, application: ApplicationSpec) -> None:
    """Raises ``InvalidInputError`` for an outcome that does not say whose it is: one prediction's, or a subject's at a
    moment."""
    if sent.prediction is not None:
        if sent.entity is not None or sent.at is not None:
            raise InvalidInputError(
                "The outcome names a prediction and also a subject and moment.",
                where="prediction",
                next_step="Send either prediction, or entity and at.",
            )
        return
    if sent.entity is None or sent.at is None:
        raise InvalidInputError(
            "The outcome says neither which prediction it is of, nor of which subject and moment.",
            where="prediction",
            next_step="Send prediction, or entity and at.",
        )
    if sorted(sent.entity) != sorted(application.entity_keys):
        raise InvalidInputError(
            f"The entity has the keys {', '.join(sorted(sent.entity)) or '(none)'}.",
            where="entity",
            next_step=f"Send exactly these: {', '.join(application.entity_keys) or '(none)'}.",
        )


def reference_of(sent: OutcomeSubmission) -> str:
    """The sender's id, or a hash of what was sent."""
    content = [sent.prediction, sent.entity, sent.at, sent.kind, sent.value, sent.available_at]
    return sent.id or content_hash(content)[:32]


def sent_again(unknown: OutcomeRecord) -> OutcomeSubmission:
    """A recorded outcome as it had been sent, to look for its predictions once more."""
    named = unknown.named is not None
    return OutcomeSubmission(
        application=unknown.application,
        value=unknown.value,
        kind=unknown.kind,
        prediction=unknown.named,
        entity=None if named else unknown.entity,
        at=None if named else unknown.at,
        available_at=unknown.available_at,
        id=unknown.reference,
    )
