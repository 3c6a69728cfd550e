"""Input and output files of table jobs.

Invariants:

- Rows come back with the answers, so a file of source rows, labels or another principal's answers is read only by
  principals that policy lets read these.
- A file that no job of the same application and principal wrote is never replaced, and neither is one that was changed
  since; a file is known in the catalog, by its hash, before it is put in place. The names that views, outcomes and
  orders read from are refused also while there is no file yet.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from pathlib import Path
from stat import S_ISREG

from antiphon.batch import tables
from antiphon.batch.document_rows import documents_in
from antiphon.batch.table_objects import Table, TableObject, TableObjects, table_of
from antiphon.catalog.batch.jobs import BatchJob, Jobs
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.following import FileDrop
from antiphon.definitions.objects import ObjectPath, is_objects
from antiphon.governance.identity.principal import Principal
from antiphon.serving.records import Records

OWNER = "a job of this application and principal"
_NEXT = "Name a file that does not exist yet, or remove this one first."


@dataclass(frozen=True)
class InputFiles:
    """Checks input files, by what reads which patterns of files: ``view/NAME``, or ``application/NAME`` for its
    outcomes."""

    jobs: Jobs
    records: Records
    sources: Callable[[], Mapping[str, Sequence[str]]]

    def readers(self, path: Table) -> list[str]:
        """Views and outcomes that read this table, or a document of this folder."""
        folder = path if isinstance(path, Path) and path.is_dir() else None
        files: list[Table] = [path] if folder is None else [folder / name for name in documents_in(folder)]
        return [reader for reader, named in self.sources().items() if any(matches(named, file) for file in files)]

    def require_readable(self, scope: Scope, principal: Principal, path: Table) -> None:
        """Raises ``ForbiddenError`` when policy denies a file that holds source rows, labels, or answers of other
        principals."""
        for reader in self.readers(path):
            self.records.require_source(scope, principal, reader)
        for job in self.jobs.with_output(scope, str(path)):
            if job.written and job.principal != principal.id:
                self.records.require_rows(scope, principal, job)


@dataclass(frozen=True)
class OutputFiles:
    """Checks and writes output files, by what reads which patterns of files: sources of views, tables of outcomes."""

    jobs: Jobs
    sources: Callable[[], Mapping[str, Iterable[str]]] = dict
    objects: TableObjects | None = None

    def require_own(self, scope: Scope, application: str, principal: str, path: Table, source: Table | None) -> None:
        """Raises ``InvalidInputError`` for an output that the project or the order reads, or that is there and is not
        an earlier one of this application and principal."""
        if path == source or self._is_source(path):
            raise InvalidInputError(
                "The project reads this table.", where=str(path), next_step="Write the answers to another file."
            )
        if isinstance(path, TableObject):
            self._require_unchanged_object(scope, application, principal, path)
        else:
            require_unchanged(path, partial(self._written, scope, application, principal, path))

    def write(self, job: BatchJob, epoch: int, rows: Iterable[tables.Row]) -> None:
        """Write a job's rows to its output.

        Raises:
            InvalidInputError: it cannot be written, or is not the job's to replace any more.
            UnavailableError: the disk is full.
            ConflictError: another worker took the job over.
        """
        path = table_of(job.output)
        if self._is_source(path):
            raise InvalidInputError("The project reads this table.", where=str(path), next_step=_NEXT)
        if isinstance(path, TableObject):
            self._write_object(job, epoch, path, rows)
            return
        note = partial(self.jobs.note_output, job.scope, job.id, epoch)
        written = partial(self._written, job.scope, job.application, job.principal, path)
        tables.write(path, rows, lambda finished: put_in_place(finished, path, note, written))

    def _write_object(self, job: BatchJob, epoch: int, place: TableObject, rows: Iterable[tables.Row]) -> None:
        objects = require_objects(self.objects, place)
        with objects.draft(place) as draft:
            tables.write(draft, rows)
            self.jobs.note_output(job.scope, job.id, epoch, _digest(draft))
            tag = self._require_unchanged_object(job.scope, job.application, job.principal, place)
            objects.put(draft, place, tag)

    def _is_source(self, path: Table) -> bool:
        return any(matches(patterns, path) for patterns in self.sources().values())

    def _require_unchanged_object(
        self, scope: Scope, application: str, principal: str, place: TableObject
    ) -> str | None:
        """The entity tag of an object that these may replace, ``None`` where there is none."""
        found = require_objects(self.objects, place).found(place)
        if found is None:
            return None
        if found[0] not in self._written(scope, application, principal, place):
            raise foreign(place)
        return found[1]

    def _written(self, scope: Scope, application: str, principal: str, path: Table) -> set[str]:
        return {
            digest
            for job in self.jobs.with_output(scope, str(path))
            if (job.application, job.principal) == (application, principal)
            for digest in job.written
        }


def put_in_place(
    finished: Path,
    path: Path,
    note: Callable[[str], object],
    written: Callable[[], Set[str]],
    owner: str = OWNER,
) -> None:
    """Put a finished file in its place, in one step, and where there is a file already only if that is the writer's.

    Args:
        note: is given the SHA-256 of what may be found in that place from now on, before it is put there.
        written: the hashes of what the writer has put there before.
        owner: the writer, as errors name it.

    Raises:
        InvalidInputError: a link has come into the path, or the file there is another's. OSError: it cannot be written.
    """
    if path.parent.resolve() != path.parent:
        raise InvalidInputError(
            "A link has come into the path of this file since it was ordered.", where=str(path), next_step=_NEXT
        )
    note(_digest(finished))
    try:
        _put_anew(finished, path, note)
    except FileExistsError:
        require_unchanged(path, written, owner)
        finished.replace(path)


def _put_anew(finished: Path, path: Path, note: Callable[[str], object]) -> None:
    try:
        # Unlike a rename it fails when there is a file meanwhile.
        os.link(finished, path, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without links: the name is taken first, by an empty file that is known as the writer's too, for
        # the worker may die here.
        note(hashlib.sha256().hexdigest())
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600))
        finished.replace(path)


def require_unchanged(path: Path, written: Callable[[], Set[str]], owner: str = OWNER) -> None:
    """Raises ``InvalidInputError`` where there is a file that does not hold what its writer put there; see
    :func:`put_in_place`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be written: {error.strerror}.", where=str(path)) from error
    known = written()
    if not known or not S_ISREG(found.st_mode) or _digest(path) not in known:
        raise foreign(path, owner)


