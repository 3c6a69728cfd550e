"""Sources: where events come from, and which columns say when they happened and when they were known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.definitions.entity import NAME
from antiphon.definitions.expression import kind, mistakes, node_of, outside_mistakes
from antiphon.definitions.nodes import Expression
from antiphon.definitions.place import Place, caller, declared
from antiphon.definitions.sensitivity import tag_mistakes


class SourceSpec(msgspec.Struct, frozen=True):
    """A declared source as a value.

    Attributes:
        kind: ``table`` is read in batch only; ``stream`` also arrives event by event in the log of that name.
        path: Parquet or CSV file (or a glob of them); for a stream, where older events are read from.
        event_time: column with the instant something happened.
        available_at: column with the instant it was known; ``None``: known when it happened.
        event_id: column that names an event once and for all; rows that repeat it are one event.
        where: only rows for which this is true are events.
        query: one SELECT over the tables ``over``, by their names, whose rows are the events.

    A time column without zone is read as UTC.
    """

    name: str
    kind: Literal["table", "stream"]
    event_time: str
    available_at: str | None = None
    event_id: str | None = None
    path: str | None = None
    where: Expression | None = None
    query: str | None = None
    over: tuple[SourceSpec, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """Files, or patterns of them, that are read."""
        own = () if self.path is None else (self.path,)
        return own + tuple(path for source in self.over for path in source.paths)


class Source:
    """What a user writes: :meth:`table`, :meth:`stream` or :meth:`sql`."""

    def __init__(self, place: Place, kind: Literal["table", "stream"], name: str, **options: Any) -> None:
        self.place = place
        self.kind = kind
        self.name = name
        self.options = options
        declared(self)

    @classmethod
    def table(
        cls,
        name: str,
        *,
        path: str,
        event_time: str,
        available_at: str | None = None,
        event_id: str | None = None,
        where: object = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
    ) -> Source:
        """Rows of Parquet or CSV, read in batch. A relative path starts at the project's folder.

        ``sensitivity`` and ``purposes`` are those of every feature made of it; see ``feature_view``.
        """
        return cls(
            caller(), "table", name,
            path=path, event_time=event_time, available_at=available_at, event_id=event_id, where=where,
            sensitivity=sensitivity, purposes=purposes,
        )  # fmt: skip

    @classmethod
    def stream(
        cls,
        name: str,
        *,
        event_time: str,
        event_id: str,
        available_at: str | None = None,
        history: str | None = None,
        where: object = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
    ) -> Source:
        """Events of the log's stream ``name``; ``history`` is the file older events are read from.

        ``sensitivity`` and ``purposes`` are those of every feature made of it; see ``feature_view``.
        """
        return cls(
            caller(), "stream", name,
            path=history, event_time=event_time, available_at=available_at, event_id=event_id, where=where,
            sensitivity=sensitivity, purposes=purposes,
        )  # fmt: skip

    @classmethod
    def sql(
        cls,
        name: str,
        *,
        sql: str,
        over: Sequence[Source],
        event_time: str,
        available_at: str | None = None,
        event_id: str | None = None,
        where: object = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
    ) -> Source:
        """Rows of one SELECT (DuckDB) over tables, which it reads by their names.

        It sees only rows of the tables that were available at the moment of the snapshot. Of a row that it gives,
        ``available_at`` must be the moment from which on it would always come out the same: of a day's sum the end of
        that day. ``sensitivity`` and ``purposes`` are those of every feature made of it; see ``feature_view``.
        """
        return cls(
            caller(), "table", name,
            path=None, event_time=event_time, available_at=available_at, event_id=event_id, where=where,
            sensitivity=sensitivity, purposes=purposes, sql=sql, over=over,
        )  # fmt: skip

    def spec(self, root: Path | None = None) -> SourceSpec:
        """The frozen value; ``root`` is where relative paths start."""
        path = self.options["path"]
        where = self.options["where"]
        return SourceSpec(
            name=self.name,
            kind=self.kind,
            event_time=self.options["event_time"],
            available_at=self.options["available_at"],
            event_id=self.options["event_id"],
            path=str(root / path) if path is not None and root is not None else path,
            where=node_of(where) if where is not None else None,
            query=self.options.get("sql"),
            over=tuple(source.spec(root) for source in self.options.get("over", ())),
        )

    def mistakes(self) -> Iterator[str]:
        """What is wrong with the declaration, one sentence each."""
        label = f"source {self.name!r}"
        if not isinstance(self.name, str) or not NAME.match(self.name):
            yield f"{label}: a name is lower-case letters, digits and underscores."
        for option in ("event_time", "available_at", "event_id", "path"):
            value = self.options[option]
            if value is not None and (not isinstance(value, str) or not value):
                yield f"{label}: {option} must be a text, not {value!r}."
        for text in tag_mistakes(self.options, None):
            yield f"{label}: {text}"
        if "sql" in self.options:
            yield from (f"{label}: {text}" for text in self._query_mistakes())
        where = self.options["where"]
        if where is None:
            return
        try:
            node = node_of(where)
        except TypeError as error:
            yield f"{label}: where: {error}"
            return
        if kind(node) in ("number", "text", "null"):
            yield f"{label}: where must be a condition."
        for mistake in (*mistakes(node), *outside_mistakes(node)):
            yield f"{label}: where: {mistake}"

    def _query_mistakes(self) -> Iterator[str]:
        from antiphon.definitions.sql_query import query_mistakes

        over = self.options["over"]
        if isinstance(over, Source) or not isinstance(over, Sequence) or not over:
            yield f"over must be a list of the tables that the SQL reads, not {over!r}."
            return
        for source in over:
            if not isinstance(source, Source) or source.kind != "table" or "sql" in source.options:
                yield f"over takes tables, not {source.name if isinstance(source, Source) else source!r}."
                return
        yield from query_mistakes(self.options["sql"], [source.name for source in over])
