"""Skew: what is read online against the batch query, in a world in which all is right, and one defect at a time."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.partitions import apply_through
from tests.integration.features.altered import alter as altered
from tests.integration.features.desk import history, write
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.sources.test_sql_source import NOON as DAY_SIX
from tests.integration.features.sources.test_sql_source import made
from tests.integration.features.world import NOON, World, minutes

from antiphon import Entity, Source, col, feature_view, frequency, on_demand, on_demand_view, request, target
from antiphon.catalog.features.skew_reports import FeatureSkew, SkewReport
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.errors import ConflictError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.monitoring.skew.measure import GONE, LATE, Skew
from antiphon.features.monitoring.skew.predictions import PredictionFeatures
from antiphon.features.monitoring.skew.report import same
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.tiles.tile import Tile
from antiphon.features.values import FeatureVector


def skew_of(world: World) -> Skew:
    return Skew(world.catalog, reader=world.new_reader(), log=world.log, overlay=world.overlay)


def measured(world: World, *served: PredictionFeatures, at: float = 0.0, **options: Any) -> SkewReport:
    return skew_of(world).measure(list(world.specs.values()), served, as_of=NOON + minutes(at), **options)


def of(report: SkewReport, feature: str, path: str = "online") -> FeatureSkew:
    return next(one for one in report.features if (f"{one.view}.{one.feature}", one.path) == (feature, path))


def served(vector: FeatureVector, prediction: str, at: float, **keys: str) -> PredictionFeatures:
    """What a receipt says about a reading; through JSON, as it is stored."""
    features = [
        FeatureReceipt(
            name, value.value, None, value.definition_version, value.snapshot, value.event_time, None, "fresh",
            value.stream_offset,
        )
        for name, value in vector.values.items()
    ]  # fmt: skip
    stored = msgspec.json.decode(msgspec.json.encode(features), type=tuple[FeatureReceipt, ...])
    return PredictionFeatures(prediction, keys, NOON + minutes(at), stored)


def ask(world: World, number: int, at: float) -> PredictionFeatures:
    return served(world.read(NOON + minutes(at), **EWR), f"pred_{number}", at, **EWR)


def alter(world: World, view: str, snapshot: str) -> None:
    """Another count and sum in some tiles of every entity, under a seal that fits: what a broken builder leaves."""
    file = world.online.file(world.scope, view, snapshot)

    def change(tile: Tile) -> None:
        tile.count += 1
        tile.total += 1

    altered(file, snapshot, change, latest=3)
    world.online.forget(world.scope, [])
    world.reader = world.new_reader()


def test_where_nothing_is_wrong_nothing_is_reported(world: World) -> None:
    world.publish(NOON)
    first = ask(world, 1, 0)
    world.append(
        "departures", departure(9001, 5, -3.0), departure(9002, -5, 25.0), departure(9003, 6, 1.5, origin="JFK")
    )
    world.consume()
    asked = [first, *(ask(world, number, at) for number, at in enumerate((3, 5, 20, 90), start=2))]
    world.clock.advance(minutes(30))
    world.publish(NOON + minutes(30))
    asked += [ask(world, 6, 30), ask(world, 7, 31)]
    report = measured(world, *asked, at=40)
    assert [one.feature for one in report.features if one.different or one.not_comparable] == []
    assert (report.different, report.complete, report.publication, report.predictions) == (0, True, 2, 7)
    assert of(report, "congestion.departures_2h").compared == 3, "with the airport that only the stream has told of"
    assert of(report, "congestion.delay_2h", "served").equal == 7
    assert report.compared == sum(one.equal for one in report.features) == 5 * 7 + 3 * 3 + 2 * 3


def test_an_altered_sealed_value_is_found_and_named(world: World) -> None:
    publication = world.publish(NOON)
    good = ask(world, 1, 0)
    alter(world, "route_history", publication.snapshots[world.specs["route_history"].key])
    report = measured(world, good, ask(world, 2, 0))
    assert {(one.view, one.feature, one.path) for one in report.features if one.different} == {
        ("route_history", "flights", "online"), ("route_history", "flights", "served"),
        ("route_history", "late_share", "online"), ("route_history", "late_share", "served"),
    }  # fmt: skip
    found = of(report, "route_history.flights", "served")
    assert (found.compared, found.equal, found.different) == (2, 1, 1), (
        "what was served before it was altered was right"
    )
    example = found.examples[0]
    assert example.entity == EWR
    assert isinstance(example.online, int)
    assert example.batch == 28 * 24 - 1 < example.online
    assert example.prediction == "pred_2"
    bare = of(report.without_entities(), "route_history.flights", "served").examples[0]
    assert (bare.entity, bare.prediction, bare.online) == (None, None, example.online)


def test_an_event_that_the_consumer_dropped_is_found(world: World) -> None:
    world.publish(NOON)
    for number in range(4):
        world.append("departures", departure(9001 + number, 5 + number, -3.0))
        if number == 1:  # it moves on without having written the event
            prefixes = [view_prefix(spec.key) for spec in world.specs.values()]
            apply_through(world.overlay, dict.fromkeys(prefixes, 2))
        world.consume()
    late = ask(world, 1, 20)
    report = measured(world, late, ask(world, 2, 5), at=20)
    found = of(report, "congestion.departures_2h")
    assert (found.compared, found.different) == (2, 1)
    assert (found.examples[0].online, found.examples[0].batch, found.examples[0].through) == (4, 5, 4)
    assert [(one.different, one.equal) for one in (of(report, "congestion.departures_2h", "served"),)] == [(1, 1)]
    assert of(report, "congestion.departures_2h", "served").examples[0].prediction == "pred_1"
    assert of(report, "congestion.latest").different == 0, "the latest was not the one that was dropped"


def test_events_that_arrive_meanwhile_are_no_difference(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.publish(NOON)
    skew = skew_of(world)
    consumed = skew._consumed

    def meanwhile(spec: FeatureViewSpec) -> int | None:
        found = consumed(spec)
        world.append("departures", departure(9000 + len(spec.name), 5, -3.0))
        world.consume()
        return found

    monkeypatch.setattr(skew, "_consumed", meanwhile)
    report = skew.measure([world.specs["congestion"]], as_of=NOON + minutes(10))
    assert report.different == 0
    found = of(report, "congestion.departures_2h")
    assert (found.equal, found.not_comparable) == (2, {}), "one of them with an event that the beginning did not know"


def test_what_cannot_be_brought_to_the_same_knowledge_says_why(world: World) -> None:
    world.publish(NOON, "congestion")
    one = ask_view(world, "congestion", 1)
    assert of(measured(world, one), "route_history.flights").not_comparable == {"it is not published": 1}
    gone = msgspec.structs.replace(
        one, features=tuple(msgspec.structs.replace(each, snapshot="snap_gone") for each in one.features)
    )
    hidden = [
        msgspec.structs.replace(one, features=tuple(msgspec.structs.replace(each, **changes) for each in one.features))
        for changes in ({"contract": "masked"}, {"contract": "defaulted"}, {"snapshot": None})
    ]
    report = measured(world, gone, *hidden, msgspec.structs.replace(one, keys=None))
    assert of(report, "congestion.latest", "served").not_comparable == {
        GONE: 1, "policy hid it": 1, "its freshness contract gave a default": 1, "it was read from a dataset": 1,
        "its entity was erased": 1,
    }  # fmt: skip
    assert of(report, "congestion.latest", "served").compared == 0
    world.log.append(world.scope, "departures", [])
    apply_through(world.overlay, {view_prefix(world.specs["congestion"].key): 5})
    assert of(measured(world), "congestion.latest").not_comparable == {"the overlay is ahead of the log": 1}


def ask_view(world: World, view: str, number: int) -> PredictionFeatures:
    return served(world.read(NOON, view, **EWR), f"pred_{number}", 0, **EWR)


def test_time_is_bounded_and_there_is_one_at_a_time(world: World) -> None:
    world.publish(NOON)
    report = measured(world, ask(world, 1, 0), seconds=0.0)
    assert not report.complete
    assert report.compared == 0
    assert of(report, "congestion.latest", "online").not_comparable == {LATE: 1}
    assert of(report, "congestion.latest", "served").not_comparable == {LATE: 1}
    skew, said = skew_of(world), list[str]()

    def again(done: int, total: int, note: str) -> None:
        said.append(f"{done}/{total} {note}")
        with pytest.raises(ConflictError, match="compared already"):
            skew.measure([])

    skew.measure(list(world.specs.values()), progress=again)
    assert said == ["0/2 online congestion", "1/2 online route_history", "2/2 compared"]


def test_a_view_over_a_query_is_compared_too(tmp_path: Path) -> None:
    spec = made(tmp_path)
    world = World(tmp_path, spec)
    world.publish(DAY_SIX)
    again = world.publish(DAY_SIX + timedelta(days=1))
    report = skew_of(world).measure([spec], as_of=DAY_SIX + timedelta(days=1, hours=3))
    assert (report.compared, report.different, report.publication) == (6, 0, 2)
    alter(world, "daily", again.snapshots[spec.key])
    report = skew_of(world).measure([spec], as_of=DAY_SIX + timedelta(days=1, hours=3))
    assert of(report, "daily.week").different == 2
    world.close()


def test_encodings_are_compared_at_their_midnight(tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    table = Source.table(
        "flights", path=str(tmp_path / "departures.parquet"), event_time="scheduled", available_at="departed"
    )

    @feature_view(entity=Entity("origin", ["origin"]), source=table)
    class Encoded:
        share = frequency(window="14d")
        lateness = target(col.dep_delay > 15, smoothing=10, window=None)

    spec = Encoded.spec()
    world = World(tmp_path, spec)
    publication = world.publish(NOON)
    vector = world.read(NOON + timedelta(days=1), origin="EWR")
    assert vector.values["encoded.share"].value == pytest.approx(0.5, abs=0.01)
    report = measured(world, served(vector, "pred_1", 24 * 60, origin="EWR"), at=60 * 30)
    assert (report.compared, report.different) == (2 * 2 + 2, 0)
    alter(world, "encoded", publication.snapshots[spec.key])
    assert measured(world, at=60 * 30).different > 0
    world.close()


def test_on_demand_features_of_a_prediction_are_computed_anew(world: World) -> None:
    @on_demand_view(inputs={"minutes": "number"})
    class Compared:
        ratio = on_demand(request.minutes / 4)

    spec = Compared.spec()
    features = (FeatureReceipt("compared.ratio", 2.5, None, spec.definition_version, None, None, None, "fresh"),)
    asked = PredictionFeatures("pred_1", EWR, NOON, features, {"minutes": 10.0}, (spec,))
    wrong = msgspec.structs.replace(
        asked, prediction="pred_2", features=(msgspec.structs.replace(features[0], value=2.4),)
    )
    erased = msgspec.structs.replace(asked, prediction="pred_3", inputs=None)
    assert skew_of(world).measure([], [wrong], on_demand=["another"]).features == ()
    found = of(skew_of(world).measure([], [asked, wrong, erased]), "compared.ratio", "served")
    assert (found.compared, found.equal, found.different) == (2, 1, 1)
    assert (found.examples[0].online, found.examples[0].batch) == (2.4, 2.5)
    assert found.not_comparable == {"what the request said was erased": 1}


def test_values_are_the_same_bit_for_bit_or_not() -> None:
    assert same(0.1 + 0.2, 0.1 + 0.2)
    assert not same(0.1 + 0.2, 0.3)
    assert not same(0.0, -0.0)
    assert not same(1, 1.0)
    assert not same(True, 1)
    assert same(None, None)
