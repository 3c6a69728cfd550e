"""A Delta table as a source: the Parquet files of its present version. The only file that imports ``deltalake``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError

if TYPE_CHECKING:
    import pyarrow

_UNDERSTOOD = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
"""Reader features under which the files can be read as they are. Others (deletion vectors, column mapping) are not."""


def is_delta(folder: Path) -> bool:
    """Tell whether a folder holds a Delta table."""
    return (folder / "_delta_log").is_dir()


def delta_files(folder: Path) -> tuple[int, list[Path]]:
    """The table's latest version and its files, in order.

    Raises:
        SetupError: the library is not installed.
        InvalidInputError: the table uses a feature under which its files may not be read as they are.
        UnavailableError: its log cannot be read.
    """
    try:
        import deltalake
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise SetupError(
            "The reader of Delta tables is not installed.",
            where=str(folder),
            next_step="pip install antiphon[delta]",
        ) from error
    try:
        table = deltalake.DeltaTable(str(folder))
        protocol = table.protocol()
        strange = sorted(set(protocol.reader_features or ()) - _UNDERSTOOD)
        mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        if strange or (protocol.min_reader_version == 2 and mapped):
            raise InvalidInputError(
                f"The Delta table uses {', '.join(strange) or 'columnMapping'}, which is not read here.",
                where=str(folder),
                next_step="Write it without, or export what is needed as Parquet.",
            )
        return table.version(), sorted(_path(folder, uri) for uri in table.file_uris())
    except DeltaError as error:
        raise UnavailableError(
            f"The Delta table cannot be read: {str(error).splitlines()[0][:300]}",
            where=str(folder),
            next_step="Look at its _delta_log; `DeltaTable(...).version()` shows whether it opens.",
        ) from error


def delta_rows(folder: Path) -> pyarrow.Table:
    """All rows of a table, with its columns even when there are none: for one without a file."""
    import deltalake

    return deltalake.DeltaTable(str(folder)).to_pyarrow_table()


def _path(folder: Path, uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.scheme in ("", "file"):
        path = Path(uri if not parts.scheme else unquote(parts.path))
        return path if path.is_absolute() else folder / path
    raise InvalidInputError(f"{uri} is not on this machine.", where=str(folder))
