"""What find_pins a snapshot, and what pins it no longer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotFile, SnapshotManifest
from antiphon.catalog.features.verdicts import StagedSnapshot
from antiphon.core.scope import Scope
from antiphon.features.publication.prune import PruneResult, SnapshotPin, find_pins

NOW = datetime(2013, 4, 10, 12, tzinfo=UTC)
FILE = SnapshotFile("p", "0" * 64, 1, 10)


def days(number: float) -> datetime:
    return NOW - timedelta(days=number)


def manifest(name: str, at: datetime, version: str = "v1") -> SnapshotManifest:
    return SnapshotManifest(
        name, Scope(), "view", version, at, (FILE, FILE, FILE), "l", 1, 1, 0, "source", "hash", at
    )  # fmt: skip


def publication(number: int, snapshot: str, at: datetime) -> Publication:
    return Publication(Scope(), number, {"view@v1": snapshot}, "r", "p", at, number - 1, at)


MANIFESTS = [manifest(f"s{age}", days(age)) for age in (1, 35, 45, 50, 60)]
PUBLICATIONS = [
    publication(4, "s1", days(1)), publication(3, "s35", days(35)), publication(2, "s45", days(45)),
    publication(1, "s60", days(60)),
]  # fmt: skip


def pinned(**changes: object) -> dict[str, tuple[SnapshotPin, ...]]:
    given = {
        "now": NOW, "kept": timedelta(days=30), "releases": {}, "receipts": lambda since, until: 0,
        "publications_kept": 1, "manifests": MANIFESTS, "publications": PUBLICATIONS, "staged": [],
    }  # fmt: skip
    arguments = given | changes
    lists = [arguments.pop(name) for name in ("manifests", "publications", "staged")]
    return find_pins(*lists, **arguments)  # type: ignore[arg-type]


def test_a_snapshot_stays_so_long_after_it_was_last_served() -> None:
    found = pinned()
    assert [pin.kind for pin in found["s1"]] == ["publication", "age"]
    # It was current until the day before yesterday, however old it is.
    assert found["s35"] == (SnapshotPin("age", "until 2013-05-09 12:00:00Z"),)
    assert found["s45"] == found["s50"] == found["s60"] == ()


def test_kept_publications_pin_whatever_their_age() -> None:
    found = pinned(publications_kept=3)
    assert found["s45"] == (SnapshotPin("publication", "2"),)
    assert found["s60"] == ()
    assert pinned(publications_kept=4)["s60"] == (SnapshotPin("publication", "1"),)


def test_a_snapshot_that_comes_back_is_served_again() -> None:
    back = [publication(5, "s60", days(0.5)), *PUBLICATIONS]
    assert [pin.kind for pin in pinned(publications=back)["s60"]] == ["publication", "age"]
    long_ago = [publication(6, "s1", days(40)), publication(5, "s60", days(41)), *PUBLICATIONS[1:]]
    assert pinned(publications=long_ago)["s60"] == ()


def test_an_embargo_and_a_release_pin() -> None:
    staged = StagedSnapshot(Scope(), "view", "v1", "s50", NOW + timedelta(hours=1), "r", "p")
    assert pinned(staged=[staged])["s50"] == (SnapshotPin("embargo", "until 2013-04-10 13:00:00Z"),)
    old = manifest("s70", days(70), "v0"), manifest("s80", days(80), "v0")
    found = pinned(manifests=[*MANIFESTS, *old], releases={"view@v0": ["rel_1", "rel_2"]})
    assert found["s70"] == (SnapshotPin("release", "rel_1"), SnapshotPin("release", "rel_2"))
    assert found["s80"] == (), "of a definition version that a release reads the latest snapshot stays"


def test_receipts_are_counted_once_for_each_time_a_snapshot_was_served() -> None:
    asked: list[tuple[datetime, datetime]] = []

    def receipts(since: datetime, until: datetime) -> int:
        asked.append((since, until))
        return 7

    together = [msgspec.structs.replace(one, snapshots={**one.snapshots, "other@v1": "s2"}) for one in PUBLICATIONS[:2]]
    found = pinned(publications=together, manifests=[*MANIFESTS, manifest("s2", days(2))], receipts=receipts)
    assert SnapshotPin("receipt", "7 receipts") in found["s35"]
    assert SnapshotPin("receipt", "14 receipts") in found["s2"]
    assert sorted(asked) == [(days(35), days(1)), (days(1), NOW)]


def test_what_was_made_and_never_served_stays_as_long() -> None:
    found = pinned(manifests=[manifest("new", days(29)), manifest("old", days(31))])
    assert [pin.kind for pin in found["new"]] == ["age"]
    assert found["old"] == ()


def test_nothing_is_said_of_nothing() -> None:
    assert PruneResult(False, (), (), (), 0, (), (), 0).summary() == ""
    assert PruneResult(False, (), (), (), 0, ("a", "b"), (), 3).summary() == "2 files of the lake, 3 streamed events"


def test_a_view_that_was_only_backfilled_is_pinned_by_that_alone() -> None:
    past = manifest("s9", days(90), "v9")
    found = pinned(manifests=[*MANIFESTS, past], backfills={"s9": "run_1"}, releases={"view@v9": ("rel_1",)})
    assert found["s9"] == (SnapshotPin("backfill", "run_1"),)
