"""Compares two sides of a trial, or two trials, request by request: figures with intervals, texts, prompts.

Invariant: only requests that both sides answered are compared, so that a difference is of the sides and not of what was
asked. Intervals are clustered by user: ten requests of one user are one piece of evidence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.catalog.learning.trials import AnswerFigures
from antiphon.catalog.releases.releases import Bundle
from antiphon.core.ids import content_hash
from antiphon.learning.evaluation.intervals import mean
from antiphon.releases.bundle import FieldChange, diff

ENOUGH = 10
"""Users below which no side is called surely better: an interval drawn from so few is too narrow."""


class TrialSide(msgspec.Struct, frozen=True):
    """One side of a comparison: what it is called, and its answer to each production request."""

    name: str
    bundle: Bundle | None
    answers: dict[str, AnswerFigures]


class FigureDifference(msgspec.Struct, frozen=True):
    """A figure or metric on both sides, and the mean of the paired differences (second side minus first).

    Attributes:
        first, second, difference: ``None`` of a metric that no request has a value of on both sides.
        better: the side that is surely better, ``""`` where the interval holds 0 or neither direction is better.
        requests: that it is of. note: what to know of it: a judge that is uncalibrated, answers without a value.
    """

    name: str
    unit: str
    first: float | None
    second: float | None
    difference: IntervalEstimate | None
    better: str = ""
    requests: int = 0
    note: str = ""


class AnswerPair(msgspec.Struct, frozen=True):
    """Predictions of both sides about one production request."""

    request: str
    first: str | None
    second: str | None


class Comparison(msgspec.Struct, frozen=True):
    """Two sides on the same requests.

    Attributes:
        requests: that both answered; ``errors``: side to error code to how many it has of those that were asked.
        metrics: of outcomes that are known, and those that the tried application declares.
        changes: fields of the bundle that differ; ``prompt`` the prompt's lines as a unified diff.
        pairs: every request that was asked of both.
    """

    first: str
    second: str
    requests: int
    identical: int
    errors: dict[str, dict[str, int]]
    figures: tuple[FigureDifference, ...]
    metrics: tuple[FigureDifference, ...]
    changes: tuple[FieldChange, ...]
    prompt: tuple[str, ...]
    pairs: tuple[AnswerPair, ...]


_Figure = Callable[[AnswerFigures], float]
_FIGURES: dict[str, tuple[str, _Figure, int]] = {
    "valid": ("share", lambda one: float(bool(one.valid)), 1),
    "guarded": ("share", lambda one: float(bool(one.guards)), -1),
    "length": ("characters", lambda one: float(one.characters), 0),
    "prompt tokens": ("tokens", lambda one: float(one.prompt_tokens), -1),
    "completion tokens": ("tokens", lambda one: float(one.completion_tokens), -1),
    "engine time": ("seconds", lambda one: one.engine_seconds, -1),
    "latency": ("seconds", lambda one: one.seconds, 0),
}
"""Figure to its unit, its function, and whether more is better (1), worse (-1) or neither (0): the latency of a trial
is that of batch priority, and not to be held against a user's."""


def compare(
    first: TrialSide,
    second: TrialSide,
    *,
    users: Mapping[str, str],
    identical: Mapping[str, bool],
    metrics: Sequence[FigureDifference] = (),
) -> Comparison:
    """Compare two sides.

    Args:
        users: production request to the user who asked, by whom differences are clustered.
        identical: production request to whether both texts are the same bytes.
        metrics: of the same requests, as ``compare_metrics`` gives them.
    """
    shared = [one for one in first.answers if one in second.answers]
    both = answered_by_both(first, second)
    clusters = [users.get(one, one) for one in both]
    found = []
    for name, (unit, of, sign) in _FIGURES.items() if both else ():
        ours = [of(first.answers[one]) for one in both]
        theirs = [of(second.answers[one]) for one in both]
        found.append(difference(name, unit, (first.name, second.name), ours, theirs, clusters, sign))
    return Comparison(
        first=first.name,
        second=second.name,
        requests=len(both),
        identical=sum(identical.get(one, False) for one in both),
        errors={side.name: _errors(side, shared) for side in (first, second)},
        figures=tuple(found),
        metrics=tuple(metrics),
        changes=() if first.bundle is None or second.bundle is None else diff(first.bundle, second.bundle),
        prompt=prompt_difference(first.bundle, second.bundle),
        pairs=tuple(AnswerPair(one, first.answers[one].prediction, second.answers[one].prediction) for one in shared),
    )


