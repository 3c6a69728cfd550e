"""A snapshot that takes over what was read before is the one that reading everything makes, file for file."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.integration.features.world import NOON, World, event, minutes

from antiphon import Entity, Source, col, count, distinct, feature_view, last, mean
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.offline.materialize import Materialization, materialize

SHOP = Entity("shop", ["shop"])
KINDS = ("table", "anonymous", "stream", "ever")
"""A table, one without event ids, a stream with files beside it, a view with a feature of all time."""
REASONS = ("files were added beside the log", "not known yet", "files changed", "all time", "have no sequence")


def rows(moments: st.SearchStrategy[int], latest: int) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Shop, event time and delay in minutes from noon, number of the event, amount."""
    shops, amounts = st.sampled_from(["a", "b", "c", None]), st.sampled_from([1.5, -2.0, 7.25, None])
    return st.lists(st.tuples(shops, moments, st.integers(0, latest), st.integers(0, 12), amounts), max_size=6)


known = rows(st.integers(-3_000, 5), 0)
later = rows(st.one_of(st.integers(-3_000, 5), st.integers(0, 900)), 300)
steps = st.lists(st.tuples(st.sampled_from(["file", "log", "wait", "change"]), later), min_size=2, max_size=4)


def views(folder: Path, kind: str) -> FeatureViewSpec:
    named: dict[str, Any] = {"event_time": "at", "available_at": "seen"}
    if kind != "anonymous":
        named["event_id"] = "id"
    path = str(folder / "part-*.parquet")
    source = Source.stream("sales", history=path, **named) if kind == "stream" else None

    @feature_view(entity=SHOP, source=source or Source.table("sales", path=path, **named))
    class Sales:
        sales_1h = count(window="1h")
        mean_2d = mean(col.amount, window="2d", scale="0.01")
        amounts_2d = distinct(col.amount, window="2d")
        latest = last(col.amount, window=None if kind == "ever" else "12h")

    return Sales.spec()


def write(file: Path, part: list[Any]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    named = [
        {"id": f"e{n}", "shop": shop, "at": NOON + minutes(at), "seen": NOON + minutes(at + late), "amount": amount}
        for shop, at, late, n, amount in part
    ]
    schema = pa.schema(
        [("id", pa.string()), ("shop", pa.string()), ("at", stamp), ("seen", stamp), ("amount", pa.float64())]
    )
    pq.write_table(pa.Table.from_pylist(named, schema=schema), file)


def made(world: World, spec: FeatureViewSpec, as_of: Any, before: SnapshotManifest | None, whole: bool) -> Any:
    wanted = Materialization(scope=world.scope, spec=spec, as_of=as_of, previous=before, whole=whole)
    return materialize(wanted, lake=world.lake, log=world.log, clock=world.clock)


@given(st.sampled_from(KINDS), known, steps)
@example("table", [("a", 0, 0, 1, 1.5)], [("file", [("a", 0, 300, 2, 7.25)]), ("log", []), ("log", [])])
@example("stream", [], [("log", [("a", 0, 0, 1, 1.5)]), ("file", [("a", 0, 0, 1, -2.0)])])
@example("stream", [], [("log", [("a", 0, 0, 1, 1.5)]), ("log", [("a", 1, 0, 2, None)])])
@example("ever", [("a", -2_900, 0, 1, 1.5)], [("wait", []), ("wait", [])])
@example("anonymous", [("a", 0, 0, 1, 1.5)], [("file", [("a", 0, 0, 2, -2.0)]), ("file", [("a", 0, 0, 3, 7.25)])])
@example("anonymous", [("a", 0, 0, 1, 1.5), ("a", 0, 0, 2, -2.0)], [("file", [("a", 0, 0, 3, 7.25)])])
@example("anonymous", [("a", 0, 0, 1, 1.5)], [("change", [("a", 0, 0, 1, -2.0)])])
@settings(max_examples=10)
def test_what_is_taken_over_and_what_is_read_make_the_same_files(kind: str, first: Any, then: Any) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = views(folder, kind)
        write(folder / "part-000.parquet", first)
        world = World(folder, spec)
        as_of = NOON + minutes(6)
        before = made(world, spec, as_of, None, False)
        for number, (what, part) in enumerate(then, start=1):
            as_of += timedelta(days=10) if what == "wait" else timedelta(hours=3)
            if what in ("file", "change"):
                write(folder / f"part-{number if what == 'file' else 0:03}.parquet", part)
            elif what == "log" and kind == "stream":
                happened = [
                    event(f"e{n}", NOON + minutes(at), NOON + minutes(at + late), shop=shop, amount=amount)
                    for shop, at, late, n, amount in part
                ]
                world.append("sales", *happened)
            now, whole = (made(world, spec, as_of, before, asked) for asked in (False, True))
            assert now.files == whole.files, now.read
            assert (now.id, now.rows_in, now.rows_rejected, now.stream_offset, now.source_hash) == (
                whole.id, whole.rows_in, whole.rows_rejected, whole.stream_offset, whole.source_hash
            ), now.read  # fmt: skip
            if now.read.taken_over is None:
                assert any(reason in str(now.read.whole) for reason in REASONS)
            else:
                # The log keeps one event of each id.
                assert now.read.rows == len(part) if what == "file" else now.read.rows <= len(part)
            before = now
        world.close()


def test_columns_that_change_their_type_are_read_as_a_whole(tmp_path: Path) -> None:
    """A key that is a whole number in one file and not in another is read otherwise in all of them."""
    spec = views(tmp_path, "table")
    shops: list[Any] = [1, 2.5]
    world = World(tmp_path, spec)
    before: SnapshotManifest | None = None
    for number, shop in enumerate(shops):
        stamp = pa.array([NOON], pa.timestamp("us", tz="UTC"))
        columns = {"id": pa.array([f"e{number}"]), "shop": pa.array([shop]), "at": stamp, "seen": stamp}
        pq.write_table(pa.table({**columns, "amount": pa.array([1.5])}), tmp_path / f"part-{number}.parquet")
        before = made(world, spec, NOON + minutes(6 + number), before, False)
    assert before is not None
    assert before.read.whole == "its columns are of other types"
    assert before.files == made(world, spec, NOON + minutes(7), before, True).files
    world.close()
