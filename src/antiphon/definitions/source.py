"""Sources: where events come from, and which columns say when they happened and when they were known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.definitions.entity import NAME
from antiphon.definitions.expression import Expression, kind, mistakes, node_of
from antiphon.definitions.place import Place, caller, declared
from antiphon.definitions.sensitivity import tag_mistakes


class SourceSpec(msgspec.Struct, frozen=True):
    """A declared source as a value.

    Attributes:
        kind: ``table`` is read in batch only; ``stream`` also arrives event by event in the log of that name;
            ``feast`` is read online only, from Feast's feature server.
        path: Parquet or CSV file (or a glob of them); for a stream, where older events are read from.
        event_time: column with the instant something happened.
        available_at: column with the instant it was known; ``None``: known when it happened.
        event_id: column that names an event once and for all; rows that repeat it are one event.
        where: only rows for which this is true are events.
        feast: name of the feature view of Feast whose online values it is, for the kind ``feast``. Unset
            for every other, so that it is no part of what those mean.

    A time column without zone is read as UTC.
    """

    name: str
    kind: Literal["table", "stream", "feast"]
    event_time: str
    available_at: str | None = None
    event_id: str | None = None
    path: str | None = None
    where: Expression | None = None
    feast: str | msgspec.UnsetType = msgspec.UNSET


class Source:
    """What a user writes: :meth:`table`, :meth:`stream` or :meth:`feast`."""

    def __init__(self, place: Place, kind: Literal["table", "stream", "feast"], name: str, **options: Any) -> None:
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
    def feast(
        cls,
        name: str,
        *,
        view: str | None = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
    ) -> Source:
        """The online values of a feature view of Feast, ``view`` or ``name``; ``[feast]`` says where its server is.

        A view over it has ``last(col.FEATURE)`` of Feast's features; ``sensitivity`` and ``purposes`` as in
        :meth:`table`.
        """
        return cls(
            caller(), "feast", name,
            path=None, event_time="event_timestamp", available_at=None, event_id=None, where=None,
            feast=view or name, sensitivity=sensitivity, purposes=purposes,
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
            feast=self.options.get("feast", msgspec.UNSET),
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
        for mistake in mistakes(node):
            yield f"{label}: where: {mistake}"
