"""Files of OpenAI's API: what they are called, how large they are, until when they stay. Their content lies elsewhere.

Invariants: a file that has expired is not there, whether or not it was removed already; what a tenant's files come to
never exceeds the quota that was in force when the last of them was added; a row names content that is in place.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, exists, func, or_, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.batch.jobs import ENDED
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.clock import from_microseconds
from antiphon.core.errors import NotFoundError, TooLargeError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope

FilePurpose = Literal["batch", "batch_output"]
Order = Literal["asc", "desc"]

_FILENAME = "file-name/1"
_files = schema.files


class StoredFile(msgspec.Struct, frozen=True):
    """One file.

    Attributes:
        size: bytes of the clear content, and ``sha256`` its hash.
        path: where the content lies, below the root of the store of contents.
        principal: who put it there.
    """

    id: str
    scope: Scope
    purpose: FilePurpose
    filename: str
    size: int
    sha256: str
    path: str
    principal: str
    created_at: datetime
    expires_at: datetime | None = None


def new_file_id() -> str:
    """An id as OpenAI writes them, ``file-…``; ids sort by the time at which they were made."""
    return new_id("file").replace("_", "-", 1)


class Files:
    """Repository of files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        scope: Scope,
        *,
        file: str,
        purpose: FilePurpose,
        filename: str,
        size: int,
        sha256: str,
        path: str,
        principal: str,
        expires_at: datetime | None = None,
        quota: int | None = None,
        within: Connection | None = None,
    ) -> StoredFile:
        """Record a file whose content is in place. Adding an id again returns the file that has it.

        Args:
            quota: bytes that all files of the scope may come to.

        Raises:
            TooLargeError: with this one they would come to more.
        """
        statement = upsert(_files).values(
            tenant=scope.tenant,
            environment=scope.environment,
            id=file,
            purpose=purpose,
            filename=self._database.seal(scope, _FILENAME, file, filename.encode()),
            size=size,
            sha256=sha256,
            path=path,
            principal=principal,
            created_at=self._database.clock.now(),
            expires_at=expires_at,
        )
        with self._database.writing(within) as connection:
            if quota is not None and (used := self.used(scope, within=connection)) + size > quota:
                raise TooLargeError(
                    f"Files of this tenant may come to {quota} bytes; with this one they would come to {used + size}.",
                    where="file",
                    next_step="Delete files that are not needed, or raise [batch] quota_bytes.",
                )
            connection.execute(statement.on_conflict_do_nothing())
            return self.get(scope, file, within=connection)

    def get(self, scope: Scope, file: str, *, within: Connection | None = None) -> StoredFile:
        """One file.

        Raises:
            NotFoundError: there is none of this id here, or it has expired.
        """
        return self._one(scope, file, within, self._lasting())

    def list(
        self,
        scope: Scope,
        *,
        after: str | None = None,
        limit: int = 10_000,
        order: Order = "desc",
        purpose: FilePurpose | None = None,
    ) -> builtins.list[StoredFile]:
        """Files in the order in which they were made, from the one that follows ``after``."""
        conditions = (schema.owned(_files, scope), *schema.given(_files, purpose=purpose), self._lasting())
        statement = select(_files).where(*conditions)
        if after is not None:
            statement = statement.where(_files.c.id > after if order == "asc" else _files.c.id < after)
        statement = statement.order_by(_files.c.id if order == "asc" else _files.c.id.desc()).limit(limit)
        return [self._file(row) for row in self._database.rows(statement)]

    def newest_instant(self) -> datetime | None:
        """The newest instant that this catalog has seen; the clock is behind when it says an earlier one."""
        with self._database.read() as connection:
            mark = connection.execute(select(func.max(schema.clock_marks.c.newest_at))).scalar()
            latest = connection.execute(select(func.max(_files.c.created_at))).scalar()
        marked = None if mark is None else from_microseconds(mark)
        return max((each for each in (marked, latest) if each is not None), default=None)

    def used(self, scope: Scope, *, within: Connection | None = None) -> int:
        """Bytes that the files of a scope come to."""
        total = select(func.coalesce(func.sum(_files.c.size), 0))
        return int(self._database.scalar(total.where(schema.owned(_files, scope), self._lasting()), within))

    def expired(self) -> builtins.list[StoredFile]:
        """Every tenant's files that have expired and are still known; what a batch reads is not among them."""
        batches, jobs = schema.batches, schema.jobs
        read = exists().where(
            *(batches.c[name] == _files.c[name] for name in ("tenant", "environment")),
            *(jobs.c[name] == batches.c[name] for name in ("tenant", "environment", "id")),
            batches.c.input_file == _files.c.id,
            jobs.c.status.not_in(ENDED),
        )
        statement = select(_files).where(_files.c.expires_at <= self._database.clock.now(), ~read)
        return [self._file(row) for row in self._database.rows(statement)]

    def forget(self, scope: Scope, file: str, *, within: Connection | None = None) -> bool:
        """Forget a file, also when it has expired; returns whether there was one."""
        return self._database.write(delete(_files).where(schema.owned(_files, scope, id=file)), within) == 1

    def held(self, scope: Scope, file: str) -> StoredFile:
        """One file, also when it has expired and is only there because a batch reads it.

        Raises:
            NotFoundError: there is none of this id here.
        """
        return self._one(scope, file)

    def paths(self, scope: Scope) -> set[str]:
        """Returns the paths of the contents of all files of a scope."""
        return {row.path for row in self._database.rows(select(_files.c.path).where(schema.owned(_files, scope)))}

    def _one(
        self, scope: Scope, file: str, within: Connection | None = None, *conditions: ColumnElement[bool]
    ) -> StoredFile:
        row = self._database.first(select(_files).where(schema.owned(_files, scope, id=file), *conditions), within)
        if row is None:
            raise NotFoundError(f"There is no file {file!r}.", where="file_id", next_step="GET /v1/files lists them.")
        return self._file(row)

    def _lasting(self) -> ColumnElement[bool]:
        return or_(_files.c.expires_at.is_(None), _files.c.expires_at > self._database.clock.now())

    def _file(self, row: Row[Any]) -> StoredFile:
        scope = Scope(row.tenant, row.environment)
        filename = self._database.unseal(scope, _FILENAME, row.id, row.filename).decode()
        return value_of(StoredFile, row, filename=filename)
