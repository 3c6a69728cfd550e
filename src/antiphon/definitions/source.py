"""Sources: where events come from, and which columns say when they happened and when they were known."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.definitions.documents_spec import DocumentsSpec
from antiphon.definitions.entity import NAME
from antiphon.definitions.expression import kind, mistakes, node_of, outside_mistakes
from antiphon.definitions.following import TABLE, FileDrop, Followed, database_mistakes, follow_mistakes
from antiphon.definitions.nodes import Expression
from antiphon.definitions.objects import ObjectPath, ObjectStore, is_objects, object_mistakes, store_of
from antiphon.definitions.place import CodeLocation, caller, declared
from antiphon.definitions.sensitivity import tag_mistakes

_DATABASE = ("url", "table", "query", "password_variable")
_OBJECTS = ("access_key_variable", "secret_key_variable")


class SourceSpec(msgspec.Struct, frozen=True):
    """A declared source as a value.

    Attributes:
        kind: ``table`` is read in batch only; ``stream`` also arrives event by event in the log of that name;
            ``feast`` is read online only, from Feast's feature server.
        path: Parquet, CSV or JSON file or object of a store (``s3://BUCKET/KEY``), or a glob of them, or folder of a
            Delta table; for a stream, where older events are read from.
        event_time: column with the instant something happened.
        available_at: column with the instant it was known; ``None``: known when it happened.
        event_id: column that names an event once and for all; rows that repeat it are one event.
        where: only rows for which this is true are events.
        url: a PostgreSQL database, in the place of ``path``; never with a password.
        table, query: what is read of that database.
        password_variable: the environment variable that holds the password of the URL's user.
        sql: one SELECT over the tables ``over``, by their names, whose rows are the events.
        feast: the feature view of Feast whose online values these are, for the kind ``feast``.
        store: where the objects of ``path`` are, and whose credentials are used.
        documents: how rows are made of the documents of ``path``, or of those in the table ``over``.
        follow: where another system writes the events of a stream.

    A time column without zone is read as UTC.
    """

    name: str
    kind: Literal["table", "stream", "feast"]
    event_time: str
    available_at: str | None = None
    event_id: str | None = None
    path: str | None = None
    where: Expression | None = None
    url: str | None = None
    table: str | None = None
    query: str | None = None
    password_variable: str | None = None
    sql: str | None = None
    over: tuple[SourceSpec, ...] = ()
    feast: str | None = None
    store: ObjectStore | None = None
    documents: DocumentsSpec | None = None
    follow: Followed | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Files, or patterns of them, that are read."""
        own = () if self.path is None else (self.path,)
        return own + tuple(path for source in self.over for path in source.paths)

    @property
    def missing_paths(self) -> tuple[str, ...]:
        """Those of :attr:`paths` that name no file of this machine now."""
        return tuple(path for path in self.paths if not is_objects(path) and not local_paths(path))

    def meaning(self) -> msgspec.Struct:
        """Returns the parts that can change a value, for the definition version: not its location, nor its credentials.

        A query over other sources is hashed beside it, in its normal form.
        """
        if self.documents is not None:
            # Whether a document that cannot be read blocks a snapshot changes no value of one.
            made = msgspec.structs.replace(self.documents, unreadable="block")
            return _DocumentRows(self.name, made, tuple(each.meaning() for each in self.over))
        shape = _FeastValues if self.feast is not None else _Rows if self.url is None else _DatabaseRows
        known = {field: getattr(self, field) for field in shape.__struct_fields__}
        hidden = {"path": None, "url": None, "password_variable": None}
        return shape(**known | dict.fromkeys(hidden.keys() & known.keys()))


class _Rows(msgspec.Struct, frozen=True):
    """A source as it was hashed before there were databases: fields and their order are part of definition versions."""

    name: str
    kind: str
    event_time: str
    available_at: str | None
    event_id: str | None
    path: str | None
    where: Expression | None


class _DatabaseRows(_Rows, frozen=True):
    """The same of a source in a database."""

    url: str | None
    table: str | None
    query: str | None
    password_variable: str | None


class _FeastValues(_Rows, frozen=True):
    """The same of Feast's online values."""

    feast: str | None


class _DocumentRows(msgspec.Struct, frozen=True):
    """The meaning of a source of documents."""

    name: str
    documents: DocumentsSpec
    over: tuple[msgspec.Struct, ...]


class Source:
    """A declared source of events: :meth:`table`, :meth:`stream`, :meth:`sql` or :meth:`feast`."""

    def __init__(
        self, place: CodeLocation, kind: Literal["table", "stream", "feast"], name: str, **options: Any
    ) -> None:
        self.place = place
        self.kind = kind
        self.name = name
        self.options = options
        self.objects = ObjectStore()
        """The store of objects that do not name one: a project's."""
        declared(self)

    @classmethod
    def table(
        cls,
        name: str,
        *,
        path: str | None = None,
        url: str | None = None,
        table: str | None = None,
        query: str | None = None,
        password_variable: str | None = None,
        access_key_variable: str | None = None,
        secret_key_variable: str | None = None,
        event_time: str,
        available_at: str | None = None,
        event_id: str | None = None,
        where: object = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
        must_exist: bool = True,
    ) -> Source:
        """Declares rows of files, of objects of an S3-compatible store, or of a PostgreSQL database, read in batch.

        Args:
            name: lower-case letters, digits and underscores.
            path: Parquet, CSV or JSON files, or a Delta table's folder; a relative path starts at the project's folder.
                Of objects ``s3://BUCKET/PREFIX/*.parquet``, with ``?endpoint=URL&region=REGION`` where the store is
                not the lake's.
            url: ``postgresql://USER@HOST/DATABASE``, with ``table`` or ``query``.
            password_variable: environment variable with the database's password.
            access_key_variable, secret_key_variable: environment variables with the object store's credentials;
                without them those of the lake.
            event_time: column with the time at which the event happened.
            available_at: column with the time at which it was known; without one, it was known when it happened.
            event_id: column with the event's id; rows that repeat it are one event. Without one every row is an event.
            where: only rows that meet this condition are read.
            sensitivity, purposes: of every feature made of it; see :func:`feature_view`.
            must_exist: ``False`` for a history of outcomes whose file comes later.
        """
        return cls(
            caller(), "table", name,
            path=path, url=url, table=table, query=query, password_variable=password_variable,
            access_key_variable=access_key_variable, secret_key_variable=secret_key_variable, event_time=event_time,
            available_at=available_at, event_id=event_id, where=where, sensitivity=sensitivity, purposes=purposes,
            must_exist=must_exist,
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
        access_key_variable: str | None = None,
        secret_key_variable: str | None = None,
        where: object = None,
        follow: Followed | None = None,
        sensitivity: str | None = None,
        purposes: Sequence[str] | None = None,
        must_exist: bool = True,
    ) -> Source:
        """Declares the events of the stream ``name`` of the event log.

        Args:
            history: files or objects with older events, as ``path`` of :meth:`table`.
            event_time, event_id, available_at, where: fields of an event, and a condition, as of :meth:`table`.
            follow: the :class:`PostgresTable`, :class:`NatsSubject` or :class:`FileDrop` in which another system
                writes the events; the worker appends them to the stream. Without it they are appended by
                ``antiphon events push`` or HTTP.
            access_key_variable, secret_key_variable, sensitivity, purposes, must_exist: as of :meth:`table`.
        """
        return cls(
            caller(), "stream", name,
            path=history, access_key_variable=access_key_variable, secret_key_variable=secret_key_variable,
            event_time=event_time, available_at=available_at, event_id=event_id, where=where, follow=follow,
            sensitivity=sensitivity, purposes=purposes, must_exist=must_exist,
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
        """Declares the rows of one SELECT (DuckDB) over tables, which it reads by their names.

        It sees only rows of the tables that were available at the moment of the snapshot. Of a row that it gives,
        ``available_at`` must be the moment from which on it would always come out the same: of a day's sum the end of
        that day. ``sensitivity`` and ``purposes`` are those of every feature made of it; see ``feature_view``.
        """
        return cls(
            caller(), "table", name,
            path=None, event_time=event_time, available_at=available_at, event_id=event_id, where=where,
            sensitivity=sensitivity, purposes=purposes, sql=sql, over=over,
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
        """Declares the online values of a feature view of Feast, ``view`` or ``name``; its server is set in
        ``[feast]``.

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
        store = None
        follow = self.options.get("follow")
        if isinstance(follow, FileDrop) and is_objects(follow.path):
            named = ObjectPath.of(follow.path)
            own = ObjectStore(None, None, follow.access_key_variable, follow.secret_key_variable)
            store = store_of(named, own, self.objects)
            follow = msgspec.structs.replace(follow, path=str(named))
        elif isinstance(follow, FileDrop) and root is not None:
            follow = msgspec.structs.replace(follow, path=_below(root, follow.path))
        if is_objects(path):
            named = ObjectPath.of(path)
            own = ObjectStore(**{name: self.options.get(name) for name in _OBJECTS})
            path, store = str(named), store_of(named, own, self.objects)
        elif path is not None and root is not None:
            path = _below(root, path)
        return SourceSpec(
            name=self.name,
            kind=self.kind,
            event_time=self.options["event_time"],
            available_at=self.options["available_at"],
            event_id=self.options["event_id"],
            path=path,
            where=node_of(where) if where is not None else None,
            **{name: self.options.get(name) for name in _DATABASE},
            sql=self.options.get("sql"),
            over=tuple(source.spec(root) for source in self.options.get("over", ())),
            feast=self.options.get("feast"),
            store=store,
            documents=self.options.get("documents"),
            follow=follow,
        )

    def missing_file(self, root: Path) -> str | None:
        """A sentence about a path of this machine that names no file; ``None`` when there is one, or it comes later.
        ``root``: where relative paths start."""
        path = self.options.get("path")
        if not isinstance(path, str) or not path or is_objects(path) or not self.options.get("must_exist", True):
            return None
        if local_paths(_below(root, path)):
            return None
        return (
            f"source {self.name!r}: there is no file {path!r}. Put it there, or declare must_exist=False when "
            "something writes it later."
        )

    def mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the declaration, a sentence each."""
        yield from (f"source {self.name!r}: {text}" for text in self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if not isinstance(self.name, str) or not NAME.match(self.name):
            yield "a name is lower-case letters, digits and underscores."
        for option in ("event_time", "available_at", "event_id", "path", "feast", *_DATABASE, *_OBJECTS):
            value = self.options.get(option)
            if value is not None and (not isinstance(value, str) or not value):
                yield f"{option} must be a text, not {value!r}."
        yield from self._place_mistakes()
        if self.options.get("follow") is not None:
            yield from follow_mistakes(self.options["follow"])
        yield from tag_mistakes(self.options, None)
        if "sql" in self.options:
            yield from self._query_mistakes()
        where = self.options["where"]
        if where is None:
            return
        try:
            node = node_of(where)
        except TypeError as error:
            yield f"where: {error}"
            return
        if kind(node) in ("number", "text", "null"):
            yield "where must be a condition."
        yield from (f"where: {mistake}" for mistake in (*mistakes(node), *outside_mistakes(node)))

    def _place_mistakes(self) -> Iterator[str]:
        """Yields the mistakes of the location of its rows."""
        path, url, table, query, variable = (self.options.get(name) for name in ("path", *_DATABASE))
        if isinstance(path, str) and is_objects(path):
            yield from object_mistakes(path, folder="documents" in self.options)
        elif isinstance(path, str) and "://" in path:
            yield "path is a file or folder of this machine or s3://…; a PostgreSQL database is named by url."
        elif any(self.options.get(name) is not None for name in _OBJECTS):
            yield f"{' and '.join(_OBJECTS)} belong to a path that begins with s3://."
        if self.kind in ("stream", "feast") or "sql" in self.options or "documents" in self.options:
            return
        if (path is None) == (url is None):
            yield "a table has a path or a url, and not both."
        if url is None:
            if table is not None or query is not None or variable is not None:
                yield "table, query and password_variable belong to a url."
            return
        if (table is None) == (query is None):
            yield "a url needs a table or a query, and not both."
        if isinstance(table, str) and not TABLE.match(table):
            yield f"{table!r} is no table; write NAME or SCHEMA.NAME."
        if isinstance(url, str):
            yield from database_mistakes(url, variable)

    def _query_mistakes(self) -> Iterator[str]:
        from antiphon.definitions.sql_query import query_mistakes

        over = self.options["over"]
        if isinstance(over, Source) or not isinstance(over, Sequence) or not over:
            yield f"over must be a list of the tables that the SQL reads, not {over!r}."
            return
        for source in over:
            if not isinstance(source, Source) or source.kind != "table" or source.options.get("path") is None:
                yield f"over takes tables of files, not {source.name if isinstance(source, Source) else source!r}."
                return
        yield from query_mistakes(self.options["sql"], [source.name for source in over])


def _below(root: Path, path: str) -> str:
    """A path from the root; a folder above a pattern is never a pattern itself."""
    return str((Path(glob.escape(str(root))) if glob.has_magic(path) else root) / path)


def local_paths(path: str) -> list[Path]:
    """The files and folders of this machine that a source's path names now, in order.

    Brackets, stars and question marks are a pattern where nothing has exactly that name.
    """
    if Path(path).exists():
        return [Path(path)]
    return [Path(name) for name in sorted(glob.glob(path))] if glob.has_magic(path) else []
