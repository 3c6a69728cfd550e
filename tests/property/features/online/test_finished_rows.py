"""A finished row is what the entity's state gives from the snapshot's moment on as long as it says, bit for bit, and
is served at no other moment."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.property.features.offline.test_columns import batch_of, bits, entities, kind_of

from antiphon import Entity, Source, col, count, distinct, feature_view, first, last, max, mean, min, quantile, std, sum
from antiphon.features.offline.batch_values import BatchValues, holds_until
from antiphon.features.online.entity_rows import SnapshotRows
from antiphon.features.online.snapshots.encoding import FEW, RecordDecoder, block_key, decode_block
from antiphon.features.online.snapshots.finished import PackedRows, RowLayout, ValuesAlong, codes_of
from antiphon.features.online.snapshots.packing import event_records, events_are_few
from antiphon.features.plan import ViewPlan, plan_of
from antiphon.features.tiles.entity_state import EntityState
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EVER, NEVER, EntityRow


@feature_view(
    entity=Entity("stop", ["stop"]),
    source=Source.table("passes", path="p.parquet", event_time="due", available_at="seen"),
)
class Windowed:
    """Of windows as short as the drawn moments, and of all time."""

    events = count(window="5s")
    ever = count(window=None)
    average = mean(col.x, window="10s", scale="0.01")
    spread = std(col.x, window="20s", scale="0.01")
    total = sum(col.x, window="5s", scale="0.01")
    low = min(col.x, window="20s", scale="0.3")
    high = max(col.y, window="10s")
    newest = last(col.y)
    oldest = first(col.name, window="20s")
    flag = last(col.flag, window="10s")
    name = last(col.name)
    names = distinct(col.name, window="20s")
    median = quantile(col.x, q="0.5", window="20s", scale="0.01")


@feature_view(entity=Entity("stop", ["stop"]), source=Source.table("passes", path="p.parquet", event_time="due"))
class Wide:
    """More features than one word has bits."""

    locals().update({f"f{number:02}": last(col.x, window=f"{1 + number % 3}s", scale="0.01") for number in range(70)})


@feature_view(entity=Entity("stop", ["stop"]), source=Source.table("passes", path="p.parquet", event_time="due"))
class Rush:
    """Counts alone: of nothing they have values and no time."""

    passes_1s = count(window="1s")
    passes_10s = count(window="10s")


SECOND = 1_000_000


class Told:
    """A batch of entities as a snapshot holds it."""

    def __init__(self, plan: ViewPlan, told: list[list[Any]], as_of: int) -> None:
        # The drawn moments are whole seconds, as the windows are.
        told = [[(time * SECOND, lag * SECOND, *rest) for time, lag, *rest in events] for events in told]
        batch = batch_of(plan, told)
        values = BatchValues(None, plan, as_of).of(batch)  # type: ignore[arg-type]
        codes = codes_of(values.schema, plan)
        assert codes is not None
        self.layout = RowLayout(codes, as_of)
        packed = PackedRows(values, holds_until(batch, plan, as_of), plan, codes)
        self.packed = packed.rows()
        kinds = tuple(
            {"double": "number", "flag": "boolean", "name": "text"}.get(kind_of(plan, index), "number")
            for index in range(len(plan.measures))
        )
        decoder = RecordDecoder(plan, kinds)  # type: ignore[arg-type]
        self.hashes = [f"{entity:016}".encode() for entity in range(batch.entities)]
        records = dict(zip(*event_records(batch, plan, self.hashes), strict=True))
        if not packed.texts and events_are_few(batch):
            turned = [f"{10**7 - entity:08}".encode() * 2 for entity in range(batch.entities)]
            keys, joined = event_records(batch, plan, turned, packed)
            assert keys == sorted(turned), "records come in the order of their keys"
            wanted = [row + record for row, record in zip(self.packed, records.values(), strict=True)]
            assert dict(zip(keys, joined, strict=True)) == dict(zip(turned, wanted, strict=True))
        self.states: list[EntityState] = [
            decoder.state(
                records[hashed],
                None,
                lambda index, of=hashed: decode_block(records[block_key(of, index)]),  # type: ignore[misc]
            )
            for hashed in self.hashes
        ]
        self.changes = [
            sorted({moment for time, lag, *_ in events for moment in _changes(time, time + lag)}) for events in told
        ]


def _changes(time: int, available: int) -> list[int]:
    seen = time if time > available else available
    return [seen, *(time + width * SECOND for width in (1, 2, 3, 5, 10, 20))]


def same(finished: EntityRow, made: EntityRow) -> None:
    assert [bits(value) for value in finished.values] == [bits(value) for value in made.values]
    assert finished.event_times == made.event_times
    assert finished.oldest == made.oldest


@example([[(0, 0, 3, 0.1, False, "é")] * (FEW + 1), [(0, 1, 1, None, None, "")]], 40)
@example([[(0, 0, 3, -0.0, None, "a"), (3, 3, 4, 1.5, True, "")]], 4)
@given(entities, st.integers(-1, 55))
@settings(max_examples=60)
def test_a_finished_row_is_what_the_state_gives_for_as_long_as_it_says(told: list[list[Any]], second: int) -> None:
    as_of = second * SECOND
    for spec in (Windowed.spec(), Wide.spec(), Rush.spec()):
        plan = plan_of(spec)
        case, evaluator = Told(plan, told, as_of), ViewEvaluator(plan)
        for row, state, changes in zip(case.layout.rows(case.packed), case.states, case.changes, strict=True):
            assert row is not None
            assert as_of == row.since < row.until
            # Between two of these moments no row changes, so they stand for all.
            moments = {as_of, *(moment for change in changes for moment in (change - 1, change))}
            for moment in sorted(moments):
                if as_of <= moment < row.until:
                    same(row, evaluator.row(state, (), moment))
            assert row.until == EVER or row.until in changes


def test_counts_of_an_empty_window_have_no_time() -> None:
    case = Told(plan_of(Rush.spec()), [[(0, 0, 3, None, None, None)]], 20 * SECOND)
    (row,) = case.layout.rows(case.packed)
    assert row is not None
    assert (row.values, row.event_times, row.oldest) == ((0, 0), (None, None), NEVER)


def test_a_record_goes_on_after_its_row() -> None:
    plan = plan_of(Windowed.spec())
    told = [
        [(1, 0, 5, None, None, "日本")],
        [(1, 0, 5, 1.0, True, "a"), (2, 0, 5, 1.0, True, None)],
        [(0, 0, None, None, None, None)],
    ]
    case = Told(plan, told, 3 * SECOND)
    assert [case.layout.after(row + b"rest") for row in case.packed] == [b"rest"] * 3
    assert case.layout.after(case.layout.nothing + b"rest") == b"rest"
    assert case.layout.rows([case.layout.nothing, None]) == [None, None]


class Snapshot:
    """One entity's finished row beside what a state would say."""

    def __init__(self, row: EntityRow | None) -> None:
        self.row, self.asked, self.tried = row, 0, 0
        plan = plan_of(Windowed.spec())
        self.evaluator = ViewEvaluator(plan)
        self.plain = ()

        class Meta:
            spec, snapshot, stream_offset, as_of, answers_from = Windowed.spec(), "snap_1", None, 100, 0

        self.meta = Meta()

    def finished(self, entities: Any) -> list[EntityRow | None]:
        self.tried += 1
        return [self.row for _ in entities]

    def states(self, asked: Any) -> list[EntityState]:
        self.asked += len(asked)
        return [EntityState(None, {}, lambda index: None) for _ in asked]  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(("moment", "served"), [(99, False), (100, True), (149, True), (150, False), (151, False)])
