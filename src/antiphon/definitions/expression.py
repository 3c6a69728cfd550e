"""Terms over columns, as a user writes them, made into the frozen expression tree of ``nodes``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from types import FunctionType
from typing import Any, Literal, cast

from antiphon.core.errors import InvalidInputError
from antiphon.definitions import nodes
from antiphon.definitions.nodes import Expression, Kind, children, kind_of_value, outside


class Term:
    """An expression written with ``col`` and operators; ``node`` is its frozen value.

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
        return Term(nodes.BooleanNode("and", self.node, node_of(other)))

    def __or__(self, other: object) -> Term:
        return Term(nodes.BooleanNode("or", self.node, node_of(other)))

    def __invert__(self) -> Term:
        return Term(nodes.NotNode(self.node))

    def is_null(self) -> Term:
        """True where the value is missing."""
        return Term(nodes.IsNullNode(self.node))

    def coalesce(self, *others: object) -> Term:
        """This value, or the first of the others that is not missing."""
        return Term(nodes.CoalesceNode((self.node, *(node_of(other) for other in others))))

    def abs(self) -> Term:
        """Its distance from zero."""
        return Term(nodes.CallNode("abs", (self.node,)))

    def log1p(self) -> Term:
        """ln(1 + x), which takes the length out of a long tail; of −1 and below missing."""
        return Term(nodes.CallNode("log1p", (self.node,)))

    def round_to(self, step: str) -> Term:
        """The nearest multiple of a step such as ``"0.5"`` or ``"10"``, half to even."""
        with suppress(InvalidInputError):  # told by mistakes()
            step = normal_step(step)
        return Term(nodes.RoundNode(self.node, step))

    def lower(self) -> Term:
        """The text in lower case."""
        return Term(nodes.CallNode("lower", (self.node,)))

    def is_in(self, values: Sequence[bool | float | str]) -> Term:
        """True where the value is one of these constants."""
        if isinstance(values, str):
            raise TypeError(f"is_in takes a list of constants, not the text {values!r}.")
        return Term(nodes.MembershipNode(self.node, tuple(_constant(node_of(value)) for value in values)))

    def hour(self, zone: str) -> Term:
        """The hour of the day, 0 to 23, that this instant has in a zone such as ``"Europe/Berlin"``, between 1970 and
        2100: a zone's changes of offset before and after that are left out."""
        return Term(nodes.CalendarNode("hour", self.node, zone))

    def weekday(self, zone: str) -> Term:
        """Its day of the week in a zone: Monday is 1, Sunday 7."""
        return Term(nodes.CalendarNode("weekday", self.node, zone))

    def seconds_since(self, earlier: object) -> Term:
        """From another instant to this one."""
        return Term(nodes.CallNode("seconds_since", (self.node, node_of(earlier))))

    def hash_bucket(self, buckets: int) -> Term:
        """A number from 0 to ``buckets`` − 1 by a hash of the value: a category of any cardinality as a small one."""
        return Term(nodes.HashBucketNode(self.node, buckets))

    def __bool__(self) -> bool:
        raise TypeError("A column expression has no truth value: write & for and, | for or, ~ for not.")

    __hash__ = None  # type: ignore[assignment]


class TermNamespace:
    """``col.NAME`` or ``col["any name"]``: the event's column of that name; ``request`` has a request's inputs."""

    def __init__(self, node: Callable[[str], Expression]) -> None:
        self.__node = node

    def __getattr__(self, name: str) -> Term:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Term:
        return Term(self.__node(name))


col = TermNamespace(nodes.ColumnNode)


class FeatureName(str):
    """``view.feature`` as a text, and in an expression that feature's value: ``Spend.mean_7d + 1``.

    Comparing it with anything but its own text is part of an expression, as is every operator and method of terms.
    """

    __slots__ = ()

    def _term(self) -> Term:
        return Term(nodes.FeatureValueNode(str(self)))

    def __eq__(self, other: object) -> bool | Term:  # type: ignore[override]
        if isinstance(other, FeatureName) or (isinstance(other, str) and str.__eq__(self, other)):
            return str.__eq__(self, other)
        return self._term() == other

    def __ne__(self, other: object) -> bool | Term:  # type: ignore[override]
        if isinstance(other, FeatureName) or (isinstance(other, str) and str.__eq__(self, other)):
            return str.__ne__(self, other)
        return self._term() != other

    __hash__ = str.__hash__


