"""Quality: what must hold of a view's source and values before a snapshot of it may be read.

Invariant: a rule that blocks or warns changes no value, so it is no part of the definition version, and takes effect
on a version that a release pins. A rule that *quarantines* leaves source rows out, in batch and online alike, which
does change values: those rules are part of the version, like the source's own ``where``.
"""

from __future__ import annotations

import ast
import inspect
import math
import re
import textwrap
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.core.ids import content_hash
from antiphon.definitions.feature import duration_mistakes
from antiphon.definitions.nodes import (
    BooleanNode,
    ColumnNode,
    ComparisonNode,
    Expression,
    IsNullNode,
    LiteralNode,
    NotNode,
)
from antiphon.definitions.objects import is_objects
from antiphon.definitions.source import SourceSpec

Action = Literal["block", "quarantine", "warn"]
Over = Literal["source", "features"]
ColumnKind = Literal["number", "text", "boolean", "time"]


class NamedRule(msgspec.Struct, frozen=True):
    """A rule's name, by which reasons call it, and what happens where it does not hold."""

    name: str
    action: Action


class ColumnTypesRule(NamedRule, frozen=True, tag="typed"):
    """Columns of the source that must be there with a kind; ``closed``: and no others."""

    columns: dict[str, ColumnKind]
    closed: bool = False


class NotNullRule(NamedRule, frozen=True, tag="not_null"):
    """Columns or features that have a value; a share of ``at_most`` may lack one."""

    of: tuple[str, ...]
    at_most: float = 0.0
    over: Over = "source"


class RangeRule(NamedRule, frozen=True, tag="between"):
    """A number within closed bounds where there is one; NaN and infinity are outside."""

    of: str
    low: float
    high: float
    at_most: float = 0.0
    over: Over = "source"


class AllowedValuesRule(NamedRule, frozen=True, tag="one_of"):
    """A text among known ones where there is one."""

    of: str
    values: tuple[str, ...]
    at_most: float = 0.0


class UniquenessRule(NamedRule, frozen=True, tag="unique"):
    """Columns whose values together name at most one row. Quarantine keeps the row that hashes least."""

    of: tuple[str, ...]
    at_most: float = 0.0


class ReferenceRule(NamedRule, frozen=True, tag="exists_in"):
    """Columns whose values, where they have them, stand in columns of another source."""

    of: tuple[str, ...]
    reference: SourceSpec
    columns: tuple[str, ...]
    at_most: float = 0.0


class VolumeRule(NamedRule, frozen=True, tag="volume"):
    """A count against the median of earlier snapshots, at least ``least`` and at most ``most`` times of it.

    ``of``: ``rows`` read, ``new_rows`` (known since the snapshot before, per hour), or ``entities``.
    """

    of: Literal["rows", "new_rows", "entities"]
    least: float
    most: float


class RecencyRule(NamedRule, frozen=True, tag="recent"):
    """The latest event is at most so old (microseconds) at the snapshot's moment."""

    max_age: int


class NoFutureRule(NamedRule, frozen=True, tag="not_future"):
    """No row claims to be known later than now, but for a clock that is ``skew`` microseconds ahead."""

    skew: int
    at_most: float = 0.0


class StabilityRule(NamedRule, frozen=True, tag="steady"):
    """Distributions are as they were in earlier snapshots.

    Attributes:
        of: features or columns; all when empty.
        psi: greatest population stability index, unless chance alone makes a greater one of so few values.
        alpha: false discovery rate of the tests (Kolmogorov-Smirnov for numbers, χ² for categories) over all of ``of``,
            by Benjamini and Hochberg.
        effect: what a significant difference must reach as well: the KS distance, or Cramér's V.
    """

    over: Over
    of: tuple[str, ...] = ()
    psi: float = 0.25
    alpha: float = 0.001
    effect: float = 0.25


class SqlRule(NamedRule, frozen=True, tag="sql"):
    """A SELECT of offending rows; it sees ``source`` (the rows as read) or ``features`` (the values)."""

    select: str
    at_most: float = 0.0
    over: Over = "source"


class PythonRule(NamedRule, frozen=True, tag="python"):
    """A function of the project over an Arrow table; ``digest`` is of what it was when the project was applied."""

    digest: str
    over: Over = "features"


Rule = (
    ColumnTypesRule
    | NotNullRule
    | RangeRule
    | AllowedValuesRule
    | UniquenessRule
    | ReferenceRule
    | VolumeRule
    | RecencyRule
    | NoFutureRule
    | StabilityRule
    | SqlRule
    | PythonRule
)
ROW_RULES = (NotNullRule, RangeRule, AllowedValuesRule, UniquenessRule, ReferenceRule, SqlRule)
"""Rules that tell single rows of the source from others, and so may quarantine them."""


