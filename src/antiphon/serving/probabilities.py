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
    """Hand the whole mass down the branches inside the value. Labels that share their beginning share its mass
    until a later branch splits them; a group the text did not enter is shared equally, since it was not looked into.
    """
    mass = {label: 1.0 / len(labels) for label in labels}
    resolved = False
    for branch in branches:
        done = text[start : max(start, branch.offset)]
        candidates = [label for label in labels if f'{label}"'.startswith(done)]
        if len(candidates) < 2:
            break
        groups: dict[tuple[str, ...], float] = {}
        for option in branch.options:
            # A token before the value's first letter may also bring the opening quote.
            piece = option.text.rpartition('"')[2] if branch.offset < start else option.text
            grown = done + piece
            matching = tuple(
                label
                for label in candidates
                if grown and (f'{label}"'.startswith(grown) or grown.startswith(f'{label}"'))
            )
            if matching:
                groups[matching] = groups.get(matching, 0.0) + math.exp(option.logprob)
        total = sum(groups.values())
        if total <= 0:
            continue
        whole = sum(mass[label] for label in candidates)
        mass.update(dict.fromkeys(candidates, 0.0))
        for matching, part in groups.items():
            for label in matching:
                mass[label] += whole * part / total / len(matching)
        resolved = True
    return mass if resolved else {}
