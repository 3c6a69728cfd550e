"""Files of OpenAI's API: their content by its hash in a store, what they are in the catalog.

Invariants: the content is in place before the catalog names it, and the catalog forgets a file before its content is
removed, so that a crash leaves content that nobody names and never a file without content. Every file has content of
its own (its id stands in the content's name), so that removing one takes nothing from another.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import msgspec

from antiphon.catalog.batch.batches import Batch, Batches
from antiphon.catalog.batch.files import Files, StoredFile, new_file_id
from antiphon.catalog.database import Database
from antiphon.core.clock import Clock, ClockAgreement
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    StorageFullError,
    TooLargeError,
)
from antiphon.core.scope import Scope
from antiphon.features.lake.content import Lake, LakeDraft
from antiphon.governance.audit.log import AuditLog

SHORTEST, LONGEST = 3_600, 2_592_000
"""Seconds that ``expires_after`` may ask for: an hour to thirty days."""

LONGEST_FILENAME = 255

AGREED_SECONDS = 3_600.0
"""Seconds for which the clock must not have been set before it is believed against a later instant on record."""

_AHEAD = timedelta(days=1)
_MORE_ROOM = "Delete files that are no longer needed, or raise [batch] quota_bytes or the tenant's own quota."
ABANDONED_SECONDS = 3_600.0
"""Content that no file names is removed when it is this old: what is younger may be about to be named."""


class FileLimits(msgspec.Struct, frozen=True):
    """Bytes of one file and of all files of a tenant, and how long an uploaded one stays by itself; ``tenant_bytes`` is
    a tenant's own bound, where it has one."""

    file_bytes: int
    quota_bytes: int
    kept: timedelta
    tenant_bytes: Callable[[str], int | None] = lambda tenant: None

    def quota(self, scope: Scope) -> int:
        """Bytes that all files of a tenant may come to."""
        own = self.tenant_bytes(scope.tenant)
        return self.quota_bytes if own is None else own


@dataclass(frozen=True)
class FileStore:
    """Puts files away, reads them and removes them."""

    records: Files
    batches: Batches
    contents: Lake
    database: Database
    audit: AuditLog
    clock: Clock
    limits: FileLimits
    agreement: ClockAgreement

    def begin(self, scope: Scope, principal: str, originator: str | None = None) -> Upload:
        """Begin to take a file in; whoever begins one keeps or abandons it. Raises ``TooLargeError`` once the quota is
        used up."""
        quota = self.limits.quota(scope)
        left = quota - self.records.used(scope)
        if left <= 0:
            raise TooLargeError(
                f"The tenant's files come to its quota of {quota} bytes.",
                where="file",
                next_step=_MORE_ROOM,
            )
        return Upload(self, scope, principal, originator, left)

    def writing(self, scope: Scope, file: str) -> AbstractContextManager[LakeDraft]:
        """The content of a file of this id; it is in place when the block ends, and nothing when it raises:
        ``UnavailableError`` when the disk is full, or the store does not answer."""
        return self.contents.writing(scope, f".{file}")

    def add_made(self, batch: Batch, file: str, filename: str, draft: LakeDraft, *, within: Any) -> StoredFile:
        """Name the content of a file that a batch made; adding it again changes nothing."""
        return self.records.add(
            batch.scope,
            file=file,
            purpose="batch_output",
            filename=filename,
            size=draft.tell(),
            sha256=draft.sha256,
            path=draft.path,
            principal=batch.job.principal,
            expires_at=self.now() + batch.output_kept,
            within=within,
        )

    def open(self, file: StoredFile) -> BinaryIO:
        """The content of a file, for reading at any position.

        Raises:
            CorruptionError: it is gone or was changed.
            UnavailableError: the store does not answer.
        """
        try:
            return self.contents.open(file.path)
        except CorruptionError as error:
            raise CorruptionError(
                f"The content of {file.id} is gone or was changed.",
                where="file_id",
                next_step="Restore it from a backup, or upload it again.",
            ) from error

    def delete(self, scope: Scope, file: str, principal: str, originator: str | None = None) -> StoredFile:
        """Remove a file and its content, and what the rows that it was made from hold.

        Raises:
            NotFoundError: there is none of this id here, or it has expired.
            ConflictError: a batch that has not ended reads it.
        """
        gone = self.records.get(scope, file)
        self._require_unread(scope, file, None)
        self._erase(scope, file)
        with self.database.transaction() as connection:
            self._require_unread(scope, file, connection)
            self.records.forget(scope, file, within=connection)
            self.audit.append(scope, principal, "file.delete", file, {"bytes": gone.size}, originator=originator,
                        within=connection)  # fmt: skip
        self.contents.remove(gone.path)
        return gone

    def _require_unread(self, scope: Scope, file: str, within: Any) -> None:
        if (reader := self.batches.reader(scope, file, within=within)) is not None:
            raise ConflictError(
                f"The batch {reader} reads it.", where="file_id", next_step="Cancel the batch, or wait for its end."
            )

    def _erase(self, scope: Scope, file: str) -> None:
        """Before the file is forgotten, so that who is killed in between finds it and goes on; a few rows a commit, so
        that nobody waits long for the catalog."""
        last: int | None = -1
        while last is not None:
            last = self.batches.erase_rows(scope, file, last)

    def expire(self) -> int:
        """Remove what has expired, of every tenant; how many files there were."""
        gone = self.records.expired()
        for file in gone:
            self._erase(file.scope, file.id)
            self.records.forget(file.scope, file.id)
            self.contents.remove(file.path)
        return len(gone)

    def collect(self) -> int:
        """Remove content that no file names, as crashes leave it; how many there were."""
        older_than = self.clock.now().timestamp() - ABANDONED_SECONDS
        return sum(
            len(self.contents.collect(scope, self.records.paths(scope), older_than)) for scope in self.contents.scopes()
        )

    def now(self) -> datetime:
        """The moment from which a file's time counts: of a clock that went back, the newest instant that is known, so
        that nothing has expired once the clock is right again.

        An instant far ahead of a clock that was not set for a while came from a clock that was ahead: counted from
        it, no file would ever expire.
        """
        now, newest = self.clock.now(), self.records.newest_instant()
        agreed = self.agreement.seconds() >= AGREED_SECONDS
        if newest is None or (agreed and newest - now > _AHEAD):
            return now
        return max(now, newest)