def _of_term(name: str) -> Callable[..., Any]:
    def method(self: FeatureName, *arguments: Any) -> Any:
        return getattr(Term(nodes.FeatureValueNode(str(self))), name)(*arguments)

    method.__name__ = name
    return method


for _name, _member in vars(Term).items():
    if isinstance(_member, FunctionType) and _name not in ("__init__", "__eq__", "__ne__", "__bool__"):
        setattr(FeatureName, _name, _of_term(_name))


def node_of(value: object) -> Expression:
    """The node of a term or of a named feature, or the literal of a plain value; raises ``TypeError`` when the value is
    neither a term nor a finite number, boolean, text or None."""
    if isinstance(value, Term):
        return value.node
    if isinstance(value, FeatureName):
        return nodes.FeatureValueNode(str(value))
    if value is None or isinstance(value, (bool, str)):
        return nodes.LiteralNode(value)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return nodes.LiteralNode(float(value))
    raise TypeError(f"{value!r} cannot stand in an expression: use a finite number, a boolean, a text or None.")


def _arithmetic(operator: str, left: object, right: object) -> Term:
    return Term(nodes.ArithmeticNode(cast("Literal['+', '-', '*', '/']", operator), node_of(left), node_of(right)))


def _comparison(operator: str, left: object, right: object) -> Term:
    known = cast("Literal['=', '!=', '<', '<=', '>', '>=']", operator)
    return Term(nodes.ComparisonNode(known, node_of(left), node_of(right)))


def kind(node: Expression) -> Kind:
    """Returns the kind of an expression's values, as far as it is known without the columns' types."""
    match node:
        case nodes.ColumnNode() | nodes.FeatureValueNode() | nodes.RequestInputNode():
            return "unknown"
        case nodes.NowNode():
            return "instant"
        case nodes.LiteralNode(value=value):
            return kind_of_value(value)
        case nodes.ArithmeticNode() | nodes.RoundNode() | nodes.CalendarNode() | nodes.HashBucketNode():
            return "number"
        case (
            nodes.ComparisonNode() | nodes.BooleanNode() | nodes.NotNode() | nodes.IsNullNode() | nodes.MembershipNode()
        ):
            return "boolean"
        case nodes.CallNode(function=function) if function not in ("least", "greatest"):
            return "text" if function == "lower" else "number"
        case nodes.CoalesceNode(operands=operands) | nodes.CallNode(operands=operands):
            return _common(operands)
        case nodes.CaseNode(branches=branches, otherwise=otherwise):
            return _common((*(value for _condition, value in branches), otherwise))


def _common(operands: Sequence[Expression]) -> Kind:
    found = {kind(operand) for operand in operands} - {"null", "unknown"}
    return found.pop() if len(found) == 1 else "unknown"


