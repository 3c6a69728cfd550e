"""Translates Feast's on-demand views: a Python function becomes expressions over features and the request.

Nothing of the function runs. Read are assignments, a table or mapping that is filled column by column, and the return
value; in them arithmetic, comparisons, conditions, choices and a few functions of pandas and numpy. Comparisons are
false for missing values, as in pandas. A division by zero is missing here, where pandas has infinity: a number that is
not finite is null.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from antiphon.features.feast.repository import FeastField, FeastOnDemand, FeastSource, FeastView
from antiphon.features.feast.translation import WrittenOnDemand, WrittenView

Kind = Literal["number", "boolean", "text"]


class Operand(msgspec.Struct, frozen=True):
    """A column or a value as our definitions write it; ``whole`` is a number without a fraction."""

    code: str
    kind: Kind
    whole: bool = False


class UntranslatableError(Exception):
    """Raised for a view or a function that has no counterpart among our definitions; the message names the part."""


_ARITHMETIC: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_LOGIC: dict[type[ast.AST], str] = {ast.BitAnd: "&", ast.BitOr: "|", ast.And: "&", ast.Or: "|"}
_COMPARED: dict[type[ast.cmpop], str] = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=",
}  # fmt: skip
_FEATURE = re.compile(r"[A-Z]\w*\.\w+\Z")
_FLOATS = frozenset({"float", "'float'", "'float64'", "'Float64'", "np.float64", "numpy.float64"})


def expressions_of(code: str, columns: Mapping[str, Operand]) -> dict[str, Operand]:
    """The columns that a function of one table gives back, each as an expression. ``code`` is its source, of one
    ``def``; ``columns`` is what its table has, by name. Raises ``UntranslatableError``, which says which part has
    none."""
    try:
        (function,) = ast.parse(code).body
    except (SyntaxError, ValueError):
        raise UntranslatableError("its source is not one function") from None
    if not isinstance(function, ast.FunctionDef) or len(function.args.args) != 1:
        raise UntranslatableError("it is not a function of one table")
    return _Function(function.args.args[0].arg, columns).returned(function.body)


class _Function:
    def __init__(self, table: str, columns: Mapping[str, Operand]) -> None:
        self.table = table
        self.columns = columns
        self.local: dict[str, Operand] = {}
        self.filled: dict[str, dict[str, Operand]] = {}

    def returned(self, body: list[ast.stmt]) -> dict[str, Operand]:
        for statement in body:
            match statement:
                case ast.Expr(value=ast.Constant()) | ast.Import() | ast.ImportFrom() | ast.Pass():
                    continue
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self._assign(name, value)
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                    self._assign(name, value)
                case ast.Assign(
                    targets=[ast.Subscript(value=ast.Name(id=name), slice=ast.Constant(value=str() as column))],
                    value=value,
                ) if name in self.filled:
                    self.filled[name][column] = self._operand(value)
                case ast.Return(value=ast.expr() as value):
                    table = self._table(value)
                    if table is None:
                        raise _beyond(value)
                    return table
                case _:
                    raise _beyond(statement)
        raise UntranslatableError("it returns nothing")

    def _assign(self, name: str, value: ast.expr) -> None:
        table = self._table(value)
        if table is not None:
            self.filled[name] = table
        else:
            self.local[name] = self._operand(value)

    def _table(self, node: ast.expr) -> dict[str, Operand] | None:
        """A table or mapping that is made: empty, or with its columns."""
        match node:
            case ast.Name(id=name) if name in self.filled:
                return self.filled[name]
            case ast.Dict(keys=keys, values=values):
                names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
                if len(names) == len(values):
                    return {name: self._operand(value) for name, value in zip(names, values, strict=True)}
            case ast.Call(func=func, args=[]) if ast.unparse(func) in ("pd.DataFrame", "pandas.DataFrame", "dict"):
                return {}
            case ast.Call(func=func, args=[inner], keywords=[]) if ast.unparse(func) in (
                "pd.DataFrame",
                "pandas.DataFrame",
            ):
                return self._table(inner)
        return None

    def _operand(self, node: ast.expr) -> Operand:
        match node:
            case ast.Constant(value=bool() as value):
                return Operand(repr(value), "boolean")
            case ast.Constant(value=int() | float() as value):
                return Operand(repr(value), "number", isinstance(value, int))
            case ast.Constant(value=str() as value):
                return Operand(repr(value), "text")
            case ast.Name(id=name) if name in self.local:
                return self.local[name]
            case ast.Subscript(value=ast.Name(id=self.table), slice=ast.Constant(value=str() as name)):
                return self._column(name)
            case ast.Attribute(value=ast.Name(id=self.table), attr=name) if name in self.columns:
                return self._column(name)
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                number = self._of(inner, "number")
                return Operand(f"(-{number.code})", "number", number.whole)
            case ast.UnaryOp(op=ast.Invert() | ast.Not(), operand=inner):
                return Operand(f"(~{self._of(inner, 'boolean').code})", "boolean")
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                first, second = self._of(left, "number"), self._of(right, "number")
                whole = first.whole and second.whole and not isinstance(operator, ast.Div)
                return Operand(f"({first.code} {_ARITHMETIC[type(operator)]} {second.code})", "number", whole)
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _LOGIC:
                return self._joined(operator, [left, right])
            case ast.BoolOp(op=operator, values=values):
                return self._joined(operator, values)
            case ast.Compare(left=left, ops=[operator], comparators=[right]) if type(operator) in _COMPARED:
                return self._compared(node, left, operator, right)
            case ast.IfExp(test=test, body=body, orelse=other):
                return self._choice(node, test, body, other)
            case ast.ListComp(elt=inner, generators=[ast.comprehension(target=target, iter=over, ifs=[])]):
                return self._each(node, inner, target, over)
            case ast.Call(func=ast.Attribute(value=of, attr=name), args=arguments, keywords=[]):
                return self._called(node, of, name, arguments)
            case ast.Call(func=ast.Name(id="abs"), args=[inner], keywords=[]):
                return self._method(inner, "abs")
        raise _beyond(node)

    def _column(self, name: str) -> Operand:
        if name not in self.columns:
            raise UntranslatableError(f"it reads {name!r}, which is not among what is translated")
        return self.columns[name]

    def _of(self, node: ast.expr, kind: Kind) -> Operand:
        found = self._operand(node)
        if found.kind != kind:
            raise UntranslatableError(f"`{_shown(node)}` is a {found.kind} where a {kind} is needed")
        return found

    def _joined(self, operator: ast.AST, values: list[ast.expr]) -> Operand:
        sign = f" {_LOGIC[type(operator)]} "
        return Operand(f"({sign.join(self._of(value, 'boolean').code for value in values)})", "boolean")

    def _compared(self, node: ast.expr, left: ast.expr, operator: ast.cmpop, right: ast.expr) -> Operand:
        first, second = self._operand(left), self._operand(right)
        if first.kind != second.kind or isinstance(left, ast.Constant):
            raise _beyond(node)
        if isinstance(operator, (ast.Eq, ast.NotEq)) and _FEATURE.match(first.code) and _FEATURE.match(second.code):
            # Two names of features are two texts where they are compared; a sum is a value.
            if first.kind != "number":
                raise _beyond(node)
            first = msgspec.structs.replace(first, code=f"({first.code} + 0)")
        missing = isinstance(operator, ast.NotEq)
        code = f"({first.code} {_COMPARED[type(operator)]} {second.code}).coalesce({missing})"
        return Operand(code, "boolean")

    def _choice(self, node: ast.expr, test: ast.expr, body: ast.expr, other: ast.expr) -> Operand:
        condition, first, second = self._of(test, "boolean"), self._operand(body), self._operand(other)
        if first.kind != second.kind:
            raise _beyond(node)
        code = f"when({condition.code}).then({first.code}).otherwise({second.code})"
        return Operand(code, first.kind, first.whole and second.whole)

    def _each(self, node: ast.expr, inner: ast.expr, target: ast.expr, over: ast.expr) -> Operand:
        """``[a + b for a, b in zip(inputs["a"], inputs["b"])]``: one row at a time."""
        lists = over.args if isinstance(over, ast.Call) and ast.unparse(over.func) == "zip" else [over]
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        if len(lists) != len(targets):
            raise _beyond(node)
        outer = dict(self.local)
        for each, values in zip(targets, lists, strict=True):
            if not isinstance(each, ast.Name):
                raise _beyond(node)
            self.local[each.id] = self._operand(values)
        found = self._operand(inner)
        self.local = outer
        return found

    def _called(self, node: ast.expr, of: ast.expr, name: str, arguments: list[ast.expr]) -> Operand:
        match ast.unparse(of), name, arguments:
            case (("np" | "numpy"), "where", [test, body, other]):
                return self._choice(node, test, body, other)
            case (("np" | "numpy"), ("abs" | "log1p"), [inner]):
                return self._method(inner, name)
            case _, "abs", []:
                return self._method(of, "abs")
            case _, "astype", [kind] if ast.unparse(kind) in _FLOATS:
                return msgspec.structs.replace(self._of(of, "number"), whole=False)
            case _, "fillna", [value]:
                first, second = self._operand(of), self._operand(value)
                if first.kind == second.kind:
                    whole = first.whole and second.whole
                    return Operand(f"{first.code}.coalesce({second.code})", first.kind, whole)
            case _, ("isna" | "isnull"), []:
                return Operand(f"{self._operand(of).code}.is_null()", "boolean")
            case _, ("notna" | "notnull"), []:
                return Operand(f"(~{self._operand(of).code}.is_null())", "boolean")
            case _, "lower", [] if isinstance(of, ast.Attribute) and of.attr == "str":
                return Operand(f"{self._of(of.value, 'text').code}.lower()", "text")
        raise _beyond(node)

    def _method(self, of: ast.expr, name: str) -> Operand:
        number = self._of(of, "number")
        return Operand(f"{number.code}.{name}()", "number", number.whole and name == "abs")


def _beyond(node: ast.AST) -> UntranslatableError:
    return UntranslatableError(f"`{_shown(node)}` has no counterpart among expressions")


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0][:80]


KINDS: dict[str, Kind] = {
    "INT32": "number", "INT64": "number", "FLOAT": "number", "DOUBLE": "number", "BOOL": "boolean", "STRING": "text",
}  # fmt: skip
"""Feast's types that a feature of ours can have, and what they are here."""
_WHOLE = frozenset({"INT32", "INT64"})


