"""Pruning over real stores: files of what nothing pins go, and nothing that is pinned; quarantined rows expire."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.features.monitoring.test_quality import Airport
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, minutes

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import NotFoundError
from antiphon.definitions import expect
from antiphon.features.offline.history import ViewHistory
from antiphon.features.online.lmdb.writer import seal_path
from antiphon.features.publication.prune import Pruner

MONTH = timedelta(days=30)
NEVER = timedelta(days=400_000)
"""Files carry the machine's time, and the world's clock stands in 2013: with minus this as grace all are old enough."""


def pruner(world: World, *, quarantine: timedelta = MONTH) -> Pruner:
    return Pruner(
        world.catalog,
        publisher=world.publisher,
        releases=dict,
        receipts=lambda since, until: 0,
        datasets=list,
        kept=MONTH,
        quarantine_kept=quarantine,
    )


def made(world: World, count: int, every: timedelta) -> list[SnapshotManifest]:
    """One view published so many times."""
    found = []
    for turn in range(count):
        found.append(world.materialize("congestion", NOON - minutes(60 * (5 - turn))))
        world.publisher.publish([(found[-1], world.specs["congestion"])], reason="test", principal="tester")
        world.clock.advance(every)
    return found


def own(manifest: SnapshotManifest, *others: SnapshotManifest) -> list[str]:
    """Files of a snapshot that no other has: those of one content, such as empty ones, are one file."""
    shared = {file.path for other in others for file in other.files}
    return [file.path for file in manifest.files if file.path not in shared]


def there(world: World, paths: list[str]) -> list[bool]:
    return [(world.folder / "lake" / path).exists() for path in paths]


def test_files_go_that_nothing_pins_and_no_other(world: World) -> None:
    first, second, third = made(world, 3, timedelta(days=20))
    # Sixty days on: the first was replaced 40 days ago, the second 20.
    before = pruner(world).prune(dry=True, keep=1, grace=-NEVER)
    assert [line.snapshot for line in before.snapshots] == [first.id]
    assert {line.snapshot: [pin.kind for pin in line.pins] for line in before.kept} == {
        third.id: ["publication", "age"],
        second.id: ["age"],
    }
    gone, stay = own(first, second, third), [file.path for one in (second, third) for file in one.files]
    assert len(gone) == 2
    assert set(gone) <= set(before.lake)
    assert all(there(world, gone)), "a dry pruning removes nothing"
    assert world.snapshots.pruned_at(world.scope, first.id) is None
    found = pruner(world).prune(keep=1, grace=-NEVER)
    assert [line.snapshot for line in found.snapshots] == [first.id]
    assert set(found.lake) == set(gone) == set(before.lake)
    assert not any(there(world, gone))
    assert all(there(world, stay))
    assert world.read(NOON, "congestion", **EWR).publication == 3
    assert world.snapshots.get(world.scope, first.id).statistics == first.statistics, "what it was stays known"
    with pytest.raises(NotFoundError, match=f"The files of {first.id} were pruned on"):
        world.publisher.rollback(1, reason="drift", principal="tester")
    assert world.publisher.rollback(2, reason="drift", principal="tester").number == 4
    assert pruner(world).prune(keep=1, grace=-NEVER).snapshots == ()


def test_the_catalog_refuses_a_publication_of_what_was_pruned(world: World) -> None:
    """As when somebody rolls back while somebody else prunes, and has looked before."""
    first, second = made(world, 2, timedelta(days=40))
    assert world.snapshots.prune(world.scope, [first.id, second.id], keep=1) == [first.id]
    with pytest.raises(NotFoundError, match=f"Not recorded, pruned, or a backfill's: snapshot {first.id}"):
        world.publications.rollback(world.scope, 1, expected=2, reason="drift", principal="tester")
    with pytest.raises(NotFoundError, match="pruned"):
        world.publications.publish(world.scope, {first.key: first.id}, expected=2, reason="drift", principal="tester")


def test_what_is_made_again_has_its_files_again(world: World) -> None:
    first, _ = made(world, 2, timedelta(days=40))
    pruner(world).prune(keep=1, grace=-NEVER)
    again = world.materialize("congestion", first.as_of)
    assert again.id == first.id
    world.publisher.prepare(again, world.specs["congestion"])
    assert world.snapshots.pruned_at(world.scope, first.id) is None
    assert all(there(world, own(first)))
    assert world.publisher.rollback(1, reason="drift", principal="tester").number == 3


def test_a_crash_between_leaves_files_to_the_next_collection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = made(world, 2, timedelta(days=40))

    def die(**given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(world.publisher, "collect_garbage", die)
        with pytest.raises(KeyboardInterrupt):
            pruner(world).prune(keep=1, grace=-NEVER)
    assert world.snapshots.pruned_at(world.scope, first.id) is not None
    assert all(there(world, own(first)))
    collected = world.publisher.collect_garbage(keep=1, grace=-NEVER)
    assert set(own(first, second)) <= set(collected.lake)


async def test_quarantined_rows_expire_and_their_counts_stay(tmp_path: Path) -> None:
    airport = Airport(tmp_path)
    world = airport.world
    try:
        airport.declare(expect.between("dep_delay", -8.5, 600, action="quarantine"))
        verdict = await airport.refresh()
        assert verdict.kept_aside is not None
        file = world.folder / "lake" / verdict.kept_aside
        history = ViewHistory(world.catalog)

        def shown() -> tuple[int, dict[str, int], int, datetime | None]:
            found = history.quarantine(world.scope, "delays", limit=3)
            assert found is not None
            return found.total, found.reasons, len(found.rows), found.expired_at

        total, reasons, rows, expired_at = shown()
        assert (rows, expired_at) == (3, None)
        world.clock.advance(MONTH - timedelta(hours=1))
        assert pruner(world).prune(grace=-NEVER).expired == ()
        assert file.exists()
        world.clock.advance(timedelta(hours=2))
        dry = pruner(world).prune(dry=True, grace=-NEVER)
        assert [line.verdict for line in dry.expired] == [verdict.id]
        assert shown()[2:] == (3, None)
        found = pruner(world).prune(grace=-NEVER)
        assert [line.verdict for line in found.expired] == [verdict.id]
        assert verdict.kept_aside in found.lake
        assert not file.exists()
        assert shown() == (total, reasons, 0, world.clock.now())
        described = history.describe(world.scope, "delays", verdict.definition_version)
        assert described.current is not None
        assert described.current.quarantined is not None
        assert described.rows_expired_at == world.clock.now()
        assert pruner(world).prune(grace=-NEVER).expired == ()
    finally:
        world.close()


async def test_rows_that_a_younger_verdict_also_has_stay(tmp_path: Path) -> None:
    """Files are named by their content: the same rows kept aside twice are one file."""
    airport = Airport(tmp_path)
    world = airport.world
    try:
        airport.declare(expect.between("dep_delay", -8.5, 600, action="quarantine"))
        old = await airport.refresh()
        world.clock.advance(MONTH)
        young = await airport.refresh()
        assert old.kept_aside == young.kept_aside
        assert old.kept_aside is not None
        found = pruner(world).prune(grace=-NEVER)
        assert [line.verdict for line in found.expired] == [old.id]
        assert (world.folder / "lake" / old.kept_aside).exists()
        assert world.verdicts.expired_at(world.scope, young.id) is None
    finally:
        world.close()


def test_files_that_another_snapshot_also_has_stay(world: World) -> None:
    """Nothing happened within that minute: two snapshots of the same files."""
    first = world.materialize("congestion", NOON - minutes(59))
    world.publisher.publish([(first, world.specs["congestion"])], reason="test", principal="tester")
    second = world.materialize("congestion", NOON - minutes(58))
    world.publisher.publish([(second, world.specs["congestion"])], reason="test", principal="tester")
    world.clock.advance(timedelta(days=40))
    assert first.id != second.id
    assert {file.path for file in first.files} & {file.path for file in second.files}
    assert [line.snapshot for line in pruner(world).prune(keep=1, grace=-NEVER).snapshots] == [first.id]
    assert all(there(world, own(second)))


def test_two_collections_at_once_delete_each_file_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else is faster with every other file, between the look and the deletion."""
    made(world, 2, timedelta(days=40))
    for folder in ("lake", "online"):
        for file in (world.folder / folder).rglob("*.*"):
            if file.is_file() and not file.name.startswith("overlay"):
                file.with_name(f"{file.stem}-unnamed{file.suffix}").write_bytes(b"left by a crash")
    (world.folder / "lake" / ".scratch" / "left").write_bytes(b"left by a crash")
    look, turn = Path.stat, 0

    def stat(path: Path, **how: bool) -> os.stat_result:
        nonlocal turn
        found = look(path, **how)
        if "unnamed" in path.name or path.name == "left":
            turn += 1
            if turn % 2:
                path.unlink(missing_ok=True)
        return found

    with monkeypatch.context() as another:
        another.setattr(Path, "stat", stat)
        world.publisher.collect_garbage(keep=1, grace=-NEVER)
    assert turn > 4
    assert not list(world.folder.rglob("*unnamed*"))
    assert not list((world.folder / "lake" / ".scratch").iterdir())
    assert world.read(NOON, "congestion", **EWR).publication == 2


def test_a_build_that_is_collected_while_it_is_looked_at_is_built_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = made(world, 1, minutes(1))
    spec = world.specs["congestion"]
    file = world.online.file(world.scope, "congestion", first.id)
    touch = os.utime

    def collected(path: Path) -> None:
        if path == seal_path(file):
            file.unlink()
        touch(path)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "utime", collected)
        assert world.online.build(first, spec, world.lake)
    assert world.online.sealed(world.scope, "congestion", first.id)
