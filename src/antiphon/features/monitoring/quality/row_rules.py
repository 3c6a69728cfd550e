"""Rules over single rows of a source, as SQL: which rows offend, and what is left when they are kept out.

Invariant: what a rule quarantines is left out wherever the source is read, by batch, point in time and lineage alike,
and exactly those rows are listed with the rule's name. Rules that look at one row by itself go first; ``unique``,
``exists_in`` and ``sql`` see what these left, one after the other, in the order in which they are declared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import (
    AllowedValuesRule,
    NotNullRule,
    RangeRule,
    ReferenceRule,
    Rule,
    SqlRule,
    UniquenessRule,
    admitted,
    conditions,
)
from antiphon.features.expressions.expression_sql import ExpressionSql, column_kind, quoted, text
from antiphon.features.offline.compute import files_of, relation_of

_SINGLE = (NotNullRule, RangeRule, AllowedValuesRule)


class QuarantineStage(NamedTuple):
    """A quarantining rule: a SELECT of the rows it keeps out, and one of the rows after it."""

    rule: Rule
    offenders: str
    left: str


def quarantine_stages(spec: FeatureViewSpec, rows: str, types: Mapping[str, str]) -> Iterator[QuarantineStage]:
    """Effect of each quarantining rule on ``rows`` (a SELECT of the source's rows), in order. Raises
    ``InvalidInputError`` when a rule names a column that is missing or of another kind, ``SetupError`` when the file
    that it looks into is missing."""
    rules = spec.quality.quarantining if spec.quality is not None else ()
    where = f"source {spec.source.name}"
    left = rows
    singles = [rule for rule in rules if isinstance(rule, _SINGLE)]
    for single in singles:
        holds = " AND ".join(ExpressionSql(types, where).condition(condition) for condition in conditions(single))
        offenders = f"SELECT * FROM ({rows}) AS this_row WHERE NOT ({holds})"
        left = f"SELECT * FROM ({left}) AS this_row WHERE {holds}"
        yield QuarantineStage(single, offenders, left)
    for rule in (rule for rule in rules if not isinstance(rule, _SINGLE)):
        offenders, left = relational(rule, left, types)
        yield QuarantineStage(rule, offenders, left)


def admitted_relation(spec: FeatureViewSpec, relation: str, types: Mapping[str, str]) -> str:
    """A FROM clause without the rows that rules over several rows quarantine; ``relation`` itself where there are none.

    Rules over single rows are in the plan's ``where`` already, which streams obey as well.
    """
    rules = spec.quality.quarantining if spec.quality is not None else ()
    if all(isinstance(rule, _SINGLE) for rule in rules):
        return relation
    source = admitted(spec.source, spec.quality)
    left = f"SELECT * FROM {relation} AS this_row"
    if source.where is not None:
        left += f" WHERE {ExpressionSql(types, f'source {source.name}').condition(source.where)}"
    for rule in (rule for rule in rules if not isinstance(rule, _SINGLE)):
        _, left = relational(rule, left, types)
    return f"({left})"


def offends(rule: Rule, types: Mapping[str, str]) -> str | None:
    """A condition on ``this_row`` that an offending row meets; ``None`` for a rule that needs to see other rows."""
    match rule:
        case NotNullRule(over="source", of=columns):
            require(columns, types)
            return " OR ".join(f"this_row.{quoted(column)} IS NULL" for column in columns)
        case RangeRule(over="source", of=column, low=low, high=high):
            require((column,), types)
            if column_kind(types[column]) != "number":
                raise InvalidInputError(f"The column {column!r} is {types[column]}, not a number.", where="quality")
            number = f"CAST(this_row.{quoted(column)} AS DOUBLE)"
            inside = f"{number} BETWEEN {text(repr(low))}::DOUBLE AND {text(repr(high))}::DOUBLE"
            return f"({number} IS NOT NULL AND NOT ({inside}))"
        case AllowedValuesRule(of=column, values=values):
            require((column,), types)
            return f"(CAST(this_row.{quoted(column)} AS VARCHAR) NOT IN ({', '.join(map(text, values))}))"
    return None


def relational(rule: Rule, rows: str, types: Mapping[str, str]) -> tuple[str, str]:
    """SELECTs of the rows of ``rows`` that offend a rule which looks at other rows as well, and of the others."""
    if isinstance(rule, SqlRule):
        offenders = f"SELECT * FROM (WITH source AS ({rows}) {rule.select}) AS offending"
        return offenders, f"SELECT * FROM ({rows}) AS this_row EXCEPT ALL {offenders}"
    if not isinstance(rule, (UniquenessRule, ReferenceRule)):
        raise InvalidInputError(f"{rule.name} is no rule over rows.", where="quality")
    require(rule.of, types)
    clause, holds = ("QUALIFY", _first(rule.of)) if isinstance(rule, UniquenessRule) else ("WHERE", _found(rule))
    selected = f"SELECT * FROM ({rows}) AS this_row {clause}"
    return f"{selected} NOT ({holds})", f"{selected} {holds}"


def _first(columns: Sequence[str]) -> str:
    named = ", ".join(f"this_row.{quoted(column)}" for column in columns)
    missing = " OR ".join(f"this_row.{quoted(column)} IS NULL" for column in columns)
    order = "sha256(CAST(this_row AS VARCHAR))"  # any order will do that is the same tomorrow
    return f"(({missing}) OR row_number() OVER (PARTITION BY {named} ORDER BY {order}) = 1)"


def _found(rule: ReferenceRule) -> str:
    there = relation_of(files_of(rule.reference.path or ""))
    own = ", ".join(f"CAST(this_row.{quoted(column)} AS VARCHAR)" for column in rule.of)
    theirs = ", ".join(f"CAST({quoted(column)} AS VARCHAR)" for column in rule.columns)
    known = " AND ".join(f"{quoted(column)} IS NOT NULL" for column in rule.columns)
    missing = " OR ".join(f"this_row.{quoted(column)} IS NULL" for column in rule.of)
    return f"(({missing}) OR ({own}) IN (SELECT {theirs} FROM {there} WHERE {known}))"


def require(columns: Sequence[str], types: Mapping[str, str]) -> None:
    """Raise :class:`InvalidInputError` for a column that is not there."""
    for column in columns:
        if column not in types:
            raise InvalidInputError(f"There is no column {column!r}; there are {', '.join(types)}.", where="quality")
