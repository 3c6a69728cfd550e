"""Batch jobs and their output rows.

Invariants: a row is keyed (job, line) and the first one written stays; a row is written only by the job's current
epoch, so a worker that lost the job writes nothing; every count derives from the rows.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import missing, value_of
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope

JobStatus = Literal[
    "queued", "running", "paused", "finalizing", "completed", "failed", "cancelled",
    "validating", "in_progress", "cancelling", "expired",
]  # fmt: skip
"""The last four are of batches of OpenAI's API alone (``catalog.batches``)."""
ENDED: tuple[JobStatus, ...] = ("completed", "failed", "cancelled", "expired")

ANSWER_COLUMNS = (
    "answer_prediction", "answer_text", "answer_origin", "answer_origin_prediction", "answer_release",
    "answer_publication", "answer_classes", "answer_guards", "answer_completion_tokens", "answer_error",
)  # fmt: skip
"""Columns that a row gains; the prefix keeps them apart from the input's own columns, which all stay."""

_SCHEMA = "job-row/1"
_SETTINGS, _ERROR = "job-settings/1", "job-error/1"
_PAGE = 500
_WRITTEN, _RELEASES = "written", "releases"
DOCUMENTS = "documents"
"""The setting that names a job's documents."""
_jobs, _rows = schema.jobs, schema.job_rows


class BatchJob(msgspec.Struct, frozen=True):
    """One batch job.

    Attributes:
        kind: ``table`` (rows of a file), ``openai`` (an OpenAI batch file) or ``precompute``.
        release: pinned when the job was made; ``None`` for a plain model.
        input: where rows come from; ``output`` where the finished file goes.
        epoch: raised by every take-over; only the current epoch writes.
        total: rows of the input, ``None`` until they are counted.
        settings: what else the job was asked to do.
        rows_done: rows written, failed ones included; ``rows_failed`` the failed ones.
    """

    id: str
    scope: Scope
    application: str
    release: str | None
    kind: str
    input: str
    output: str
    status: JobStatus
    epoch: int
    total: int | None
    principal: str
    settings: dict[str, Any]
    error: str | None
    created_at: datetime
    updated_at: datetime
    rows_done: int = 0
    rows_failed: int = 0

    @property
    def written(self) -> tuple[str, ...]:
        """SHA-256 of what the job has put, or was about to put, into its output file."""
        return tuple(self.settings.get(_WRITTEN, ()))

    @property
    def releases(self) -> tuple[str, ...]:
        """Releases that its rows are answered by: the pinned one, or those that have answered so far."""
        return (self.release,) if self.release is not None else tuple(self.settings.get(_RELEASES, ()))

    @property
    def sources(self) -> tuple[str, ...]:
        """Views and outcomes (``view/NAME``, ``application/NAME``) that its input file was a source of when ordered."""
        return tuple(self.settings.get("sources", ()))

    @property
    def documents(self) -> str | None:
        """Blob with the names of the documents of a folder that its rows are; ``None`` of a table."""
        return self.settings.get(DOCUMENTS)

    def moment_of(self, row: Mapping[str, Any]) -> datetime | None:
        """The event time that a row is asked about, its own or the order's; ``None``: the time of answering.

        Raises:
            ValueError: the row's is no instant.
        """
        moment = row.get("as_of") or self.settings.get("as_of")
        if moment is None:
            return None
        known = moment if isinstance(moment, datetime) else datetime.fromisoformat(str(moment))
        return known if known.tzinfo is not None else known.replace(tzinfo=UTC)


class JobRow(msgspec.Struct, frozen=True):
    """One output row; ``line`` counts the input's rows from 0."""

    line: int
    payload: dict[str, Any]
    failed: bool = False


