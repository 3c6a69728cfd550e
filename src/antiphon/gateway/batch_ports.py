"""What the gateway needs for files and batches of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import BinaryIO, Protocol

from antiphon.batch.request_batches import BatchOrder
from antiphon.catalog.batches import Batch
from antiphon.catalog.files import FilePurpose, Order, StoredFile
from antiphon.core.scope import Scope
from antiphon.governance.principal import Principal


class FileUpload(Protocol):
    """A file that is being taken in (``batch.files.Upload``)."""

    def write(self, piece: bytes) -> None:
        """Raises ``TooLargeError`` past what one file, or all of the tenant's, may come to."""
        ...

    def keep(self, purpose: str, filename: str, expires_after: int | None = None) -> StoredFile: ...

    def abandon(self) -> None:
        """Leave nothing of it; does nothing once it was kept."""
        ...


class FileStore(Protocol):
    """Files of a scope (``batch.files.FileStore``)."""

    def begin(self, scope: Scope, principal: str, originator: str | None = None) -> FileUpload: ...

    def get(self, scope: Scope, file: str) -> StoredFile: ...

    def list(
        self, scope: Scope, *, after: str | None, limit: int, order: Order, purpose: FilePurpose | None
    ) -> Sequence[StoredFile]: ...

    def open(self, file: StoredFile) -> BinaryIO:
        """The content, for reading at any position; whoever opens it closes it."""
        ...

    def delete(self, scope: Scope, file: str, principal: str, originator: str | None = None) -> StoredFile: ...

    def used(self, scope: Scope) -> int:
        """Bytes that the files of a scope come to."""
        ...


class RequestBatches(Protocol):
    """Batches of requests (``batch.request_batches.RequestBatches``)."""

    def create(self, scope: Scope, principal: Principal, order: BatchOrder, originator: str | None = None) -> Batch: ...

    def get(self, scope: Scope, batch: str) -> Batch: ...

    def list(self, scope: Scope, *, after: str | None, limit: int) -> Sequence[Batch]: ...

    def cancel(self, scope: Scope, batch: str, principal: str, originator: str | None = None) -> Batch: ...

    def counts(self, scope: Scope) -> Mapping[str, int]:
        """How many batches are in each status."""
        ...
