"""Rules of quality over a real source: what each finds, what its action does, and that without it the fault gets
through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.integration.features.desk import ORIGIN, flight, history, specs, write
from tests.integration.features.offline.test_refresh import run_refresh
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, event, minutes
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Source, col, count, feature_view, mean
from antiphon.catalog.features.verdicts import Verdict
from antiphon.core.codec import Codec
from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions import expect
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import PythonCheck, Quality
from antiphon.features.monitoring.quality.inspection import quarantined_rows
from antiphon.features.offline.lineage import trace
from antiphon.features.offline.refresh import RefreshResult
from antiphon.governance.encryption.sealing import AesGcmCodec

Rows = list[dict[str, Any]]


def table_view(path: Path, *rules: object) -> FeatureViewSpec:
    source = Source.table(
        "departures", path=str(path), event_time="scheduled", available_at="departed", sensitivity="public"
    )

    @feature_view(entity=ORIGIN, source=source, quality=Quality(*rules))
    class Delays:
        flights = count(window="28d")
        delay = mean(col.dep_delay, window="28d", scale="0.01")

    return Delays.spec()


class Airport:
    """A table view with rules, and refreshes of it."""

    def __init__(self, folder: Path, codec: Codec | None = None) -> None:
        self.file = folder / "departures.parquet"
        write(self.file, history())
        self.world = World(folder, table_view(self.file), codec=codec)
        self.now = NOON

    def declare(self, *rules: object) -> FeatureViewSpec:
        spec = table_view(self.file, *rules)
        self.world.definitions.put(self.world.scope, spec)
        self.world.specs["delays"] = spec
        self.world.functions = {rule.name: rule.function for rule in rules if isinstance(rule, PythonCheck)}
        return spec

    async def refresh(self, rows: Rows | None = None) -> Verdict:
        if rows is not None:
            write(self.file, rows)
        self.now += timedelta(minutes=1)
        self.world.clock.advance(timedelta(minutes=1))
        key = self.world.specs["delays"].key
        run = await run_refresh(self.world, {"views": [key], "as_of": self.now.isoformat()})
        assert run.status == "succeeded", run.error
        found = self.world.verdicts.list(self.world.scope, "delays", limit=1)[0]
        result = msgspec.convert(run.result, RefreshResult)
        assert (key in result.blocked) == (found.outcome == "blocked")
        return found


@pytest.fixture
def airport(tmp_path: Path) -> Iterator[Airport]:
    airport = Airport(tmp_path)
    yield airport
    airport.world.close()


def changed(row: int, **columns: Any) -> Rows:
    rows = history()
    rows[row] = {**rows[row], **columns}
    return rows


ORIGINS = Source.table("airports", path="airports.csv", event_time="since")
RULES: list[tuple[Any, Callable[[], Rows], str]] = [
    (expect.typed(dep_delay="text"), history, "The column dep_delay is number, not text."),
    (expect.typed(tail="text"), history, "The column tail is missing."),
    (expect.typed(id="text", closed=True), history, "There are columns that are not declared: dep_delay, departed"),
    (expect.not_null(col.dest), lambda: changed(3, dest=None), "1 of 1440 rows: dest has no value."),
    (expect.not_null("dest", at_most=0.5), history, ""),
    (
        expect.between("dep_delay", -60, 600),
        lambda: changed(3, dep_delay=9_000.0),
        "1 of 1440 rows: dep_delay is not from -60 to 600; there is 9000.",
    ),
    (expect.between("dep_delay", -60, 600), lambda: changed(3, dep_delay=float("nan")), "1 are NaN or infinite"),
    (expect.between("dep_delay", -60, 1e300), lambda: changed(3, dep_delay=-61.0), "1 of 1440 rows"),
    (expect.between("delay", 0, 1, over="features"), history, "2 of 2 rows: delay is not from 0 to 1"),
    (expect.not_null("delay", over="features"), history, ""),
    (
        expect.one_of("dest", ["SFO", "LAX"]),
        lambda: changed(3, dest="San Francisco"),
        "1 of 1440 rows: dest is none of the known values; there are 'San Francisco'.",
    ),
    (expect.unique("id"), lambda: [*history(), history()[7]], "1 of 1441 rows: id is the same as in another row."),
    (expect.volume(0.9, 1.1), lambda: history()[:1000], "has only 1000 rows, 0.694 times the 1440 before"),
    (expect.recent("30m"), history, "The latest event is 62 min old; at most 30 min is allowed."),
    (
        expect.not_future(),
        lambda: changed(3, departed=NOON + timedelta(days=1)),
        "1 of 1440 rows: the row claims to be known in the future.",
    ),
    (
        expect.sql("no flight to itself", "SELECT * FROM source WHERE origin = dest;"),
        lambda: changed(3, dest="LGA"),
        "",
    ),
    (
        expect.sql("no flight to itself", "SELECT * FROM source WHERE origin = dest;"),
        lambda: changed(3, dest="EWR"),
        "1 of 1440 rows: no flight to itself.",
    ),
    (expect.sql("few", "SELECT * FROM features WHERE flights > 1", over="features"), history, "2 of 2 rows: few."),
    (expect.sql("mistaken", "SELEC 1"), history, "mistaken: ParserException"),
    (expect.between("dest", 0, 1), history, "range of dest: The column 'dest' is VARCHAR, not a number."),
]


@pytest.mark.parametrize("number", range(len(RULES)))
async def test_a_rule_finds_its_fault_and_nothing_else(number: int, airport: Airport) -> None:
    rule, faulty, reason = RULES[number]
    before = await airport.refresh()
    assert before.outcome == "passed", "without the rule the source is fine"
    airport.declare(rule)
    judged = await airport.refresh(faulty())
    if not reason:
        assert judged.outcome == "passed", judged.findings
        return
    assert judged.outcome == "blocked"
    assert reason in judged.findings[0].reason
    assert judged.kept == before.snapshot
    publication = airport.world.publications.current(airport.world.scope)
    assert publication is not None
    assert list(publication.snapshots.values()) == [before.snapshot]
    assert [one.id for one in airport.world.snapshots.list(airport.world.scope)] == [before.snapshot]


async def test_a_rule_may_warn_and_without_it_the_fault_gets_through(airport: Airport) -> None:
    rows = changed(3, dep_delay=9_000.0)
    airport.declare(expect.between("dep_delay", -60, 600, action="warn"), expect.python(lambda _: "no", action="warn"))
    warned = await airport.refresh(rows)
    assert warned.outcome == "warned"
    assert [(finding.rule, finding.action) for finding in warned.findings] == [
        ("range of dep_delay", "warn"),
        ("<lambda>", "warn"),
    ]
    airport.declare()
    assert (await airport.refresh()).outcome == "passed"


async def test_keys_that_stand_nowhere_else_are_found(airport: Airport, tmp_path: Path) -> None:
    (tmp_path / "airports.csv").write_text("faa,name\nEWR,Newark\nLGA,La Guardia\n")
    airports = Source.table("airports", path=str(tmp_path / "airports.csv"), event_time="since")
    airport.declare(expect.exists_in("origin", airports, "faa"))
    assert (await airport.refresh()).outcome == "passed"
    judged = await airport.refresh(changed(3, origin="XXX"))
    assert judged.findings[0].reason == "1 of 1440 rows: origin is not in airports.faa."


async def test_functions_and_schemas_of_the_project_are_rules(airport: Airport) -> None:
    import pandera.pandas as pandas_schemas
    import pandera.polars as polars_schemas

    def few_flights(values: pa.Table) -> list[str]:
        return [f"{row['origin']} has {row['flights']}" for row in values.to_pylist() if row["flights"] > 5]

    def broken(values: pa.Table) -> None:
        raise ZeroDivisionError("oh")

    of_polars = polars_schemas.DataFrameSchema(
        {"delay": polars_schemas.Column(float, polars_schemas.Check.lt(1))}, name="polars"
    )
    of_pandas = pandas_schemas.DataFrameSchema(
        {"dep_delay": pandas_schemas.Column(float, pandas_schemas.Check.lt(40))}, name="pandas"
    )
    airport.declare(
        expect.python(few_flights), expect.python(broken), expect.pandera(of_polars),
        expect.pandera(of_pandas, over="source"), expect.python(lambda values: None, name="content"),
    )  # fmt: skip
    judged = await airport.refresh()
    found = {finding.rule: finding.reason for finding in judged.findings}
    assert found["broken"] == "broken: ZeroDivisionError: oh"
    assert "few_flights: EWR has 671" in judged.findings[0].reason
    assert found["polars"] == "polars: delay: 2 fail less_than(1)"
    assert found["pandas"] == "pandas: dep_delay: 29 fail less_than(40)"
    assert "content" not in found
    airport.declare(expect.python(few_flights))
    airport.world.functions = {"few_flights": broken}
    changed_since = (await airport.refresh()).findings[0]
    assert "The function changed since it was applied" in changed_since.reason
    airport.world.functions = {}
    assert "no function for the rule" in (await airport.refresh()).findings[0].reason


async def test_quarantined_rows_are_kept_with_their_reasons_and_the_rest_goes_on(
    airport: Airport, tmp_path: Path
) -> None:
    first = airport.world.specs["delays"]
    (tmp_path / "airports.csv").write_text("faa\nEWR\nLGA\nSFO\n")
    airports = Source.table("airports", path=str(tmp_path / "airports.csv"), event_time="since")
    rows = history()
    rows[3] = {**rows[3], "dep_delay": 9_000.0}
    rows[4] = {**rows[4], "dest": None, "dep_delay": 9_000.0}
    rows[5] = {**rows[5], "dest": "XXX"}
    rows += [rows[7], {**rows[8], "dest": "LGA", "origin": "LGA", "id": "same"}]
    rules = [
        expect.between("dep_delay", -60, 600, action="quarantine"),
        expect.not_null("dest", action="quarantine"),
        expect.unique("id", action="quarantine"),
        expect.exists_in("dest", airports, "faa", action="quarantine"),
        expect.sql("to itself", "SELECT * FROM source WHERE origin = dest", action="quarantine"),
    ]
    declared = airport.declare(*rules)
    assert declared.definition_version != first.definition_version, "rows are left out, so values change"
    judged = await airport.refresh(rows)
    assert judged.outcome == "warned", judged.findings
    manifest = judged.manifest
    assert manifest is not None
    assert manifest.quarantined is not None
    expected = {
        "range of dep_delay": 2, "not null dest": 1, "unique id": 1, "dest in airports": 1, "to itself": 1
    }  # fmt: skip
    assert manifest.quarantined.reasons == manifest.rejections == expected
    assert (manifest.quarantined.rows, manifest.rows_rejected, manifest.rows_in) == (5, 5, 1442)
    kept = quarantined_rows(manifest, airport.world.lake)
    assert sorted((row.rule, row.columns["id"]) for row in kept) == sorted(
        [("range of dep_delay", "f3"), ("range of dep_delay", "f4"), ("not null dest", "f4"), ("unique id", "f7"),
         ("dest in airports", "f5"), ("to itself", "same")]
    )  # fmt: skip
    good = [row for number, row in enumerate(rows) if number not in (3, 4, 5, 1440, 1441)]
    clean = tmp_path / "clean.parquet"
    write(clean, good)
    expected_delays = [
        row["dep_delay"] for row in good if row["origin"] == "EWR" and row["scheduled"] > NOON - timedelta(28)
    ]
    found = airport.world.read(airport.now, "delays", **EWR).values["delays.delay"].value
    assert found == pytest.approx(sum(expected_delays) / len(expected_delays))
    made_again = trace(
        declared, "delay", {"origin": "EWR"}, airport.now, scope=airport.world.scope, known_by=airport.now
    )
    assert made_again.value == found, "lineage leaves out the same rows"
    airport.world.clock.advance(timedelta(days=400_000))
    airport.world.publisher.collect_garbage()
    assert len(quarantined_rows(manifest, airport.world.lake, limit=3)) == 3


async def test_too_many_quarantined_rows_block(airport: Airport) -> None:
    airport.declare(expect.between("dep_delay", -60, 10, action="quarantine"))
    judged = await airport.refresh()
    assert judged.outcome == "blocked"
    assert "of 1440 source rows were rejected (range of dep_delay" in judged.findings[0].reason
    assert judged.manifest is not None
    airport.world.clock.advance(timedelta(days=400_000))
    airport.world.publisher.collect_garbage()
    assert quarantined_rows(judged.manifest, airport.world.lake, 1), "of a blocked snapshot as well"


async def test_a_streams_events_are_quarantined_in_both_paths(world: World, tmp_path: Path) -> None:
    """A bad event is left out of the overlay's value and of the batch query alike, and is listed."""
    spec = world.specs["congestion"]
    bad = Quality(expect.between("dep_delay", -60, 600, action="quarantine"))
    source = Source.stream(
        "departures", history=str(tmp_path / "departures.parquet"),
        event_time="scheduled", available_at="departed", event_id="id",
    )  # fmt: skip
    declared = msgspec.structs.replace(spec, source=source.spec(), quality=bad.spec(), definition_version="a" * 16)
    world.specs = {"congestion": declared}
    world.definitions.put(world.scope, declared)
    world.consumer.follow([declared])
    world.publish(NOON)
    world.append(
        "departures",
        event("f9001", NOON + minutes(1), origin="EWR", dest="SFO", dep_delay=10.0),
        event("f9002", NOON + minutes(2), origin="EWR", dest="SFO", dep_delay=90_000.0),
    )
    world.consume()
    streamed = world.read(NOON + minutes(3), **EWR).values["congestion.delay_2h"].value
    run = await run_refresh(world, {"views": [declared.key], "as_of": (NOON + minutes(3)).isoformat()})
    assert run.status == "succeeded", run.error
    batch = world.read(NOON + minutes(3), **EWR).values["congestion.delay_2h"].value
    assert streamed == batch
    assert batch < 100
    verdict = world.verdicts.list(world.scope)[0]
    assert verdict.manifest is not None
    (row,) = quarantined_rows(verdict.manifest, world.lake)
    assert (row.rule, row.columns["id"], row.columns["dep_delay"]) == ("range of dep_delay", "f9002", 90_000.0)


