"""A small frozen expression tree over the columns of one event.

Invariant: an expression means the same in DuckDB and in Python. So its values are few: numbers are IEEE
doubles, and there are booleans, texts and null. A number that is not finite is null; division by zero is null;
null spreads through arithmetic and comparison, and ``and``/``or`` follow three-valued logic, as in SQL.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal as OneOf
from typing import cast

import msgspec

Kind = OneOf["number", "boolean", "text", "null", "unknown"]
Value = float | bool | str | None


class Column(msgspec.Struct, frozen=True, tag="column"):
    """The event's value under this name; null when the event has none."""

    name: str


class Literal(msgspec.Struct, frozen=True, tag="literal"):
    """A constant; numbers are doubles, so that ``15`` and ``15.0`` are one definition."""

    value: bool | float | str | None


class Arithmetic(msgspec.Struct, frozen=True, tag="arithmetic"):
    """Two numbers into one, a single double operation."""

    operator: OneOf["+", "-", "*", "/"]
    left: Expression
    right: Expression


class Comparison(msgspec.Struct, frozen=True, tag="comparison"):
    """Two values of one kind into a boolean; texts compare by code point."""

    operator: OneOf["=", "!=", "<", "<=", ">", ">="]
    left: Expression
    right: Expression


class Boolean(msgspec.Struct, frozen=True, tag="boolean"):
    """``and`` or ``or`` of two booleans, three-valued."""

    operator: OneOf["and", "or"]
    left: Expression
    right: Expression


class Not(msgspec.Struct, frozen=True, tag="not"):
    """The other boolean; null stays null."""

    operand: Expression


class IsNull(msgspec.Struct, frozen=True, tag="is_null"):
    """Whether the value is missing; never null itself."""

    operand: Expression


class Coalesce(msgspec.Struct, frozen=True, tag="coalesce"):
    """The first value that is not null."""

    operands: tuple[Expression, ...]


Expression = Column | Literal | Arithmetic | Comparison | Boolean | Not | IsNull | Coalesce


class Term:
    """What a user writes with ``col`` and operators; ``node`` is its frozen expression.

    ``&``, ``|`` and ``~`` stand for and, or, not. A term has no truth value of its own, so ``and``, ``or``,
    ``not`` and chained comparisons are refused instead of being silently wrong.
    """

    __slots__ = ("node",)

    def __init__(self, node: Expression) -> None:
        self.node = node

    def __add__(self, other: object) -> Term:
        return _arithmetic("+", self, other)

    def __radd__(self, other: object) -> Term:
        return _arithmetic("+", other, self)

    def __sub__(self, other: object) -> Term:
        return _arithmetic("-", self, other)

    def __rsub__(self, other: object) -> Term:
        return _arithmetic("-", other, self)

    def __mul__(self, other: object) -> Term:
        return _arithmetic("*", self, other)

    def __rmul__(self, other: object) -> Term:
        return _arithmetic("*", other, self)

    def __truediv__(self, other: object) -> Term:
        return _arithmetic("/", self, other)

    def __rtruediv__(self, other: object) -> Term:
        return _arithmetic("/", other, self)

    def __neg__(self) -> Term:
        return _arithmetic("*", self, -1.0)

    def __eq__(self, other: object) -> Term:  # type: ignore[override]
        return _comparison("=", self, other)

    def __ne__(self, other: object) -> Term:  # type: ignore[override]
        return _comparison("!=", self, other)

    def __lt__(self, other: object) -> Term:
        return _comparison("<", self, other)

    def __le__(self, other: object) -> Term:
        return _comparison("<=", self, other)

    def __gt__(self, other: object) -> Term:
        return _comparison(">", self, other)

    def __ge__(self, other: object) -> Term:
        return _comparison(">=", self, other)

    def __and__(self, other: object) -> Term:
        return Term(Boolean("and", self.node, node_of(other)))

    def __or__(self, other: object) -> Term:
        return Term(Boolean("or", self.node, node_of(other)))

    def __invert__(self) -> Term:
        return Term(Not(self.node))

    def is_null(self) -> Term:
        """Whether the value is missing."""
        return Term(IsNull(self.node))

    def coalesce(self, *others: object) -> Term:
        """This value, or the first of the others that is not missing."""
        return Term(Coalesce((self.node, *(node_of(other) for other in others))))

    def __bool__(self) -> bool:
        raise TypeError("A column expression has no truth value: write & for and, | for or, ~ for not.")

    __hash__ = None  # type: ignore[assignment]


