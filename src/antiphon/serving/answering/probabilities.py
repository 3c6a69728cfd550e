"""Class probabilities of an enum property, from the unmasked branch where the grammar let the model choose.

What an answer forecasts of a declared outcome is read from them (:func:`outcome_probabilities`), what it says of one
from its text (:func:`said_of`).

At that branch several tokens may begin the same label ("on", "on_", "on_time"); their probabilities are
added, and the labels are normalized among themselves. Where labels share a first token, the next branch
splits them (chain rule over the branches inside the value).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.definitions.outcome_shape import OutcomeShape, number_of, number_text
from antiphon.engine.api.messages import Branch


def class_probabilities(
    text: str, schema: Mapping[str, Any], classes: Sequence[str], branches: Sequence[Branch]
) -> dict[str, dict[str, float]]:
    """Property to label to probability (they add to 1). A property whose branch was not seen is left out.

    Args:
        schema: of the text; ``properties.NAME.enum`` lists the labels.
        classes: the properties to measure.
    """
    measured: dict[str, dict[str, float]] = {}
    for name in classes:
        labels = [str(label) for label in schema.get("properties", {}).get(name, {}).get("enum", ())]
        start = _value_start(text, name)
        if start is None or not labels:
            continue
        probabilities = _split(text, start, labels, [branch for branch in branches if branch.offset >= start - 1])
        if probabilities:
            measured[name] = probabilities
    return measured


def outcome_probabilities(
    shape: OutcomeShape | None, classes: Mapping[str, Mapping[str, float]], text: str
) -> dict[str, float]:
    """The probabilities that an answer gives to the labels that are scored: of a question of yes or no that of yes, of
    labels of many those of all of them, which add to 1. Empty when it gives none, and of an outcome that is no label.

    Of labels of many, an answer whose engine measured no probabilities is sure of the label that it says, as its reader
    takes it. The probability of yes is not made up.

    Args:
        classes: what was measured: property to label to probability. text: the answer's, or what there is of it.
    """
    if shape is None or shape.property is None or shape.form != "label":
        return {}
    measured = {label: min(max(part, 0.0), 1.0) for label, part in classes.get(shape.property, {}).items()}
    if shape.positive is not None:
        return {shape.positive: measured[shape.positive]} if shape.positive in measured else {}
    total = sum(measured.get(label, 0.0) for label in shape.labels)
    if total > 0:
        return {label: measured.get(label, 0.0) / total for label in shape.labels}
    said = said_of(shape, text)
    return {label: float(label == said) for label in shape.labels} if said in shape.labels else {}


def said_of(shape: OutcomeShape, text: str) -> str | None:
    """The statement of an answer about an outcome: its property's value, a number in the one way in which numbers are
    kept, what may be corrected as JSON, or the whole text; ``None`` when it says nothing of it."""
    if shape.form == "reference" and shape.property is None:
        return text
    try:
        output = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(output, dict):
        return None
    value = output if shape.property is None else output.get(shape.property)
    if value is None:
        return None
    if shape.form == "correction":
        return msgspec.json.encode(value).decode()
    if shape.form != "number":
        return str(value)
    number = number_of(value)
    return None if number is None else number_text(number)


def _value_start(text: str, name: str) -> int | None:
    """Offset of a top-level property's string value, after its opening quote."""
    key = json.dumps(name)
    at = text.find(key)
    if at < 0:
        return None
    quote = text.find('"', at + len(key))
    return quote + 1 if quote >= 0 else None


def _split(text: str, start: int, labels: Sequence[str], branches: Sequence[Branch]) -> dict[str, float]:
    """Hand the whole mass down the branches inside the value.

    Mass lies on sets of labels that no branch has told apart yet. A branch splits the sets that the text may still
    be in; a set that the text did not enter was not looked into, and shares its mass equally in the end.
    """
    undivided: dict[frozenset[str], float] = {frozenset(labels): 1.0}
    for branch in branches:
        done = text[start : max(start, branch.offset)]
        candidates = [label for label in labels if f'{label}"'.startswith(done)]
        if len(candidates) < 2:
            break
        options = _by_labels(branch, done, candidates, before=branch.offset < start)
        divided: dict[frozenset[str], float] = {}
        for members, mass in undivided.items():
            met = [(members & option, part) for option, part in options.items() if members & option]
            total = sum(part for _, part in met)
            if total <= 0:
                met, total = [(members, 1.0)], 1.0
            for some, part in met:
                divided[some] = divided.get(some, 0.0) + mass * part / total
        undivided = divided
    if set(undivided) == {frozenset(labels)}:
        return {}
    return {
        label: sum(mass / len(members) for members, mass in undivided.items() if label in members) for label in labels
    }


def _by_labels(branch: Branch, done: str, candidates: Sequence[str], *, before: bool) -> dict[frozenset[str], float]:
    """The branch's probability by the set of labels that an option leaves possible."""
    options: dict[frozenset[str], float] = {}
    for option in branch.options:
        # A token before the value's first letter may also bring the opening quote, or nothing but it.
        grown = done + (option.text.rpartition('"')[2] if before else option.text)
        left = frozenset(
            label for label in candidates if f'{label}"'.startswith(grown) or grown.startswith(f'{label}"')
        )
        if left:
            options[left] = options.get(left, 0.0) + math.exp(option.logprob)
    return options
