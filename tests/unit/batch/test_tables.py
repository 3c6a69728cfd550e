import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from antiphon.batch import tables
from antiphon.core.errors import InvalidInputError, NotFoundError

ROWS: list[dict[str, Any]] = [
    {"flight": "B6 1", "n": 1, "at": datetime(2013, 4, 1, tzinfo=UTC), "classes": None, "text": None},
    {"flight": "é, \"2\"\n", "n": None, "at": None, "classes": {"outlook": {"delayed": 0.5}}, "text": "Late."},
]  # fmt: skip


@pytest.mark.parametrize("ending", tables.FORMATS)
def test_every_column_of_every_row_comes_back(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "deep" / f"out{ending}"
    assert tables.write(path, iter(ROWS)) == 2
    first, second = tables.read(path)
    assert set(first) == set(ROWS[0])
    assert (first["flight"], second["flight"]) == ("B6 1", ROWS[1]["flight"])
    assert second["text"] == "Late."
    classes = second["classes"]
    assert (classes if isinstance(classes, dict) else json.loads(classes)) == ROWS[1]["classes"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name], "nothing is left beside it"


@pytest.mark.parametrize("ending", tables.FORMATS)
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out{ending}"
    tables.write(path, [{"a": 1}])
    before = path.read_bytes()

    def rows() -> Any:
        yield {"a": 2}
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError):
        tables.write(path, rows())
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_parquet_keeps_columns_that_the_first_row_lacks_and_values_of_several_types(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    tables.write(path, [{"a": 1}, {"a": "x", "b": 2.5}, {"a": None, "b": 2**80}])
    assert parquet.read_table(path).to_pydict() == {"a": ["1", "x", None], "b": [None, "2.5", str(2**80)]}


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("in.jsonl", b'{"a": 1}\nnope\n', "Line 2"),
        ("in.jsonl", b"[1]\n", "Line 1"),
        ("in.csv", b"a,b\n1,2\n3\n", "Line 3"),
        ("in.csv", b"a,b\n1,2,3\n", "Line 2"),
        ("in.csv", b"a,a\n1,2\n", "one name"),
        ("in.csv", b"a\n\xff\xfe\n", "no CSV"),
        ("in.csv", b'a\n"open\n', "no CSV"),
        ("in.parquet", b"PAR1 not", "no Parquet"),
        ("in.txt", b"", "not a table format"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, what: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=what) as caught:
        list(tables.read(path))
    assert caught.value.where == str(path)


def test_a_missing_file_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        list(tables.read(tmp_path / "nope.csv"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        tables.write(tmp_path / "file" / "out.csv", [{"a": 1}])


def test_empty_lines_of_json_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert list(tables.read(path)) == [{"a": 1}, {"a": 2}]
