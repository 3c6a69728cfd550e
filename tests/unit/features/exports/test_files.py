"""Files of exports: every format holds the same rows, and reading goes on anywhere."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.features.exports import files
from antiphon.features.exports.exported import batches_from
from antiphon.features.exports.files import RowWriter

SCHEMA = pyarrow.schema(
    {
        "id": pyarrow.int64(),
        "name": pyarrow.string(),
        "at": pyarrow.timestamp("us", "UTC"),
        "vector": pyarrow.list_(pyarrow.float64()),
    }
)
ROWS: list[dict[str, Any]] = [
    {"id": 1, "name": 'a "b", c\nd', "at": datetime(2026, 11, 5, 8, tzinfo=UTC), "vector": [0.5, 1.0]},
    {"id": 2, "name": None, "at": None, "vector": None},
    {"id": 3, "name": "ü", "at": datetime(2026, 11, 5, 8, 0, 0, 7, tzinfo=UTC), "vector": []},
]


def written(format: str, rows: list[dict[str, Any]] = ROWS) -> bytes:
    stream = io.BytesIO()
    with RowWriter(stream, format, SCHEMA, {"antiphon.version": "v1"}) as writer:
        for row in rows:
            writer.write(pyarrow.RecordBatch.from_pylist([row], SCHEMA))
    assert writer.rows == len(rows)
    return stream.getvalue()


def test_parquet_holds_rows_and_metadata() -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(written("parquet")))
    assert table.to_pylist() == ROWS
    assert table.schema.metadata[b"antiphon.version"] == b"v1"
    assert pyarrow.parquet.read_table(io.BytesIO(written("parquet", []))).num_rows == 0


def test_json_lines_hold_a_row_each() -> None:
    lines = [json.loads(line) for line in written("jsonl").splitlines()]
    assert [line["name"] for line in lines] == [row["name"] for row in ROWS]
    assert (lines[0]["at"], lines[2]["vector"]) == ("2026-11-05T08:00:00Z", [])


def test_csv_has_instants_and_lists_as_texts() -> None:
    text = written("csv").decode()
    assert text.startswith('"id","name","at","vector"\n')
    assert written("csv", []).decode() == '"id","name","at","vector"\n'
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    kinds = pyarrow.csv.ConvertOptions(column_types={"at": pyarrow.string()}, strings_can_be_null=True)
    table = pyarrow.csv.read_csv(io.BytesIO(text.encode()), parse_options=options, convert_options=kinds)
    assert table.column("name").to_pylist() == ['a "b", c\nd', None, "ü"]
    assert table.column("at").to_pylist() == ["2026-11-05T08:00:00Z", None, "2026-11-05T08:00:00.000007Z"]
    assert table.column("vector").to_pylist() == ["[0.5,1.0]", None, "[]"]


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_memory_is_bounded_by_a_row_group(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROW_GROUP", 2)
    assert len(written(format)) > 0
    if format == "parquet":
        assert pyarrow.parquet.ParquetFile(io.BytesIO(written("parquet"))).num_row_groups == 2


def test_a_file_whose_block_failed_is_none() -> None:
    stream = io.BytesIO()
    with suppress(ZeroDivisionError), RowWriter(stream, "jsonl", SCHEMA, {}) as writer:
        writer.write(pyarrow.RecordBatch.from_pylist(ROWS, SCHEMA))
        raise ZeroDivisionError
    assert stream.getvalue() == b""


@given(
    count=st.integers(0, 60), group=st.integers(1, 25), start=st.integers(0, 70), most=st.integers(1, 30),
)  # fmt: skip
def test_rows_are_read_from_any_position(count: int, group: int, start: int, most: int) -> None:
    table = pyarrow.table({"id": list(range(count))}, schema=pyarrow.schema({"id": pyarrow.int64()}))
    stream = io.BytesIO()
    pyarrow.parquet.write_table(table, stream, row_group_size=group)
    file = pyarrow.parquet.ParquetFile(stream)
    batches = list(batches_from(file, start, most))
    assert [one for batch in batches for one in batch.column("id").to_pylist()] == list(range(start, count))
    assert all(0 < batch.num_rows <= most for batch in batches)
