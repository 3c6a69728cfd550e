"""Files of a followed folder, or objects of a store: each is read once it is no longer written, and again after it
changed.

Invariants: a file is read when its size, inode and time of change were the same at looks that are ``settle`` apart by
the monotonic clock, so that no step of the wall clock hides one; it counts as read only if they were still the same
when its last row was read. The position holds them for each file that is there. Rows of a file that is read again are
known by their ids. A file that cannot be read is said and passed over until it changes; a store that does not answer
is asked again.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from datetime import date, datetime, timedelta
from decimal import Decimal
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.clock import Clock, parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.definitions.following import FileDrop
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.followed_files import FileIdentity, followed_files
from antiphon.features.following.payloads import sorted_out
from antiphon.features.offline.compute import ComputeLimits, compute, relation_of
from antiphon.features.ports import FollowedPage

_MOST_FILES = 50_000


class _OpenFile(msgspec.Struct, frozen=True):
    """A file that is being read, through so many rows."""

    path: str
    identity: FileIdentity
    rows: int


class _FolderPosition(msgspec.Struct, frozen=True):
    """The files that were read and are still there, and the one under way."""

    read: dict[str, FileIdentity] = {}
    open: _OpenFile | None = None


class _UnreadFile(msgspec.Struct, frozen=True):
    """A file that is not read.

    Attributes:
        since: it has been as it is since then; unread: it has not been read since then (monotonic).
        witnessed: it was seen to become so.
    """

    identity: FileIdentity
    since: float
    unread: float
    witnessed: bool


_decode_position = msgspec.json.Decoder(_FolderPosition).decode
_Batches = Generator[list[dict[str, Any]], None, None]


class FileDropReader:
    """Reads the files of one folder, or the objects of one pattern, in one thread at a time.

    Args:
        source: follows a :class:`FileDrop`.
    """

    def __init__(self, source: SourceSpec, clock: Clock) -> None:
        assert isinstance(source.follow, FileDrop)
        self._source = source
        self._files = followed_files(source)
        self._settle = parse_duration(source.follow.settle).total_seconds()
        self._clock = clock
        self._seen: dict[str, _UnreadFile] | None = None
        self._given: _OpenFile | None = None
        self._batches: _Batches | None = None
        self._opened = ExitStack()

    def read(self, position: str | None, limit: int) -> FollowedPage:
        """The next rows of a file, at most ``limit``.

        Raises:
            SetupError: there is no such folder or bucket, or it refuses access. InvalidInputError: it holds too many
                files. UnavailableError: the store does not answer.
        """
        began = self._clock.now()
        at = _FolderPosition() if position is None else _decode_position(position)
        present = self._present()
        known = {path: identity for path, identity in at.read.items() if path in present}
        changed = [path for path, identity in present.items() if known.get(path) != identity]
        path = self._next(at, present, changed)
        if path is None:
            return self._page(_FolderPosition(known), len(changed), more=False, caught_up_at=self._caught_up_at(began))
        rows, refusal, done = self._rows(at, path, present[path], limit)
        events, refused, reason = sorted_out(self._source, rows)
        if not done:
            page = self._page(_FolderPosition(known, self._given), len(changed), more=True)
        else:
            self.close()
            if self._files.identity(path) == present[path]:  # Otherwise it was written meanwhile.
                known[path] = present[path]
            page = self._page(_FolderPosition(known), len(changed) - (path in known), more=True)
        return msgspec.structs.replace(
            page, events=events, refused=refused + (refusal is not None), refusal=refusal or reason
        )

    def abandon(self) -> None:
        """End a reading that hangs, from another thread: a file system that hangs cannot be told."""

    def close(self) -> None:
        """Close the file under way; it is read from its beginning again."""
        batches, self._batches, self._given = self._batches, None, None
        if batches is not None:
            batches.close()
        self._opened.close()

    def _page(
        self, position: _FolderPosition, waiting: int, *, more: bool, caught_up_at: datetime | None = None
    ) -> FollowedPage:
        encoded = msgspec.json.encode(position).decode()
        return FollowedPage((), encoded, more, waiting=waiting, caught_up_at=caught_up_at)

    def _present(self) -> dict[str, FileIdentity]:
        """The files that are there, with what tells whether one has changed."""
        files = self._files.present()
        if len(files) > _MOST_FILES:
            raise InvalidInputError(
                f"The folder holds {len(files)} files, and at most {_MOST_FILES} are followed.",
                where=f"source {self._source.name}",
                next_step="Move files away that were read; their events stay.",
            )
        return files

    def _next(self, at: _FolderPosition, present: Mapping[str, FileIdentity], changed: list[str]) -> str | None:
        """The file under way, or the first one that has settled."""
        now, before = self._clock.monotonic(), self._seen or {}
        self._seen = {
            path: known
            if (known := before.get(path)) is not None and known.identity == present[path]
            else _UnreadFile(
                present[path],
                now,
                now if known is None else known.unread,
                self._seen is not None if known is None else known.witnessed,
            )
            for path in changed
        }
        if at.open is not None and present.get(at.open.path) == at.open.identity:
            return at.open.path
        for path in changed:
            if now - self._seen[path].since >= self._settle * self._files.settles(path):
                return path
        return None

    def _caught_up_at(self, now: datetime) -> datetime | None:
        """The moment before which all files were read: that at which the first of the others was seen."""
        unread = (self._seen or {}).values()
        if not all(seen.witnessed for seen in unread):
            return None
        waited = max((self._clock.monotonic() - seen.unread for seen in unread), default=0.0)
        return now - timedelta(seconds=waited)

    def _rows(
        self, at: _FolderPosition, path: str, identity: FileIdentity, limit: int
    ) -> tuple[list[dict[str, Any]], str | None, bool]:
        """The next rows of a file, why it cannot be read, and whether it has ended."""
        given = self._given
        if (
            self._batches is None
            or given is None
            or given != at.open
            or (given.path, given.identity) != (path, identity)
        ):
            self.close()  # The rows before are not in the log, another process read them, or it is another file.
            try:
                file = self._opened.enter_context(self._files.opened(path))
            except InvalidInputError as error:
                return [], f"{Path(path).name} cannot be read: {error.what}", True
            self._batches, self._given = _batches(file, limit), _OpenFile(path, identity, 0)
        assert self._given is not None
        assert self._batches is not None
        try:
            rows = next(self._batches, None)
        except AntiphonError as error:
            return [], f"{Path(path).name} cannot be read: {error.what}", True
        except (ValueError, OverflowError) as error:  # A time beyond all calendars, say.
            return [], f"{Path(path).name} cannot be read: a value of it has no meaning ({type(error).__name__}).", True
        if rows is None:
            return [], None, True
        self._given = msgspec.structs.replace(self._given, rows=self._given.rows + len(rows))
        return rows, None, False


def _batches(path: Path, limit: int) -> _Batches:
    """The rows of a file as JSON knows values, so many at a time."""
    with compute(ComputeLimits(memory=512)) as connection:
        reader = connection.sql(f"SELECT * FROM {relation_of([path])}").to_arrow_reader(limit)
        with closing(reader):
            for batch in reader:
                rows = batch.to_pylist()
                for begin in range(0, len(rows), limit):
                    yield [{name: _plain(value) for name, value in row.items()} for row in rows[begin : begin + limit]]


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        # An id that is a whole number stays the number that it is.
        whole = value.is_finite() and value == value.to_integral_value() and abs(value) < 2**63
        value = int(value) if whole else float(value)
    if isinstance(value, float):
        return value if isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