class Jobs:
    """Repository of batch jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        scope: Scope,
        *,
        application: str,
        release: str | None,
        input: str,
        output: str,
        principal: str,
        kind: str = "table",
        total: int | None = None,
        settings: dict[str, Any] | None = None,
        job: str | None = None,
        within: Connection | None = None,
    ) -> BatchJob:
        """Record a queued job. With ``job`` given, creating it again returns the one that exists."""
        job = job or new_id("job")
        now = self._database.clock.now()
        statement = upsert(_jobs).values(
            tenant=scope.tenant,
            environment=scope.environment,
            id=job,
            application=application,
            release=release,
            kind=kind,
            input=input,
            output=output,
            status="queued",
            epoch=0,
            total=total,
            principal=principal,
            settings=self._sealed_settings(scope, job, settings or {}),
            created_at=now,
            updated_at=now,
        )
        with self._database.writing(within) as connection:
            connection.execute(statement.on_conflict_do_nothing())
            return self.get(scope, job, within=connection)

    def get(self, scope: Scope, job: str, *, within: Connection | None = None) -> BatchJob:
        """One job with its counts.

        Raises:
            NotFoundError: there is none of this id here.
        """
        found = self._select(within, schema.owned(_jobs, scope, id=job))
        if not found:
            raise _missing(scope, job)
        return found[0]

    def with_output(self, scope: Scope, output: str) -> builtins.list[BatchJob]:
        """Jobs of a scope that write to this file."""
        return self._select(None, schema.owned(_jobs, scope, output=output))

    def note_output(self, scope: Scope, job: str, epoch: int, digest: str) -> None:
        """Keep what a job is about to put into its output file.

        Raises:
            ConflictError: another worker took the job over.
        """
        self._note(scope, job, epoch, _WRITTEN, [digest])

    def note_releases(self, scope: Scope, job: str, epoch: int, releases: Iterable[str]) -> None:
        """Keep by which releases rows that are about to be written were answered.

        Raises:
            ConflictError: another worker took the job over.
        """
        self._note(scope, job, epoch, _RELEASES, releases)

    def _note(self, scope: Scope, job: str, epoch: int, name: str, values: Iterable[str]) -> None:
        with self._database.transaction() as connection:
            self._require_epoch(connection, scope, job, epoch)
            found = self.get(scope, job, within=connection)
            settings = {**found.settings, name: sorted({*found.settings.get(name, ()), *values})}
            self._write(connection, scope, job, settings=self._sealed_settings(scope, job, settings))

    def known(self, scope: Scope, job: str) -> bool:
        """Tells whether a job of this id exists."""
        return self._database.first(select(_jobs.c.id).where(schema.owned(_jobs, scope, id=job))) is not None

    def list(self, scope: Scope, limit: int = 50, before: tuple[datetime, str] | None = None) -> list[BatchJob]:
        """Jobs with their counts, latest first; from behind a job on, which is named by its moment and id."""
        condition = schema.owned(_jobs, scope)
        if before is not None:
            at, job = before
            older = _jobs.c.created_at < at
            condition &= or_(older, and_(_jobs.c.created_at == at, _jobs.c.id < job))
        return self._select(None, condition, limit)

    def rows_waiting(self, scope: Scope) -> int:
        """Rows of jobs that have not ended which are to be answered; of a job whose rows are not counted yet, none."""
        under_way = schema.owned(_jobs, scope) & _jobs.c.status.not_in(ENDED)
        jobs = self._database.rows(select(_jobs.c.id, _jobs.c.total).where(under_way))
        waiting = 0
        for job, total in jobs:
            done = self._database.scalar(select(func.count()).where(schema.owned(_rows, scope, job=job)))
            waiting += max(0, (total or 0) - int(done))
        return waiting

    def set_status(
        self,
        scope: Scope,
        job: str,
        status: JobStatus,
        *,
        epoch: int | None = None,
        error: str | None = None,
        within: Connection | None = None,
    ) -> BatchJob:
        """Move a job to a status; a worker passes its epoch. An ended job stays as it ended.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: the job ended otherwise, or another worker took it over.
        """
        with self._database.writing(within) as connection:
            found = self.get(scope, job, within=connection)
            if found.status == status and status in ENDED:
                return found
            if found.status in ENDED:
                raise ConflictError(
                    f"The job {job} is {found.status}.", where=str(scope), next_step="Create a new job."
                )
            if epoch is not None:
                self._require_epoch(connection, scope, job, epoch)
            sealed = None if error is None else self._database.seal_text(scope, _ERROR, job, error)
            self._write(connection, scope, job, status=status, error=sealed, updated_at=self._database.clock.now())
            return self.get(scope, job, within=connection)

    def reopen(self, scope: Scope, job: str, *, within: Connection) -> BatchJob:
        """Queue a job again that failed, with the rows that it has; raises ``NotFoundError`` when there is none."""
        if self.get(scope, job, within=within).status == "failed":
            now = self._database.clock.now()
            self._write(within, scope, job, status="queued", error=None, updated_at=now)
        return self.get(scope, job, within=within)

    def take_over(self, scope: Scope, job: str, within: Connection | None = None) -> int:
        """Raise the epoch and return it: from now on only its holder writes rows. Sets the job running. A worker does
        it ``within`` a transaction that makes sure of its run: a lost one would take the job from the run's holder.

        Raises:
            NotFoundError: there is no such job.
            ConflictError: the job ended.
        """
        with self._database.writing(within) as connection:
            running = self.set_status(scope, job, "running", within=connection)
            epoch = running.epoch + 1
            self._write(connection, scope, job, epoch=epoch)
        return epoch

    def write_rows(self, scope: Scope, job: str, epoch: int, rows: Sequence[JobRow]) -> int:
        """Write output rows; a line that is there already keeps its first row.

        Returns:
            How many were new.

        Raises:
            ConflictError: the job ended, or another worker took it over.
        """
        if not rows:
            return 0
        now = self._database.clock.now()
        sealed = [
            {
                "tenant": scope.tenant,
                "environment": scope.environment,
                "job": job,
                "line": row.line,
                "epoch": epoch,
                "failed": row.failed,
                "payload": self._database.seal(scope, _SCHEMA, f"{job}:{row.line}", msgspec.json.encode(row.payload)),
                "created_at": now,
            }
            for row in rows
        ]
        with self._database.transaction() as connection:
            self._require_epoch(connection, scope, job, epoch)
            written = connection.execute(upsert(_rows).on_conflict_do_nothing(), sealed)
        return written.rowcount

    def done_lines(self, scope: Scope, job: str) -> set[int]:
        """Lines that have their row."""
        return {
            row.line for row in self._database.rows(select(_rows.c.line).where(schema.owned(_rows, scope, job=job)))
        }

    def page(self, scope: Scope, job: str, after: int, limit: int, failed: bool | None = None) -> builtins.list[JobRow]:
        """At most ``limit`` output rows with ``line > after``, in the order of their lines; only those that failed, or
        did not, where that is given."""
        statement = (
            select(_rows.c.line, _rows.c.failed, _rows.c.payload)
            .where(schema.owned(_rows, scope, job=job), _rows.c.line > after, *schema.given(_rows, failed=failed))
            .order_by(_rows.c.line)
            .limit(limit)
        )
        return [
            JobRow(line, msgspec.json.decode(self._database.unseal(scope, _SCHEMA, f"{job}:{line}", payload)), failed)
            for line, failed, payload in self._database.rows(statement)
        ]

    def rows(self, scope: Scope, job: str) -> Iterator[JobRow]:
        """Every output row in the order of its line, read page by page."""
        after = -1
        while page := self.page(scope, job, after, _PAGE):
            yield from page
            after = page[-1].line

    def _require_epoch(self, connection: Connection, scope: Scope, job: str, epoch: int) -> None:
        row = connection.execute(
            select(_jobs.c.epoch, _jobs.c.status).where(schema.owned(_jobs, scope, id=job))
        ).first()
        if row is None:
            raise _missing(scope, job)
        if row.epoch != epoch or row.status in ENDED:
            raise ConflictError(
                f"Epoch {epoch} of job {job} may not write: it is {row.status} in epoch {row.epoch}.",
                where=str(scope),
                next_step="Stop: another worker has the job, or it ended.",
            )

    def _write(self, connection: Connection, scope: Scope, job: str, **values: Any) -> None:
        connection.execute(update(_jobs).where(schema.owned(_jobs, scope, id=job)).values(values))

    def _sealed_settings(self, scope: Scope, job: str, settings: dict[str, Any]) -> bytes:
        return self._database.seal(scope, _SETTINGS, job, msgspec.json.encode(settings))

    def _select(
        self, within: Connection | None, condition: ColumnElement[bool], limit: int | None = None
    ) -> builtins.list[BatchJob]:
        statement = select(_jobs).where(condition).order_by(_jobs.c.created_at.desc(), _jobs.c.id.desc()).limit(limit)
        with self._database.reading(within) as connection:
            return [self._job(connection, row) for row in connection.execute(statement).all()]

    def _job(self, connection: Connection, row: Row[Any]) -> BatchJob:
        scope = Scope(row.tenant, row.environment)
        counts = select(func.count(), func.coalesce(func.sum(case((_rows.c.failed, 1), else_=0)), 0))
        done, failed = connection.execute(counts.where(schema.owned(_rows, scope, job=row.id))).one()
        return value_of(
            BatchJob,
            row,
            settings=msgspec.json.decode(self._database.unseal(scope, _SETTINGS, row.id, row.settings)),
            error=None if row.error is None else self._database.unseal_text(scope, _ERROR, row.id, row.error),
            rows_done=int(done),
            rows_failed=int(failed),
        )


def _missing(scope: Scope, job: str) -> NotFoundError:
    return missing("batch job", job, scope, "See `antiphon batch list`.")
