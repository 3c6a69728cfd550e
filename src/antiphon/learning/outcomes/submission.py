"""Outcomes as they are sent, and what can be wrong with one in itself, before any prediction is looked for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from antiphon.catalog.learning.outcomes import OutcomeKind, OutcomeRecord
from antiphon.core.clock import parse_duration, utc
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape, number_of
from antiphon.definitions.signals import Signal

_UNDECLARED: tuple[OutcomeKind, ...] = ("thumbs", "correction", "text")
_LONGEST = 20_000
_BOOLEANS = {True: ("true", "t", "yes", "y", "1"), False: ("false", "f", "no", "n", "0")}


class OutcomeSubmission(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outcome as it is sent: of one prediction, or of the predictions of a subject and moment.

    Attributes:
        application: whose prediction it is; also the ``model`` that was asked. Of a named prediction that of its
            receipt by default.
        value: the label, the number, the reference, the corrected output, ``up`` or ``down``, the remark.
        outcome: name of a declared outcome or signal; the first outcome by default.
        kind: of what is no declared outcome: ``thumbs``, ``correction``, or ``text`` for a remark. That of the declared
            outcome by default; ``correction`` is of the first outcome that is one, where there is any.
        prediction: the prediction's id; otherwise
        entity, at: the entity keys and the moment of the question.
        available_at: when it was known (event time); now by default, and never before the prediction's moment.
        id: the sender's own id, unique in the application; a hash of the content by default.
    """

    application: str | None = None
    value: str | int | float | dict[str, Any]
    outcome: str | None = None
    kind: OutcomeKind | None = None
    prediction: str | None = None
    entity: dict[str, str] | None = None
    at: datetime | None = None
    available_at: datetime | None = None
    id: str | None = None


class DeclaredValue(msgspec.Struct, frozen=True):
    """A submission's value, held against its application.

    Attributes:
        value: as it is kept. kind: of the outcome.
        shape: the declared outcome; ``None`` for feedback that is none. window: in which it is waited for.
        signal: name of the declared signal; empty for what is none.
    """

    value: str
    kind: OutcomeKind
    shape: OutcomeShape | None
    window: timedelta | None
    signal: str = ""

    @property
    def name(self) -> str:
        """Name of the declared outcome or signal; empty for feedback that is neither."""
        return self.signal if self.shape is None else self.shape.name

    @property
    def said_once(self) -> bool:
        """True where the first value of a prediction stays, and another one contradicts it."""
        return self.shape is not None or self.kind in ("thumbs", "signal")


def in_utc(sent: OutcomeSubmission) -> OutcomeSubmission:
    """The same with its instants in UTC, so that one instant is written in one way; raises ``InvalidInputError`` for
    one without a zone."""
    return msgspec.structs.replace(
        sent,
        at=None if sent.at is None else utc(sent.at),
        available_at=None if sent.available_at is None else utc(sent.available_at),
    )


def declared_value(sent: OutcomeSubmission, application: ApplicationSpec) -> DeclaredValue:
    """The value with what the application means by it; raises ``InvalidInputError``, with what may be sent, for one
    that it cannot mean."""
    text = canonical(sent.value).decode() if isinstance(sent.value, dict) else str(sent.value)
    if not text or len(text) > _LONGEST:
        raise InvalidInputError(
            f"The value has {len(text)} characters.", where="value", next_step=f"Send 1 to {_LONGEST}."
        )
    corrected = next((one.name for one in application.shapes if one.form == sent.kind == "correction"), None)
    if (signal := _signal_named(sent, application)) is not None:
        if text not in signal.values:
            raise _none_of(text, signal.name, application, signal.values)
        known = sent.kind == "thumbs"
        window = parse_duration(signal.window)
        return DeclaredValue(text, "thumbs" if known else "signal", None, window, "" if known else signal.name)
    if sent.kind in _UNDECLARED and sent.outcome is None and corrected is None:
        first = application.outcome
        return DeclaredValue(text, sent.kind, None, None if first is None else parse_duration(first.window))
    shape, window = outcome_named(application, sent.outcome or corrected)
    if sent.kind is not None and sent.kind != shape.form:
        raise InvalidInputError(
            f"The outcome {shape.name!r} of {application.name!r} is a {shape.form}, not a {sent.kind}.",
            where="kind",
            next_step="Leave kind out: it follows from the outcome.",
        )
    if shape.form == "label" and text not in shape.labels:
        raise _none_of(text, "label", application, shape.labels)
    return DeclaredValue(shape.value(sent.value), shape.form, shape, window)


def outcome_named(application: ApplicationSpec, name: str | None) -> tuple[OutcomeShape, timedelta]:
    """A declared outcome with its window, the first one without a name; raises ``InvalidInputError`` when there is none
    of the name."""
    if application.outcome is None:
        raise InvalidInputError(
            f"The application {application.name!r} declares no outcome.",
            where="application",
            next_step="Declare Application(outcome=Outcome(...)) or signals=[Signal(...)] and apply, or send kind: "
            "thumbs, correction or text.",
        )
    for shape, outcome in zip(application.shapes, application.outcomes, strict=True):
        if name is None or shape.name == name:
            return shape, parse_duration(outcome.window)
    raise InvalidInputError(
        f"The application {application.name!r} declares no outcome named {name!r}.",
        where="outcome",
        next_step=f"Name one of {', '.join(_names(application))}.",
    )


def _signal_named(sent: OutcomeSubmission, application: ApplicationSpec) -> Signal | None:
    """The signal that is sent; ``None`` where it is something else."""
    if sent.kind == "thumbs" and sent.outcome is None:
        return application.signal("thumbs")
    if sent.kind not in (None, "signal") or sent.outcome is None or sent.outcome == "thumbs":
        return None
    return application.signal(sent.outcome)


def _names(application: ApplicationSpec) -> list[str]:
    return [shape.name for shape in application.shapes] + [one.name for one in application.signals or ()]


def _none_of(text: str, kind: str, application: ApplicationSpec, allowed: Sequence[str]) -> InvalidInputError:
    return InvalidInputError(
        f"{text[:60]!r} is no {kind} of {application.name!r}.",
        where="value",
        next_step=f"Send one of {', '.join(allowed)}.",
    )


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


def truth_text(value: object, shape: OutcomeShape) -> str | None:
    """A table's value as the truth of an outcome; ``None`` where it has none, or what is no number."""
    if shape.form == "label":
        return label_text(value, shape.labels)
    if value is None or value == "" or (shape.form == "number" and number_of(value) is None):
        return None
    return shape.value(value)


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
        if not sent.prediction:
            raise InvalidInputError(
                "The outcome names an empty prediction.", where="prediction", next_step="Send the id of the answer."
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


def reference_of(sent: OutcomeSubmission, declared: DeclaredValue) -> str:
    """The sender's id, or a hash of what was sent."""
    content = [sent.prediction, sent.entity, sent.at, declared.kind, declared.name, declared.value, sent.available_at]
    return sent.id or content_hash(content)[:32]


def sent_again(unknown: OutcomeRecord) -> OutcomeSubmission:
    """A recorded outcome as it had been sent, to look for its predictions once more."""
    named = unknown.named is not None
    return OutcomeSubmission(
        application=unknown.application,
        value=unknown.value,
        outcome=unknown.outcome or None,
        kind=unknown.kind,
        prediction=unknown.named,
        entity=None if named else unknown.entity,
        at=None if named else unknown.at,
        available_at=unknown.available_at,
        id=unknown.reference,
    )