@pytest.mark.parametrize("several", [False, True])
def test_a_row_is_served_from_its_first_moment_up_to_its_last(moment: int, served: bool, several: bool) -> None:
    width = len(plan_of(Windowed.spec()).features)
    row = EntityRow((7,) * width, (1,) * width, None, 100, 150)
    snapshot = Snapshot(row)
    rows = SnapshotRows("windowed", snapshot, lambda entity, keys: [str(key).encode() for key in keys])  # type: ignore[arg-type]
    (found,) = rows.rows(["a"], [moment] if several else moment, {})
    assert (found == row) == served
    assert snapshot.asked == (0 if served else 1)


def test_an_entity_of_which_something_streamed_in_is_read_from_its_state() -> None:
    width = len(plan_of(Windowed.spec()).features)
    snapshot = Snapshot(EntityRow((7,) * width, (1,) * width, None, 100, 150))
    rows = SnapshotRows("windowed", snapshot, lambda entity, keys: [str(key[0]).encode() for key in keys])  # type: ignore[arg-type]
    first, second = rows.rows(["a", "b"], 120, {b"a": []})
    assert first != snapshot.row
    assert second == snapshot.row
    assert snapshot.asked == 1


def test_a_kept_row_is_served_beside_an_entity_of_which_something_streamed_in() -> None:
    width = len(plan_of(Windowed.spec()).features)
    snapshot = Snapshot(EntityRow((7,) * width, (1,) * width, None, 100, 150))
    snapshot.meta.stream_offset = 5  # type: ignore[misc]
    rows = SnapshotRows("windowed", snapshot, lambda entity, keys: [str(key[0]).encode() for key in keys])  # type: ignore[arg-type]
    rows.rows(["b"], 110, {})
    _, second = rows.rows(["a", "b"], 120, {b"a": []})
    assert second == snapshot.row
    assert (snapshot.tried, snapshot.asked) == (1, 1)
    # What was kept before anything of it streamed in is not served after.
    assert rows.rows(["b"], 130, {b"b": []}) != [snapshot.row]