def translated(
    view: FeastOnDemand,
    class_name: str,
    named: Mapping[str, str],
    views: Mapping[str, tuple[FeastView, WrittenView]],
    sources: Mapping[str, FeastSource],
) -> WrittenOnDemand:
    """The view, when everything that its function reads and does has a counterpart. ``named`` is Feast's name of each
    of its features to ours; ``views`` those that are translated, by Feast's name; ``sources`` those that are declared.
    Raises ``UntranslatableError``, which says what has none."""
    if not view.code:
        raise UntranslatableError("its function is not found in the repository")
    if view.mode not in ("pandas", "python"):
        raise UntranslatableError(f"its function is of the mode {view.mode}")
    inputs: dict[str, str] = {}
    operands: dict[str, Operand] = {}
    read: dict[str, str] = {}
    for source in view.sources:
        for names, operand, needs in _columns(source, views, sources):
            for name in names:
                if name in operands:
                    raise UntranslatableError(f"two of its sources have a column {name!r}")
                operands[name] = operand
                read[operand.code] = needs
        if source in sources and sources[source].kind == "request":
            inputs |= {field.name: KINDS[field.type] for field in sources[source].fields}
    made = expressions_of(view.code, operands)
    features: dict[str, str] = {}
    for field in view.fields:
        found = made.get(field.name)
        if found is None:
            raise UntranslatableError(f"it does not give {field.name!r}")
        kind = KINDS.get(field.type)
        if found.kind != kind or (field.type in _WHOLE and not found.whole):
            raise UntranslatableError(f"it gives a {found.kind} as {field.name!r}, which is declared {field.type}")
        features[named[field.name]] = ast.unparse(ast.parse(found.code, mode="eval"))  # without needless parentheses
    written = " ".join(features.values())
    return WrittenOnDemand(
        class_name=class_name,
        inputs=inputs,
        features=features,
        reads=tuple(dict.fromkeys(needs for code, needs in read.items() if needs and code in written)),
    )


def _columns(
    source: str, views: Mapping[str, tuple[FeastView, WrittenView]], sources: Mapping[str, FeastSource]
) -> Iterator[tuple[tuple[str, ...], Operand, str]]:
    """Of a source: the names a column goes by in the function, what it is here, and the view it is read from."""
    if source in sources and sources[source].kind == "request":
        for field in sources[source].fields:
            if field.type not in KINDS or not field.name.isidentifier() or field.name.lower() != field.name:
                raise UntranslatableError(f"its request's {field.name!r} ({field.type}) is no input of ours")
            yield (field.name,), _operand(f"request.{field.name}", field), ""
        return
    if source not in views:
        raise UntranslatableError(f"{source!r}, which it reads, is left out")
    declared, written = views[source]
    types = {field.name: field for field in declared.fields}
    for ours, original in written.origin.items():
        if original in types:
            code = f"{written.class_name}.{ours}"
            yield (original, f"{source}__{original}"), _operand(code, types[original]), written.class_name


def _operand(code: str, field: FeastField) -> Operand:
    return Operand(code, KINDS[field.type], field.type in _WHOLE)
