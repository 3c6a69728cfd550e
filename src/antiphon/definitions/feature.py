"""Features of a view: one aggregate of its source's events each, as written and as a frozen value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.embedding import EmbeddingModel, named_model
from antiphon.definitions.expression import kind, mistakes, node_of, normal_step, outside_mistakes
from antiphon.definitions.nodes import Expression
from antiphon.definitions.place import CodeLocation, caller

Aggregation = Literal[
    "count", "sum", "mean", "min", "max", "std", "last", "first", "distinct", "quantile", "frequency", "target", "embed"
]
SUMMED: frozenset[str] = frozenset({"sum", "mean", "std", "quantile", "target"})
"""Aggregates that keep numbers in fixed point, and so need a scale."""
OF_TEXT: frozenset[str] = frozenset({"last", "first", "distinct", "embed"})
"""Aggregates that take texts."""
LATEST: frozenset[str] = frozenset({"last", "embed"})
"""Aggregates that are the latest event's; of ``embed`` the text is kept, and the vector is made where it is read."""
FITTED: frozenset[str] = frozenset({"frequency", "target"})
"""Encodings of a category: aggregates that are set against those of all entities together."""
COUNTING: frozenset[str] = frozenset({"count", "frequency"})
"""Aggregates of events, which have no expression."""
LONGEST_WINDOW = timedelta(days=3_652_059)
"""All days from year 1 to 9999: instants and windows added up stay inside 64 bits."""
_OPTIONS: dict[str, tuple[str, ...]] = {"quantile": ("q",), "target": ("smoothing",), "embed": ("model",)}
"""Options of an aggregate beside window, where and scale."""

_NUMBERS = {
    "q": ("a number between 0 and 1, such as q=0.9", 1),
    "smoothing": ("a number of events from 0 to 1000000, such as 20", 1_000_000),
}


class FeatureSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One declared feature as a value.

    Attributes:
        expression: what is aggregated; nulls are skipped. ``None`` for ``count`` and ``frequency``, which count events.
        where: only events for which this is true are aggregated.
        window: microseconds; the events with ``t − window < event_time ≤ t``. ``None``: all up to ``t``.
        scale: fixed-point step, a decimal such as ``"0.01"``; values are rounded to a multiple of it, half to
            even, before they are aggregated. ``None``: booleans count as 0 and 1, and ``min``, ``max``,
            ``last`` and ``first`` keep the value as it is.
        q: which quantile, a decimal between 0 and 1.
        smoothing: of a target encoding, how many events of the overall mean are added to the category's own.
        model: of an embedding, what makes its vectors.

    Later fields have defaults and are left out of the encoding when they keep them: a definition that does not use
    them keeps its version.
    """

    aggregation: Aggregation
    expression: Expression | None
    where: Expression | None
    window: int | None
    scale: str | None
    q: str | None = None
    smoothing: str | None = None
    model: EmbeddingModel | None = None


@dataclass(frozen=True, eq=False)
class FeatureDeclaration:
    """One feature as written, not yet checked."""

    place: CodeLocation
    aggregation: Aggregation
    expression: object
    options: dict[str, Any]

    def spec(self) -> FeatureSpec:
        """The frozen value of a declaration without mistakes."""
        window, where, scale = (self.options.get(name) for name in ("window", "where", "scale"))
        return FeatureSpec(
            aggregation=self.aggregation,
            expression=None if self.expression is None else node_of(self.expression),
            where=None if where is None else node_of(where),
            window=None if window is None else parse_duration(window) // timedelta(microseconds=1),
            scale=None if scale is None else normal_step(scale, "scale"),
            q=None if self.aggregation != "quantile" else self._number("q"),
            smoothing=None if self.aggregation != "target" else self._number("smoothing"),
            model=None if self.aggregation != "embed" else named_model(self.options["model"]),
        )

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        known = ("window", "where", "scale", *_OPTIONS.get(self.aggregation, ()))
        for name in self.options.keys() - set(known):
            yield f"{self.aggregation} has no option {name!r}; it has {', '.join(known[:-1])} and {known[-1]}."
        window = self.options.get("window")
        if window is not None:
            found = list(duration_mistakes(window, "window"))
            yield from found
            if not found and parse_duration(window) > LONGEST_WINDOW:
                yield f"window: {window!r} is more than {LONGEST_WINDOW.days}d; window=None takes all time."
        elif "window" not in self.options and self.aggregation not in (*LATEST, "first"):
            yield f"{self.aggregation} needs a window, such as window='2h' (or window=None for all time)."
        if self.options.get("where") is not None:
            yield from self._term_mistakes(self.options["where"], "where", condition=True)
        if self.aggregation not in COUNTING:
            yield from self._term_mistakes(self.expression, self.aggregation, condition=False)
        yield from self._scale_mistakes()
        try:
            if self.aggregation == "quantile":
                self._number("q")
            if self.aggregation == "target":
                self._number("smoothing")
            if self.aggregation == "embed":
                named_model(self.options.get("model"))
        except InvalidInputError as error:
            yield error.what

    def _number(self, option: str) -> str:
        """The number of an option in one spelling; raises ``InvalidInputError`` when it is none, or outside of its
        bounds."""
        expected, most = _NUMBERS[option]
        value, number = self.options.get(option), Decimal("NaN")
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            with suppress(InvalidOperation):
                number = Decimal(str(value))
        if not number.is_finite() or not 0 <= number <= most:
            raise InvalidInputError(f"{option} must be {expected}, not {value!r}.")
        return f"{number.normalize():f}"

    def _term_mistakes(self, term: object, label: str, *, condition: bool) -> Iterator[str]:
        try:
            node = node_of(term)
        except TypeError as error:
            yield f"{label}: {error}"
            return
        found = kind(node)
        if found in ("null", "instant") or (condition and found in ("number", "text")):
            yield f"{label}: {'a condition' if condition else 'a value'} is needed, not a {found}."
        if not condition and found == "text" and self.aggregation not in OF_TEXT:
            yield f"{label}: a text cannot be aggregated so; use last, first or distinct."
        if self.aggregation == "embed" and found in ("number", "boolean"):
            yield f"{label}: a text is needed, not a {found}."
        for mistake in (*mistakes(node), *outside_mistakes(node)):
            yield f"{label}: {mistake}"

    def _scale_mistakes(self) -> Iterator[str]:
        scale = self.options.get("scale")
        if scale is not None:
            try:
                normal_step(scale, "scale")
            except InvalidInputError as error:
                yield error.what
            if self.aggregation in COUNTING or self.aggregation == "embed":
                yield f"{self.aggregation} has no scale."
            if self.aggregation == "distinct":
                yield "distinct has no scale; round the value itself."
            return
        if self.aggregation in SUMMED:
            try:
                found = kind(node_of(self.expression))
            except TypeError:
                return  # said already
            if found in ("number", "unknown"):
                yield f"{self.aggregation} of a number needs a fixed-point scale, such as scale='0.01'."


def duration_mistakes(text: object, label: str) -> Iterator[str]:
    """Yields the mistake of a duration, if it has one."""
    try:
        if not isinstance(text, str):
            raise InvalidInputError(f"{text!r} is not a duration: write a text such as '15m'.")
        parse_duration(text)
    except InvalidInputError as error:
        yield f"{label}: {error.what}"


def count(**options: Any) -> FeatureDeclaration:
    """Declares the number of events: ``count(window="2h", where=col.delay > 15)``. Of no events: 0.

    Args:
        **options: as of every aggregate. ``window``: events with t − window < event time ≤ t count (a duration such as
            ``"2h"``; without one, all). ``where``: only events that meet this condition.
    """
    return FeatureDeclaration(caller(), "count", None, options)


def sum_(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the sum of the events' values: ``sum(col.amount, window="7d", scale="0.01")``. Of no values: 0.

    Args:
        expression: a column, or a term over columns.
        **options: ``window`` and ``where`` as of :func:`count`. ``scale``: a decimal text; values are rounded to a
            multiple of it, half to even, before they are added up, so that sums are exact and equal on every path.
    """
    return FeatureDeclaration(caller(), "sum", expression, options)