def test_finished_rows_that_have_mostly_expired_are_not_asked_for_any_more() -> None:
    width = len(plan_of(Windowed.spec()).features)
    snapshot = Snapshot(EntityRow((7,) * width, (1,) * width, None, 100, 150))
    rows = SnapshotRows("windowed", snapshot, lambda entity, keys: [str(key[0]).encode() for key in keys])  # type: ignore[arg-type]
    for number in range(150):
        rows.rows([f"late {number}"], 160 + number, {})
    assert (snapshot.tried, snapshot.asked) == (101, 150)
    assert rows.rows(["timely"], 140, {}) == [snapshot.row]
    assert (snapshot.tried, snapshot.asked) == (102, 150)


@given(st.lists(st.booleans(), max_size=30), st.integers(1, 6), st.integers(1, 6))
def test_values_are_read_along_with_events(there: list[bool], step: int, taken: int) -> None:
    rows = (
        pa.RecordBatch.from_pydict(
            {"k": [f"{n // 4:02}" for n in range(len(there))], "l": [f"{n % 4}" for n in range(len(there))]}
        )
        if there
        else pa.RecordBatch.from_pydict({"k": pa.array([], pa.string()), "l": pa.array([], pa.string())})
    )
    along = ValuesAlong([rows.slice(at, step) for at in range(0, len(there), step)], 2)
    found: list[dict[str, str]] = []
    known = [n for n, some in enumerate(there) if some]
    for at in range(0, len(known), taken):
        part = known[at : at + taken]
        batch = along.through([rows.column(index).take(pa.array(part)) for index in range(2)])
        assert batch is not None
        found += batch.to_pylist()
        assert len(found) == part[-1] + 1
    for batch in along.rest():
        found += batch.to_pylist()
    assert found == rows.to_pylist()
    assert along.through([pa.array(["x"]), pa.array(["y"])]) is None
