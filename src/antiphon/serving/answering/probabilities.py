"""Class probabilities of an enum property, from the unmasked branch where the grammar let the model choose.

What an answer forecasts of the application's outcome is read from them (:func:`outcome_probabilities`).

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

from antiphon.definitions.application import ApplicationSpec
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
    application: ApplicationSpec, classes: Mapping[str, Mapping[str, float]], text: str
) -> dict[str, float]:
    """The probabilities that an answer gives to the labels that are scored: of a question of yes or no that of yes, of
    labels of many those of all of them, which add to 1. Empty when it gives none.

    Of labels of many, an answer whose engine measured no probabilities is sure of the label that it says, as its reader
    takes it. The probability of yes is not made up.

    Args:
        classes: what was measured: property to label to probability. text: the answer's, or what there is of it.
    """
    outcome = application.outcome
    if outcome is None:
        return {}
    measured = {label: min(max(part, 0.0), 1.0) for label, part in classes.get(outcome.property, {}).items()}
    if outcome.positive is not None:
        return {outcome.positive: measured[outcome.positive]} if outcome.positive in measured else {}
    labels = application.labels
    total = sum(measured.get(label, 0.0) for label in labels)
    if total > 0:
        return {label: measured.get(label, 0.0) / total for label in labels}
    said = _said(text, outcome.property)
    return {label: float(label == said) for label in labels} if said in labels else {}


def _said(text: str, name: str) -> str | None:
    try:
        output = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return str(output[name]) if isinstance(output, dict) and name in output else None


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
