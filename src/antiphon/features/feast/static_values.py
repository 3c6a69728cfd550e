"""Evaluates declared values in a user's Python file without running it.

Known are constants, lists, tuples and mappings of known ones, sums and f-strings of texts, ``timedelta(…)``, paths
(``os.path.join(…)``, ``Path(__file__).parent / "data"``; those that start at a file are below the repository), names
bound once at the top of a file or imported from another file of the repository, and calls of Feast's own classes, which
stay calls.
"""

from __future__ import annotations

import ast
import posixpath
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.features.feast.repository import Location

_SAME_PATH = ("os.path.abspath", "path.abspath", "os.path.realpath", "path.realpath")


class UndeclaredError(Exception):
    """Raised for an expression whose value only running the file would tell."""

    def __init__(self, what: str, at: Location) -> None:
        super().__init__(what)
        self.what = what
        self.at = at


class FeastCall(msgspec.Struct, frozen=True, eq=False):
    """A call of one of Feast's classes, or a function under one of its decorators, then with its
    name and source.

    Arguments are expressions still, for one that is not known must not hide the others.
    """

    kind: str
    arguments: tuple[ast.expr, ...]
    keywords: Mapping[str, ast.expr]
    at: Location
    scope: ModuleScope
    function: str = ""
    code: str = ""

    def value(self, *names: str, place: int | None = None, default: Any = None) -> Any:
        """The value of the first of these keywords that is given, or of the argument at this place; raises
        ``UndeclaredError`` when it is given, and not declared."""
        for name in names:
            if name in self.keywords:
                return self.scope.value(self.keywords[name])
        if place is not None and place < len(self.arguments):
            return self.scope.value(self.arguments[place])
        return default


class FeatureSelection(msgspec.Struct, frozen=True, eq=False):
    """``view[["a", "b"]]``: some features of a view."""

    call: FeastCall
    features: tuple[str, ...]