WatchAction = Literal["roll_back", "hold", "tell", "off"]
"""Acts on what turned bad after it was published or promoted. ``roll_back``: what was before is back.
``hold``: nothing replaces it, and a person is told. ``tell``: a warning. ``off``: it is not measured."""

WATCH_ACTIONS: tuple[WatchAction, ...] = get_args(WatchAction)


class QualitySpec(msgspec.Struct, frozen=True):
    """The declared quality of a view, as a value.

    Attributes:
        late_after: microseconds after its event time from which a row counts as late in the source's quality.
        sampling_rate: which share of all events the source holds.
        standard: whether the rules hold that every view has (entities, rejected rows, missing values).
    """

    rules: tuple[Rule, ...] = ()
    late_after: int = 86_400_000_000
    sampling_rate: float = 1.0
    standard: bool = True

    @property
    def quarantining(self) -> tuple[Rule, ...]:
        """Rules that leave rows out."""
        return tuple(rule for rule in self.rules if rule.action == "quarantine")


def versioned(version: str, quality: QualitySpec | None) -> str:
    """The definition version of a view under its rules: another one only where rows are left out."""
    if quality is None or not quality.quarantining:
        return version
    meaning: list[str] = []
    for rule in quality.quarantining:
        if isinstance(rule, ReferenceRule):
            rule = msgspec.structs.replace(rule, reference=msgspec.structs.replace(rule.reference, path=None))
        meaning.append(content_hash(msgspec.structs.replace(rule, name="", at_most=0.0)))
    return content_hash([version, sorted(meaning)])[:16]


def admitted(source: SourceSpec, quality: QualitySpec | None) -> SourceSpec:
    """The source without the rows that single-row rules quarantine: its ``where`` and theirs."""
    where = source.where
    for rule in quality.quarantining if quality is not None else ():
        for condition in conditions(rule):
            where = condition if where is None else BooleanNode("and", where, condition)
    return source if where is source.where else msgspec.structs.replace(source, where=where)


def conditions(rule: Rule) -> Iterator[Expression]:
    """Returns a rule's demands on a row by itself, as expressions that are true or false, never null."""
    match rule:
        case NotNullRule(over="source", of=columns):
            for column in columns:
                yield NotNode(IsNullNode(ColumnNode(column)))
        case RangeRule(over="source", of=column, low=low, high=high):
            inside = BooleanNode(
                "and",
                ComparisonNode(">=", ColumnNode(column), LiteralNode(low)),
                ComparisonNode("<=", ColumnNode(column), LiteralNode(high)),
            )
            yield BooleanNode("or", IsNullNode(ColumnNode(column)), inside)
        case AllowedValuesRule(of=column, values=values):
            among: Expression = IsNullNode(ColumnNode(column))
            for value in values:
                among = BooleanNode("or", among, ComparisonNode("=", ColumnNode(column), LiteralNode(value)))
            yield among


class PythonCheck(NamedRule, frozen=True):
    """A function of the project as a rule, before it is digested."""

    function: Any
    over: Over


class Quality:
    """The declared quality of a view: rules made by :mod:`antiphon.definitions.expect`, and facts about the source.

    Args:
        rules: checked before every publication.
        late_after: a row that was known so long after it happened counts as late in the source's quality.
        sampling_rate: which share of all events the source holds; kept with every snapshot.
        standard: ``False`` drops the rules that every view has. Without any rule nothing is held back.
    """

    def __init__(
        self, *rules: object, late_after: str = "1d", sampling_rate: float = 1.0, standard: bool = True
    ) -> None:
        self.rules = rules
        self.late_after = late_after
        self.sampling_rate = sampling_rate
        self.standard = standard

    def spec(self, root: Path | None = None) -> QualitySpec:
        """The frozen value of a declaration without mistakes; ``root`` is where relative paths start."""
        return QualitySpec(
            rules=tuple(_placed(rule, root) for rule in self.rules),
            late_after=parse_duration(self.late_after) // timedelta(microseconds=1),
            sampling_rate=float(self.sampling_rate),
            standard=self.standard,
        )

    def functions(self) -> dict[str, Callable[[Any], Any]]:
        """Functions of the Python rules by name."""
        return {rule.name: rule.function for rule in self.rules if isinstance(rule, PythonCheck)}