def answered_by_both(first: TrialSide, second: TrialSide) -> list[str]:
    """The requests that both sides answered."""
    shared = [one for one in first.answers if one in second.answers]
    return [one for one in shared if first.answers[one].error is None and second.answers[one].error is None]


def difference(
    name: str, unit: str, sides: tuple[str, str], ours: Sequence[float], theirs: Sequence[float],
    clusters: Sequence[str], sign: int, note: str = "",
) -> FigureDifference:  # fmt: skip
    """The means of a value that each request has on both sides, and the mean of the paired differences.

    Args:
        clusters: the user of each request. sign: whether more is better (1), worse (-1) or neither (0).
    """
    gap = mean([second - first for first, second in zip(ours, theirs, strict=True)], clusters)
    first, second = (sum(values) / len(values) for values in (ours, theirs))
    return FigureDifference(
        name, unit, first, second, gap, surely_better(gap, sign, sides, clusters), len(clusters), note
    )


def surely_better(gap: IntervalEstimate, sign: int, sides: tuple[str, str], clusters: Sequence[str]) -> str:
    """The side that is surely better; ``""`` where none is, or too few users asked to be sure."""
    if sign == 0 or gap.low <= 0 <= gap.high or len({*clusters}) < ENOUGH:
        return ""
    return sides[(gap.value > 0) == (sign > 0)]


def prompt_difference(first: Bundle | None, second: Bundle | None) -> tuple[str, ...]:
    """The lines in which two prompts differ, as a unified diff; none where they are the same."""
    if first is None or second is None:
        return ()
    found: list[str] = []
    for part, of in _PROMPT_PARTS.items():
        before, after = (of(one.application.prompt).splitlines() for one in (first, second))
        found += [line.rstrip("\n") for line in difflib.unified_diff(before, after, part, part, lineterm="")]
    return tuple(found)


def text_difference(before: str, after: str) -> tuple[tuple[str, str], ...]:
    """Two texts word by word: pieces that are ``same``, ``gone`` or ``new``, in the order of reading."""
    old, new = _words(before), _words(after)
    found: list[tuple[str, str]] = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            found.append(("same", "".join(old[i:j])))
            continue
        if j > i:
            found.append(("gone", "".join(old[i:j])))
        if m > k:
            found.append(("new", "".join(new[k:m])))
    return tuple(found)


def shown_first(request: str, first: str, second: str) -> bool:
    """Tells whether a blind reader sees the first side on the left: by a hash, the same each time and for all."""
    return int(content_hash(["side", request, first, second])[:8], 16) % 2 == 0


_PROMPT_PARTS: dict[str, Callable[[Any], str]] = {
    "system": lambda prompt: prompt.system,
    "template": lambda prompt: prompt.template,
    "examples": lambda prompt: "\n".join(f"{user}\n→ {said}" for user, said in prompt.examples),
}


def _words(text: str) -> list[str]:
    words: list[str] = []
    for character in text:
        alike = words and words[-1][-1].isspace() == character.isspace()
        if alike:
            words[-1] += character
        else:
            words.append(character)
    return words


def _errors(side: TrialSide, shared: Sequence[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in shared:
        if (code := side.answers[one].error) is not None:
            found[code] = found.get(code, 0) + 1
    return found
