"""Writes the completion that an example teaches: what came true, a reference, a correction, or a template's words.

Invariant: a completion is spaced as the engine's grammar writes it, with the output's properties in the schema's order.
Of it only what the model decides is learned: what the grammar forces has weight 0. It ends before the first property of
which nothing is known: what the model would have to have written up to there cannot be said. Pure functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune
from antiphon.definitions.outcome_shape import OutcomeShape, number_of
from antiphon.engine.api.messages import ModelDescription
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.evaluation.scores import meets
from antiphon.serving.answering import prompts
from antiphon.training.examples import Part

_UNKNOWN = object()
"""The value of a property of which nothing is known."""


class CompletionWriter:
    """Collects the parts of a completion: forced text, and what is learned."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._forced = ""
        self._ends_itself = False

    def force(self, text: str) -> None:
        """Text that the grammar leaves no choice about. Where a number ends, the model says by what follows it."""
        if self._ends_itself:
            last = self.parts.pop()
            self.parts.append(msgspec.structs.replace(last, text=last.text + text[0]))
            text, self._ends_itself = text[1:], False
        self._forced += text

    def learn(self, text: str, weight: float, *, label: bool = False, number: bool = False) -> None:
        """Text that the model decides."""
        if self._forced:
            self.parts.append(Part(self._forced, 0.0))
            self._forced = ""
        self.parts.append(Part(text, weight, label=label))
        self._ends_itself = number

    def write(self, value: Any, described: Mapping[str, Any], weight: float) -> None:
        """A JSON value of a property: of an object every property for itself."""
        nested = described.get("properties")
        if isinstance(value, str):
            self.force('"')
            # The model ends a text itself, so that the closing quote is learned with it.
            self.learn(_inner(value) + '"', weight)
        elif isinstance(value, Mapping) and isinstance(nested, Mapping):
            self.force("{")
            for place, name in enumerate(one for one in nested if one in value):
                self.key(name, first=place == 0)
                self.write(value[name], nested[name], weight)
            self.force("}")
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            self.learn(json.dumps(value, ensure_ascii=False), weight, number=number)

    def key(self, name: str, *, first: bool) -> None:
        """The name of a property."""
        self.force(f"{'' if first else ', '}{json.dumps(name, ensure_ascii=False)}: ")

    def ended(self) -> tuple[Part, ...]:
        """The parts, with the forced text after the last one that is learned."""
        return (*self.parts, Part(self._forced, 0.0)) if self._forced else tuple(self.parts)


def completion(
    row: DatasetRow,
    application: ApplicationSpec,
    model: ModelDescription,
    names: Mapping[str, Any],
    *,
    whole: bool,
) -> tuple[Part, ...]:
    """The completion to learn; no part where nothing of it is known.

    Args:
        names: what a target's template sees: the prompt's variables and ``label``.
        whole: to the end of the output; otherwise no further than the labels that it begins with.

    Raises:
        InvalidInputError: a template fails, a target is no value of its property, or the label is none of the
            outcome's.
    """
    tune = application.fine_tune
    assert tune is not None  # fine_tune_of

    def plain(value: Any) -> Any:
        return _as_letters(value, lambda text: prompts.neutral(model, text))

    shapes = {shape.property: shape for shape in application.shapes}
    weight = tune.text_weight if any(shape.form == "label" for shape in shapes.values()) else 1.0
    schema = application.schema
    if schema is None:
        # What a person wrote is read as letters; then the model ends its turn.
        written = plain(row.label).strip()
        return (Part(written + model.eos, weight),) if written else ()
    values = _known(row, application, plain)
    writer = CompletionWriter()
    writer.force("{")
    first, labelled = True, False
    for name, described in schema.get("properties", {}).items():
        label = name in shapes and shapes[name].form == "label"
        if labelled and not label and not whole:
            return tuple(writer.parts)
        value = values.get(name, _UNKNOWN)
        if value is _UNKNOWN and (name in tune.targets or not {name, None} & shapes.keys()):
            value = plain(_target(application, tune, name, described, names))
        if value is _UNKNOWN:
            if None in values and name not in values and name not in schema.get("required", ()):
                continue  # The corrected output has no such property, and needs none.
            return tuple(writer.parts)
        writer.key(name, first=first)
        if label:
            writer.force('"')
            writer.learn(_inner(_checked(str(value), described, name)), 1.0, label=True)
            writer.force('"')
        else:
            writer.write(value, described, weight)
        first, labelled = False, labelled or label
    if not writer.parts:
        return ()
    writer.force("}")
    return writer.ended()