class Columns:
    """``col.NAME`` or ``col["any name"]``: the event's column of that name."""

    def __getattr__(self, name: str) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        return Term(Column(name))

    def __getitem__(self, name: str) -> Term:
        return Term(Column(name))


col = Columns()


def node_of(value: object) -> Expression:
    """The node of a term, or the literal of a plain value.

    Raises:
        TypeError: the value is neither a term nor a finite number, boolean, text or None.
    """
    if isinstance(value, Term):
        return value.node
    if value is None or isinstance(value, (bool, str)):
        return Literal(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return Literal(float(value))
    raise TypeError(f"{value!r} cannot stand in an expression: use a finite number, a boolean, a text or None.")


def _arithmetic(operator: str, left: object, right: object) -> Term:
    return Term(Arithmetic(cast("OneOf['+', '-', '*', '/']", operator), node_of(left), node_of(right)))


def _comparison(operator: str, left: object, right: object) -> Term:
    known = cast("OneOf['=', '!=', '<', '<=', '>', '>=']", operator)
    return Term(Comparison(known, node_of(left), node_of(right)))


def children(node: Expression) -> tuple[Expression, ...]:
    """The operands of a node, in order."""
    match node:
        case Column() | Literal():
            return ()
        case Arithmetic(left=left, right=right) | Comparison(left=left, right=right) | Boolean(left=left, right=right):
            return (left, right)
        case Not(operand=operand) | IsNull(operand=operand):
            return (operand,)
        case Coalesce(operands=operands):
            return operands


def columns(node: Expression | None) -> frozenset[str]:
    """Names of all columns an expression reads."""
    if node is None:
        return frozenset()
    if isinstance(node, Column):
        return frozenset({node.name})
    return frozenset().union(*(columns(child) for child in children(node)))


def kind(node: Expression) -> Kind:
    """What an expression yields, as far as it shows without knowing the columns' types."""
    match node:
        case Column():
            return "unknown"
        case Literal(value=value):
            return kind_of_value(value)
        case Arithmetic():
            return "number"
        case Comparison() | Boolean() | Not() | IsNull():
            return "boolean"
        case Coalesce(operands=operands):
            found = {kind(operand) for operand in operands} - {"null", "unknown"}
            return found.pop() if len(found) == 1 else "unknown"


def kind_of_value(value: Value) -> Kind:
    """The kind of a plain value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return "text" if isinstance(value, str) else "number"


def mistakes(node: Expression) -> Iterator[str]:
    """What can be seen to be wrong with an expression without knowing the columns' types."""
    for child in children(node):
        yield from mistakes(child)
    match node:
        case Arithmetic(operator=operator):
            for child in children(node):
                if kind(child) in ("text", "boolean"):
                    yield f"{operator!r} needs numbers, not a {kind(child)}."
        case Boolean(operator=operator):
            for child in children(node):
                if kind(child) in ("text", "number"):
                    yield f"{operator!r} needs booleans, not a {kind(child)}."
        case Not(operand=operand):
            if kind(operand) in ("text", "number"):
                yield f"'not' needs a boolean, not a {kind(operand)}."
        case Comparison(operator=operator, left=left, right=right):
            found = {kind(left), kind(right)}
            if "null" in found:
                yield f"{operator!r} with None is always null: use .is_null()."
            elif len(found - {"unknown"}) == 2:
                yield f"{operator!r} compares a {kind(left)} with a {kind(right)}."
        case Coalesce(operands=operands):
            found = {kind(operand) for operand in operands} - {"null", "unknown"}
            if len(found) > 1:
                yield f"coalesce mixes {' and '.join(sorted(found))}."
        case _:
            pass