class ModuleScope:
    """Names bound at the top of one file. ``feast`` maps local names to Feast's own; ``others`` finds another file's
    scope."""

    def __init__(self, file: str, tree: ast.Module, others: Mapping[str, ModuleScope]) -> None:
        self.file = file
        self.tree = tree
        self.others = others
        self.bound: dict[str, ast.expr | FeastCall] = {}
        self.rebound: set[str] = set()
        self.feast: dict[str, str] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.modules: dict[str, str] = {}
        self._calls: dict[int, FeastCall] = {}
        self._evaluating: set[str] = set()

    def at(self, node: ast.AST) -> Location:
        return Location(self.file, getattr(node, "lineno", 0))

    def call(self, node: ast.Call) -> FeastCall | None:
        """The call as one of Feast's, or ``None``; the same node gives the same object."""
        kind = self.feast_name(node.func)
        if kind is None:
            return None
        known = self._calls.get(id(node))
        if known is None:
            keywords = {each.arg: each.value for each in node.keywords if each.arg is not None}
            known = self._calls[id(node)] = FeastCall(kind, tuple(node.args), keywords, self.at(node), self)
        return known

    def feast_name(self, node: ast.expr) -> str | None:
        """Feast's name of an object, or ``None`` when it is not Feast's."""
        if isinstance(node, ast.Name):
            return self.feast.get(node.id)
        if isinstance(node, ast.Attribute) and self._module(node.value).partition(".")[0] == "feast":
            return node.attr
        return None

    def value(self, node: ast.expr) -> Any:
        """The value of an expression; raises ``UndeclaredError`` when it is not declared."""
        match node:
            case ast.Constant(value=value):
                return value
            case ast.Name(id="__file__"):
                return self.file
            case ast.Name(id=name):
                return self._named(name, node)
            case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
                return [self.value(item) for item in items]
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return {self.value(key): self.value(each) for key, each in zip(keys, values, strict=True) if key}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._number(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return self._operated(node, self.value(left), op, self.value(right))
            case ast.JoinedStr(values=parts):
                return "".join(self._part(part) for part in parts)
            case ast.Call():
                return self._called(node)
            case ast.Subscript(value=value, slice=index):
                taken = self.value(value)
                if isinstance(taken, FeastCall):
                    return FeatureSelection(taken, tuple(self.value(index)))
            case ast.Attribute(value=ast.Call() | ast.Attribute() | ast.Name() as value, attr="parent"):
                return self._parent(value)
            case ast.Attribute(value=value, attr=attribute):
                if self._module(value).partition(".")[0] == "feast" or self.feast_name(value) is not None:
                    return attribute
        raise UndeclaredError(f"`{ast.unparse(node)[:80]}` is computed in Python", self.at(node))

    def _named(self, name: str, node: ast.expr) -> Any:
        if name in self.feast:
            return self.feast[name]
        if name in self.imported:
            module, original = self.imported[name]
            other = self.others.get(module)
            if other is not None:
                return other._named(original, node)
        if name in self.bound and name not in self.rebound and name not in self._evaluating:
            bound = self.bound[name]
            if isinstance(bound, FeastCall):
                return bound
            self._evaluating.add(name)
            try:
                return self.value(bound)
            finally:
                self._evaluating.discard(name)
        why = "is bound more than once" if name in self.rebound else "is not declared at the top of the file"
        raise UndeclaredError(f"`{name}` {why}", self.at(node))

    def _called(self, node: ast.Call) -> Any:
        call = self.call(node)
        if call is not None:
            return call
        written = ast.unparse(node.func)
        if written in ("timedelta", "datetime.timedelta"):
            units = ("days", "seconds", "microseconds", "milliseconds", "minutes", "hours", "weeks")
            given = dict(zip(units, (self._number(each) for each in node.args), strict=False))
            return timedelta(**given, **{str(each.arg): self._number(each.value) for each in node.keywords})
        if written in ("os.path.join", "path.join", "join"):
            return posixpath.join(*(str(self.value(each)) for each in node.args))
        if written in ("str", "Path", "pathlib.Path", *_SAME_PATH) and len(node.args) == 1:
            return str(self.value(node.args[0]))
        if written in ("os.path.dirname", "path.dirname") and len(node.args) == 1:
            return self._parent(node.args[0])
        if isinstance(node.func, ast.Attribute) and node.func.attr in ("resolve", "absolute") and not node.args:
            return self._path(node.func.value)
        raise UndeclaredError(f"`{written}(…)` is called", self.at(node))

    def _operated(self, node: ast.expr, left: Any, operator: ast.operator, right: Any) -> Any:
        number = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if isinstance(operator, ast.Add) and (number or (isinstance(left, (str, list)) and type(left) is type(right))):
            return left + right
        if isinstance(operator, ast.Div) and isinstance(left, str) and isinstance(right, str):
            return posixpath.join(left, right)
        if isinstance(operator, ast.Mult) and (number or (isinstance(left, timedelta) and isinstance(right, int))):
            return left * right
        raise UndeclaredError(f"`{ast.unparse(node)[:80]}` is computed in Python", self.at(node))

    def _path(self, node: ast.expr) -> str:
        value = self.value(node)
        if not isinstance(value, str):
            raise UndeclaredError(f"`{ast.unparse(node)[:80]}` is no path", self.at(node))
        return value

    def _parent(self, node: ast.expr) -> str:
        path = posixpath.normpath(self._path(node))
        return posixpath.join(path, "..") if path == "." or path.endswith("..") else posixpath.dirname(path) or "."

    def _number(self, node: ast.expr) -> Any:
        value = self.value(node)
        if not isinstance(value, (int, float)):
            raise UndeclaredError(f"`{ast.unparse(node)[:80]}` is no number", self.at(node))
        return value

    def _part(self, part: ast.expr) -> str:
        return str(self.value(part.value if isinstance(part, ast.FormattedValue) else part))

    def _module(self, node: ast.expr) -> str:
        """The module that an expression names, with its dots; empty for none."""
        if isinstance(node, ast.Name):
            return self.modules.get(node.id, "")
        if isinstance(node, ast.Attribute):
            inner = self._module(node.value)
            return f"{inner}.{node.attr}" if inner else ""
        return ""