class Upload:
    """A file that is being taken in: written piece by piece, then kept or abandoned. ``left`` are the bytes that the
    tenant's quota still has. Not safe to share."""

    def __init__(self, store: FileStore, scope: Scope, principal: str, originator: str | None, left: int) -> None:
        self.file = new_file_id()
        self.scope, self.principal, self.originator = scope, principal, originator
        self._store = store
        self._left = left
        self._stack = ExitStack()
        self.draft = self._stack.enter_context(store.writing(scope, self.file))

    def write(self, piece: bytes) -> None:
        """Take in the next piece.

        Raises:
            TooLargeError: the file is larger than one may be, or than what the tenant's quota has left.
            StorageFullError: the disk is full.
        """
        size = self.draft.tell() + len(piece)
        if size > self._store.limits.file_bytes:
            raise TooLargeError(
                f"The file is larger than {self._store.limits.file_bytes} bytes.",
                where="file",
                next_step="Split it, or raise [batch] max_file_bytes.",
            )
        if size > self._left:
            raise TooLargeError(
                f"The tenant's files would exceed its quota of {self._store.limits.quota(self.scope)} bytes.",
                where="file",
                next_step=_MORE_ROOM,
            )
        self.draft.write(piece)

    def keep(self, purpose: str, filename: str, expires_after: int | None = None) -> StoredFile:
        """Put the file in place and name it.

        Args:
            expires_after: seconds from now; without it the file stays as long as files do by themselves.

        Raises:
            InvalidInputError: another purpose than ``batch``, a bad name or time, or nothing was written.
            TooLargeError: other uploads have used up the quota meanwhile.
        """
        if purpose != "batch":
            raise InvalidInputError(
                "The only purpose that files are taken in for is 'batch'.",
                where="purpose",
                next_step="Send purpose=batch: nothing here would read a file of another purpose.",
            )
        name = _checked_name(filename)
        kept = check_lifetime(expires_after, "expires_after[seconds]") or self._store.limits.kept
        if self.draft.tell() == 0:
            raise InvalidInputError(
                "The file is empty.", where="file", next_step="Send a file with a request in each line."
            )
        self._stack.close()
        draft, store = self.draft, self._store
        expires_at = store.now() + kept
        try:
            with store.database.transaction() as connection:
                file = store.records.add(
                    self.scope,
                    file=self.file,
                    purpose="batch",
                    filename=name,
                    size=draft.tell(),
                    sha256=draft.sha256,
                    path=draft.path,
                    principal=self.principal,
                    expires_at=expires_at,
                    quota=store.limits.quota(self.scope),
                    within=connection,
                )
                detail, who = {"bytes": file.size, "purpose": purpose}, self.originator
                store.audit.append(
                    self.scope, self.principal, "file.create", file.id, detail, originator=who, within=connection
                )
        except AntiphonError:
            store.contents.remove(draft.path)
            raise
        return file

    def abandon(self) -> None:
        """Leave nothing of it; does nothing once it was kept."""
        # Closing it writes what a buffer still holds; there may be no room for that, and it is not to be kept.
        with suppress(_Abandonment, StorageFullError), self._stack.pop_all():
            raise _Abandonment


def check_lifetime(seconds: int | None, where: str) -> timedelta | None:
    """Returns the requested lifetime of a file; raises ``InvalidInputError`` for one that may not be asked for."""
    if seconds is not None and not SHORTEST <= seconds <= LONGEST:
        raise InvalidInputError(
            f"`{where}` is {seconds}, not between {SHORTEST} and {LONGEST} seconds.",
            where=where,
            next_step="A file stays between an hour and thirty days.",
        )
    return None if seconds is None else timedelta(seconds=seconds)


class _Abandonment(Exception):
    """Makes the content's block end without keeping anything."""


def _checked_name(filename: str) -> str:
    name = filename.replace("\\", "/").rpartition("/")[2]
    if not name or len(name) > LONGEST_FILENAME or not name.isprintable():
        raise InvalidInputError(
            "The upload's `filename` is no name of a file.",
            where="file",
            next_step=f"Send a filename of at most {LONGEST_FILENAME} printable characters.",
        )
    return name