def require_objects(objects: TableObjects | None, place: TableObject) -> TableObjects:
    """Returns what reads and writes objects; raises ``InvalidInputError`` where there is none, or the object is the
    project's own."""
    if objects is None:
        raise InvalidInputError(
            "Tables in object stores are not read here.", where=str(place), next_step="Name a file."
        )
    objects.require_open(place)
    return objects


def rows_of(table: Table, objects: TableObjects | None) -> Generator[tables.Row, None, None]:
    """The rows of a table, one at a time; raises as ``tables.read``, and as :func:`require_objects`."""
    if isinstance(table, TableObject):
        tables.check_format(table)
        with require_objects(objects, table).fetched(table) as copy:
            try:
                yield from tables.read(copy)
            except AntiphonError as error:
                error.what, error.where = error.what.replace(str(copy), str(table)), str(table)
                raise
    else:
        yield from tables.read(table)


def foreign(path: Table, owner: str = OWNER) -> InvalidInputError:
    """The error of a place that holds what its writer did not put there."""
    return InvalidInputError(
        f"The file exists, and what it holds was not written by {owner}.", where=str(path), next_step=_NEXT
    )


def _digest(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def patterns(root: Path, path: str) -> Iterator[str]:
    """Patterns of what a source's path names: a file, several, or what lies in a folder. ``root``, the project's
    folder, is no pattern whatever its name holds. Of objects the endpoint is left out: the same name elsewhere counts
    too."""
    if is_objects(path):
        yield str(ObjectPath.of(path))
        return
    declared = Path(path)
    for place in (declared, declared.parent.resolve() / declared.name, declared.resolve()):
        yield from (escape(str(place)), f"{escape(str(place))}/*")
        for base in (root, root.resolve()):
            if place.is_relative_to(base):
                within = f"{escape(str(base))}/{place.relative_to(base)}"
                yield from (within, f"{within}/*")
                break
        else:
            yield from (str(place), f"{place}/*")


def read_files(
    root: Path, views: Iterable[FeatureViewSpec], applications: Iterable[ApplicationSpec]
) -> Mapping[str, Sequence[str]]:
    """Patterns of the files that views and outcomes read, by ``view/NAME`` or ``application/NAME``; a path may be a
    Delta table's folder."""
    read = [(f"view/{view.name}", view.source) for view in views]
    for application in applications:
        if application.outcome is not None and application.outcome.history is not None:
            read.append((f"application/{application.name}", application.outcome.history))
    found: dict[str, list[str]] = {}
    for reader, source in read:
        dropped = (source.follow.path,) if isinstance(source.follow, FileDrop) else ()
        for path in (*source.paths, *dropped):
            found.setdefault(reader, []).extend(patterns(root, path))
    return found


def matches(named: Iterable[str], path: Table) -> bool:
    """Tells whether an object, or a file without links in its path, is one of these patterns."""
    text = str(path).partition("?")[0] if isinstance(path, TableObject) else str(path)
    # A name in other letters is the same file where the file system says so.
    return any(fnmatchcase(text.casefold(), pattern.casefold()) for pattern in named)
