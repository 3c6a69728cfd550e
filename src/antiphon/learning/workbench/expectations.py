"""Expectations of regression cases: what is wrong with one in itself, whether an answer meets it, and which one a
complaint suggests. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from antiphon.catalog.learning.annotations import Annotation
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.learning.regressions import Expectation
from antiphon.catalog.serving.receipt import GuardReceipt
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import number_of
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.learning.evaluation.judges import HIGHEST, LOWEST
from antiphon.learning.evaluation.scorer import AnswerScores
from antiphon.learning.evaluation.scores import meets

_LONGEST = 20_000
_BOUND = re.compile(r"at (least|most) (\S+)")


class CaseAnswer(msgspec.Struct, frozen=True):
    """An answer as expectations see it: ``text`` as it was served, ``first`` as the model wrote it first, ``scores`` by
    the metrics that are expected of it."""

    text: str
    first: str
    guards: tuple[GuardReceipt, ...] = ()
    scores: AnswerScores = AnswerScores()


def check_expectation(expected: Expectation, application: ApplicationSpec) -> None:
    """Raises ``InvalidInputError``, with what may be expected, for what no answer of the application could show."""
    kind, properties = expected.kind, (application.schema or {}).get("properties", {})
    where = f"expectation {kind}"
    if kind == "label":
        described = properties.get(expected.property)
        if described is None:
            raise InvalidInputError(
                f"The output of {application.name} has no property {expected.property!r}.",
                where=where,
                next_step=f"It has {', '.join(properties) or 'none: it is free text'}.",
            )
        options = [str(one) for one in described.get("enum", ())]
        if options and expected.value not in options:
            raise InvalidInputError(
                f"{expected.property} is never {expected.value!r}.",
                where=where,
                next_step=f"Name {', '.join(options)}.",
            )
    elif kind == "guard":
        known = [guard.label for guard in application.guards]
        if expected.value and expected.value not in known:
            raise InvalidInputError(
                f"{application.name} has no guard {expected.value!r}.",
                where=where,
                next_step=f"It has {', '.join(known) or 'none'}.",
            )
    elif kind == "metric":
        _check_metric(expected, application)
    elif kind != "schema" and (not expected.value.strip() or len(expected.value) > _LONGEST):
        raise InvalidInputError(
            f"The expected text has {len(expected.value)} characters.", where=where, next_step=f"Give 1 to {_LONGEST}."
        )


def _check_metric(expected: Expectation, application: ApplicationSpec) -> None:
    where, metrics = "expectation metric", application.user_metrics
    metric = metrics.get(expected.property)
    if metric is None:
        raise InvalidInputError(
            f"{application.name} declares no metric {expected.property!r}.",
            where=where,
            next_step=f"It declares {', '.join(metrics) or 'none: give the application metrics=[…]'}.",
        )
    low, high = (LOWEST, HIGHEST) if isinstance(metric, JudgeMetric) else (metric.low, metric.high)
    bound = _bound(expected.value)
    if bound is None or not low <= bound[1] <= high:
        raise InvalidInputError(
            f"{expected.value[:60]!r} is no bound of {expected.property}, whose values go from {low:g} to {high:g}.",
            where=where,
            next_step=f"Write `at least X` or `at most X`, such as `at least {high:g}`.",
        )


def expected_metrics(expected: Iterable[Expectation]) -> frozenset[str]:
    """The names of the metrics by which an answer is scored."""
    return frozenset(one.property for one in expected if one.kind == "metric")


def unmet(expected: Iterable[Expectation], answer: CaseAnswer, application: ApplicationSpec) -> tuple[str, ...]:
    """A sentence for each expectation that an answer does not meet."""
    found = (_unmet(one, answer, application) for one in expected)
    return tuple(one for one in found if one is not None)


def in_words(expected: Expectation) -> str:
    """An expectation in a few words."""
    value = " ".join(expected.value.split())
    value = value if len(value) <= 80 else f"{value[:79]}…"
    return {
        "text": f"the text is {value!r}",
        "not_text": f"the text is anything but {value!r}",
        "contains": f"the text has {value!r} in it",
        "lacks": f"the text has no {value!r} in it",
        "label": f"{expected.property} is {value!r}",
        "schema": "the first attempt meets the schema",
        "guard": f"the guard {value} passes" if value else "every guard passes",
        "metric": f"{expected.property} is {value}",
    }[expected.kind]


def suggested(
    text: str, application: ApplicationSpec, outcomes: Sequence[OutcomeRecord], annotations: Sequence[Annotation]
) -> tuple[Expectation, ...]:
    """The expectation that what is known of a prediction suggests: the label that came true or was set, else the
    corrected text, else anything but a text that was complained about; none where nothing was."""
    shapes = {shape.name: shape for shape in application.shapes if shape.form == "label"}
    labels = [one for one in outcomes if one.status == "joined" and one.outcome in shapes]
    said = [one for one in annotations if one.kind == "label" and one.criterion]
    if labels:
        shape = shapes[str(labels[0].outcome)]
        return (Expectation("label", labels[0].value, str(shape.property)),)
    if len({(one.criterion, one.value) for one in said}) == 1:  # contradictory annotators suggest nothing
        return (Expectation("label", said[0].value, said[0].criterion),)
    corrections = [one.value for one in annotations if one.kind == "correction"]
    corrections += [one.value for one in outcomes if one.kind == "correction"]
    if len({*corrections}) == 1:
        return (Expectation("text", corrections[0]),)
    thumbs = [one.value for one in outcomes if one.kind == "thumbs"]
    thumbs += [one.value for one in annotations if one.kind == "thumbs"]
    return (Expectation("not_text", text),) if "down" in thumbs or corrections else ()


def _unmet(expected: Expectation, answer: CaseAnswer, application: ApplicationSpec) -> str | None:
    text, value = answer.text, expected.value
    match expected.kind:
        case "text":
            met = text.strip() == value.strip() or _same_document(text, value)
        case "not_text":
            met = text.strip() != value.strip() and not _same_document(text, value)
        case "contains":
            met = value.casefold() in text.casefold()
        case "lacks":
            met = value.casefold() not in text.casefold()
        case "label":
            said = _property(text, expected.property)
            return None if said == value else f"expected {in_words(expected)}, it is {said!r}"
        case "schema":
            met = meets(application.schema, answer.first)
        case "guard":
            acted = [one for one in answer.guards if one.action != "pass" and value in ("", one.guard)]
            said = "; ".join(f"{one.guard}: {one.action} {one.reason}".rstrip() for one in acted)
            return None if not acted else f"expected {in_words(expected)}, but {said}"
        case "metric":
            return _unmet_metric(expected, answer.scores)
    return None if met else f"expected {in_words(expected)}"


def _unmet_metric(expected: Expectation, scores: AnswerScores) -> str | None:
    bound, score = _bound(expected.value), scores.values.get(expected.property)
    if bound is None or score is None:
        reason = scores.failed.get(expected.property, "the release declares no such metric")
        return f"expected {in_words(expected)}, but it has no value: {reason}"
    met = score >= bound[1] if bound[0] == "least" else score <= bound[1]
    return None if met else f"expected {in_words(expected)}, it is {score:g}"


def _bound(text: str) -> tuple[str, float] | None:
    """``least`` or ``most`` and the number of a bound in words; ``None`` of anything else."""
    found = _BOUND.fullmatch(text.strip())
    number = None if found is None else number_of(found[2])
    return None if found is None or number is None else (found[1], number)


def _same_document(text: str, value: str) -> bool:
    """Tells whether both are the same JSON objects: white space is no difference."""
    try:
        one, other = msgspec.json.decode(text), msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return False
    return isinstance(one, dict) and bool(one == other)


def _property(text: str, name: str) -> str | None:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(found, dict) or name not in found:
        return None
    value = found[name]
    return str(value).lower() if isinstance(value, bool) else str(value)
