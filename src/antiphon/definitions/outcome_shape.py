"""Forms of outcomes: a declared outcome held against the output's schema, and the metrics that its form has.

A property with an enum of texts has a label, one of type number or integer a number between its bounds, one of type
string a reference text, one of type object a corrected value. Without a property the whole output is corrected, and a
free text has a reference.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, content_hash

OutcomeForm = Literal["label", "number", "reference", "correction"]
"""Forms of truth that evaluations, gates and the comparison in shadow measure with."""

METRIC_TITLES: dict[OutcomeForm, dict[str, str]] = {
    "label": {
        "auc": "AUC",
        "brier": "Brier score",
        "log_loss": "log-loss",
        "accuracy": "accuracy",
        "macro_f1": "macro-F1",
        "calibration_error": "calibration error",
    },
    "number": {"mae": "mean absolute error", "rmse": "root mean squared error"},
    "reference": {
        "chrf": "chrF",
        "rouge_l": "ROUGE-L",
        "exact_match": "exact match",
        "length_gap": "length difference",
    },
    "correction": {
        "field_f1": "F1 of fields",
        "field_match": "fields that match",
        "output_match": "outputs that match",
    },
}
"""The metrics of each form of outcome: name to title."""

_DECIDING: dict[OutcomeForm, str] = {"label": "brier", "number": "mae", "reference": "chrf", "correction": "field_f1"}

_WHOLE_TEXT, _WHOLE_OUTPUT = "text", "output"
"""Names of outcomes that are about no property."""


class OutcomeShape(msgspec.Struct, frozen=True):
    """An outcome with what its property may be.

    Attributes:
        name: by which feedback, metrics and gates name it.
        labels: of a label, all there are, in order.
        low, high: of a number, its declared bounds.
        sample: share of the predictions that are told about and compared in shadow.
        delay: seconds after a prediction's moment before its outcome is taken; ``None``: no rule of its own.
    """

    name: str
    form: OutcomeForm
    property: str | None
    positive: str | None = None
    labels: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    sample: float = 1.0
    delay: float | None = None

    @builtins.property
    def span(self) -> float:
        """The distance of the worst value of the metric that decides in shadow from the best, in its own unit."""
        return self.high - self.low if self.form == "number" else 1.0

    @builtins.property
    def deciding(self) -> str:
        """The metric that decides in shadow: the Brier score, the mean absolute error, chrF, or F1 of fields."""
        return _DECIDING[self.form]

    @builtins.property
    def deciding_title(self) -> str:
        """Its title."""
        return METRIC_TITLES[self.form][self.deciding]

    def in_unit(self, loss: float) -> float:
        """A loss from 0 to 1 as a value of the metric that decides, in its own unit."""
        return loss * self.span if self.form in ("label", "number") else 1.0 - loss

    def sampled(self, prediction: str) -> bool:
        """Tells whether a prediction is in the sample: by a hash of its id, which no answer changes."""
        return self.sample >= 1 or int(content_hash(["sample", prediction])[:8], 16) < self.sample * 2**32

    def admits(self, value: str) -> bool:
        """Tells whether a kept value can be one of this outcome, whose declaration may have changed since."""
        if self.form == "number":
            return number_of(value) is not None
        return self.form != "label" or not self.labels or value in self.labels

    def value(self, sent: object) -> str:
        """A value of this outcome as it is kept, the same text for the same value.

        Raises:
            InvalidInputError: it is none.
        """
        if self.form == "correction":
            return _corrected(sent, self.name)
        if self.form != "number":
            return str(sent)
        number = number_of(sent)
        if number is None:
            raise InvalidInputError(
                f"{str(sent)[:60]!r} is no number, and {self.name} is one.",
                where="value",
                next_step=f"Send a number, between {self.low:g} and {self.high:g} as a rule.",
            )
        return number_text(number)


ANY_LABEL = OutcomeShape("", "label", None)
"""A label, where it does not matter which."""


def number_of(value: object) -> float | None:
    """A number, or a text that is one; ``None`` for anything else and for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def number_text(number: float) -> str:
    """A number in the one way in which it is kept: ``12`` for 12.0."""
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def _corrected(sent: object, name: str) -> str:
    try:
        value = msgspec.json.decode(sent) if isinstance(sent, str) else sent
    except (msgspec.DecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInputError(
            f"{str(sent)[:60]!r} is no JSON object, and {name} is a corrected output.",
            where="value",
            next_step="Send the output as it should have been, as an object or its JSON text.",
        )
    return canonical(value).decode()


def shape_of(property: str | None, positive: str | None, name: str, schema: Mapping[str, Any] | None) -> OutcomeShape:
    """A declared outcome held against the output's schema.

    Raises:
        InvalidInputError: its property can have no outcome; says why.
    """
    name = name or property or (_WHOLE_TEXT if schema is None else _WHOLE_OUTPUT)
    if property is None:
        if positive is not None:
            raise InvalidInputError("positive names a label, and no property is named.", where="outcome.positive")
        return OutcomeShape(name, "reference" if schema is None else "correction", None)
    described = (schema or {}).get("properties", {}).get(property)
    if not isinstance(described, Mapping):
        known = ", ".join((schema or {}).get("properties", {})) or "none"
        raise InvalidInputError(
            f"property {property!r} is no property of the output ({known}).", where="outcome.property"
        )
    labels = described.get("enum")
    if labels and all(isinstance(label, str) for label in labels):
        if positive is not None and positive not in labels:
            raise InvalidInputError(f"positive {positive!r} is no value of {property!r}.", where="outcome.positive")
        return OutcomeShape(name, "label", property, positive, tuple(labels))
    if positive is not None:
        raise InvalidInputError(
            f"positive names a label, and {property!r} has no enum of texts.", where="outcome.positive"
        )
    if described.get("type") in ("number", "integer") and not labels:
        low, high = (number_of(described.get(bound)) for bound in ("minimum", "maximum"))
        if low is None or high is None or not low < high:
            raise InvalidInputError(
                f"property {property!r} is a number and needs a minimum and a maximum in the output: they say "
                "what is far off.",
                where="outcome.property",
            )
        return OutcomeShape(name, "number", property, low=low, high=high)
    if described.get("type") == "string" and not labels:
        return OutcomeShape(name, "reference", property)
    if described.get("type") == "object" and not labels:
        return OutcomeShape(name, "correction", property)
    raise InvalidInputError(
        f"property {property!r} has no outcome: only an enum of texts, a bounded number, a string or an object has.",
        where="outcome.property",
    )


def metric_key(shape: OutcomeShape, metric: str, first: bool) -> str:
    """A metric's name in evaluations and gates: ``OUTCOME.METRIC`` for all outcomes but the first."""
    return metric if first else f"{shape.name}.{metric}"


def metric_names(shapes: Sequence[OutcomeShape]) -> Iterator[str]:
    """Every metric of an application's outcomes, as gates name them."""
    for place, shape in enumerate(shapes):
        for name in METRIC_TITLES[shape.form]:
            yield metric_key(shape, name, place == 0)
