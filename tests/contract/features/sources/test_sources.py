"""Sources: the same rows are the same events wherever they are read from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.servers import PostgresProcess, S3Process

from antiphon import Entity, Source, col, feature_view, last, mean
from antiphon import sum as total
from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import ROWS, LoadedRows, load_rows

START = datetime(2013, 4, 10, 12, 0, 0, 250_000, tzinfo=UTC)
PASSWORD = "SOURCES_TEST_PASSWORD"
ACCESS, SECRET = "SOURCES_TEST_ACCESS", "SOURCES_TEST_SECRET"
KINDS = ["parquet", "csv", "csv.gz", "jsonl", "json", "delta", "delta parts", "postgres table", "postgres query"]
KINDS += ["objects parquet", "objects csv.gz"]
NAMES = ("id", "shop", "day", "at", "known", "amount", "count", "note", "open")


def rows() -> list[dict[str, Any]]:
    found = []
    for n in range(200):
        at = START + timedelta(minutes=7 * n)
        found.append(
            {
                "id": f"e{n}",
                "shop": ["plain", "wïth ünicode", "a:b/c|d", "quo\"ted's"][n % 4],
                "day": "mon day" if n % 3 else "tue",
                "at": at,
                "known": at + timedelta(seconds=n - 50),
                "amount": None if n % 11 == 0 else n * 1.25 - 30,
                "count": None if n % 13 == 0 else n,
                "note": None if n % 5 == 0 else f"note {n}, with a comma",
                "open": n % 2 == 0,
            }
        )
    return found


def table() -> pa.Table:
    stamp = pa.timestamp("us", tz="UTC")
    types = [pa.string(), pa.string(), pa.string(), stamp, stamp, pa.float64(), pa.int64(), pa.string(), pa.bool_()]
    return pa.Table.from_pylist(rows(), schema=pa.schema(list(zip(NAMES, types, strict=True))))


def text(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def fill(process: PostgresProcess, name: str) -> None:
    def literal(value: object) -> str:
        if value is None:
            return "NULL"
        return "'" + str(text(value)).replace("'", "''") + "'"

    values = ", ".join(f"({', '.join(literal(row[name]) for name in NAMES)})" for row in rows())
    process.run(
        f'DROP TABLE IF EXISTS "{name}"',
        f'CREATE TABLE "{name}" (id text, shop varchar(40), day text, at timestamptz, known timestamptz, '
        "amount numeric(12, 4), count bigint, note text, open boolean)",
        f'INSERT INTO "{name}" VALUES {values}',
    )


def write(kind: str, folder: Path) -> dict[str, str]:
    """Write the rows as ``kind``; how a source of it is declared."""
    if kind == "parquet":
        pq.write_table(table(), folder / "rows.parquet")
        return {"path": str(folder / "rows.parquet")}
    if kind.startswith("csv"):
        import gzip

        path = folder / f"rows.{kind}"
        opened = gzip.open(path, "wt", newline="") if kind.endswith("gz") else path.open("w", newline="")  # noqa: SIM115
        with opened as stream:
            writer = csv.writer(stream)
            writer.writerow(NAMES)
            writer.writerows([["" if row[name] is None else text(row[name]) for name in NAMES] for row in rows()])
        return {"path": str(path)}
    if kind.startswith("json"):
        # The first rows have neither amount nor note: the later ones tell that there are such columns.
        listed = [{name: text(value) for name, value in row.items() if value is not None} for row in rows()]
        path = folder / f"rows.{kind}"
        path.write_text("\n".join(map(json.dumps, listed)) if kind == "jsonl" else json.dumps(listed))
        return {"path": str(path)}
    import deltalake

    half = table().num_rows // 2
    parts = ["day"] if kind == "delta parts" else None
    deltalake.write_deltalake(str(folder / "rows"), table().slice(0, half), partition_by=parts)
    deltalake.write_deltalake(str(folder / "rows"), table().slice(half), mode="append")
    return {"path": str(folder / "rows")}


@pytest.fixture(scope="module")
def postgres() -> Iterator[list[PostgresProcess]]:
    held: list[PostgresProcess] = []
    yield held
    for process in held:
        process.remove()


@pytest.fixture(scope="module")
def store() -> Iterator[list[S3Process]]:
    held: list[S3Process] = []
    yield held
    for process in held:
        process.remove()


def put(store: list[S3Process], file: Path) -> dict[str, str]:
    if not store:
        store.append(S3Process())
        store[0].start()
        store[0].make_bucket()
    client = store[0].client()
    client.put_object(Bucket=store[0].bucket, Key=f"shops/{file.name}", Body=file.read_bytes())
    client.close()
    path = f"s3://{store[0].bucket}/shops/{file.name}?endpoint={store[0].endpoint}"
    return {"path": path, "access_key_variable": ACCESS, "secret_key_variable": SECRET}


@pytest.fixture(params=KINDS)
def declared(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres: list[PostgresProcess],
    store: list[S3Process],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, str]:
    kind = str(request.param)
    if kind.startswith("objects"):
        monkeypatch.setenv(ACCESS, S3Process.access_key)
        monkeypatch.setenv(SECRET, S3Process.secret_key)
        return put(store, Path(write(kind.removeprefix("objects "), tmp_path)["path"]))
    if not kind.startswith("postgres"):
        return write(kind, tmp_path)
    if not postgres:
        postgres.append(PostgresProcess())
        postgres[0].start()
        fill(postgres[0], "Rows of shops")
    monkeypatch.setenv(PASSWORD, postgres[0].password)
    where = {"url": postgres[0].url, "password_variable": PASSWORD}
    if kind == "postgres table":
        postgres[0].run(
            "DROP VIEW IF EXISTS public.shop_rows", 'CREATE VIEW shop_rows AS SELECT * FROM "Rows of shops"'
        )
        return {**where, "table": "public.shop_rows"}
    return {**where, "query": 'SELECT * FROM "Rows of shops" WHERE id IS NOT NULL; '}


def spec(declared: dict[str, str], **options: Any) -> FeatureViewSpec:
    columns = {"event_time": "at", "available_at": "known", "event_id": "id"} | options
    source = Source.table("rows", **declared, **columns)  # type: ignore[arg-type]

    @feature_view(entity=Entity("shop", ["shop", "day"]), source=source)
    class Shops:
        amount_2h = total(col.amount, window="2h", scale="0.01")
        mean_count = mean(col.count, window="1d", scale="1")
        open = last(col.open)
        note = last(col.note)

    return Shops.spec()


def loaded(view: FeatureViewSpec) -> tuple[LoadedRows, list[tuple[Any, ...]]]:
    with compute(ComputeLimits()) as connection:
        found = load_rows(connection, plan_of(view), scope=Scope(), log=None)
        return found, connection.execute(f"SELECT * FROM {ROWS} ORDER BY ALL").fetchall()


def test_the_same_rows_are_the_same_events(declared: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "reference").mkdir()
    expected, wanted = loaded(spec(write("parquet", tmp_path / "reference")))
    found, got = loaded(spec(declared))
    assert (found.rows_in, found.rows_rejected, found.kinds) == (200, 0, expected.kinds)
    assert got == wanted
    assert len(got) == 200


def test_what_was_read_is_named_and_hashed(declared: dict[str, str]) -> None:
    first, _ = loaded(spec(declared))
    again, _ = loaded(spec(declared))
    assert first.source_hash == again.source_hash
    assert len(first.source_hash) == 64
    if "url" in declared:
        assert "200 row(s), snapshot " in first.source
        assert declared["url"].rpartition("@")[2].partition("/")[0] in first.source
    elif declared["path"].startswith("s3://"):
        assert first.source == f"1 object(s) {declared['path'].partition('?')[0]}"
    elif (Path(declared["path"]) / "_delta_log").exists():
        assert first.source.endswith("version 1")
    else:
        assert first.source == f"1 file(s) {declared['path']}"


def test_a_column_that_is_missing_is_named(declared: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="absent"):
        loaded(spec(declared, event_time="absent"))


def test_a_source_that_is_gone_says_so(declared: dict[str, str]) -> None:
    where = dict(declared)
    if "path" in where:
        where["path"] = where["path"].replace("rows", "gone")
    elif "table" in where:
        where["table"] = "public.gone"
    else:
        where["query"] = "SELECT * FROM gone"
    with pytest.raises((SetupError, InvalidInputError), match="gone"):
        loaded(spec(where))
