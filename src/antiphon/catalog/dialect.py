"""Expressions that SQLite and PostgreSQL spell differently; repositories are written once, with these.

Texts compare and sort by their bytes in both databases, whatever collation a server was set up with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""The type of columns of text."""

ROWCOUNT = {"preserve_rowcount": True}
"""Execution options under which an insert tells how many rows it added."""


_MOST_VALUES = 400
"""Values of one condition; a server's statements may have some thousands."""


def in_parts(column: sa.ColumnElement[Any], values: Iterable[Any]) -> Iterator[sa.ColumnElement[bool]]:
    """Conditions that a column has one of these values, each of a part of them: as many statements as they need."""
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), _MOST_VALUES):
        yield column.in_(distinct[start : start + _MOST_VALUES])


class upsert(postgresql.Insert):
    """An insert that may go on with ``on_conflict_do_nothing()``, ``on_conflict_replace()`` or
    ``on_conflict_do_update(set_=...)``: for a row of the same primary key, which PostgreSQL asks to be named.

    SQLite took the clause over from PostgreSQL: the one expression compiles for both.
    """

    inherit_cache = not sa.__version__.startswith("2.0.")  # Which has no cache key of the clause, and warns.

    def on_conflict_do_update(self, *, set_: Any, where: Any = None) -> Self:  # type: ignore[override]
        return super().on_conflict_do_update(index_elements=self.table.primary_key, set_=set_, where=where)

    def on_conflict_replace(self, *names: str) -> Self:
        """Give a row that is there the new values of these columns; without names, of all that are not its key."""
        changed = names or tuple(one.name for one in self.table.columns if not one.primary_key)
        return self.on_conflict_do_update(set_={name: self.excluded[name] for name in changed})


class position(FunctionElement[int]):
    """The place, from 1, at which a text holds another; 0 when it does not."""

    type = sa.Integer()
    inherit_cache = True


class utf8(FunctionElement[bytes]):
    """The bytes of a text, also where they are no UTF-8 (a damaged file of SQLite)."""

    type = sa.LargeBinary()
    inherit_cache = True


@compiles(position)
def _position(element: position, compiler: Any, **options: Any) -> str:
    name = "strpos" if compiler.dialect.name == "postgresql" else "instr"
    return f"{name}({compiler.process(element.clauses, **options)})"


@compiles(utf8)
def _utf8(element: utf8, compiler: Any, **options: Any) -> str:
    inner = compiler.process(element.clauses, **options)
    return f"convert_to({inner}, 'UTF8')" if compiler.dialect.name == "postgresql" else f"CAST({inner} AS BLOB)"


def driver_sql(connection: Connection, text: str, parameters: Any) -> sa.CursorResult[*tuple[Any, ...]]:
    """Execute text with ``?`` for each parameter, as it is. A list of tuples executes it once for each."""
    if connection.dialect.paramstyle != "qmark":
        text = _with_percents(text)
    return connection.exec_driver_sql(text, parameters)


@lru_cache(maxsize=64)
def _with_percents(text: str) -> str:
    return text.replace("?", "%s")
