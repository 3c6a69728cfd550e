"""Class probabilities of an enum property, from the unmasked branch where the grammar let the model choose.

At that branch several tokens may begin the same label ("on", "on_", "on_time"); their probabilities are
added, and the labels are normalised among themselves. Where labels share a first token, the next branch
splits them (chain rule over the branches inside the value).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from antiphon.engine.messages import Branch


def class_probabilities(
    text: str, schema: Mapping[str, Any], classes: Sequence[str], branches: Sequence[Branch]
) -> dict[str, dict[str, float]]:
    """Property to label to probability (they add to 1). A property whose branch was not seen is left out.

    Args:
        text: the JSON the model wrote.
        schema: its JSON schema; ``properties.NAME.enum`` lists the labels.
        classes: the properties to measure.
        branches: constrained positions with their permitted tokens.
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


def _value_start(text: str, name: str) -> int | None:
    """Where the string value of a top-level property begins, after its opening quote."""
    key = json.dumps(name)
    at = text.find(key)
    if at < 0:
        return None
    quote = text.find('"', at + len(key))
    return quote + 1 if quote >= 0 else None


def _split(text: str, start: int, labels: Sequence[str], branches: Sequence[Branch]) -> dict[str, float]:
    alive = dict.fromkeys(labels, 1.0)
    resolved = False
    for branch in branches:
        done = text[start : branch.offset] if branch.offset > start else ""
        candidates = [label for label in alive if label.startswith(done)]
        if len(candidates) < 2:
            break
        mass = dict.fromkeys(candidates, 0.0)
        for option in branch.options:
            piece = option.text
            if branch.offset < start:  # the token also brings the opening quote
                piece = piece.rpartition('"')[2]
            grown = (done + piece).rstrip('"')
            matching = [label for label in candidates if label.startswith(grown) or grown.startswith(label)]
            if grown and len(matching) == 1:
                mass[matching[0]] += math.exp(option.logprob)
        total = sum(mass.values())
        if total <= 0:
            continue
        group = sum(alive[label] for label in candidates)
        for label in candidates:
            alive[label] = group * mass[label] / total
        resolved = True
        break
    return alive if resolved else {}
