"""Nodes of the expression tree: frozen values, what a definition version is made of.

Invariant: an expression means the same in DuckDB and in Python. So its values are few: numbers are IEEE doubles, and
there are booleans, texts, instants and null. A number that is not finite is null; division by zero is null; null
spreads through arithmetic and comparison, and ``and``/``or`` follow three-valued logic, as in SQL. An instant is a
number of microseconds since 1970 that only what is made for instants takes.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["number", "boolean", "text", "instant", "null", "unknown"]
Value = float | bool | str | None


class ColumnNode(msgspec.Struct, frozen=True, tag="column"):
    """The event's value under this name; null when the event has none."""

    name: str


class LiteralNode(msgspec.Struct, frozen=True, tag="literal"):
    """A constant; numbers are doubles, so that ``15`` and ``15.0`` are one definition."""

    value: bool | float | str | None


class ArithmeticNode(msgspec.Struct, frozen=True, tag="arithmetic"):
    """Two numbers into one, a single double operation."""

    operator: Literal["+", "-", "*", "/"]
    left: Expression
    right: Expression


class ComparisonNode(msgspec.Struct, frozen=True, tag="comparison"):
    """Two values of one kind into a boolean; texts compare by code point."""

    operator: Literal["=", "!=", "<", "<=", ">", ">="]
    left: Expression
    right: Expression


class BooleanNode(msgspec.Struct, frozen=True, tag="boolean"):
    """``and`` or ``or`` of two booleans, three-valued."""

    operator: Literal["and", "or"]
    left: Expression
    right: Expression


class NotNode(msgspec.Struct, frozen=True, tag="not"):
    """The other boolean; null stays null."""

    operand: Expression


class IsNullNode(msgspec.Struct, frozen=True, tag="is_null"):
    """True where the value is missing; never null itself."""

    operand: Expression


class CoalesceNode(msgspec.Struct, frozen=True, tag="coalesce"):
    """The first value that is not null."""

    operands: tuple[Expression, ...]


class CallNode(msgspec.Struct, frozen=True, tag="call"):
    """A function without parameters of its own.

    ``least`` and ``greatest`` pass nulls over; ``abs`` and ``log1p`` take a number (log1p of −1 and below is null);
    ``lower`` takes a text and maps each code point by itself; ``epoch`` is an instant's microseconds since 1970 as a
    number; ``seconds_since`` is the first instant less the second, in seconds.
    """

    function: Literal["least", "greatest", "abs", "log1p", "lower", "epoch", "seconds_since"]
    operands: tuple[Expression, ...]


class RoundNode(msgspec.Struct, frozen=True, tag="round_to"):
    """The nearest multiple of a step (a positive decimal), half to even."""

    operand: Expression
    step: str


class CaseNode(msgspec.Struct, frozen=True, tag="case"):
    """The value of the first branch whose condition is true, else ``otherwise``."""

    branches: tuple[tuple[Expression, Expression], ...]
    otherwise: Expression


class MembershipNode(msgspec.Struct, frozen=True, tag="member"):
    """True where a value is one of several constants of its kind; null stays null."""

    operand: Expression
    values: tuple[bool | float | str, ...]


class CalendarNode(msgspec.Struct, frozen=True, tag="calendar"):
    """The hour (0 to 23) or weekday (Monday 1 to Sunday 7) that an instant has in a zone.

    The operand is an instant, or a text in ISO 8601 such as ``2016-12-31T23:59:59+01:00`` (without offset: UTC); any
    other text, a second 60 among them, is null. Before 1970 and after 2100 the offset of that end holds.
    """

    part: Literal["hour", "weekday"]
    operand: Expression
    zone: str


class HashBucketNode(msgspec.Struct, frozen=True, tag="hash_bucket"):
    """A number from 0 to ``buckets`` − 1 by a hash of the value that is the same everywhere and always."""

    operand: Expression
    buckets: int


class RequestInputNode(msgspec.Struct, frozen=True, tag="request"):
    """The request's input of this name; only in on-demand features."""

    name: str


class FeatureValueNode(msgspec.Struct, frozen=True, tag="feature"):
    """Another feature's value by its full name, ``view.feature``; only in on-demand features."""

    name: str


class NowNode(msgspec.Struct, frozen=True, tag="now"):
    """The moment that is asked about; only in on-demand features."""


Outside = RequestInputNode | FeatureValueNode | NowNode
"""Inputs that no event has, and so no aggregate can read."""

Expression = (
    ColumnNode | LiteralNode | ArithmeticNode | ComparisonNode | BooleanNode | NotNode | IsNullNode | CoalesceNode
    | CallNode | RoundNode | CaseNode | MembershipNode | CalendarNode | HashBucketNode | RequestInputNode
    | FeatureValueNode | NowNode
)  # fmt: skip


def children(node: Expression) -> tuple[Expression, ...]:
    """The operands of a node, in order."""
    match node:
        case ColumnNode() | LiteralNode() | RequestInputNode() | FeatureValueNode() | NowNode():
            return ()
        case ArithmeticNode() | ComparisonNode() | BooleanNode():
            return (node.left, node.right)
        case CoalesceNode() | CallNode():
            return node.operands
        case CaseNode():
            return (*(each for branch in node.branches for each in branch), node.otherwise)
        case _:
            return (node.operand,)


def columns(node: Expression | None) -> frozenset[str]:
    """Names of all columns an expression reads."""
    if node is None:
        return frozenset()
    if isinstance(node, ColumnNode):
        return frozenset({node.name})
    return frozenset().union(*(columns(child) for child in children(node)))


def outside(node: Expression) -> tuple[Outside, ...]:
    """Returns the inputs of an expression that no event has, in order."""
    if isinstance(node, Outside):
        return (node,)
    return tuple(dict.fromkeys(found for child in children(node) for found in outside(child)))


def kind_of_value(value: Value) -> Kind:
    """The kind of a plain value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"
