"""What somebody does to an audit log who can write to the catalog's file: each byte, each removal, each swap.

Works on the rows with SQLite alone; nothing here knows how the log is checked.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

TABLES = {
    "audit_entries": ("tenant", "environment", "sequence"),
    "audit_nodes": ("tenant", "environment", "level", "position"),
    "audit_heads": ("tenant", "environment"),
}
FLIPS = (0x01, 0x20, 0x80)
"""Bits that are flipped in a byte: another letter, the other case, no ASCII any more."""


class Tampering:
    """The audit tables of one catalog, written to from outside."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None)
        self._connection.execute("PRAGMA synchronous=OFF")
        self._connection.text_factory = bytes

    def close(self) -> None:
        self._connection.close()

    def changes(self, flips: tuple[int, ...] = FLIPS) -> Iterator[str]:
        """Each change of one byte of a stored value, or of a number by one; undone when the next is asked for."""
        for table, key in TABLES.items():
            columns = [row[1].decode() for row in self._connection.execute(f"PRAGMA table_info({table})")]
            for row in self._connection.execute(f"SELECT * FROM {table}").fetchall():
                kinds = self._kinds(table, columns, key, row)
                for at, column in enumerate(columns):
                    for text, value in _changed(row[at], flips):
                        with self._set(table, columns, key, row, at, value, kinds[at] == b"text") as made:
                            if made:
                                yield f"{table} {_name(row, columns, key)} {column} {text}"

    def removals(self) -> Iterator[str]:
        """Each row taken away."""
        for table, key in TABLES.items():
            columns = [row[1].decode() for row in self._connection.execute(f"PRAGMA table_info({table})")]
            for row in self._connection.execute(f"SELECT * FROM {table}").fetchall():
                with self._without(table, columns, key, row):
                    yield f"{table} without {_name(row, columns, key)}"

    def swaps(self) -> Iterator[str]:
        """Each two records in each other's place."""
        numbers = [row[0] for row in self._connection.execute("SELECT sequence FROM audit_entries ORDER BY 1")]
        for one, other in itertools.combinations(numbers, 2):
            self._swap(one, other)
            yield f"records {one} and {other} swapped"
            self._swap(one, other)

    def _swap(self, one: int, other: int) -> None:
        for before, after in ((one, -1), (other, one), (-1, other)):
            self._connection.execute("UPDATE audit_entries SET sequence = ? WHERE sequence = ?", (after, before))

    @contextmanager
    def _without(self, table: str, columns: list[str], key: tuple[str, ...], row: tuple[Any, ...]) -> Iterator[None]:
        where, values = _where(columns, key, row)
        kinds = self._kinds(table, columns, key, row)
        self._connection.execute(f"DELETE FROM {table} WHERE {where}", values)
        yield
        marks = ", ".join("CAST(? AS TEXT)" if kind == b"text" else "?" for kind in kinds)
        self._connection.execute(f"INSERT INTO {table} VALUES ({marks})", row)

    @contextmanager
    def _set(
        self, table: str, columns: list[str], key: tuple[str, ...], row: tuple[Any, ...], at: int, value: Any,
        is_text: bool,
    ) -> Iterator[bool]:  # fmt: skip
        changed = (*row[:at], value, *row[at + 1 :])
        mark = "CAST(? AS TEXT)" if is_text else "?"
        statement = f"UPDATE {table} SET {columns[at]} = {mark} WHERE "
        where, values = _where(columns, key, row)
        try:
            self._connection.execute(statement + where, (value, *values))
        except sqlite3.IntegrityError:
            yield False  # the other row is there
            return
        yield True
        where, values = _where(columns, key, changed)
        self._connection.execute(statement + where, (row[at], *values))

    def _kinds(self, table: str, columns: list[str], key: tuple[str, ...], row: tuple[Any, ...]) -> tuple[bytes, ...]:
        where, values = _where(columns, key, row)
        types = ", ".join(f"typeof({column})" for column in columns)
        found: tuple[bytes, ...] = self._connection.execute(
            f"SELECT {types} FROM {table} WHERE {where}", values
        ).fetchone()
        return found


def contents(file: Path) -> list[tuple[Any, ...]]:
    """Everything in the audit tables, to see that tampering undid itself."""
    with closing(sqlite3.connect(file)) as connection:
        connection.text_factory = bytes
        return [row for table in TABLES for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4")]


def _changed(value: Any, flips: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, int):
        yield "+ 1", value + 1
        yield "+ 1000", value + 1000
    elif isinstance(value, bytes):
        for position, flip in itertools.product(range(len(value)), flips):
            byte = value[position] ^ flip
            yield f"byte {position} ^ {flip:#x}", value[:position] + bytes([byte]) + value[position + 1 :]


def _where(columns: list[str], key: tuple[str, ...], row: tuple[Any, ...]) -> tuple[str, list[Any]]:
    marks = ["CAST(? AS TEXT)" if column in ("tenant", "environment") else "?" for column in key]
    condition = " AND ".join(f"{column} = {mark}" for column, mark in zip(key, marks, strict=True))
    return condition, [row[columns.index(column)] for column in key]


def _name(row: tuple[Any, ...], columns: list[str], key: tuple[str, ...]) -> str:
    return " ".join(str(row[columns.index(column)]) for column in key[2:]) or "head"
