"""Tables of Arrow, pandas, Polars and plain Python, in and out. The libraries are imported only for frames of theirs.

Invariant: rows stay rows, in their order, and a frame comes back as what it was given as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.definitions.application import Freshness
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.freshness import SnapshotQuality, rule_of, withheld_column

if TYPE_CHECKING:
    import pyarrow

Library = Literal["arrow", "pandas", "polars"]


def library_of(frame: Any) -> Library:
    """The library of a frame, which is also that of the returned one; plain Python returns as Arrow."""
    home = type(frame).__module__.partition(".")[0]
    return cast(Library, home) if home in ("pandas", "polars") else "arrow"


def to_arrow(frame: Any) -> pyarrow.Table:
    """A frame as an Arrow table.

    Args:
        frame: an Arrow table or record batch, a DataFrame of pandas or Polars, a mapping of columns, a sequence of rows
            as mappings, a path of a Parquet or CSV file, or anything with the Arrow C stream interface.

    Raises:
        InvalidInputError: it is none of these, or a column has values of several types.
    """
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    try:
        if isinstance(frame, pyarrow.Table):
            return frame
        if isinstance(frame, pyarrow.RecordBatch):
            return pyarrow.Table.from_batches([frame])
        if library_of(frame) == "pandas":
            return pyarrow.Table.from_pandas(frame, preserve_index=False)
        if library_of(frame) == "polars":
            return (frame.collect() if hasattr(frame, "collect") else frame).to_arrow()
        if isinstance(frame, (str, Path)):
            path = Path(frame)
            if not path.is_file():
                raise InvalidInputError(f"There is no file {path}.", where="rows")
            return pyarrow.csv.read_csv(path) if path.suffix == ".csv" else pyarrow.parquet.read_table(path)
        if isinstance(frame, Mapping):
            return pyarrow.table(dict(frame))
        if hasattr(frame, "__arrow_c_stream__"):
            return pyarrow.table(frame)
        if isinstance(frame, Sequence) and all(isinstance(row, Mapping) for row in frame):
            return pyarrow.Table.from_pylist([dict(row) for row in frame])
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise InvalidInputError(
            f"The rows are no table: {str(error).splitlines()[0]}.",
            where="rows",
            next_step="Give every column values of one type.",
        ) from None
    raise InvalidInputError(
        f"A {type(frame).__name__} is no table.",
        where="rows",
        next_step="Give a DataFrame of pandas or Polars, an Arrow table, a mapping of columns or a list of rows.",
    )


def from_arrow(table: pyarrow.Table, library: str, like: Any = None) -> Any:
    """An Arrow table as a frame of a library.

    Args:
        like: the frame whose rows these are; a pandas index is taken from it.

    Raises:
        InvalidInputError: no such library. SetupError: it is not installed.
    """
    if library not in get_args(Library):
        raise InvalidInputError(f"{library!r} is none of arrow, pandas and polars.", where="to")
    if library == "arrow":
        return table
    try:
        if library == "polars":
            import polars

            return polars.from_arrow(table)
        import pandas  # noqa: F401
    except ImportError:
        raise SetupError(
            f"The library {library} is not installed.", next_step="Install it: pip install 'antiphon[dataframes]'."
        ) from None
    made = table.to_pandas()
    if like is not None and library_of(like) == "pandas":
        made.index = like.index
    return made


def require_keys(table: pyarrow.Table, keys: Sequence[str]) -> None:
    """Refuse rows that do not name entities: a key column is missing, has nulls, or holds floating-point numbers
    (``InvalidInputError``)."""
    import pyarrow

    for key in keys:
        if key not in table.column_names:
            raise InvalidInputError(
                f"The rows have no column {key!r}.", where="rows", next_step="It is an entity's key."
            )
        column = table.column(key)
        if pyarrow.types.is_floating(column.type):
            # pandas makes 7.0 of 7 as soon as a column has a gap; as a text that is another key.
            raise InvalidInputError(
                f"The key {key!r} is a column of floating-point numbers.",
                where="rows",
                next_step=f"Make it whole numbers or texts, such as rows[{key!r}].astype('Int64').",
            )
        if column.null_count:
            raise InvalidInputError(f"{column.null_count} rows have no {key!r}.", where="rows")


def instants(table: pyarrow.Table, name: str) -> pyarrow.ChunkedArray:
    """A column of moments (times, dates or texts) as UTC to the microsecond; what has no zone is UTC. Raises
    ``InvalidInputError`` when there is no such column, or a row has no moment in it."""
    import pyarrow
    import pyarrow.compute

    if name not in table.column_names:
        raise InvalidInputError(
            f"The rows have no column {name!r}.", where="rows", next_step="It holds each row's moment."
        )
    column, plain = table.column(name), pyarrow.timestamp("us")
    instant = pyarrow.timestamp("us", tz="UTC")
    if column.null_count:
        raise InvalidInputError(f"{column.null_count} rows have no moment in {name!r}.", where="rows")
    try:
        if pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type):
            try:
                return column.cast(instant)
            except pyarrow.ArrowInvalid:
                column = column.cast(plain)
        zoned = pyarrow.types.is_timestamp(column.type) and column.type.tz is not None
        # Not safe: what is finer than a microsecond is cut, as everywhere here.
        return column.cast(instant if zoned else plain, safe=False).cast(instant)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise InvalidInputError(f"{name!r} holds what is no moment: {said}.", where="rows") from None


def with_contracts(
    table: pyarrow.Table,
    moments: pyarrow.ChunkedArray,
    views: Mapping[str, FeatureViewSpec],
    contracts: Mapping[str, Freshness],
    qualities: Callable[[FeatureViewSpec], Sequence[SnapshotQuality]] = lambda view: (),
) -> pyarrow.Table:
    """The table with nulls in place of values that their contract withholds at the row's moment.

    Args:
        table: has ``view.feature`` and ``view.feature.event_time`` of each feature of the views.
        moments: of each row, UTC.
        qualities: source qualities of a view's snapshots.

    Raises:
        InvalidInputError: a contract of a view that is not there.
    """
    unknown = sorted(set(contracts) - set(views))
    if unknown:
        raise InvalidInputError(f"No feature of {unknown[0]!r} is requested.", where="freshness")
    for view, contract in contracts.items():
        rule = rule_of(contract)
        if not rule.withholds:
            continue
        snapshots = qualities(views[view]) if rule.min_source_quality > 0 else ()
        for feature in views[view].features:
            name = f"{view}.{feature}"
            column = withheld_column(rule, table.column(name), table.column(f"{name}.event_time"), moments, snapshots)
            table = table.set_column(table.column_names.index(name), name, column)
    return table
