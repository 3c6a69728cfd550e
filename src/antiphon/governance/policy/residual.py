"""Policy over many rows: what the engine leaves open about unknown rows, as one DuckDB predicate.

Invariant: a row is decided as :meth:`Decider.decide` would decide it. The predicate covers only a fragment in which
nothing can fail: comparisons of the row's keys (texts) and moment (a whole number) with constants or each other,
``like`` with escaped patterns, membership in a constant set, and ``&&``, ``||``, ``!``. When the residual holds
anything else, and for any row about which the predicate says neither yes nor no, the online decider decides one by one.

The engine's authors do not declare partial evaluation final: rows that are let through are decided again by the online
decider before they are emitted (``recheck``, or by ``answer()`` itself).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import KEY, MOMENT, Decider
from antiphon.governance.policy.request import CONTEXT, Decision, PolicyRow, Resource

_LONG = range(-(2**63), 2**63)
_COMPARED = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


class OutsideFragment(Exception):
    """The residual holds something that the predicate does not cover; the reason is its text."""


class Predicate(msgspec.Struct, frozen=True):
    """A condition over rows.

    Attributes:
        sql: a DuckDB expression over the columns of :attr:`columns`; true or false for rows that have them all.
        columns: a row's keys, and ``as_of`` when its moment is read, to the identifier each has in ``sql``.
    """

    sql: str
    columns: Mapping[str, str]


class RowPolicy:
    """One principal's question about many rows of one resource, which all have these ``keys``.

    ``context`` is as for :meth:`Decider.decide`, without what differs by row."""

    def __init__(
        self,
        decider: Decider,
        principal: Principal,
        action: str,
        resource: Resource,
        keys: Sequence[str],
        context: Mapping[str, Any],
    ) -> None:
        self._decider = decider
        self._principal = principal
        self._action = action
        self._resource = resource
        self._keys = tuple(keys)
        self._context = {name: value for name, value in context.items() if name not in ("keys", "as_of")}
        self.predicate: Predicate | None = None
        self.outside: str | None = None
        try:
            self.predicate = self._compile()
        except OutsideFragment as reason:
            self.outside = str(reason)

    def decide(self, rows: Sequence[PolicyRow], *, recheck: bool = True) -> list[Decision]:
        """Every row's decision, in order; those denied say why. Rows that the predicate lets through are decided again:
        leave ``recheck`` out only where somebody else does that."""
        verdicts = self.verdicts(rows)
        permitted = Decision(True, ("row-predicate",), self._decider.digest)
        decisions: list[Decision] = []
        for row, verdict in zip(rows, verdicts, strict=True):
            if verdict and not recheck:
                decisions.append(permitted)
                continue
            said = self.one(row)
            if verdict is False and said.allowed:
                # The two ways disagree, so that one of them is wrong: nothing is let through.
                error = "the predicate denies what the decider permits"
                said = Decision(False, said.policies, said.digest, (error,))
            decisions.append(said)
        return decisions

    def one(self, row: PolicyRow) -> Decision:
        """The online decision about one row."""
        context = {**self._context, "keys": row.keys, "as_of": row.as_of}
        return self._decider.decide(self._principal, self._action, self._resource, context)

    def verdicts(self, rows: Sequence[PolicyRow]) -> list[bool | None]:
        """Verdicts of the predicate alone; ``None`` where it does not decide."""
        if self.predicate is None or not rows:
            return [None] * len(rows)
        import duckdb
        import pyarrow

        usable = [_usable(row, self._keys) for row in rows]
        columns = {
            identifier: pyarrow.array(
                [(row.as_of if name == MOMENT else row.keys[name]) if fit else None
                 for row, fit in zip(rows, usable, strict=True)],
                pyarrow.int64() if name == MOMENT else pyarrow.string(),
            )
            for name, identifier in self.predicate.columns.items()
        }  # fmt: skip
        columns["place"] = pyarrow.array(range(len(rows)), pyarrow.int64())
        table = pyarrow.table(columns)
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET threads = 1")
            connection.register("asked", table)
            said = connection.execute(f"SELECT {self.predicate.sql} FROM asked ORDER BY place").fetchall()
        return [verdict if fit else None for (verdict,), fit in zip(said, usable, strict=True)]

    def _compile(self) -> Predicate:
        decider, context = self._decider, self._context
        if self._principal.limits.refusal(self._action, str(self._resource)) is not None:
            return Predicate("FALSE", {})
        met = decider.met(self._principal, self._action, self._resource, context)
        if isinstance(met, Decision):
            return Predicate("FALSE", {})
        known = {name: str(context.get(name) or "") for name in CONTEXT}
        try:
            said = decider.partial(self._principal, self._action, met[0], known, self._keys)
        except Exception as error:
            raise OutsideFragment(f"it cannot be evaluated partially: {error}") from error
        if said.diagnostics.errors:
            raise OutsideFragment(f"a policy fails whatever the row is: {said.diagnostics.errors[0]}")
        columns = {name: f"k{place}" for place, name in enumerate(self._keys)}
        columns[MOMENT] = "moment"
        permits: list[str] = []
        forbids: list[str] = []
        for part in decider.parts.policies:
            residual = said.residuals.get(part.position)
            if residual is None:
                raise OutsideFragment(f"the residual of {part.name} is missing")
            (permits if part.effect == "permit" else forbids).append(_policy(residual, columns))
        allowed = " OR ".join(permits) or "FALSE"
        denied = " OR ".join(forbids) or "FALSE"
        return Predicate(f"(({allowed}) AND NOT ({denied}))", columns)


def _usable(row: PolicyRow, keys: Sequence[str]) -> bool:
    """Tell whether the predicate covers a row: it has every key, as a text that can be stored."""
    if set(row.keys) != set(keys) or row.as_of not in _LONG:
        return False
    for value in row.keys.values():
        if not isinstance(value, str) or "\0" in value:
            return False
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def _policy(residual: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """Condition under which a policy matches, given its residual."""
    if any(residual[part] != {"op": "All"} for part in ("principal", "action", "resource")):
        raise OutsideFragment("a residual has a scope")
    terms = []
    for condition in residual["conditions"]:
        term = _boolean(condition["body"], columns)
        terms.append(term if condition["kind"] == "when" else f"(NOT {term})")
    return f"({' AND '.join(terms) or 'TRUE'})"


def _boolean(tree: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    operator, operands = _only(tree)
    if operator == "Value" and isinstance(operands, bool):
        return "TRUE" if operands else "FALSE"
    if operator in ("&&", "||"):
        left, right = _boolean(operands["left"], columns), _boolean(operands["right"], columns)
        return f"({left} {'AND' if operator == '&&' else 'OR'} {right})"
    if operator == "!":
        return f"(NOT {_boolean(operands['arg'], columns)})"
    if operator in _COMPARED:
        kinds, left, right = _pair(operands["left"], operands["right"], columns)
        if operator not in ("==", "!=") and kinds != "number":
            raise OutsideFragment(f"{operator} of texts")
        return f"({left} {_COMPARED[operator]} {right})"
    if operator == "contains":
        members_operator, members = _only(operands["left"])
        if members_operator != "Set":
            raise OutsideFragment("a set that is not constant")
        tests = [_pair(member, operands["right"], columns) for member in members]
        return f"({' OR '.join(f'{right} = {left}' for _, left, right in tests) or 'FALSE'})"
    if operator == "like":
        kind, text = _term(operands["left"], columns)
        if kind != "text":
            raise OutsideFragment("like of a number")
        return f"({text} LIKE {_pattern(operands['pattern'])} ESCAPE '\\')"
    raise OutsideFragment(f"the operator {operator!r}")


def _pair(left: Any, right: Any, columns: Mapping[str, str]) -> tuple[str, str, str]:
    (first, left_sql), (second, right_sql) = _term(left, columns), _term(right, columns)
    if first != second:
        raise OutsideFragment("a comparison of a text with a number")
    return first, left_sql, right_sql


def _term(tree: Any, columns: Mapping[str, str]) -> tuple[str, str]:
    """A text or a number: its kind and its SQL."""
    operator, operands = _only(tree)
    if operator == "Value" and isinstance(operands, str):
        return "text", _literal(operands)
    if operator == "Value" and isinstance(operands, int) and not isinstance(operands, bool):
        return "number", f"CAST({operands} AS BIGINT)"
    if operator == "unknown":
        name = operands[0]["Value"]
        if name == MOMENT:
            return "number", columns[MOMENT]
        if name.startswith(KEY):
            return "text", columns[name.removeprefix(KEY)]
    raise OutsideFragment(f"a term with {operator!r}")


def _only(tree: Any) -> tuple[str, Any]:
    if not isinstance(tree, Mapping) or len(tree) != 1:
        raise OutsideFragment("an expression of unknown form")
    return next(iter(tree.items()))


def _literal(text: str) -> str:
    if "\0" in text:
        raise OutsideFragment("a text with a zero character")
    return "'" + text.replace("'", "''") + "'"


def _pattern(parts: Sequence[Any]) -> str:
    pattern = ""
    for part in parts:
        if part == "Wildcard":
            pattern += "%"
        elif isinstance(part, Mapping) and list(part) == ["Literal"]:
            letter = part["Literal"]
            pattern += f"\\{letter}" if letter in "\\%_" else letter
        else:
            raise OutsideFragment("a pattern of unknown form")
    return _literal(pattern)
