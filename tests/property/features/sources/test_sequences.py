"""Rows of a table without event ids have a sequence where it orders something, and nowhere else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.integration.features.world import NOON, minutes

from antiphon import Entity, Source, col, count, feature_view, frequency, last
from antiphon.core.clock import microseconds
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.plan import plan_of
from antiphon.features.sources import source_rows
from antiphon.features.sources.source_rows import ROWS, load_rows

SHOP = Entity("shop", ["shop"])
KNOWN_BY = microseconds(NOON + minutes(60))
COLUMNS = "k0, event_time, available_at, seq, m0, m1"


def spec_of(path: Path) -> FeatureViewSpec:
    named: dict[str, Any] = {"event_time": "at", "available_at": "seen", "where": col.amount != 9.0}

    @feature_view(entity=SHOP, source=Source.table("sales", path=str(path), **named))
    class Sales:
        latest = last(col.amount, window="12h")
        sales = count(window="1h", where=col.amount > 1)

    return Sales.spec()


def write(path: Path, rows: list[Any]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    schema = pa.schema([("shop", pa.string()), ("at", stamp), ("seen", stamp), ("amount", pa.float64())])
    named = [
        {"shop": shop, "at": None if at is None else NOON + minutes(at), "seen": NOON + minutes(seen), "amount": amount}
        for shop, at, seen, amount in rows
    ]
    pq.write_table(pa.Table.from_pylist(named, schema=schema), path)


def loaded(spec: FeatureViewSpec, *, identified: bool) -> list[tuple[Any, ...]]:
    with compute(ComputeLimits()) as connection:
        plan = plan_of(spec)
        load_rows(connection, plan, scope=Scope(), log=None, known_by=KNOWN_BY, identified=identified)
        return connection.execute(f"SELECT {COLUMNS} FROM {ROWS} ORDER BY ALL").fetchall()


row = st.tuples(
    st.sampled_from(["a", "b", None]),
    st.sampled_from([None, 0, 1, 2]),
    st.sampled_from([5, 70]),
    st.sampled_from([None, 1.0, 2.0, 9.0]),
)


@given(st.lists(row, max_size=8))
@example([("a", 0, 5, 1.0), ("a", 0, 5, 2.0), ("b", 0, 5, 1.0)])
@example([("a", 0, 5, 1.0), ("a", 0, 5, 1.0)])
@example([("a", 0, 5, 1.0), ("a", 0, 70, 2.0)])
@example([("a", 0, 5, 1.0), ("a", 0, 5, 9.0)])
@settings(max_examples=40)
def test_a_row_has_its_sequence_if_another_that_counts_shares_its_instant(rows: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sales.parquet"
        write(path, rows)
        every = loaded(spec_of(path), identified=True)
        at = [(key, event_time) for key, event_time, *_ in every]
        assert all(sequence is not None for _, _, _, sequence, *_ in every)
        wanted = [
            (key, event_time, seen, sequence if at.count((key, event_time)) > 1 else None, *values)
            for key, event_time, seen, sequence, *values in every
        ]
        assert sorted(wanted, key=repr) == sorted(loaded(spec_of(path), identified=False), key=repr)


def test_rows_that_are_others_when_they_are_read_again_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sales.parquet"
    write(path, [("a", 0, 5, 1.0), ("a", 0, 5, 2.0)])
    original = source_rows._tell_apart

    def changed(*told: Any) -> None:
        write(path, [("a", 0, 5, 1.0)])
        original(*told)

    monkeypatch.setattr(source_rows, "_tell_apart", changed)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        loaded(spec_of(path), identified=False)


def test_rows_that_encodings_set_against_each_other_all_have_one(tmp_path: Path) -> None:
    path = tmp_path / "sales.parquet"
    write(path, [("a", 0, 5, 1.0), ("b", 0, 5, 2.0)])

    @feature_view(entity=SHOP, source=Source.table("sales", path=str(path), event_time="at", available_at="seen"))
    class Sales:
        latest = last(col.amount, window="12h")
        sales = frequency(window="1d")

    found = loaded(Sales.spec(), identified=False)
    assert [sequence is None for _, _, _, sequence, *_ in found] == [False, False]
