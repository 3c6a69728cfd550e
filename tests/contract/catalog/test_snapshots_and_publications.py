from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, manifest

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import OnlinePublications, Publication, Publications
from antiphon.catalog.features.snapshots import Snapshots
from antiphon.core.errors import ConflictError, NotFoundError, WriteConflictError


def test_a_manifest_is_read_back_as_it_was_written(database: Database) -> None:
    snapshots = Snapshots(database)
    written = snapshots.add(manifest("s1", run="run_1", online_file="s1.lmdb"))
    assert snapshots.get(DEV, "s1") == written
    with pytest.raises(NotFoundError):
        snapshots.get(OTHER, "s1")


def test_a_snapshot_is_immutable(database: Database) -> None:
    snapshots = Snapshots(database)
    snapshots.add(manifest("s1"))
    snapshots.add(manifest("s1"))
    with pytest.raises(ConflictError, match="immutable"):
        snapshots.add(manifest("s1", logical_hash="another"))
    assert len(snapshots.list(DEV)) == 1


def test_snapshots_are_listed_latest_state_first(database: Database) -> None:
    snapshots = Snapshots(database)
    for number in (1, 3, 2):
        snapshots.add(manifest(f"s{number}", as_of=NOON + timedelta(hours=number)))
    snapshots.add(manifest("w1", view="weather"))
    snapshots.add(manifest("n1", definition_version="v2"))
    assert [m.id for m in snapshots.list(DEV, "congestion", "v1")] == ["s3", "s2", "s1"]
    assert [m.id for m in snapshots.list(DEV, "congestion", "v1", limit=1)] == ["s3"]
    assert {m.id for m in snapshots.list(DEV)} == {"s1", "s2", "s3", "w1", "n1"}


def test_a_publication_holds_everything_that_is_current(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    for name in ("a1", "a2", "b1"):
        snapshots.add(manifest(name))
    assert publications.current(DEV) is None
    first = publications.publish(DEV, {"a@v": "a1", "b@v": "b1"}, expected=0, reason="first", principal="me")
    second = publications.publish(DEV, {"a@v": "a2"}, expected=1, reason="fresh", principal="me")
    assert (first.number, second.number, second.base) == (1, 2, 1)
    assert second.snapshots == {"a@v": "a2", "b@v": "b1"}
    assert publications.current(DEV) == second
    assert publications.get(DEV, 1) == first
    third = publications.publish(DEV, {"b@v": None}, expected=2, reason="withdrawn", principal="me")
    assert third.snapshots == {"a@v": "a2"}
    assert [p.number for p in publications.list(DEV, 2)] == [3, 2]
    assert publications.current(OTHER) is None


def test_the_publication_of_an_earlier_moment_is_found(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    snapshots.add(manifest("a1"))
    served = []
    for number in range(3):
        made = publications.publish(DEV, {"a@v": "a1"}, expected=number, reason="fresh", principal="me")
        assert made.served_at is not None
        served.append(made.served_at)
    for number, moment in enumerate(served, 1):
        found = publications.at(DEV, moment)
        assert found is not None
        assert found.number == max(place for place, at in enumerate(served, 1) if at <= moment)
        assert number <= found.number
    assert publications.at(DEV, served[0] - timedelta(microseconds=1)) is None
    assert publications.at(OTHER, served[-1]) is None


def test_the_loser_of_a_publication_is_told_and_changes_nothing(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    snapshots.add(manifest("a1"))
    snapshots.add(manifest("a2"))
    publications.publish(DEV, {"a@v": "a1"}, expected=0, reason="first", principal="me")
    for expected in (0, 2):
        with pytest.raises(ConflictError, match="is not current"):
            publications.publish(DEV, {"a@v": "a2"}, expected=expected, reason="late", principal="you")
    current = publications.current(DEV)
    assert current is not None
    assert current.snapshots == {"a@v": "a1"}


def test_only_recorded_snapshots_of_the_scope_are_published(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    snapshots.add(manifest("a1", OTHER))
    with pytest.raises(NotFoundError, match="snapshot a1"):
        publications.publish(DEV, {"a@v": "a1"}, expected=0, reason="r", principal="me")
    assert publications.current(DEV) is None


def test_rollback_is_a_new_publication_with_old_snapshots(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    snapshots.add(manifest("a1"))
    snapshots.add(manifest("a2"))
    publications.publish(DEV, {"a@v": "a1"}, expected=0, reason="r", principal="me")
    publications.publish(DEV, {"a@v": "a2"}, expected=1, reason="r", principal="me")
    back = publications.rollback(DEV, 1, expected=2, reason="drift", principal="me")
    assert (back.number, back.base, back.snapshots, back.reason) == (3, 1, {"a@v": "a1"}, "drift")
    with pytest.raises(NotFoundError):
        publications.rollback(DEV, 9, expected=3, reason="r", principal="me")
    with pytest.raises(WriteConflictError, match="Publication 2 is not current any more; 3 is"):
        publications.rollback(DEV, 1, expected=2, reason="r", principal="me")
    assert publications.current(DEV) == back


def test_a_rollback_withdraws_nothing_that_was_published_since(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    for name in ("a1", "a2", "b1"):
        snapshots.add(manifest(name))
    publications.publish(DEV, {"a@v": "a1"}, expected=0, reason="r", principal="me")
    publications.publish(DEV, {"a@v": "a2", "a@w": "b1"}, expected=1, reason="r", principal="me")
    back = publications.rollback(DEV, 1, expected=2, reason="drift", principal="me")
    assert back.snapshots == {"a@v": "a1", "a@w": "b1"}, "a release pins a@w"


def test_a_publication_is_announced_before_it_is_served(database: Database) -> None:
    snapshots, publications = Snapshots(database), Publications(database)
    for name in ("a1", "a2", "a3"):
        snapshots.add(manifest(name))
    assert publications.online(DEV) == OnlinePublications(None)

    def announced(number: int) -> Publication:
        with database.transaction() as connection:
            return publications.publish(
                DEV, {"a@v": f"a{number}"}, expected=number - 1, reason="r", principal="me", within=connection
            )

    first = announced(1)
    assert first.served_at is None
    assert publications.online(DEV) == OnlinePublications(None, (first,))
    first = publications.serve(first)
    assert first.served_at == NOON
    assert publications.online(DEV) == OnlinePublications(first)
    second, third = announced(2), announced(3)
    assert publications.online(DEV) == OnlinePublications(first, (second, third))
    assert (publications.current(DEV), publications.latest(DEV)) == (first, third)
    third = publications.serve(third)
    assert publications.online(DEV) == OnlinePublications(third)
    assert publications.serve(second).number == 2, "it was passed over"
    assert publications.online(DEV) == OnlinePublications(third)
    assert publications.serve(third) == third
    back = publications.rollback(DEV, 1, expected=3, reason="drift", principal="me")
    assert publications.online(DEV) == OnlinePublications(back)
    assert publications.online(OTHER) == OnlinePublications(None)
