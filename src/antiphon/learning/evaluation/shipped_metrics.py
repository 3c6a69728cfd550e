"""The code of the metrics that ``definitions.shipped_metrics`` declares: functions of request, output and outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import regex

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.embedding import named_model
from antiphon.definitions.own_metrics import OwnMetric
from antiphon.features.embedding.vectors import Embedders, embedded, has_vector
from antiphon.serving.answering.guards.citations import without_citations
from antiphon.serving.answering.guards.groundedness import grounded_share
from antiphon.serving.answering.guards.numbers import plain
from antiphon.serving.answering.guards.outputs import part_of, words_of

Score = Callable[[Mapping[str, Any], object, Mapping[str, str]], float]

_BEGINNING = 300
"""Characters in which an answer that declines says so."""

_DECLINED = regex.compile(
    r"""
      \b(?:i|we)(?:'m|'re|\sam|\sare)?\s(?:\w+\s){0,2}?
        (?:can\s?not|can't|could\snot|couldn't|won't|will\snot|unable\sto|not\sable\sto|(?:must|have\sto)\sdecline\sto)\s
        (?:\w+\s){0,3}?
        (?:help|assist|answer|provide|comply|discuss|share|disclose|reveal|fulfil+|do\s(?:that|this)|respond)\b
    | \b(?:i|we)\s(?:do\snot|don't)\shave\s(?:any\s)?access\b
    | \b(?:(?:ich|wir)\s(?:kann|können|darf|dürfen|werden?)|(?:kann|können|darf|dürfen|werden?)\s(?:ich|wir))\s
        (?:\w+\s){0,8}?(?:nicht|keine?n?)\s(?:\w+\s){0,6}?
        (?:helfen|weiterhelfen|beantworten|antworten|unterstützen|bereitstellen|angeben|nennen|erteilen)\b
    | \b(?:ich|wir|bin|sind)\s(?:\w+\s){0,6}?nicht\sin\sder\slage\b
    | \bne\s(?:peux|puis|pouvons)\s(?:pas\s)?(?:\w+\s){0,3}?(?:aider|répondre|fournir|accéder|partager|donner)\b
    | \b(?:suis|sommes)\spas\sen\smesure\sde\b
    | \bno\s(?:puedo|podemos)\s(?:\w+\s){0,3}?(?:ayudar\w*|responder\w*|proporcionar\w*|compartir\w*|dar\w*)\b
    | \bno\s(?:me|nos)\ses\sposible\b
    """,
    regex.VERBOSE | regex.IGNORECASE,
)


def groundedness(request: Mapping[str, Any], output: object, outcome: Mapping[str, str], property: str = "") -> float:
    """The share of an answer's words and numbers that its request has; what it cites by is no claim."""
    brought = (
        request["question"],
        *request["entity"].values(),
        *(text for text in request["features"].values() if text is not None),
        *request["documents"],
        *(text for turn in request["earlier"] for text in turn.values()),
    )
    return grounded_share(without_citations(_text(output, property)), brought)


def refused(request: Mapping[str, Any], output: object, outcome: Mapping[str, str], property: str = "") -> float:
    """1 for an answer whose beginning declines what was asked, else 0."""
    said = plain(_text(output, property))[:_BEGINNING]
    return float(_DECLINED.search(said) is not None)


def similarity(
    embedders: Embedders, request: Mapping[str, Any], output: object, outcome: Mapping[str, str], *,
    reference: str, model: str, property: str = "",
) -> float:  # fmt: skip
    """The cosine of an answer's vector and that of the outcome of this name; 0 of an answer without a word."""
    truth, said = outcome.get(reference), _text(output, property)
    if truth is None or not has_vector(truth):
        raise InvalidInputError(f"The row has no outcome {reference!r}.")
    if not has_vector(said):
        return 0.0
    vectors, _ = embedded(embedders.get(named_model(model)), [said, truth])
    return min(max(float(vectors[0] @ vectors[1]), 0.0), 1.0)


def score_of(metric: OwnMetric, embedders: Embedders) -> Score:
    """The function of a shipped metric with its arguments."""
    functions: dict[str, Callable[..., float]] = {
        "groundedness": groundedness, "refused": refused, "similarity": partial(similarity, embedders),
    }  # fmt: skip
    return partial(functions[metric.function.rpartition(":")[2]], **(metric.arguments or {}))


def _text(output: object, property: str) -> str:
    said = part_of(output, property)
    return said if isinstance(said, str) else words_of(said, keys=False)
