"""Skew after the source changed: judged by the files that are still there, or by what the lake keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.features.desk import ORIGIN, flight, history, specs, write
from tests.integration.features.monitoring.test_skew import alter, ask, measured, of
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.sources.test_sql_source import NOON as DAY_SIX
from tests.integration.features.sources.test_sql_source import made
from tests.integration.features.world import NOON, World, event, minutes
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Source, col, count, distinct, feature_view, first, frequency, mean, quantile, std, target
from antiphon.catalog.features.skew_reports import SkewReport
from antiphon.features.monitoring.skew.measure import CHANGED
from antiphon.governance.encryption.sealing import AesGcmCodec


@pytest.fixture
def all_time(tmp_path: Path) -> Iterator[World]:
    """A stream with history whose features look at all time and at windows, from three files of ten days each."""
    for part in range(3):
        write(tmp_path / f"part{part}.parquet", history()[part * 480 : (part + 1) * 480])
    departures = Source.stream(
        "departures",
        history=str(tmp_path / "part*.parquet"),
        event_time="scheduled",
        available_at="departed",
        event_id="id",
    )

    @feature_view(entity=ORIGIN, source=departures)
    class Ever:
        flights = count(window=None)
        delays = std(col.dep_delay, window=None, scale="0.01")
        week = mean(col.dep_delay, window="7d", scale="0.01")
        oldest = first(col.dep_delay, window=None)
        places = distinct(col.dest, window=None)
        usual = quantile(col.dep_delay, q=0.9, window=None, scale="0.01")

    world = World(tmp_path, Ever.spec())
    yield world
    world.close()


def rewritten(folder: Path) -> None:
    """Every file of the source tells of other delays."""
    for path in folder.glob("*.parquet"):
        write(path, [{**row, "dep_delay": 7.0} for row in history()[:100]])


def bases(report: SkewReport) -> set[str]:
    return {basis for one in report.features for basis in one.judged_by}


@pytest.mark.parametrize("change", [rewritten, lambda folder: [path.unlink() for path in folder.glob("part*.parquet")]])
def test_a_source_that_changed_is_judged_by_what_the_snapshot_keeps(
    all_time: World, tmp_path: Path, change: Callable[[Path], object]
) -> None:
    world = all_time
    world.publish(NOON)
    world.append("departures", departure(9001, 5, -3.0), departure(9002, 8, 25.0), departure(9001, 5, -3.0))
    world.consume()
    asked = [ask(world, 1, 0), ask(world, 2, 20)]
    before = measured(world, *asked, at=20)
    assert bases(before) == {"source"}
    change(tmp_path)
    report = measured(world, *asked, at=20)
    assert [one for one in report.features if one.different or one.not_comparable] == []
    assert (report.compared, bases(report)) == (before.compared, {"lake"})
    assert report.compared == 6 * (2 + 2)


def test_a_defect_is_found_by_the_lake_alone(all_time: World, tmp_path: Path) -> None:
    world = all_time
    publication = world.publish(NOON)
    rewritten(tmp_path)
    alter(world, "ever", publication.snapshots[world.specs["ever"].key])
    report = measured(world)
    found = of(report, "ever.flights")
    assert (found.different, found.judged_by) == (2, {"lake": 2})
    assert found.examples[0].batch == 720 < found.examples[0].online  # type: ignore[operator]


def test_encodings_of_all_time_are_judged_by_the_lake_too(tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    table = Source.table(
        "flights", path=str(tmp_path / "departures.parquet"), event_time="scheduled", available_at="departed"
    )

    @feature_view(entity=ORIGIN, source=table)
    class Encoded:
        share = frequency(window="14d")
        lateness = target(col.dep_delay > 15, smoothing=10, window=None)

    world = World(tmp_path, Encoded.spec())
    publication = world.publish(NOON)
    rewritten(tmp_path)
    report = measured(world, at=60 * 30)
    assert (report.compared, report.different, bases(report)) == (4, 0, {"lake"})
    alter(world, "encoded", publication.snapshots[world.specs["encoded"].key])
    assert measured(world, at=60 * 30).different > 0
    world.close()


def test_files_that_were_added_are_left_out(all_time: World, tmp_path: Path) -> None:
    world = all_time
    world.publish(NOON)
    write(tmp_path / "part9.parquet", [flight(5001, NOON - minutes(90), 44.0)])
    report = measured(world)
    assert (report.different, bases(report)) == (0, {"files"})
    assert not any(one.not_comparable for one in report.features)


def test_the_log_tells_an_old_event_again_that_the_history_told(all_time: World, tmp_path: Path) -> None:
    world = all_time
    world.publish(NOON)
    old = history()[1400]
    world.append("departures", event(old["id"], old["scheduled"], NOON + minutes(1), **EWR, dep_delay=old["dep_delay"]))
    world.consume()
    rewritten(tmp_path)
    report = measured(world, at=5)
    assert report.different == 0
    assert of(report, "ever.flights").equal == 2
    assert not any(one.not_comparable for one in report.features)


def test_without_the_lake_it_is_said_why_and_what_is_equal_all_the_same(world: World, tmp_path: Path) -> None:
    publication = world.publish(NOON)
    rows = history()
    write(tmp_path / "departures.parquet", [{**row, "dep_delay": 7.0} for row in rows[:2]] + rows[2:])
    assert bases(measured(world)) == {"lake"}
    gone = world.snapshots.get(world.scope, publication.snapshots[world.specs["congestion"].key])
    world.lake.path(gone.files[0].path).unlink()
    report = measured(world)
    assert of(report, "congestion.delay_2h").not_comparable == {
        f"{CHANGED} the snapshot's files are gone from the lake": 2
    }
    same = of(report, "congestion.departures_2h")
    assert (same.equal, same.judged_by) == (2, {"now": 2})
    (tmp_path / "departures.parquet").unlink()
    (reason,) = of(measured(world), "congestion.delay_2h").not_comparable
    assert reason.startswith("There is no file")


def test_an_encrypted_lake_judges_as_well(tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    world = World(tmp_path, *specs(tmp_path / "departures.parquet"), codec=AesGcmCodec(Keys()))
    world.publish(NOON)
    write(tmp_path / "departures.parquet", history()[:5])
    report = measured(world)
    assert (report.different, bases(report)) == (0, {"lake"})
    assert not any(one.not_comparable for one in report.features)
    world.close()


def test_a_query_over_tables_that_changed_is_judged_by_the_lake(tmp_path: Path) -> None:
    spec = made(tmp_path)
    world = World(tmp_path, spec)
    world.publish(DAY_SIX)
    for path in spec.source.paths:
        Path(path).unlink()
    report = measured_at(world, DAY_SIX + timedelta(hours=3))
    assert (report.compared, report.different, bases(report)) == (6, 0, {"lake"})
    world.close()


def measured_at(world: World, moment: object) -> SkewReport:
    from tests.integration.features.monitoring.test_skew import skew_of

    return skew_of(world).measure(list(world.specs.values()), as_of=moment)  # type: ignore[arg-type]
