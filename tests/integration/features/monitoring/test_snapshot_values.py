"""Rules over all values of a snapshot: what they find, and that the values are not all in memory for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Entity, Quality, Source, col, expect, feature_view, last
from antiphon.catalog.features.snapshot_facts import RuleCheck
from antiphon.catalog.features.snapshots import SnapshotFile
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.quality import PythonCheck
from antiphon.features.lake.local import LocalLake
from antiphon.features.monitoring.quality.custom_rules import check_values
from antiphon.features.monitoring.quality.snapshot_values import snapshot_values
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.governance.encryption.sealing import AesGcmCodec

ROWS = 200_000
SHOP = Entity("shop", ["shop"])
VALUES = {
    "shop": pa.array([f"shop {n}" for n in range(ROWS)]),
    "sales.amount": pa.array([float(n) for n in range(ROWS - 3)] + [None, float("nan"), float("inf")]),
    "sales.open": pa.array([n % 2 == 0 for n in range(ROWS)]),
    "sales.note": pa.array([None, "x", *["12"] * (ROWS - 2)]),
}


def in_lake(lake: LocalLake, columns: dict[str, pa.Array]) -> SnapshotFile:
    table = pa.table(columns)
    with lake.writing(Scope(), ".parquet") as draft, pq.ParquetWriter(draft, table.schema) as writer:
        for batch in table.to_batches(10_000):
            writer.write_batch(batch)
    return SnapshotFile(draft.path, draft.sha256, table.num_rows, draft.size)


@pytest.fixture(scope="module", params=["clear", "sealed"])
def checked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[RuleCheck]]:
    folder = tmp_path_factory.mktemp("values")
    lake = LocalLake(folder, PlainCodec() if request.param == "clear" else AesGcmCodec(Keys()))
    file = in_lake(lake, VALUES)

    def check(*rules: Any, most_bytes: int = 2**30) -> list[RuleCheck]:
        source = Source.table("sales", path="x.parquet", event_time="at")

        @feature_view(entity=SHOP, source=source, quality=Quality(*rules))
        class Sales:
            amount, open, note = last(col.amount), last(col.open), last(col.note)

        functions = {rule.name: rule.function for rule in rules if isinstance(rule, PythonCheck)}
        scratch = None if lake.sealed else lake.scratch()
        with (
            compute(ComputeLimits(memory=200)) as connection,
            snapshot_values(connection, lake, file, "sales", folder=scratch, most_bytes=most_bytes) as values,
        ):
            found = list(check_values(connection, Sales.spec(), values, lambda view: functions))
        with pytest.raises(duckdb.Error), duckdb.connect() as after:
            after.execute("FROM features")
        return found

    check.sealed = lake.sealed  # type: ignore[attr-defined]
    return check


Checked = Callable[..., list[RuleCheck]]


def test_rules_find_what_they_are_for(checked: Checked) -> None:
    found = checked(
        expect.not_null("amount", "note", over="features"),
        expect.between("amount", 0, 1e300, over="features"),
        expect.between("open", 1, 1, over="features"),
        expect.between("note", 0, 20, over="features"),
        expect.sql(
            "far from the mean",
            "SELECT * FROM features WHERE amount > 1.9 * (SELECT avg(amount) FROM features WHERE isfinite(amount)) "
            "AND shop IN (SELECT shop FROM features WHERE NOT open)",
            over="features",
        ),
        expect.sql("no such column", "SELECT absent FROM features", over="features"),
        expect.python(lambda values: [f"{values.num_rows} {','.join(values.column_names)}"], name="told"),
    )
    nulls, range_of_amount, range_of_open, range_of_note, far, absent, told = found
    assert (nulls.offenders, nulls.of) == (2, ROWS)
    assert range_of_amount.offenders == 2, "what is no number and what is infinite"
    assert range_of_open.offenders == ROWS // 2
    assert range_of_note.error is not None
    assert "'x'" not in range_of_note.error, "a value is nobody's to see"
    assert far.offenders == sum(n > 1.9 * (ROWS - 4) / 2 and n % 2 == 1 for n in range(ROWS - 3)) + 1
    assert absent.error is not None
    assert "absent" in absent.error
    assert told.reasons == (f"{ROWS} shop,amount,open,note",)


def test_a_function_sees_a_table_that_is_not_in_memory(checked: Checked) -> None:
    """In an encrypted project it is in memory, within a limit."""
    seen: list[tuple[int, int]] = []

    def looks(values: pa.Table) -> None:
        seen.append((pa.total_allocated_bytes() - before, values.nbytes))

    before = pa.total_allocated_bytes()
    (check,) = checked(expect.python(looks, name="looks"))
    assert check.error is None
    ((allocated, size),) = seen
    assert size > 5 * 2**20
    assert allocated < size / 4 or checked.sealed  # type: ignore[attr-defined]


def test_what_an_encrypted_project_cannot_hold_is_not_looked_at(checked: Checked) -> None:
    (check,) = checked(expect.python(lambda values: None, name="looks"), most_bytes=2**20)
    if checked.sealed:  # type: ignore[attr-defined]
        assert check.error is not None
        assert "more than the 1 MiB of memory" in check.error
    else:
        assert check.error is None


def test_a_query_reads_more_than_memory_may_hold(tmp_path: Path) -> None:
    lake = LocalLake(tmp_path)
    wide = {f"sales.f{n}": pa.array([float(n + row % 97) for row in range(50_000)]) for n in range(60)}
    file = in_lake(lake, {"shop": pa.array([str(n) for n in range(50_000)]), **wide})
    assert pa.table(wide).nbytes > 20 * 2**20
    with (
        compute(ComputeLimits(memory=20)) as connection,
        snapshot_values(connection, lake, file, "sales", folder=None, most_bytes=0) as values,
    ):
        total = " + ".join(f"f{n}" for n in range(60))
        assert connection.execute(f"SELECT count(*) FROM features WHERE {total} > 0").fetchall() == [(50_000,)]
        with pytest.raises(UnavailableError, match="0 MiB"):
            _ = values.table


class Slow:
    """A file whose every call lets other threads go first."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def seek(self, *where: int) -> int:
        place: int = self._stream.seek(*where)
        time.sleep(0.002)
        return place

    def read(self, size: int = -1) -> bytes:
        time.sleep(0.002)
        content: bytes = self._stream.read(size)
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class SlowLake(LocalLake):
    def open(self, relative: str) -> Any:
        return contextlib.closing(Slow(super().open(relative)))


def test_scans_of_one_query_that_run_at_once_read_their_own_places(tmp_path: Path) -> None:
    lake = SlowLake(tmp_path)
    file = in_lake(lake, VALUES)
    with (
        compute(ComputeLimits(memory=200, threads=4)) as connection,
        snapshot_values(connection, lake, file, "sales", folder=None, most_bytes=0),
    ):
        query = (
            "SELECT (SELECT count(DISTINCT shop) FROM features), (SELECT count(*) FROM features WHERE open), "
            "(SELECT max(amount) FROM features WHERE isfinite(amount)), (SELECT count(note) FROM features)"
        )
        for _ in range(3):
            assert connection.execute(query).fetchall() == [(ROWS, ROWS // 2, ROWS - 4.0, ROWS - 1)]
