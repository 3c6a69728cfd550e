"""A planted fault: a small change to the source of production functions, which a simulation must find."""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec


class Change(msgspec.Struct, frozen=True):
    """A text in the source of ``owner.function``, and the one in its place."""

    owner: Any
    function: str
    old: str
    new: str


class Mutant(msgspec.Struct, frozen=True):
    """A fault.

    Attributes:
        kind: of scenario in which it shows.
    """

    name: str
    kind: str
    changes: tuple[Change, ...]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Production code has this fault."""
        with ExitStack() as stack:
            for change in self.changes:
                stack.enter_context(mock.patch.object(change.owner, change.function, _changed(change)))
            yield


def _changed(change: Change) -> Any:
    original = inspect.unwrap(inspect.getattr_static(change.owner, change.function))
    source = textwrap.dedent(inspect.getsource(original))
    if source.count(change.old) != 1:
        raise ValueError(f"{change.old!r} stands {source.count(change.old)} times in {change.function}.")
    code = compile(
        source.replace(change.old, change.new),
        f"<mutant of {change.function}>",
        "exec",
        flags=__future__.annotations.compiler_flag,
        dont_inherit=True,
    )
    made: dict[str, Any] = {}
    exec(code, original.__globals__, made)
    return made[change.function]


def one_change(name: str, kind: str, owner: Any, function: str, old: str, new: str) -> Mutant:
    """A fault of one change."""
    return Mutant(name, kind, (Change(owner, function, old, new),))
