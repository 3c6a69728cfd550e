"""Exports as frozen values: which rows, in which format, into which files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import msgspec

from antiphon.definitions.application import Application
from antiphon.definitions.objects import SCHEME, ObjectPath, is_objects, object_mistakes
from antiphon.definitions.partitions import is_day

FileFormat = Literal["parquet", "csv", "jsonl"]
ExportedKind = Literal["view", "predictions", "dataset", "answers"]
"""The first part of the key of what is exported: values of a view, answers with their receipts' ids by day, the latest
training set, and the answers that a :class:`Precompute` stored last."""

DAY, VERSION = "{day}", "{version}"
ROWS_PER_FILE = 1_000_000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")


class ExportWork(msgspec.Struct, frozen=True, tag="export"):
    """Rows that are written to files for other tools.

    Attributes:
        asset: key of what is exported: ``view/NAME``, ``predictions/APPLICATION``, ``dataset/APPLICATION/training`` or
            ``answers/…``.
        to: a file, or with ``/`` at its end a folder: a path from the root, or ``s3://BUCKET/KEY``; ``{day}`` (UTC) and
            ``{version}`` in it stand for those of the rows.
        since: first day of predictions, ISO 8601; ``None``: that of the first one.
        keep: files of so many versions stay; ``None``: nothing is removed.
        rows_per_file: rows that are read for one file of a folder, at most.
        purpose: as policies know it; empty: the application's own.
        clear: written in clear text also where the project is encrypted.
    """

    asset: str
    to: str
    format: FileFormat = "parquet"
    since: str | None = None
    keep: int | None = None
    rows_per_file: int = ROWS_PER_FILE
    purpose: str = ""
    clear: bool = False

    @property
    def kind(self) -> ExportedKind:
        """The kind of its rows."""
        kind: Any = self.asset.partition("/")[0]
        return kind  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """The rest of the key of what is exported: of a view, application, or stored answers."""
        return self.asset.partition("/")[2].removesuffix("/training")

    @property
    def is_folder(self) -> bool:
        """Tells whether files of at most ``rows_per_file`` rows are written, with ``_SUCCESS`` beside them."""
        return _key_of(self.to).endswith("/")

    def rooted(self, root: Path) -> ExportWork:
        """The same with a path that begins at the root."""
        if is_objects(self.to):
            return self
        end = "/" if self.is_folder else ""
        return msgspec.structs.replace(self, to=f"{root / self.to}".rstrip("/") + end)

    def place(self, version: str, day: str, part: str = "") -> str:
        """The file of a version of the rows, or with ``part`` the file of this name in its folder.

        Args:
            day: of the rows, ISO 8601.
        """
        path, _, options = self.to.partition("?") if is_objects(self.to) else (self.to, "", "")
        filled = path.replace(DAY, day).replace(VERSION, version)
        if part and DAY not in path and VERSION not in path:
            filled += f"day={day}/" if self.kind == "predictions" else f"{version}/"
        return f"{filled}{part}{f'?{options}' if options else ''}"


def file_format(to: object, given: str | None) -> str:
    """The format of files: what was given, else what the ending of a path says, and of a folder Parquet."""
    if given is not None:
        return given
    suffix = PurePosixPath(_key_of(to)).suffix if isinstance(to, str) and not _key_of(to).endswith("/") else ""
    return suffix.removeprefix(".") or "parquet"


def export_mistakes(work: ExportWork, given: object, applications: Mapping[str, Application], views: Set[str]) -> (
    Iterator[str]
):  # fmt: skip
    """Yields the mistakes of an export, a sentence each.

    Args:
        given: what was given as its rows' source.
        applications: the project's, by name.
        views: names of its feature views and documents.
    """
    if not work.asset:
        yield f"{given!r} is nothing that is exported; name an Application, a view, or a Precompute."
    elif work.kind == "view" and work.name not in views:
        yield f"the project publishes no view {work.name!r}; there are {', '.join(sorted(views)) or 'none'}."
    elif work.kind == "dataset":
        application = applications.get(work.name)
        if application is not None and application.fine_tune is None:
            yield f"{work.name!r} is not fine-tuned, so it has no training set; declare model=FineTune(…)."
    elif work.kind not in get_args(ExportedKind):
        yield f"rows={work.kind!r} is nothing that an application has; write 'predictions' or 'dataset'."
    yield from _place_mistakes(work)
    if work.since is not None:
        if work.kind != "predictions":
            yield "since: only predictions are exported by day; leave it out."
        elif not is_day(work.since):
            yield f"since: {work.since!r} is no day; write one such as '2026-11-01'."
    for name in ("keep", "rows_per_file"):
        value = getattr(work, name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield f"{name} is a whole number from 1, not {value!r}."
    purpose: Any = work.purpose
    if not isinstance(purpose, str):
        yield f"purpose is a word that policies know, not {purpose!r}."
    clear: Any = work.clear
    if not isinstance(clear, bool):
        yield f"clear is True or False, not {clear!r}."


def _place_mistakes(work: ExportWork) -> Iterator[str]:
    to: Any = work.to
    if not isinstance(to, str) or not to.strip("/"):
        yield f"to: {to!r} is no path; write a file such as 'exports/answers-{{day}}.parquet', or a folder 'exports/'."
        return
    key, found = _key_of(to), _PLACEHOLDER.findall(to)
    known = (DAY,) if work.kind == "predictions" else (DAY, VERSION)
    for one in sorted(set(found) - set(known)):
        yield f"to: {one} is no placeholder; there {'is' if len(known) == 1 else 'are'} {' and '.join(known)}."
    formats = get_args(FileFormat)
    if work.format not in formats:
        yield f"{work.format!r} is no format of exports; there are {', '.join(formats)}."
    elif not work.is_folder and PurePosixPath(key).suffix != f".{work.format}":
        yield (
            f"to: {to!r} is no file of the format {work.format}; end it with .{work.format}, or with / for a folder."
        )
    if work.is_folder and DAY in found and VERSION not in found and work.kind != "predictions":
        yield "to: files of several versions of a day would lie in one folder; write {version} too, or neither."
    if not found and not work.is_folder:
        if work.kind == "predictions":
            yield "to: a file holds predictions of one day; write {day} into the path, or end it with / for a folder."
        elif work.keep is not None:
            yield "keep: the one file is replaced each time; write {day} or {version} into its path, or leave keep out."
    if is_objects(to):
        sample = work.place("v1", "2026-01-01", "part.parquet" if work.is_folder else "")
        yield from (f"to: {text}" for text in object_mistakes(sample))
        if set(key) & set("*?["):
            yield f"to: {to!r} is a pattern; name one place."


def _key_of(to: str) -> str:
    """A path without what a URL of objects says about their store."""
    return f"{SCHEME}{ObjectPath.of(to).bucket}/{ObjectPath.of(to).pattern}" if is_objects(to) else to
