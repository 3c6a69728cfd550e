"""Batches of OpenAI's API: jobs whose requests are lines of a file.

Invariants: a batch is a job of the kind ``openai`` with the same id, whose status is the batch's; its rows are the
job's, keyed by line. It moves as :data:`MOVES` says and stays as it ended. How it will end, and which files it will
have, is committed before the files are made, so that making them again gives the same.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import msgspec
from sqlalchemy import Select, func, insert, or_, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.batch.files import new_file_id
from antiphon.catalog.batch.jobs import ENDED, BatchJob, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.rows import value_of
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope

KIND = "openai"

BatchStatus = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"
]
Ending = Literal["completed", "expired", "cancelled"]

MOVES: dict[BatchStatus, tuple[BatchStatus, ...]] = {
    "validating": ("in_progress", "cancelling", "failed"),
    "in_progress": ("finalizing", "cancelling", "failed"),
    "finalizing": ("completed", "expired", "failed"),
    "cancelling": ("cancelled", "failed"),
    "completed": (), "failed": (), "expired": (), "cancelled": (),
}  # fmt: skip

_METADATA, _ERRORS = "batch-metadata/1", "batch-errors/1"
_batches, _jobs, _rows = schema.batches, schema.jobs, schema.job_rows
_MOMENTS = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


class LineError(msgspec.Struct, frozen=True):
    """A mistake in a line (counted from 1) of a batch's file, or in the file."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(msgspec.Struct, frozen=True):
    """One batch, with the job behind it.

    Attributes:
        ending: how it will end once its files are made; ``output_file`` and ``error_file`` are theirs from then on.
        output_kept: for how long those files stay.
        moments: when it came to each status that it was in, by ``STATUS_at``.
    """

    job: BatchJob
    endpoint: str
    input_file: str
    window: str
    metadata: dict[str, str] | None
    errors: tuple[LineError, ...]
    ending: Ending | None
    output_file: str | None
    error_file: str | None
    output_kept: timedelta
    expires_at: datetime
    moments: dict[str, datetime]

    @property
    def id(self) -> str:
        return self.job.id

    @property
    def scope(self) -> Scope:
        return self.job.scope

    @property
    def status(self) -> BatchStatus:
        return cast(BatchStatus, self.job.status)

    @property
    def ended(self) -> bool:
        return self.job.status in ENDED