def served_text(text: str, application: ApplicationSpec, model: ModelDescription, *, ended: bool) -> tuple[Part, ...]:
    """A text as the model would write it, each of its own tokens with the weight 1; no part where it could not.

    Args:
        ended: whether the text ends where it does, and was not cut off.
    """
    schema = application.schema
    if schema is None:
        written = prompts.neutral(model, text).strip()
        stopped = application.decoding.stop  # There a text ends with words of its own.
        return (Part(written + model.eos * (ended and not stopped), 1.0),) if written else ()
    if not meets(schema, text):
        return ()
    value = _as_letters(_decoded(text), lambda one: prompts.neutral(model, one))
    properties: Mapping[str, Any] = schema.get("properties", {})
    if not isinstance(value, Mapping) or not all(
        _fits(value[name], properties[name]) for name in properties if name in value
    ):
        return ()
    writer = CompletionWriter()
    writer.force("{")
    for place, name in enumerate(one for one in properties if one in value):
        writer.key(name, first=place == 0)
        writer.write(value[name], properties[name], 1.0)
    writer.force("}")
    return writer.ended() if writer.parts else ()


def _known(row: DatasetRow, application: ApplicationSpec, plain: Callable[[Any], Any]) -> dict[str | None, Any]:
    """Property to its value as the output should have had it, where the row knows one that the output can have, and
    ``None`` to the whole output, where that was corrected. What came true of a property is preferred to a correction
    of the whole output."""
    properties = (application.schema or {}).get("properties", {})
    found: dict[str | None, Any] = {}
    of_properties: dict[str | None, Any] = {}
    for place, shape in enumerate(application.shapes):
        text = row.label if place == 0 else row.further.get(shape.name)
        if text is None:
            continue
        if shape.property is None:
            corrected = plain(_decoded(text))
            if isinstance(corrected, dict):
                known = ((name, one) for name, one in properties.items() if name in corrected)
                found |= {name: corrected[name] if _fits(corrected[name], one) else _UNKNOWN for name, one in known}
                found[None] = corrected
        elif shape.form == "label":
            of_properties[shape.property] = text
        else:
            value = plain(_value(shape, text, properties[shape.property]))
            if _fits(value, properties[shape.property]):
                of_properties[shape.property] = value
    return found | of_properties


def _value(shape: OutcomeShape, text: str, described: Mapping[str, Any]) -> Any:
    if shape.form == "number":
        number = min(max(number_of(text) or 0.0, shape.low), shape.high)  # The grammar writes none beyond.
        return round(number) if described.get("type") == "integer" or number.is_integer() else number
    return text if shape.form == "reference" else _decoded(text)


def _fits(value: Any, described: Mapping[str, Any]) -> bool:
    """Tells whether the grammar could write a value: not none, a text that is too long, or what is in no enum of it."""
    if value is _UNKNOWN or (described.get("enum") and value not in described["enum"]):
        return False
    longest = described.get("maxLength")
    return not isinstance(value, str) or longest is None or len(value) <= longest


def _as_letters(value: Any, plain: Callable[[str], str]) -> Any:
    """A value whose texts have no special token of the model."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {name: _as_letters(each, plain) for name, each in value.items()}
    return [_as_letters(each, plain) for each in value] if isinstance(value, list) else value


def _checked(label: str, described: Mapping[str, Any], name: str) -> str:
    labels = [str(each) for each in described.get("enum", ())]
    if label not in labels:
        raise InvalidInputError(
            f"The label {label!r} is none of {', '.join(labels)}.",
            where=f"outcome {name}",
            next_step="Mend the outcome's source, or the enum of the output.",
        )
    return label


def _target(
    application: ApplicationSpec,
    tune: FineTune,
    name: str,
    described: Mapping[str, Any],
    names: Mapping[str, Any],
) -> Any:
    """The value that a template writes."""
    where = f"application {application.name}, model.targets[{name!r}]"
    template = tune.targets.get(name)
    if template is None:
        raise InvalidInputError(
            f"Nothing says what should be written as {name!r}.", where=where, next_step="Add a template for it."
        )
    text = prompts.render(template, names, where).strip()
    enum = described.get("enum")
    if described.get("type") == "string" or (enum and all(isinstance(one, str) for one in enum)):
        longest = described.get("maxLength")
        if longest is not None and len(text) > longest:
            raise InvalidInputError(
                f"The target has {len(text)} characters, the property at most {longest}: {text[:60]!r}…",
                where=where,
                next_step="Shorten the template, or raise maxLength.",
            )
        return text
    value = _decoded(text)
    if value is _UNKNOWN:
        raise InvalidInputError(f"The target {text[:60]!r} is no JSON value.", where=where)
    return value


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _UNKNOWN


def _inner(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