def mean(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the mean of the events' values; of a condition, the share of events that meet it. Of no values:
    ``None``.

    Args:
        expression: a column, or a term over columns.
        **options: ``window``, ``where`` and ``scale``, as of :func:`sum`.
    """
    return FeatureDeclaration(caller(), "mean", expression, options)


def std(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the sample standard deviation (n − 1) of the events' values. Of fewer than two values: ``None``.

    Args:
        expression: a column, or a term over columns.
        **options: ``window``, ``where`` and ``scale``, as of :func:`sum`.
    """
    return FeatureDeclaration(caller(), "std", expression, options)


def min_(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the least of the events' values. Of no values: ``None``. Options are those of :func:`sum`."""
    return FeatureDeclaration(caller(), "min", expression, options)


def max_(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the greatest of the events' values. Of no values: ``None``. Options are those of :func:`sum`."""
    return FeatureDeclaration(caller(), "max", expression, options)


def last(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the value of the latest event that has one. Of no values: ``None``.

    Of several events of one instant, the one whose id has the greatest hash counts. Options are ``window`` and
    ``where``.
    """
    return FeatureDeclaration(caller(), "last", expression, options)


def first(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the value of the earliest event that has one. Of no values: ``None``. Options: ``window``, ``where``."""
    return FeatureDeclaration(caller(), "first", expression, options)


def distinct(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the number of different values: ``distinct(col.customer, window="7d")``. Of no values: 0.

    Exact up to 1,023, an estimate with a standard error of 3.2 % beyond; the same estimate on every path.
    """
    return FeatureDeclaration(caller(), "distinct", expression, options)


def quantile(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares a quantile of the values: ``quantile(col.amount, q=0.9, window="7d", scale="0.01")``.

    A share ``q`` of the values does not exceed it. Of no values: ``None``. Within 1/256 (0.4 %) of the exact one, and
    exact below 256 steps of the scale.
    """
    return FeatureDeclaration(caller(), "quantile", expression, options)


def frequency(**options: Any) -> FeatureDeclaration:
    """Declares a category's share of all events: ``frequency(window="90d")`` in a view whose entity is the category.

    Fitted at the last midnight (UTC); a category without events has 0, of no events at all it is ``None``.
    """
    return FeatureDeclaration(caller(), "frequency", None, options)


def target(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares a category's mean, drawn to the mean of all: ``target(col.late, smoothing=20, window="90d")`` in a view
    whose entity is the category.

    (Σx + smoothing·overall mean) / (n + smoothing), fitted at the last midnight (UTC) before the moment, on what was
    known by then: no event of the day that is asked about is in it, a row's own label least of all. A category without
    events has the overall mean.
    """
    return FeatureDeclaration(caller(), "target", expression, options)


def embed(expression: object, **options: Any) -> FeatureDeclaration:
    """Declares the vector of the latest event's text: ``embed(col.text, model="minilm-l6-v2")``.

    Of no text, or an empty one: ``None``. The vector has length 1; the model, pinned by its weights, is part of the
    definition version.
    """
    return FeatureDeclaration(caller(), "embed", expression, options)
