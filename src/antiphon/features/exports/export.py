"""Export to Delta and Parquet: a snapshot's values where Polars, pandas and Spark-compatible readers find them.

Invariants: a reader sees the table before or the table after, whatever happens in between (Delta's commit, or a
rename); exporting what the table holds already changes nothing; a table that is not this view's is never written.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from antiphon.core.disk import sync_folder
from antiphon.core.errors import ConflictError, InvalidInputError, SetupError, WriteConflictError
from antiphon.features.exports.exported import ExportedRows, ExportMetadata
from antiphon.features.exports.files import RowWriter

if TYPE_CHECKING:
    import deltalake

Format = Literal["delta", "parquet"]


class ExportResult(msgspec.Struct, frozen=True):
    """Result of an export.

    Attributes:
        version: the Delta table's, ``None`` for Parquet.
        path: the table's folder, or the file.
        changed: ``False`` when the export existed already.
        rows: number of rows written, ``withheld`` of rows that policy kept back; ``None`` when nothing changed.
    """

    path: str
    changed: bool
    version: int | None = None
    rows: int | None = None
    withheld: int | None = None


def write_delta(target: Path, rows: ExportedRows, what: ExportMetadata) -> ExportResult:
    """Make the snapshot's rows the newest version of the table in ``target``; older versions stay readable as such.

    Raises:
        ConflictError: the folder holds something else, or another writer came first.
        SetupError: the extra ``delta`` is not installed, or the folder cannot be written.
    """
    lake = _deltalake()
    table = _table(lake, target, what)
    if table is not None and _newest(table).get("antiphon.snapshot") == what.snapshot:
        return ExportResult(str(target), changed=False, version=table.version())
    try:
        lake.write_deltalake(
            table if table is not None else str(target),
            rows.reader(),
            mode="overwrite",
            schema_mode="overwrite",
            name=_name(what) if table is None else None,
            description=f"Feature view {what.view}" if table is None else None,
            commit_properties=lake.CommitProperties(custom_metadata=what.properties),
        )
    except lake.exceptions.CommitFailedError as error:
        raise WriteConflictError(
            "Another writer changed the table meanwhile.", where=str(target), next_step="Run the export again."
        ) from error
    except OSError as error:
        raise _unwritable(target, error) from None
    written = lake.DeltaTable(str(target))
    return ExportResult(str(target), True, written.version(), rows.rows, rows.withheld)


def write_parquet(target: Path, rows: ExportedRows, what: ExportMetadata) -> ExportResult:
    """Write the snapshot's rows to ``target/SNAPSHOT.parquet``, described in the file's metadata. Raises ``SetupError``
    when the folder cannot be written."""
    file = target / f"{what.snapshot}.parquet"
    if file.exists():
        return ExportResult(str(file), changed=False)
    partial = target / f".{what.snapshot}.{secrets.token_hex(4)}"
    try:
        target.mkdir(parents=True, exist_ok=True)
        reader = rows.reader()
        with partial.open("xb") as stream:
            with RowWriter(stream, "parquet", reader.schema, what.properties) as writer:
                for batch in reader:
                    writer.write(batch)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(file)
        sync_folder(target)
    except OSError as error:
        raise _unwritable(target, error) from None
    finally:
        partial.unlink(missing_ok=True)
    return ExportResult(str(file), True, rows=rows.rows, withheld=rows.withheld)


def _deltalake() -> Any:
    try:
        import deltalake
        import deltalake.exceptions
    except ImportError:
        raise SetupError(
            "The library deltalake is not installed.", next_step="Install it: pip install 'antiphon[delta]'."
        ) from None
    return deltalake


def _table(lake: Any, target: Path, what: ExportMetadata) -> deltalake.DeltaTable | None:
    """Open the target's table if it is this view's; ``None`` when there is none. Raises ``ConflictError`` when the
    folder holds something else."""
    if lake.DeltaTable.is_deltatable(str(target)):
        table = lake.DeltaTable(str(target))
        if table.metadata().name != _name(what):
            raise ConflictError(
                f"The table there is {table.metadata().name or 'unnamed'}, not {_name(what)}.",
                where=str(target),
                next_step="Name another folder.",
            )
        return table  # type: ignore[no-any-return]
    # A first export killed before its commit leaves data files alone, which no reader sees.
    strange = [file.name for file in target.iterdir() if file.suffix != ".parquet"] if target.is_dir() else []
    if [name for name in strange if name != "_delta_log"] or target.is_file():
        raise ConflictError(
            "The folder holds something else.", where=str(target), next_step="Name an empty or a new one."
        )
    return None


def _newest(table: deltalake.DeltaTable) -> dict[str, Any]:
    """The history entry of the newest commit that wrote data."""
    for commit in table.history():
        if commit.get("operation") in ("WRITE", "CREATE TABLE", "CREATE OR REPLACE TABLE"):
            return commit
    return {}


def _name(what: ExportMetadata) -> str:
    return f"antiphon.{what.tenant}.{what.environment}.{what.view}"


def _unwritable(target: Path, error: OSError) -> SetupError:
    return SetupError(
        f"{target} cannot be written: {error.strerror or type(error).__name__}.",
        where=str(target),
        next_step="Check the folder and the free space.",
    )


def require_format(text: str) -> Format:
    """The format that a text names; raises ``InvalidInputError`` when it names none."""
    if text not in ("delta", "parquet"):
        raise InvalidInputError(f"{text!r} is not a format: delta or parquet.", where="--format")
    return text  # type: ignore[return-value]