async def test_quarantined_rows_are_sealed_where_the_lake_is(tmp_path: Path) -> None:

    airport = Airport(tmp_path, codec=AesGcmCodec(Keys()))
    airport.declare(expect.one_of("dest", ["SFO"], action="quarantine"))
    judged = await airport.refresh(changed(3, dest="SECRETPLACE"))
    assert judged.manifest is not None
    assert quarantined_rows(judged.manifest, airport.world.lake)[0].columns["dest"] == "SECRETPLACE"
    airport.world.close()
    for file in (*(tmp_path / "lake").rglob("*"), *tmp_path.glob("catalog.db*")):
        if file.is_file():
            assert b"SECRETPLACE" not in file.read_bytes(), file


async def test_an_unreadable_source_keeps_what_was_and_lets_other_views_go_on(world: World, tmp_path: Path) -> None:
    other = table_view(tmp_path / "other.parquet")
    write(tmp_path / "other.parquet", history())
    world.definitions.put(world.scope, other)
    keys = [world.specs["congestion"].key, other.key]
    first = await run_refresh(world, {"views": keys, "as_of": NOON.isoformat()})
    kept = msgspec.convert(first.result, RefreshResult).snapshots
    whole = (tmp_path / "other.parquet").read_bytes()
    (tmp_path / "other.parquet").write_bytes(whole[: len(whole) // 2])
    world.clock.advance(minutes(1))  # verdicts are in the order of their moments
    second = await run_refresh(world, {"views": keys, "as_of": (NOON + minutes(1)).isoformat()})
    assert second.status == "succeeded"
    result = msgspec.convert(second.result, RefreshResult)
    assert set(result.blocked) == {other.key}
    assert "The source cannot be computed" in result.blocked[other.key][0]
    current = world.publications.current(world.scope)
    assert current is not None
    assert current.snapshots[other.key] == kept[other.key]
    assert current.snapshots[keys[0]] != kept[keys[0]]
    verdict = world.verdicts.latest(world.scope, "delays", other.definition_version)
    assert verdict is not None
    assert (verdict.outcome, verdict.snapshot, verdict.kept) == ("blocked", None, kept[other.key])
    pq.write_table(
        pq.read_table(tmp_path / "departures.parquet").drop_columns(["dep_delay"]), tmp_path / "other.parquet"
    )
    both = await run_refresh(world, {"views": [other.key], "as_of": (NOON + minutes(2)).isoformat()})
    assert both.status == "failed"
    assert "There is no column 'dep_delay'" in (both.error or "")


def test_mistakes_in_rules_are_told_with_the_view() -> None:
    stream = Source.stream("s", event_time="at", event_id="id")

    @feature_view(
        entity=ORIGIN,
        source=stream,
        embargo="soon",
        quality=Quality(
            expect.unique("id", action="quarantine"), expect.between("x", 5, 1), expect.between("x", 1, 5),
            expect.not_null("absent", over="features"), expect.recent("1h", action="quarantine"),
            expect.volume(2.0, 3.0), expect.exists_in("x", stream), expect.not_null("x", at_most=3),
                expect.between("y", 0, float("inf")),
            expect.python("no function", name="text"), "not a rule", late_after="later", sampling_rate=2.0,
        ),
    )  # fmt: skip
    class View:
        n = count(window="1h")

    with pytest.raises(InvalidDefinitionsError) as caught:
        View.spec()
    told = "\n".join(caught.value.problems)
    for part in (
        "embargo", "one by one", "5 is above 1", "two rules are named 'range of x'", "no feature 'absent'",
        "only single rows", "least is at most 1", "no file to look in", "at_most is a share", "no function",
        "high is inf", "'not a rule' is no rule", "late_after", "sampling_rate",
    ):  # fmt: skip
        assert part in told, part


def test_rules_that_block_or_warn_keep_the_definition_version(tmp_path: Path) -> None:
    plain = specs(tmp_path / "departures.parquet")[0]
    path = tmp_path / "x.parquet"
    bare = table_view(path)
    assert bare.definition_version == table_view(path, expect.recent("1h"), expect.unique("id")).definition_version
    held = table_view(path, expect.unique("id", action="quarantine", name="a"))
    assert held.definition_version != bare.definition_version
    renamed = table_view(path, expect.unique("id", action="quarantine", name="b"), expect.recent("1h"))
    assert renamed.definition_version == held.definition_version
    assert plain.quality is None
    assert flight(1, NOON, 0.0)["id"] == "f1"
