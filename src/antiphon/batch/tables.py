"""Tables in and out: JSON lines, CSV and Parquet, by the file's ending. Files appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from antiphon.batch.table_objects import Table
from antiphon.core.disk import FULL, sync_folder
from antiphon.core.errors import InvalidInputError, NotFoundError, StorageFullError, TooLargeError, UnavailableError

Row = dict[str, Any]

FORMATS = (".jsonl", ".csv", ".parquet")

MOST_ROWS = 20_000_000
"""Rows of one table."""
LARGEST_LINE = 16 << 20
"""Bytes of one JSON line."""
LARGEST_ROW_GROUP = 1 << 30
"""Bytes a Parquet file's row group declares uncompressed; it is read into memory."""


def check_format(path: Table) -> None:
    """Raises ``InvalidInputError`` for a file whose ending is not one of ``FORMATS``."""
    if path.suffix not in FORMATS:
        raise InvalidInputError(
            f"{path.suffix or 'No ending'} is not a table format.", where=str(path),
            next_step=f"Use {', '.join(FORMATS)}.",
        )  # fmt: skip


def read(path: Path) -> Iterator[Row]:
    """The rows in order, one at a time.

    Raises:
        NotFoundError: there is no such file.
        InvalidInputError: the ending is unknown, or a line is no row (its number is named).
        TooLargeError: past one of the bounds above.
    """
    check_format(path)
    if not path.is_file():
        raise NotFoundError("There is no such file.", where=str(path))
    rows = {".jsonl": _read_lines, ".csv": _read_csv, ".parquet": _read_parquet}[path.suffix](path)
    for number, row in enumerate(rows):
        if number >= MOST_ROWS:
            raise TooLargeError(
                f"The table {path} has more than {MOST_ROWS} rows.", where=str(path), next_step="Split the table."
            )
        yield row


def _read_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(LARGEST_LINE + 1), b""), start=1):
            if len(line) > LARGEST_LINE:
                raise TooLargeError(f"Line {number} is longer than {LARGEST_LINE} bytes.", where=str(path))
            if not line.strip():
                continue
            try:
                yield msgspec.json.decode(line, type=Row)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidInputError(f"Line {number} is no JSON object: {error}.", where=str(path)) from None


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines, strict=True)
        for row in _sound(reader, path):
            if None in row or None in row.values():
                raise InvalidInputError(
                    f"Line {reader.line_num} does not have {len(reader.fieldnames or ())} fields.", where=str(path)
                )
            yield dict(row)


def _sound(reader: csv.DictReader[str], path: Path) -> Iterator[dict[str, Any]]:
    try:
        names = list(reader.fieldnames or ())
        if len(set(names)) != len(names):
            raise InvalidInputError("Two columns have one name.", where=str(path))
        yield from reader
    except (csv.Error, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Line {reader.line_num} is no CSV: {error}.", where=str(path)) from None


def _read_parquet(path: Path) -> Iterator[Row]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            _require_readable(file.metadata, path)
            for batch in file.iter_batches(batch_size=1_000):
                yield from batch.to_pylist()
    # KeyError: a time zone that does not exist.
    except (arrow.ArrowException, OSError, MemoryError, OverflowError, ValueError, KeyError) as error:
        raise InvalidInputError(f"{path} is no Parquet file: {error}.", where=str(path)) from None


def _require_readable(metadata: Any, path: Path) -> None:
    """A small file may declare rows without end: they are refused before they are unpacked."""
    groups = [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]
    if metadata.num_rows > MOST_ROWS or max(groups, default=0) > LARGEST_ROW_GROUP:
        raise TooLargeError(
            f"{path} declares {metadata.num_rows} rows and row groups of up to {max(groups, default=0)} bytes.",
            where=str(path),
            next_step=f"Write at most {MOST_ROWS} rows, in row groups of at most {LARGEST_ROW_GROUP} bytes.",
        )


def write(path: Path, rows: Iterable[Row], put: Callable[[Path], object] | None = None) -> int:
    """Write the rows beside the target, sync, and rename: the number of rows.

    Args:
        put: puts the finished file, which it is given, in the target's place; by default whatever is there is replaced.

    Raises:
        InvalidInputError: the ending is unknown, or there can be no such file.
        StorageFullError: the disk is full. UnavailableError: it fails.
    """
    check_format(path)
    with written_to(path):
        return _write(path, rows, put or (lambda finished: os.replace(finished, path)))


@contextmanager
def written_to(path: Path) -> Iterator[None]:
    """A block that writes a file, whose errors of the disk come out as ours; raises as :func:`write`."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFullError(f"{path} cannot be written: {error.strerror}.", where=str(path)) from error
        if error.errno == errno.EIO:
            raise UnavailableError(f"{path} cannot be written: {error.strerror}.", where=str(path)) from error
        raise InvalidInputError(f"{path} cannot be written: {error.strerror}.", where=str(path)) from error


def _write(path: Path, rows: Iterable[Row], put: Callable[[Path], object]) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}.partial")
    writer = {".jsonl": _write_lines, ".csv": _write_csv, ".parquet": _write_parquet}[path.suffix]
    # New, and no link to something else.
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o666))
    try:
        count = writer(draft, rows)
        with draft.open("rb") as finished:
            os.fsync(finished.fileno())
        put(draft)
        sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _write_lines(path: Path, rows: Iterable[Row]) -> int:
    count = 0
    with path.open("wb") as out:
        for row in rows:
            out.write(msgspec.json.encode(row) + b"\n")
            count += 1
    return count


def _write_csv(path: Path, rows: Iterable[Row]) -> int:
    kept = list(rows)
    names = list(dict.fromkeys(name for row in kept for name in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows({name: _flat(value) for name, value in row.items()} for row in kept)
    path.write_text(buffer.getvalue(), encoding="utf-8")
    return len(kept)


def _flat(value: Any) -> Any:
    return _text(value) if isinstance(value, (dict, list)) else value


def _write_parquet(path: Path, rows: Iterable[Row]) -> int:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    kept = list(rows)
    columns = {
        name: _column([_flat(row.get(name)) for row in kept]) for name in dict.fromkeys(n for row in kept for n in row)
    }
    parquet.write_table(arrow.table(columns), path, compression="zstd")
    return len(kept)


def _column(values: list[Any]) -> Any:
    import pyarrow as arrow

    try:
        return arrow.array(values)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError):
        # Of several types: written as text, so that no value is lost.
        return arrow.array([value if value is None or isinstance(value, str) else _text(value) for value in values])


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()
