"""Reading features: the window rule, the overlay, leases, broken files and a catalog that is away."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.integration.features.desk import flight
from tests.integration.features.world import NOON, World, event, minutes

from antiphon.catalog.features.publications import OnlinePublications, Publication
from antiphon.core.errors import FeatureUnavailableError, InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.writer import seal_path
from antiphon.features.online.lookup import FeatureReader

EWR = {"origin": "EWR", "dest": "SFO"}


def departure(number: int, scheduled: float, delay: float | None, **changes: object) -> object:
    row = flight(number, NOON + minutes(scheduled), delay) | changes
    return event(str(row.pop("id")), row.pop("scheduled"), row.pop("departed"), **row)


def test_a_snapshot_answers_as_of_its_moment(world: World) -> None:
    world.publish(NOON)
    vector = world.read(NOON, **EWR)
    # Flights at 11:00 and, exactly on the open edge, 10:00: the window is (10:00, 12:00].
    assert vector.values["congestion.departures_2h"].value == 1
    assert vector.values["congestion.departures_2h"].event_time == NOON - minutes(60)
    assert vector.values["route_history.flights"].value == 28 * 24 - 1
    assert vector.publication == 1
    assert vector.refreshed == {"congestion": NOON, "route_history": NOON}
    assert not vector.catalog_away


def test_a_streamed_event_counts_from_when_it_is_available_and_due(world: World) -> None:
    world.publish(NOON)
    # Early: left at 12:02, due at 12:05. Late: due at 11:55, left at 12:20.
    world.append("departures", departure(9001, 5, -3.0), departure(9002, -5, 25.0))
    world.consume()
    counts = {
        at: world.read(NOON + minutes(at), **EWR).values["congestion.departures_2h"] for at in (0, 3, 4.9, 5, 19, 20)
    }
    assert [value.value for value in counts.values()] == [1, 1, 1, 2, 2, 3]
    assert counts[4.9].stream_offset is None
    assert counts[5].stream_offset == 1
    assert counts[20].stream_offset == 2
    # The latest by event time is the early flight, not the one that arrived last.
    assert world.read(NOON + minutes(20), **EWR).values["congestion.latest"].value == -3.0


def test_an_event_already_in_the_snapshot_stays_hidden_until_it_is_available(world: World) -> None:
    world.append("departures", departure(9002, -5, 25.0))
    world.publish(NOON)
    assert world.read(NOON, **EWR).values["congestion.departures_2h"].value == 1
    assert world.read(NOON + minutes(20), **EWR).values["congestion.departures_2h"].value == 2


def test_an_older_moment_is_answered_without_what_came_later(world: World) -> None:
    early = world.publish(NOON - minutes(90))
    before = world.read(NOON - minutes(90), **EWR).values
    world.append("departures", departure(9002, -95, 25.0))
    world.publish(NOON)
    after = world.read(NOON - minutes(90), **EWR)
    assert after.publication == early.number + 1
    assert {name: item.value for name, item in after.values.items()} == {
        name: item.value for name, item in before.items()
    }
    with pytest.raises(FeatureUnavailableError, match="more than a week before"):
        world.read(NOON - timedelta(days=8), **EWR)


def test_redelivery_and_a_second_consumer_change_nothing(world: World) -> None:
    world.publish(NOON)
    world.append("departures", departure(9001, 5, -3.0))
    world.consume()
    before = world.read(NOON + minutes(10), **EWR)
    world.append("departures", departure(9001, 5, -3.0))
    for spec in world.specs.values():
        world.consumer.restore(spec, 0, 1)
    world.consume()
    assert world.read(NOON + minutes(10), **EWR) == before
    assert [view.consumed for status in world.consumer.status(NOON) for view in status.views] == [1, 1]


def test_an_event_told_by_history_and_log_counts_once(world: World) -> None:
    world.publish(NOON)
    known = flight(1, NOON - minutes(60), -2.0)  # the flight at 11:00 is f1 in the history
    world.append("departures", event(known.pop("id"), known.pop("scheduled"), known.pop("departed"), **known))
    world.consume()
    assert world.read(NOON, **EWR).values["congestion.departures_2h"].value == 1


def test_events_without_keys_are_counted_and_left_out(world: World) -> None:
    world.publish(NOON)
    world.append("departures", event("broken", NOON, dep_delay=3), departure(9001, 5, 0.0))
    world.consume()
    (status,) = world.consumer.status(NOON)
    assert {view.view: view.rejected for view in status.views} == {"congestion": 1, "route_history": 1}
    assert world.read(NOON + minutes(10), **EWR).values["congestion.departures_2h"].value == 2
    assert world.materialize("congestion", NOON).rows_rejected == 1


def test_an_unknown_entity_has_no_values(world: World) -> None:
    world.publish(NOON)
    values = world.read(NOON, origin="JFK", dest="SFO").values
    assert values["congestion.departures_2h"].value == 0
    assert values["congestion.delay_2h"].value is None
    assert values["congestion.latest"].value is None
    assert values["congestion.latest"].event_time is None


def test_an_entity_first_seen_in_the_stream_is_known(world: World) -> None:
    world.publish(NOON)
    world.append("departures", departure(9001, 5, 7.0, origin="JFK"))
    world.consume()
    values = world.read(NOON + minutes(30), origin="JFK", dest="SFO").values
    assert values["congestion.delay_2h"].value == 7.0
    assert values["route_history.flights"].value == 1


def test_many_entities_and_moments_come_from_one_publication(world: World) -> None:
    world.publish(NOON)
    versions = {name: spec.definition_version for name, spec in world.specs.items()}
    moments = [NOON, NOON + minutes(61)]
    vectors = world.reader.read_many(versions, [EWR, {**EWR, "origin": "LGA"}], moments)
    single = [world.read(NOON, **EWR), world.read(NOON + minutes(61), **{**EWR, "origin": "LGA"})]
    assert vectors == single
    with pytest.raises(InvalidInputError, match="2 entities but 1 moments"):
        world.reader.read_many(versions, [EWR, EWR], [NOON])


def test_what_cannot_be_read_says_so(world: World) -> None:
    with pytest.raises(FeatureUnavailableError, match="Nothing is published"):
        world.read(NOON, **EWR)
    world.publish(NOON, "congestion")
    with pytest.raises(FeatureUnavailableError, match="'route_history' is not published"):
        world.read(NOON, **EWR)
    with pytest.raises(InvalidInputError, match="entity key 'origin' is missing"):
        world.read(NOON, "congestion", dest="SFO")
    versions = {"congestion": world.specs["congestion"].definition_version}
    with pytest.raises(UnavailableError, match="Publication 7 is not readable here yet; 1 is"):
        world.reader.read(versions, EWR, NOON, minimum_publication=7)


@pytest.mark.parametrize("harm", ["no seal", "another seal", "changed bytes", "no file"])
def test_a_broken_file_means_the_publication_before_never_null(world: World, harm: str) -> None:
    world.publish(NOON - minutes(60))
    expected = world.read(NOON, **EWR)
    publication = world.publish(NOON)
    snapshot = publication.snapshots[world.specs["congestion"].key]
    file = world.online.file(world.scope, "congestion", snapshot)
    if harm == "no seal":
        seal_path(file).unlink()
    elif harm == "another seal":
        seal_path(file).write_text('{"snapshot": "snap_other", "sha256": "0", "bytes": 1}')
    elif harm == "changed bytes":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    found = world.new_reader().read({n: s.definition_version for n, s in world.specs.items()}, EWR, NOON)
    assert found.publication == 1
    assert found.values == expected.values
    with pytest.raises(UnavailableError, match="Publication 2 is not readable"):
        world.new_reader().read(
            {n: s.definition_version for n, s in world.specs.items()}, EWR, NOON, minimum_publication=2
        )


class FlakyCatalog:
    """The catalog's publications, away when told so."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.away = False
        self.asked = 0

    def online(self, scope: Scope) -> OnlinePublications:
        self.asked += 1
        if self.away:
            raise UnavailableError("The catalog is away.")
        return self._world.publications.online(scope)

    def get(self, scope: Scope, number: int) -> Publication:
        return self._world.publications.get(scope, number)


