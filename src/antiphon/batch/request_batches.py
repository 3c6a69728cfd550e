"""Orders of batches of OpenAI's API: create, read, cancel."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import msgspec

from antiphon.batch.files import FileStore, check_lifetime
from antiphon.catalog.batch.batches import Batch, Batches
from antiphon.catalog.database import Database
from antiphon.core.clock import Clock
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tenants import Tenants

WORKFLOW = "openai_batch"
WINDOWS = {"24h": timedelta(hours=24)}

MOST_PAIRS, LONGEST_KEY, LONGEST_VALUE = 16, 64, 512
"""Of metadata."""


class BatchOrder(msgspec.Struct, frozen=True):
    """An order of a batch."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: Mapping[str, str] | None = None
    output_seconds: int | None = None
    accept_late: bool = False


@dataclass(frozen=True)
class RequestBatches:
    """Orders batches for these ``endpoints``; workers take them from there."""

    records: Batches
    files: FileStore
    runs: Runs
    database: Database
    audit: AuditLog
    clock: Clock
    endpoints: Collection[str]

    def create(self, scope: Scope, principal: Principal, order: BatchOrder, originator: str | None = None) -> Batch:
        """Record a batch and its run together; its requests are answered on behalf of ``principal``.

        Raises:
            InvalidInputError: another endpoint, window, purpose of the file, or metadata beyond its bounds.
            NotFoundError: there is no such file. OverloadedError: the tenant has as many as its quota allows.
        """
        if order.endpoint not in self.endpoints:
            raise InvalidInputError(
                f"Batches are for {' and '.join(sorted(self.endpoints))}.",
                where="endpoint",
                next_step="Send one of them.",
            )
        if order.completion_window not in WINDOWS:
            raise InvalidInputError(
                f"The completion window is {' or '.join(WINDOWS)}.", where="completion_window", next_step="Send 24h."
            )
        check_metadata(order.metadata or {})
        kept = check_lifetime(order.output_seconds, "output_expires_after.seconds") or self.files.limits.kept
        with self.database.transaction() as connection:
            try:
                file = self.files.records.get(scope, order.input_file_id, within=connection)
            except NotFoundError as error:
                raise NotFoundError(error.what, where="input_file_id", next_step="GET /v1/files lists them.") from None
            if file.purpose != "batch":
                raise InvalidInputError(
                    f"The file's purpose is {file.purpose!r}.",
                    where="input_file_id",
                    next_step="Name a file that was uploaded with purpose=batch.",
                )
            Tenants(self.database).require_room(scope.tenant, within=connection)
            batch = self.records.create(
                scope,
                endpoint=order.endpoint,
                input_file=file.id,
                principal=principal.id,
                settings={"principal": msgspec.to_builtins(principal), "accept_late": order.accept_late},
                window=order.completion_window,
                expires_at=self.clock.now() + WINDOWS[order.completion_window],
                output_kept=kept,
                metadata=order.metadata,
                within=connection,
            )
            self.runs.submit(
                scope, WORKFLOW, {"batch": batch.id}, key=f"{WORKFLOW}:{batch.id}",
                within=connection,
            )  # fmt: skip
            detail: dict[str, Any] = {"input": file.id, "kind": order.endpoint}
            self.audit.append(
                scope, principal.id, "batch.create", batch.id, detail, originator=originator, within=connection
            )
        return batch

    def cancel(self, scope: Scope, batch: str, principal: str, originator: str | None = None) -> Batch:
        """Ask a batch to stop; its worker ends it with what was done.

        Raises:
            NotFoundError: there is no such batch.
            ConflictError: it ended, or its files are being made.
        """
        with self.database.transaction() as connection:
            cancelled = self.records.cancel(scope, batch, within=connection)
            if (run := self.runs.find(scope, f"{WORKFLOW}:{batch}")) is not None:
                self.runs.resume(scope, run.id, within=connection)  # Its worker ends it, also a paused one.
            self.audit.append(scope, principal, "batch.cancel", batch, {}, originator=originator, within=connection)
        return cancelled


def check_metadata(metadata: Mapping[str, str]) -> None:
    if len(metadata) > MOST_PAIRS:
        raise InvalidInputError(
            f"There are {len(metadata)} pairs.", where="metadata", next_step=f"Send at most {MOST_PAIRS} pairs."
        )
    for key, value in metadata.items():
        if not 0 < len(key) <= LONGEST_KEY or len(value) > LONGEST_VALUE:
            raise InvalidInputError(
                "A key or a value is too long, or a key is empty.",
                where=f"metadata.{key[:LONGEST_KEY]}",
                next_step=f"Keys have 1 to {LONGEST_KEY} characters, values at most {LONGEST_VALUE}.",
            )