def mistakes(node: Expression) -> Iterator[str]:
    """Yields the mistakes of an expression that are seen without the columns' types."""
    for child in children(node):
        yield from mistakes(child)
    match node:
        case nodes.ArithmeticNode(operator=operator):
            for child in children(node):
                if kind(child) in ("text", "boolean"):
                    yield f"{operator!r} needs numbers, not a {kind(child)}."
        case nodes.BooleanNode(operator=operator):
            for child in children(node):
                if kind(child) in ("text", "number"):
                    yield f"{operator!r} needs booleans, not a {kind(child)}."
        case nodes.NotNode(operand=operand):
            if kind(operand) in ("text", "number"):
                yield f"'not' needs a boolean, not a {kind(operand)}."
        case nodes.ComparisonNode(operator=operator, left=left, right=right):
            found = {kind(left), kind(right)}
            if "instant" in found:
                yield f"{operator!r} compares an instant; compare seconds_since instead."
            elif "null" in found:
                yield f"{operator!r} with None is always null: use .is_null()."
            elif len(found - {"unknown"}) == 2:
                yield f"{operator!r} compares a {kind(left)} with a {kind(right)}."
        case nodes.CoalesceNode(operands=operands):
            yield from _mixed("coalesce", operands)
        case nodes.CallNode(function="least" | "greatest" as function, operands=operands):
            yield from _mixed(function, operands)
        case nodes.CallNode(function=function, operands=operands):
            expected: Kind = "text" if function == "lower" else "number" if function in ("abs", "log1p") else "instant"
            for operand in operands:
                if kind(operand) not in (expected, "unknown", "null"):
                    yield f"{function} needs a {expected}, not a {kind(operand)}."
        case nodes.CaseNode(branches=branches, otherwise=otherwise):
            for condition, _value in branches:
                if kind(condition) not in ("boolean", "unknown"):
                    yield f"when needs a condition, not a {kind(condition)}."
            yield from _mixed("when", (*(value for _condition, value in branches), otherwise))
        case nodes.MembershipNode(operand=operand, values=values):
            found = {kind(operand), *map(kind_of_value, values)} - {"unknown"}
            if not values:
                yield "is_in has no values."
            elif len(found) > 1:
                yield f"is_in mixes {' and '.join(sorted(found))}."
        case nodes.RoundNode(operand=operand, step=step):
            if kind(operand) not in ("number", "unknown"):
                yield f"round_to needs a number, not a {kind(operand)}."
            try:
                normal_step(step)
            except InvalidInputError as error:
                yield f"round_to: {error.what}"
        case nodes.CalendarNode(part=part, operand=operand, zone=zone):
            if kind(operand) not in ("instant", "text", "unknown"):
                yield f"{part} needs an instant, not a {kind(operand)}."
            if not isinstance(zone, str) or not _is_zone(zone):
                yield f"{part}: there is no time zone {zone!r}; write one such as 'Europe/Berlin' or 'UTC'."
        case nodes.HashBucketNode(operand=operand, buckets=buckets):
            if isinstance(buckets, bool) or not isinstance(buckets, int) or not 1 <= buckets <= 1_000_000:
                yield f"hash_bucket needs a number of buckets from 1 to 1000000, not {buckets!r}."
            if kind(operand) == "instant":
                yield "hash_bucket needs a text, a number or a boolean, not an instant."
        case _:
            pass


def _mixed(label: str, operands: Sequence[Expression]) -> Iterator[str]:
    found = {kind(operand) for operand in operands} - {"null", "unknown"}
    if len(found) > 1:
        yield f"{label} mixes {' and '.join(sorted(found))}."


def outside_mistakes(node: Expression) -> Iterator[str]:
    """Yields the inputs that an aggregate of events cannot read, a sentence each."""
    for found in outside(node):
        match found:
            case nodes.RequestInputNode(name=name):
                yield f"request.{name} is known when something is asked, not when an event happens; use on_demand."
            case nodes.FeatureValueNode(name=name):
                yield f"{name} is another feature; a feature of features is declared with on_demand."
            case nodes.NowNode():
                yield "now is known when something is asked, not when an event happens; use on_demand."


def normal_step(step: object, label: str = "the step") -> str:
    """A positive decimal in one spelling; raises ``InvalidInputError`` when it is none between 1e-12 and 1e12."""
    try:
        if not isinstance(step, str):
            raise InvalidOperation
        number = Decimal(step)
        if not number.is_finite() or not Decimal("1e-12") <= number <= Decimal("1e12"):
            raise InvalidOperation
    except InvalidOperation:
        raise InvalidInputError(
            f"{label} must be a positive decimal as a text, such as '0.01', not {step!r}."
        ) from None
    return f"{number.normalize():f}"


def _constant(node: Expression) -> bool | float | str:
    if isinstance(node, nodes.LiteralNode) and node.value is not None:
        return node.value
    raise TypeError("is_in takes constants: numbers, booleans or texts.")


def _is_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        return False
    return True
