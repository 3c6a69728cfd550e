"""Rules of quality as a user writes them: ``expect.between("delay", -120, 3000, action="quarantine")``.

Every rule takes ``action`` (``block``: the snapshot is never readable; ``quarantine``: the offending rows are kept
aside with the reason and the rest goes on; ``warn``: it is recorded and shown) and ``name``, by which reasons call it.
Names of columns may be written as texts or as ``col.name``. ``at_most`` is the share of rows that may offend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, Literal

from antiphon.core.clock import parse_duration
from antiphon.definitions import quality as rules
from antiphon.definitions.expression import node_of
from antiphon.definitions.nodes import ColumnNode
from antiphon.definitions.quality import Action, Over
from antiphon.definitions.source import Source, SourceSpec


def typed(
    *, closed: bool = False, action: Action = "block", name: str = "", **columns: rules.ColumnKind
) -> rules.ColumnTypesRule:
    """Columns that must be there, with their kind: number, text, boolean or time. ``closed``: and no others."""
    return rules.ColumnTypesRule(name or "types", action, dict(columns), closed)


def not_null(
    *of: object, at_most: float = 0.0, over: Over = "source", action: Action = "block", name: str = ""
) -> rules.NotNullRule:
    """Columns (or features) that have a value."""
    named = tuple(map(_name, of))
    return rules.NotNullRule(name or f"not null {', '.join(named)}", action, named, at_most, over)


def between(
    of: object,
    low: float,
    high: float,
    *,
    at_most: float = 0.0,
    over: Over = "source",
    action: Action = "block",
    name: str = "",
) -> rules.RangeRule:
    """A number from ``low`` to ``high``."""
    return rules.RangeRule(name or f"range of {_name(of)}", action, _name(of), float(low), float(high), at_most, over)


def one_of(
    of: object, values: Sequence[str], *, at_most: float = 0.0, action: Action = "block", name: str = ""
) -> rules.AllowedValuesRule:
    """A text among known ones."""
    return rules.AllowedValuesRule(name or f"values of {_name(of)}", action, _name(of), tuple(values), at_most)


def unique(*of: object, at_most: float = 0.0, action: Action = "block", name: str = "") -> rules.UniquenessRule:
    """Columns whose values together name at most one row."""
    named = tuple(map(_name, of))
    return rules.UniquenessRule(name or f"unique {', '.join(named)}", action, named, at_most)


def exists_in(
    of: object | Sequence[object],
    reference: object,
    columns: str | Sequence[str] | None = None,
    *,
    at_most: float = 0.0,
    action: Action = "block",
    name: str = "",
) -> rules.ReferenceRule:
    """Values that stand in another source, or in the keys of another view.

    Args:
        of: a column, or several that are looked for together.
        reference: the :class:`Source` or feature view.
        columns: the columns there; of a view its entity's keys, of a source the same names by default.
    """
    named = tuple(map(_name, of)) if isinstance(of, (list, tuple)) else (_name(of),)
    source = reference
    if not isinstance(reference, Source):
        source = getattr(reference, "source", None)
        if columns is None:
            columns = tuple(getattr(getattr(reference, "entity", None), "keys", named))
    there = (columns,) if isinstance(columns, str) else tuple(columns) if columns is not None else named
    known = source.spec() if isinstance(source, Source) else SourceSpec(str(reference), "table", "")
    return rules.ReferenceRule(name or f"{', '.join(named)} in {known.name}", action, named, known, there, at_most)


def volume(
    least: float = 0.5,
    most: float = 2.0,
    *,
    of: Literal["rows", "new_rows", "entities"] = "rows",
    action: Action = "block",
    name: str = "",
) -> rules.VolumeRule:
    """A count within ``least`` to ``most`` times the median of earlier snapshots."""
    return rules.VolumeRule(name or f"volume of {of.replace('_', ' ')}", action, of, float(least), float(most))


def recent(max_age: str, *, action: Action = "block", name: str = "") -> rules.RecencyRule:
    """The latest event is at most ``max_age`` old at the snapshot's moment."""
    return rules.RecencyRule(name or "freshness", action, parse_duration(max_age) // timedelta(microseconds=1))


def not_future(
    skew: str = "5m", *, at_most: float = 0.0, action: Action = "block", name: str = ""
) -> rules.NoFutureRule:
    """No row claims to be known later than now, but for a clock that is ``skew`` ahead."""
    return rules.NoFutureRule(name or "future", action, parse_duration(skew) // timedelta(microseconds=1), at_most)


def steady(
    *of: object,
    over: Over = "features",
    psi: float = 0.25,
    alpha: float = 0.001,
    effect: float = 0.25,
    action: Action = "block",
    name: str = "",
) -> rules.StabilityRule:
    """Distributions of features (or of the source's new rows) are as they were; all of them when none is named."""
    return rules.StabilityRule(name or f"drift of {over}", action, over, tuple(map(_name, of)), psi, alpha, effect)


def sql(
    name: str, select: str, *, at_most: float = 0.0, over: Over = "source", action: Action = "block"
) -> rules.SqlRule:
    """A SELECT that returns offending rows, of ``source`` or of ``features``. To be quarantined it returns whole rows:
    ``SELECT * FROM source WHERE …``."""
    return rules.SqlRule(name, action, select.strip().rstrip(";"), at_most, over)


def python(
    function: Callable[[Any], Any], *, over: Over = "features", action: Action = "block", name: str = ""
) -> rules.PythonCheck:
    """A function that gets an Arrow table and returns what is wrong: a text, several, or nothing.

    It runs in the worker, with the worker's rights, like ``definitions.py`` itself.
    """
    return rules.PythonCheck(name or getattr(function, "__name__", "python"), action, function, over)


def pandera(schema: Any, *, over: Over = "features", action: Action = "block", name: str = "") -> rules.PythonCheck:
    """A pandera schema, of pandas or of Polars (extra ``quality``)."""
    return rules.PythonCheck(name or getattr(schema, "name", None) or "pandera", action, schema, over)


def _name(of: object) -> str:
    if isinstance(of, str):
        return of
    node = node_of(of)
    if not isinstance(node, ColumnNode):
        raise TypeError(f"{of!r} is no column; write its name, or col.NAME.")
    return node.name