class Batches:
    """Repository of batches."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._of_jobs = Jobs(database)

    def create(
        self,
        scope: Scope,
        *,
        endpoint: str,
        input_file: str,
        principal: str,
        settings: dict[str, Any],
        window: str,
        expires_at: datetime,
        output_kept: timedelta,
        metadata: Mapping[str, str] | None = None,
        within: Connection | None = None,
    ) -> Batch:
        """Record a batch that is to be validated."""
        batch = new_id("batch")
        sealed = None
        if metadata is not None:
            sealed = self._database.seal(scope, _METADATA, batch, msgspec.json.encode(dict(metadata)))
        with self._database.writing(within) as connection:
            self._of_jobs.create(
                scope, application="", release=None, kind=KIND, input=input_file, output="", principal=principal,
                settings=settings, job=batch, within=connection,
            )  # fmt: skip
            self._put(connection, scope, batch, "validating")
            connection.execute(
                insert(_batches).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    id=batch,
                    endpoint=endpoint,
                    input_file=input_file,
                    window=window,
                    metadata=sealed,
                    output_kept=output_kept // timedelta(microseconds=1),
                    expires_at=expires_at,
                )
            )
            return self.get(scope, batch, within=connection)

    def get(self, scope: Scope, batch: str, *, within: Connection | None = None) -> Batch:
        """One batch with its counts.

        Raises:
            NotFoundError: there is none of this id here.
        """
        with self._database.reading(within) as connection:
            row = connection.execute(select(_batches).where(schema.owned(_batches, scope, id=batch))).first()
            if row is None:
                raise _missing(batch)
            return self._batch(row, self._of_jobs.get(scope, batch, within=connection))

    def list(self, scope: Scope, *, after: str | None = None, limit: int = 20) -> builtins.list[Batch]:
        """Batches, latest first, from the one that follows ``after``."""
        statement = select(_batches).where(schema.owned(_batches, scope))
        if after is not None:
            statement = statement.where(_batches.c.id < after)
        with self._database.read() as connection:
            found = connection.execute(statement.order_by(_batches.c.id.desc()).limit(limit)).all()
            return [self._batch(row, self._of_jobs.get(scope, row.id, within=connection)) for row in found]

    def status(self, scope: Scope, batch: str) -> BatchStatus:
        """Returns a batch's status without counting its rows.

        Raises:
            NotFoundError: there is none of this id here.
        """
        found = self._database.scalar(select(_jobs.c.status).where(schema.owned(_jobs, scope, id=batch, kind=KIND)))
        if found is None:
            raise _missing(batch)
        return cast(BatchStatus, found)

    def take_over(self, scope: Scope, batch: str, within: Connection | None = None) -> int:
        """Raise the epoch and return it: from now on only its holder writes. The batch stays where it is. For
        ``within`` see :meth:`.jobs.Jobs.take_over`.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it ended.
        """
        with self._database.writing(within) as connection:
            found = self.get(scope, batch, within=connection)
            if found.ended:
                raise _ended(found)
            connection.execute(
                update(_jobs).where(schema.owned(_jobs, scope, id=batch)).values(epoch=found.job.epoch + 1)
            )
            return found.job.epoch + 1

    def begin(self, scope: Scope, batch: str, epoch: int, *, model: str, total: int) -> Batch:
        """A batch that is valid goes into progress; one that is being cancelled only learns its total.

        Raises:
            ConflictError: it ended, or another worker took it over.
        """
        with self._database.transaction() as connection:
            found = self._held(connection, scope, batch, epoch)
            status = "in_progress" if found.status == "validating" else found.status
            self._move(connection, found, status, application=model, total=total)
            return self.get(scope, batch, within=connection)

    def fail(self, scope: Scope, batch: str, epoch: int, errors: Sequence[LineError]) -> Batch:
        """A batch that cannot be worked on, with what is wrong.

        Raises:
            ConflictError: it ended otherwise, or another worker took it over.
        """
        with self._database.transaction() as connection:
            found = self._held(connection, scope, batch, epoch)
            sealed = self._database.seal(scope, _ERRORS, batch, msgspec.json.encode(errors))
            self._move(connection, found, "failed")
            self._write(connection, scope, batch, errors=sealed)
            return self.get(scope, batch, within=connection)

    def cancel(self, scope: Scope, batch: str, *, within: Connection | None = None) -> Batch:
        """Ask a batch to stop; its worker ends it with what was done. Asking again changes nothing.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it ended, or its files are being made.
        """
        with self._database.writing(within) as connection:
            found = self.get(scope, batch, within=connection)
            if found.status == "cancelling":
                return found
            if found.status not in ("validating", "in_progress"):
                raise ConflictError(
                    f"The batch is {found.status}.",
                    where="batch_id",
                    next_step="Only what is not done can be cancelled.",
                )
            self._move(connection, found, "cancelling")
            return self.get(scope, batch, within=connection)

    def settle(self, scope: Scope, batch: str, epoch: int, ending: Ending) -> Batch:
        """No row will come any more: settle how it ends and which files it has. What was settled once stays.

        Raises:
            ConflictError: it ended, or another worker took it over.
        """
        with self._database.transaction() as connection:
            found = self._held(connection, scope, batch, epoch)
            if found.ending is not None:
                return found
            if found.status == "cancelling":
                ending = "cancelled"
            if ending != "cancelled":
                self._move(connection, found, "finalizing")
            self._write(
                connection,
                scope,
                batch,
                ending=ending,
                output_file=new_file_id() if found.job.rows_done > found.job.rows_failed else None,
                error_file=new_file_id() if found.job.rows_failed else None,
            )
            return self.get(scope, batch, within=connection)

    def finish(self, scope: Scope, batch: str, epoch: int, *, within: Connection | None = None) -> Batch:
        """A batch whose files are in place ends as it was settled.

        Raises:
            ConflictError: it was not settled, it ended, or another worker took it over.
        """
        with self._database.writing(within) as connection:
            found = self._held(connection, scope, batch, epoch)
            if found.ending is None:
                raise ConflictError(f"How the batch {batch} ends is not settled.", where=str(scope))
            self._move(connection, found, found.ending)
            return self.get(scope, batch, within=connection)

    def reader(self, scope: Scope, file: str, *, within: Connection | None = None) -> str | None:
        """A batch that has not ended and reads this file."""
        statement = (
            select(_batches.c.id)
            .join(_jobs, _jobs.c.id == _batches.c.id)
            .where(
                schema.owned(_batches, scope),
                schema.owned(_jobs, scope),
                _batches.c.input_file == file,
                _jobs.c.status.not_in(ENDED),
            )
        )
        found: str | None = self._database.scalar(statement.limit(1), within)
        return found

    def maker(self, scope: Scope, file: str) -> Batch | None:
        """The batch that made a file; ``None`` for one that was uploaded."""
        with self._database.read() as connection:
            made = connection.execute(_made(scope, file)).first()
            return None if made is None else self.get(scope, made.id, within=connection)

    def erase_rows(self, scope: Scope, file: str, after: int = -1, limit: int = 500) -> int | None:
        """Take the content out of rows that a file was made from, so many after a line; they still count.

        Returns:
            The last of them; ``None`` when there are no more.
        """
        with self._database.transaction() as connection:
            batch = connection.execute(_made(scope, file)).first()
            if batch is None:
                return None
            of_file = schema.owned(_rows, scope, job=batch.id, failed=batch.output_file != file)
            following = select(_rows.c.line).where(of_file, _rows.c.line > after).order_by(_rows.c.line).limit(limit)
            lines = connection.execute(following).scalars().all()
            for line in lines:
                empty = self._database.seal(scope, "job-row/1", f"{batch.id}:{line}", b"{}")
                connection.execute(update(_rows).where(of_file, _rows.c.line == line).values(payload=empty))
        return lines[-1] if lines else None

    def counts(self, scope: Scope) -> dict[str, int]:
        """Returns the number of batches in each status."""
        counted = select(_jobs.c.status, func.count()).where(schema.owned(_jobs, scope, kind=KIND))
        return {status: int(number) for status, number in self._database.rows(counted.group_by(_jobs.c.status))}

    def _held(self, connection: Connection, scope: Scope, batch: str, epoch: int) -> Batch:
        found = self.get(scope, batch, within=connection)
        if found.ended:
            raise _ended(found)
        if found.job.epoch != epoch:
            raise ConflictError(
                f"Epoch {epoch} of batch {batch} is over.", where=str(scope), next_step="Another worker has it; stop."
            )
        return found

    def _move(self, connection: Connection, found: Batch, status: BatchStatus, **job: Any) -> None:
        if status != found.status:
            if status not in MOVES[found.status]:
                raise ConflictError(f"A batch that is {found.status} does not become {status}.", where=found.id)
            self._write(connection, found.scope, found.id, **{f"{status}_at": self._database.clock.now()})
        self._put(connection, found.scope, found.id, status, **job)

    def _put(self, connection: Connection, scope: Scope, batch: str, status: BatchStatus, **job: Any) -> None:
        values = {"status": status, "updated_at": self._database.clock.now(), **job}
        connection.execute(update(_jobs).where(schema.owned(_jobs, scope, id=batch)).values(values))

    def _write(self, connection: Connection, scope: Scope, batch: str, **values: Any) -> None:
        connection.execute(update(_batches).where(schema.owned(_batches, scope, id=batch)).values(values))

    def _batch(self, row: Row[Any], job: BatchJob) -> Batch:
        def opened(kind: str, payload: bytes | None, shape: Any) -> Any:
            if payload is None:
                return None
            return msgspec.json.decode(self._database.unseal(job.scope, kind, job.id, payload), type=shape)

        return value_of(
            Batch,
            row,
            job=job,
            metadata=opened(_METADATA, row.metadata, dict[str, str]),
            errors=opened(_ERRORS, row.errors, tuple[LineError, ...]) or (),
            output_kept=timedelta(microseconds=row.output_kept),
            moments={name: at for name in _MOMENTS if (at := getattr(row, name)) is not None},
        )


def _made(scope: Scope, file: str) -> Select[Any]:
    """The query of the batch that made a file."""
    made = or_(_batches.c.output_file == file, _batches.c.error_file == file)
    return select(_batches.c.id, _batches.c.output_file).where(schema.owned(_batches, scope), made)


def _missing(batch: str) -> NotFoundError:
    return NotFoundError(f"There is no batch {batch!r}.", where="batch_id", next_step="GET /v1/batches lists them.")


def _ended(batch: Batch) -> ConflictError:
    return ConflictError(
        f"The batch {batch.id} is {batch.status}.", where=str(batch.scope), next_step="Create a new one."
    )
