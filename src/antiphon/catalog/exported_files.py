"""Files that exports put in place, each by its place and the hash of its content.

Invariant: a file is noted before it is put in its place, so that whatever an export left there is known as its own,
also after a crash between the two. Nothing else is ever replaced or removed.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.scope import Scope

_table = schema.exported_files
_NOTED = ("export", "version", "definition", "run", "rows", "bytes", "noted_at")
_put = upsert(_table).on_conflict_replace(*_NOTED)


class ExportedFile(msgspec.Struct, frozen=True):
    """A file of an export.

    Attributes:
        path: a path from the root, or ``s3://BUCKET/KEY``.
        sha256: hex, of its content.
        export: the schedule's name. ``version``: of the rows, ``definition``: a hash of what is exported, and how.
        rows, bytes: how many.
        noted_at: just before it was put in place; ``written_at``: just after, ``None`` where that is not known.
    """

    path: str
    sha256: str
    export: str
    version: str
    definition: str
    run: str
    rows: int
    bytes: int
    noted_at: datetime
    written_at: datetime | None = None


class ExportedFiles:
    """Repository of the files that exports of each scope wrote."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope, export: str, version: str | None = None) -> builtins.list[ExportedFile]:
        """The files that an export put in place, of one version or of all, the latest first."""
        conditions = [schema.owned(_table, scope, export=export), _table.c.written_at.is_not(None)]
        if version is not None:
            conditions.append(_table.c.version == version)
        order = (_table.c.written_at.desc(), _table.c.path.desc())
        rows = self._database.rows(select(_table).where(*conditions).order_by(*order))
        return [value_of(ExportedFile, row) for row in rows]

    def hashes(self, scope: Scope, path: str) -> frozenset[str]:
        """The hashes of what exports put, or were about to put, in a place."""
        rows = self._database.rows(select(_table.c.sha256).where(schema.owned(_table, scope, path=path)))
        return frozenset(row[0] for row in rows)

    def note(self, scope: Scope, file: ExportedFile) -> None:
        """Note a file that is about to be put in its place."""
        values: dict[str, Any] = {**msgspec.structs.asdict(file), "written_at": None}
        with self._database.transaction() as connection:
            connection.execute(_put.values(tenant=scope.tenant, environment=scope.environment, **values))

    def written(self, scope: Scope, path: str, sha256: str, at: datetime) -> None:
        """Note that a file is in its place, and forget what was there before."""
        of_path = schema.owned(_table, scope, path=path)
        with self._database.transaction() as connection:
            connection.execute(update(_table).where(of_path, _table.c.sha256 == sha256).values(written_at=at))
            connection.execute(delete(_table).where(of_path, _table.c.sha256 != sha256))

    def forget(self, scope: Scope, path: str, *, within: Connection | None = None) -> None:
        """Forget a place whose file was removed."""
        with self._database.writing(within) as connection:
            connection.execute(delete(_table).where(schema.owned(_table, scope, path=path)))
