"""Metrics of answers that are ready to be declared: ``Application(metrics=[metrics.groundedness()])``.

They stand beside an application's own functions, and have gates, intervals and differences like them. Their code is
``learning.evaluation.shipped_metrics``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import msgspec

from antiphon.definitions.embedding import MODELS
from antiphon.definitions.own_metrics import OwnMetric

_HOME = "antiphon.learning.evaluation.shipped_metrics"
_GROUNDEDNESS, _REFUSED, _SIMILARITY = (f"{_HOME}:{name}" for name in ("groundedness", "refused", "similarity"))
_SHIPPED = (_GROUNDEDNESS, _REFUSED, _SIMILARITY)


def groundedness(property: str = "", *, name: str = "groundedness") -> OwnMetric:
    """The share of an answer's longer words and numbers that its request has: question, entity, printed features,
    retrieved chunks, results of tools and earlier turns.

    Args:
        property: of the output, that is looked at; empty: all of it.
    """
    return _shipped(name, _GROUNDEDNESS, property=property)


def refusals(property: str = "", *, name: str = "refusals") -> OwnMetric:
    """The share of answers that decline what was asked, by phrases of English, German, French and Spanish.

    Args:
        property: of the output, that is looked at; empty: all of it.
    """
    return _shipped(name, _REFUSED, lower=True, property=property)


def similarity(outcome: str, property: str = "", *, model: str = "minilm-l6-v2", name: str = "similarity") -> OwnMetric:
    """The cosine of the vectors of an answer and of an outcome that is a text, at least 0: alike in meaning, whatever
    the words.

    Args:
        outcome: its name. property: of the output, that is compared with it; empty: all of it.
        model: that embeds both.
    """
    return _shipped(name, _SIMILARITY, reference=outcome, property=property, model=model)


def is_shipped(metric: OwnMetric) -> bool:
    """Tells a metric of this module from one of the user's own."""
    return metric.function.startswith(f"{_HOME}:")


def needs_outcome(metric: OwnMetric) -> bool:
    """Tells a shipped metric that compares an answer with an outcome."""
    return metric.function == _SIMILARITY


def shipped_metric_mistakes(
    metric: OwnMetric, outcomes: Mapping[str, str], properties: Collection[str]
) -> Iterator[str]:
    """Mistakes in the arguments of a shipped metric, one sentence each; none of another one.

    Args:
        outcomes: declared ones, by name the form of each. properties: of the output.
    """
    if not is_shipped(metric):
        return
    given = metric.arguments or {}
    if metric.function not in _SHIPPED:
        yield f"metrics: {metric.name}: there is no shipped metric {metric.function.rpartition(':')[2]!r}."
    if (property := given.get("property")) and property not in properties:
        yield f"metrics: {metric.name}: the output has no property {property!r}."
    if metric.function != _SIMILARITY:
        return
    outcome, model = given.get("reference", ""), given.get("model", "")
    if outcomes.get(outcome) not in ("reference", "correction"):
        known = ", ".join(name for name, form in outcomes.items() if form in ("reference", "correction"))
        yield f"metrics: {metric.name}: no outcome named {outcome!r} is a text; known: {known or 'none'}."
    if model not in MODELS:
        yield f"metrics: {metric.name}: the embedding model {model!r} is unknown; known: {', '.join(MODELS)}."


def _shipped(name: str, function: str, *, lower: bool = False, **arguments: str) -> OwnMetric:
    given = {key: value for key, value in arguments.items() if value}
    return OwnMetric(name, function, "lower" if lower else "higher", arguments=given or msgspec.UNSET)