def test_the_lease_bounds_how_long_an_old_publication_is_served(world: World) -> None:
    world.publish(NOON - minutes(60))
    catalog = FlakyCatalog(world)
    reader = FeatureReader(
        world.scope, publications=catalog, online=world.online, clock=world.clock, overlay=world.overlay, lease=0.1
    )
    versions = {n: s.definition_version for n, s in world.specs.items()}
    assert reader.read(versions, EWR, NOON).publication == 1
    world.publish(NOON)
    assert reader.read(versions, EWR, NOON).publication == 1
    world.clock.advance(timedelta(milliseconds=99))
    assert reader.read(versions, EWR, NOON).publication == 1
    assert catalog.asked == 1
    world.clock.advance(timedelta(milliseconds=1))
    assert reader.read(versions, EWR, NOON).publication == 2
    with pytest.raises(InvalidInputError, match=r"at most 0\.1 s"):
        FeatureReader(world.scope, publications=catalog, online=world.online, clock=world.clock, lease=0.2)


def test_without_the_catalog_the_leased_publication_is_served_and_said_so(world: World) -> None:
    world.publish(NOON)
    catalog = FlakyCatalog(world)
    reader = FeatureReader(
        world.scope, publications=catalog, online=world.online, clock=world.clock, overlay=world.overlay, lease=0.0
    )
    versions = {n: s.definition_version for n, s in world.specs.items()}
    assert not reader.read(versions, EWR, NOON).catalog_away
    catalog.away = True
    vector = reader.read(versions, EWR, NOON)
    assert vector.catalog_away
    assert vector.publication == 1
    catalog.away = False
    assert not reader.read(versions, EWR, NOON).catalog_away
