"""Functions and names that a user writes in an expression: ``request``, ``now``, ``when``, ``least`` and
``greatest``."""

from __future__ import annotations

from typing import Literal

from antiphon.definitions.expression import Term, TermNamespace, node_of
from antiphon.definitions.nodes import CallNode, CaseNode, Expression, LiteralNode, NowNode, RequestInputNode

request = TermNamespace(RequestInputNode)
now = Term(NowNode())


def least(*values: object) -> Term:
    """The least of the values that are not missing: ``least(col.planned, col.actual)``."""
    return _of_several("least", values)


def greatest(*values: object) -> Term:
    """The greatest of the values that are not missing: ``greatest(col.planned, col.actual)``."""
    return _of_several("greatest", values)


class ConditionBuilder:
    """A choice that is not finished: ``when(CONDITION).then(VALUE)``, more of them, ``.otherwise(VALUE)``."""

    __slots__ = ("_branches", "_condition")

    def __init__(self, branches: tuple[tuple[Expression, Expression], ...], condition: Expression) -> None:
        self._branches = branches
        self._condition = condition

    def then(self, value: object) -> ChoiceTerm:
        """The value where the condition is true."""
        return ChoiceTerm((*self._branches, (self._condition, node_of(value))))


class ChoiceTerm(Term):
    """A choice that may have more branches; left like this, it is missing when none of them is true."""

    __slots__ = ("_branches",)

    def __init__(self, branches: tuple[tuple[Expression, Expression], ...]) -> None:
        super().__init__(CaseNode(branches, LiteralNode(None)))
        self._branches = branches

    def when(self, condition: object) -> ConditionBuilder:
        """Another condition, asked when those before are not true."""
        return ConditionBuilder(self._branches, node_of(condition))

    def otherwise(self, value: object) -> Term:
        """The value where no condition is true."""
        return Term(CaseNode(self._branches, node_of(value)))


def when(condition: object) -> ConditionBuilder:
    """Begins a choice: ``when(col.delay > 15).then("late").when(col.delay < 0).then("early").otherwise("on time")``."""
    return ConditionBuilder((), node_of(condition))


def _of_several(function: Literal["least", "greatest"], values: tuple[object, ...]) -> Term:
    if not values:
        raise TypeError(f"{function} needs at least one value.")
    return Term(CallNode(function, tuple(map(node_of, values))))
