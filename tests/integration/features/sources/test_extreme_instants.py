"""Instants at the ends of the calendar: read where they can be printed, rejected where they cannot."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from benchmarks.features.read_paths import OnePublication

from antiphon import Entity, Source, count, distinct, feature_view, last
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidDefinitionsError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader

SCOPE = Scope()
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
PRINTABLE = ("0001-01-01 00:00:00+00", "1969-12-31 23:59:59.999999+00", "9999-12-31 23:59:59.999999+00")
UNPRINTABLE = ("0044-03-15 (BC) 00:00:00+00", "12026-01-01 00:00:00+00", "infinity", "-infinity")


def view(path: Path) -> FeatureViewSpec:
    import antiphon

    @feature_view(
        entity=Entity("shop", ["shop"]), source=Source.table("orders", path=str(path), event_time="at", event_id="id")
    )
    class Orders:
        orders = count(window="3652059d")
        ever = count(window=None)
        latest = last(antiphon.col.id)
        kinds = distinct(antiphon.col.id, window=None)

    return Orders.spec()


def orders(path: Path) -> None:
    texts = (*PRINTABLE, *UNPRINTABLE)
    rows = ", ".join(f"('bakery', 'o{place}', '{text}'::TIMESTAMPTZ)" for place, text in enumerate(texts))
    duckdb.sql(f"COPY (FROM (VALUES {rows}) AS t(shop, id, \"at\")) TO '{path}' (FORMAT parquet)")


def test_instants_that_no_reader_can_print_are_rejected(tmp_path: Path) -> None:
    orders(tmp_path / "orders.parquet")
    spec, lake = view(tmp_path / "orders.parquet"), LocalLake(tmp_path / "lake")
    online = LmdbStore(tmp_path / "online", b"k" * 32)
    manifest = materialize(
        Materialization(scope=SCOPE, spec=spec, as_of=NOW), lake=lake, log=None, clock=ManualClock(NOW)
    )
    assert (manifest.rows_in, manifest.rows_rejected) == (len(PRINTABLE) + len(UNPRINTABLE), len(UNPRINTABLE))
    online.build(manifest, spec, lake)
    publications = OnePublication({spec.key: manifest.id})
    reader = FeatureReader(SCOPE, publications=publications, online=online, clock=ManualClock(NOW))
    for moment in (NOW, datetime.max.replace(tzinfo=UTC)):
        read = reader.read({spec.name: spec.definition_version}, {"shop": "bakery"}, moment).values
        found = {name.partition(".")[2]: one.value for name, one in read.items()}
        # The one of the year 9999 is not known yet.
        assert found == {"orders": 2, "ever": 2, "latest": "o1", "kinds": 2}
    online.close()


def test_one_event_of_the_year_1_does_not_exhaust_a_point_in_time_join(tmp_path: Path) -> None:
    orders(tmp_path / "orders.parquet")
    moments: Any = pa.array([NOW] * 500, pa.timestamp("us", tz="UTC"))
    frame = pa.table({"shop": ["bakery"] * 500, "as_of": moments})
    limits = ComputeLimits(threads=1, memory=128)
    joined = point_in_time(frame, [view(tmp_path / "orders.parquet")], scope=SCOPE, log=None, limits=limits)
    assert joined.column("orders.kinds").to_pylist() == [2] * 500
    assert joined.column("orders.ever").to_pylist() == [2] * 500


def test_a_window_longer_than_the_calendar_is_refused(tmp_path: Path) -> None:
    @feature_view(entity=Entity("shop", ["shop"]), source=Source.table("orders", path="o.parquet", event_time="at"))
    class Orders:
        orders = count(window="3652060d")

    with pytest.raises(InvalidDefinitionsError, match="more than 3652059d; window=None takes all time"):
        Orders.spec()
