"""What batch needs from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, BinaryIO, Protocol

from antiphon.catalog.batch_work import EngineSupply, ForecastInputs, RowUsage, Sizes
from antiphon.catalog.jobs import BatchJob, JobRow, JobStatus
from antiphon.catalog.releases import Release
from antiphon.core.scope import Scope
from antiphon.features.lake.content import LakeDraft
from antiphon.governance.identity.principal import Principal
from antiphon.serving.embedding import Embedding, EmbeddingRequest
from antiphon.serving.request import Answer, AnswerRequest


class Jobs(Protocol):
    """Batch jobs and their rows."""

    def create(
        self,
        scope: Scope,
        *,
        application: str,
        release: str | None,
        input: str,
        output: str,
        principal: str,
        kind: str = ...,
        total: int | None = ...,
        settings: dict[str, Any] | None = ...,
        job: str | None = ...,
        within: Any = None,
    ) -> BatchJob: ...

    def get(self, scope: Scope, job: str) -> BatchJob: ...
    def known(self, scope: Scope, job: str) -> bool: ...

    def set_status(
        self, scope: Scope, job: str, status: JobStatus, *, epoch: int | None = ..., error: str | None = ...
    ) -> BatchJob: ...

    def take_over(self, scope: Scope, job: str) -> int: ...
    def with_output(self, scope: Scope, output: str) -> Sequence[BatchJob]: ...
    def note_output(self, scope: Scope, job: str, epoch: int, digest: str) -> None: ...
    def note_releases(self, scope: Scope, job: str, epoch: int, releases: Iterable[str]) -> None: ...
    def write_rows(self, scope: Scope, job: str, epoch: int, rows: Sequence[JobRow]) -> int: ...
    def done_lines(self, scope: Scope, job: str) -> set[int]: ...
    def rows(self, scope: Scope, job: str) -> Iterator[JobRow]: ...


class Measurements(Protocol):
    """What batch jobs are, take and get (``catalog.batch_work``)."""

    def declare(
        self, scope: Scope, job: str, model: str, sizes: Sizes, deadline: datetime | None, *, within: Any = None
    ) -> None: ...

    def used(self, scope: Scope, job: str, usage: RowUsage) -> None: ...
    def supply(self, scope: Scope, worker: str, got: EngineSupply) -> None: ...
    def look(self, scope: Scope) -> ForecastInputs: ...


class LiveReleases(Protocol):
    """Which release answers now."""

    def live(self, scope: Scope, application: str) -> Release | None: ...
    def get(self, scope: Scope, release: str) -> Release: ...
    def applications(self, scope: Scope) -> Sequence[str]: ...


class Blobs(Protocol):
    """Content-addressed bytes."""

    def put(self, scope: Scope, content: bytes, *, within: Any = None) -> str: ...
    def get(self, scope: Scope, blob: str) -> bytes: ...


class Contents(Protocol):
    """Files by their content, in this project's folder or an object store (``features.lake``)."""

    def writing(self, scope: Scope, suffix: str) -> AbstractContextManager[LakeDraft]: ...
    def open(self, relative: str) -> BinaryIO: ...
    def remove(self, relative: str) -> None: ...
    def scopes(self) -> list[Scope]: ...
    def collect(self, scope: Scope, keep: Iterable[str], older_than: float) -> list[str]: ...


class Audit(Protocol):
    """``governance.audit.AuditLog.append``."""

    def __call__(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        originator: str | None = None,
        within: Any = None,
    ) -> Any: ...


class Submit(Protocol):
    """Starts durable runs."""

    def submit(
        self,
        scope: Scope,
        workflow: str,
        arguments: dict[str, Any],
        key: str | None = None,
        *,
        max_attempts: int = ...,
        within: Any = None,
    ) -> str: ...


class Transactions(Protocol):
    """Opens a write transaction of the catalog."""

    def transaction(self) -> AbstractContextManager[Any]: ...


class Run(Protocol):
    """One execution of a durable workflow (``durable.RunContext``)."""

    @property
    def scope(self) -> Scope: ...

    @property
    def stopping(self) -> bool: ...

    def progress(self, done: int, total: int | None = None, note: str = "") -> None: ...


class Decided(Protocol):
    """What policy said about one row."""

    @property
    def allowed(self) -> bool: ...
    @property
    def reason(self) -> str: ...


class DecideRows(Protocol):
    """Policy about many rows at once; ``answer()`` decides those again that are let through."""

    def __call__(
        self,
        scope: Scope,
        principal: Principal,
        release: Release,
        rows: Sequence[tuple[dict[str, str], datetime | None]],
    ) -> Sequence[Decided]:
        """One decision a row, in order; a row is an entity and the moment it is asked about (``None``: now)."""
        ...


class AskedLine(Protocol):
    """A request of a batch as serving is asked for it, and its answer as its endpoint would send it.

    Of a request for several choices there is a question for each.
    """

    @property
    def requests(self) -> Sequence[AnswerRequest | EmbeddingRequest]: ...
    def answered(self, answers: Sequence[Any], /) -> Any: ...


class RequestEndpoints(Protocol):
    """What requests of a batch may be for; the gateway's own reading and writing of bodies."""

    def ask(self, endpoint: str, body: bytes, scope: Scope, principal: Principal, request: str) -> AskedLine:
        """Raises ``InvalidInputError`` and ``ForbiddenError`` for what the endpoint would refuse."""
        ...

    def refused(self, error: Exception) -> Any:
        """The body with which the endpoint would tell an error."""
        ...


class AnswerRow(Protocol):
    """serving's answer()."""

    def __call__(self, request: AnswerRequest) -> Awaitable[Answer]: ...


class AnswerLine(Protocol):
    """serving's answer(), and its vectors."""

    def __call__(self, request: AnswerRequest | EmbeddingRequest) -> Awaitable[Answer | Embedding]: ...