def _placed(rule: Any, root: Path | None) -> Rule:
    if isinstance(rule, PythonCheck):
        return PythonRule(rule.name, rule.action, digest_of(rule.function), rule.over)
    if isinstance(rule, ReferenceRule) and root is not None and rule.reference.path is not None:
        placed = msgspec.structs.replace(rule.reference, path=str(root / rule.reference.path))
        return msgspec.structs.replace(rule, reference=placed)
    return cast(Rule, rule)


def quality_mistakes(declared: object, features: frozenset[str], stream: bool) -> Iterator[str]:
    """Yields the mistakes of a declared quality, a sentence each."""
    if declared is None:
        return
    if not isinstance(declared, Quality):
        yield f"quality must be a Quality, not {declared!r}."
        return
    if any(duration_mistakes(declared.late_after, "late_after")):
        yield f"quality: late_after is a duration such as '1d', not {declared.late_after!r}."
    if not isinstance(declared.sampling_rate, (int, float)) or not 0 < declared.sampling_rate <= 1:
        yield f"quality: sampling_rate is a share above 0 and up to 1, not {declared.sampling_rate!r}."
    names: set[str] = set()
    for rule in declared.rules:
        if not isinstance(rule, (Rule, PythonCheck)):
            yield f"quality: {rule!r} is no rule; rules are made by expect, such as expect.not_null('id')."
            continue
        if rule.name in names:
            yield f"quality: two rules are named {rule.name!r}; give one a name of its own."
        names.add(rule.name)
        yield from _rule_mistakes(rule, features, stream)


def _rule_mistakes(rule: Rule | PythonCheck, features: frozenset[str], stream: bool) -> Iterator[str]:
    label = f"quality: {rule.name}"
    if rule.action not in ("block", "quarantine", "warn"):
        yield f"{label}: action is block, quarantine or warn, not {rule.action!r}."
    over = getattr(rule, "over", "source")
    if over not in ("source", "features"):
        yield f"{label}: over is 'source' or 'features', not {over!r}."
    if rule.action == "quarantine":
        if not isinstance(rule, ROW_RULES) or over != "source":
            yield f"{label}: only single rows of the source can be quarantined; this rule blocks or warns."
        elif stream and not isinstance(rule, (NotNullRule, RangeRule, AllowedValuesRule)):
            yield (
                f"{label}: a stream's events are served as they arrive, one by one, so they can be quarantined by "
                "not_null, between and one_of only; this rule blocks or warns."
            )
    at_most = getattr(rule, "at_most", 0.0)
    if not isinstance(at_most, (int, float)) or not 0 <= at_most <= 1:
        yield f"{label}: at_most is a share from 0 to 1, not {at_most!r}."
    if over == "features" and not isinstance(rule, (SqlRule, PythonCheck, PythonRule)):
        named = rule.of if isinstance(rule.of, tuple) else (rule.of,)  # type: ignore[union-attr]
        for name in named:
            if name not in features:
                yield f"{label}: the view has no feature {name!r}."
    for name in getattr(rule, "__struct_fields__", ()):
        value = getattr(rule, name)
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{label}: {name} is {value}; write a number, for no bound a large one such as 1e300."
    if isinstance(rule, RangeRule) and not rule.low <= rule.high:
        yield f"{label}: {rule.low:g} is above {rule.high:g}."
    if isinstance(rule, VolumeRule) and not 0 <= rule.least <= 1 <= rule.most:
        yield f"{label}: least is at most 1 and most at least 1, times the median of earlier snapshots."
    if isinstance(rule, ReferenceRule):
        if rule.reference.path is None or is_objects(rule.reference.path):
            yield f"{label}: the source {rule.reference.name!r} has no file to look in on this machine."
        if len(rule.of) != len(rule.columns):
            yield f"{label}: {len(rule.of)} columns are compared with {len(rule.columns)}."
    if isinstance(rule, PythonCheck) and not callable(rule.function) and not hasattr(rule.function, "validate"):
        yield f"{label}: {rule.function!r} is no function and no schema."


def digest_of(function: Any) -> str:
    """16 hex digits over what a function does: its syntax tree, so that comments and layout do not matter; of a schema
    object its text."""
    if hasattr(function, "validate"):
        return content_hash(re.sub(r" at 0x[0-9a-f]+", "", repr(function)))[:16]
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return content_hash(repr(function))[:16]
    try:
        return content_hash(ast.dump(ast.parse(source)))[:16]
    except SyntaxError:  # a lambda in the middle of an expression
        return content_hash(" ".join(source.split()))[:16]
