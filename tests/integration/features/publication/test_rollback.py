"""One view goes back to an earlier snapshot, with everything that it needs, while the others stay."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.integration.features.offline.test_refresh import run_refresh
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.world import NOON, World, minutes

from antiphon.catalog.features.verdicts import StagedSnapshot
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.refresh import RefreshResult
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.publication.rollback import SnapshotRollback, ViewRollback

WHY = {"reason": "the airport sent nonsense", "principal": "ops"}


class Hand:
    """A rollback over a world, with what it wrote into the audit log."""

    def __init__(self, world: World, declared: Callable[[], Any] | None = None) -> None:
        self.world = world
        self.acts: list[tuple[str, dict[str, Any]]] = []
        self.holds = world.catalog.holds
        self.rollback = SnapshotRollback(
            world.catalog,
            publisher=world.publisher,
            transaction=world.database.transaction,
            audit=self._audit,
            declared=declared or (lambda: {spec.key: spec for spec in world.specs.values()}),
        )

    def _audit(self, scope: object, principal: str, action: str, subject: str, detail: Any, *, within: object) -> None:
        self.acts.append((action, detail))

    def back(self, view: str = "congestion", to: str | int | None = None, **options: Any) -> ViewRollback:
        return self.rollback.view(view, to, **WHY, **options)

    def snapshots(self) -> dict[str, str]:
        current = self.world.publications.current(self.world.scope)
        assert current is not None
        return {key.partition("@")[0]: snapshot for key, snapshot in current.snapshots.items()}


def later(world: World, at: float) -> None:
    world.clock.advance(minutes(at))


def test_one_view_goes_back_and_the_others_stay(world: World) -> None:
    hand = Hand(world)
    first = world.publish(NOON)
    second = world.publish(NOON + minutes(30))
    third = world.publish(NOON + minutes(60), "congestion")
    before = hand.snapshots()
    dry = hand.back(dry_run=True)
    assert (dry.publication, hand.acts, hand.snapshots()) == (None, [], before)
    done = hand.back(seen=third.number)
    key = world.specs["congestion"].key
    assert (done.publication, done.moves) == (4, dry.moves)
    assert done.moves[0].snapshot == second.snapshots[key]
    assert done.moves[0].last_in == 2
    assert hand.snapshots() == {**before, "congestion": second.snapshots[key]}
    written = world.publications.get(world.scope, 4)
    assert (written.reason, written.principal) == (WHY["reason"], "ops")
    assert [(action, detail["publication"], detail["state"]) for action, detail in hand.acts] == [
        ("features.rollback", 4, "free")
    ]
    hand.back(to=first.snapshots[key])
    assert hand.snapshots()["congestion"] == first.snapshots[key]
    hand.back(to=3)
    assert hand.snapshots() == before
    whole = hand.rollback.view(None, 1, **WHY)
    assert {one.view for one in whole.moves} == {"congestion", "route_history"}
    assert hand.snapshots() == {name: first.snapshots[spec.key] for name, spec in world.specs.items()}


def test_pruned_events_and_collected_files_are_there_again_before_the_flip(world: World) -> None:
    hand = Hand(world)
    first = world.publish(NOON)
    asked = [world.read(NOON + minutes(40), **EWR).values["congestion.departures_2h"].value]
    world.append("departures", departure(9001, 5, -3.0), departure(9002, -5, 25.0))
    world.consume()
    asked.append(world.read(NOON + minutes(40), **EWR).values["congestion.departures_2h"].value)
    later(world, 60 * 24 * 400_000)  # files carry this machine's time
    world.publish(NOON + minutes(60))
    collected = world.publisher.collect_garbage(keep=1, grace=timedelta(0))
    assert collected.events
    assert collected.online
    planned = hand.back(to=1, dry_run=True)
    assert planned.moves[0].events == 2
    hand.back(to=1)
    assert hand.snapshots()["congestion"] == first.snapshots[world.specs["congestion"].key]
    assert world.read(NOON + minutes(40), "congestion", **EWR).values["congestion.departures_2h"].value == asked[1] == 3


def test_a_refresh_moves_it_forward_unless_it_is_held(world: World) -> None:
    hand = Hand(world)
    for at in (0, 30):
        world.publish(NOON + minutes(at))
    hand.back()
    world.publish(NOON + minutes(45))
    forward = hand.snapshots()
    back = hand.back(hold=True)
    assert (back.held, hand.holds.of(world.scope)["congestion"].reason) == (True, WHY["reason"])
    held = hand.snapshots()
    world.publish(NOON + minutes(60))
    assert hand.snapshots()["congestion"] == held["congestion"] != forward["congestion"]
    assert hand.snapshots()["route_history"] != held["route_history"], "only the view that is held"
    hand.rollback.resume("congestion", **WHY)
    world.publish(NOON + minutes(61))
    assert hand.snapshots()["congestion"] not in (held["congestion"], forward["congestion"])
    hand.rollback.hold("congestion", **WHY)
    assert [action for action, _ in hand.acts][-2:] == ["features.resume", "features.hold"]
    hand.rollback.resume("congestion", **WHY)
    with pytest.raises(ConflictError, match="is not held"):
        hand.rollback.resume("congestion", **WHY)


async def test_a_durable_refresh_and_an_embargo_leave_a_held_view_alone(world: World) -> None:
    hand = Hand(world)
    world.publish(NOON)
    before = hand.snapshots()
    hand.rollback.hold("congestion", **WHY)
    key = world.specs["congestion"].key
    run = await run_refresh(world, {"views": [key], "as_of": (NOON + minutes(30)).isoformat()})
    result = msgspec.convert(run.result, RefreshResult)
    assert result.held == (key,)
    assert hand.snapshots() == before
    made = result.snapshots[key]
    world.staged.add(StagedSnapshot(world.scope, "congestion", key.partition("@")[2], made, NOON, "later", "ops"))
    assert world.refresher.release_staged() == 0
    assert [one.snapshot for one in world.staged.list(world.scope)] == [made], "it waits on"
    hand.rollback.resume("congestion", **WHY)
    assert world.refresher.release_staged() == 1
    assert hand.snapshots()["congestion"] == made


def test_what_cannot_come_back_is_refused_with_the_reason(world: World) -> None:
    hand = Hand(world)
    with pytest.raises(NotFoundError, match="Nothing is published"):
        hand.back()
    first = world.publish(NOON)
    key = world.specs["congestion"].key
    with pytest.raises(NotFoundError, match="have one snapshot of 'congestion'"):
        hand.back()
    with pytest.raises(ConflictError, match="is current already"):
        hand.back(to=first.snapshots[key])
    with pytest.raises(ConflictError, match="is current already"):
        hand.back(to=1)
    with pytest.raises(ConflictError, match="has the snapshot of publication 1 already"):
        hand.rollback.view(None, 1, **WHY)
    with pytest.raises(InvalidInputError, match="is a snapshot of route_history"):
        hand.back(to=first.snapshots[world.specs["route_history"].key])
    with pytest.raises(NotFoundError):
        hand.back(to="snap_nothing")
    with pytest.raises(NotFoundError):
        hand.back(to=77)
    with pytest.raises(NotFoundError, match="No view named 'nothing' is applied"):
        hand.back("nothing")
    with pytest.raises(InvalidInputError, match="reason is missing"):
        hand.rollback.view("congestion", reason=" ", principal="ops")
    made = world.publisher.prepare(world.materialize("congestion", NOON + minutes(10)), world.specs["congestion"])
    with pytest.raises(ConflictError, match="was never published"):
        hand.back(to=made.id)
    world.staged.add(
        StagedSnapshot(world.scope, "congestion", key.partition("@")[2], made.id, NOON + minutes(99), "x", "ops")
    )
    with pytest.raises(ConflictError, match="under an embargo until 2013-04-10 13:39"):
        hand.back(to=made.id)
    world.publish(NOON + minutes(30))
    with pytest.raises(ConflictError, match="Publication 1 is not current any more; 2 is"):
        hand.back(seen=1)
    other = Hand(
        world,
        lambda: {
            spec.key: spec for spec in (msgspec.structs.replace(world.specs["congestion"], definition_version="new"),)
        },
    )
    with pytest.raises(ConflictError, match="is not declared any more"):
        other.back(to=1)
    with pytest.raises(ConflictError, match="is not declared any more"):
        other.back(to=first.snapshots[key])
    (world.folder / "lake" / world.snapshots.get(world.scope, first.snapshots[key]).files[0].path).unlink()
    with pytest.raises(CorruptionError, match=r"The files of snap_.* are gone"):
        hand.back(dry_run=True)
    with pytest.raises(CorruptionError, match=r"The files of snap_.* are gone"):
        hand.back()
    assert (hand.acts, world.publications.current(world.scope).number) == ([], 2)  # type: ignore[union-attr]


def test_a_publication_that_came_in_between_is_built_upon(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand(world)
    for at in (0, 30):
        world.publish(NOON + minutes(at))
    raced: list[int] = []

    def racing() -> Any:
        if not raced:
            raced.append(world.publish(NOON + minutes(40), "route_history").number)
        return world.database.transaction()

    monkeypatch.setattr(hand.rollback, "transaction", racing)
    done = hand.back()
    assert (raced, done.publication) == ([3], 4)
    key = world.specs["route_history"].key
    assert (
        world.publications.get(world.scope, 4).snapshots[key] == world.publications.get(world.scope, 3).snapshots[key]
    )
    assert len(hand.acts) == 1, "what lost the race left no evidence of a change"


def streamed(world: World) -> None:
    """Two publications with three events before each, and one event after them."""
    for turn in range(2):
        world.append("departures", *(departure(9001 + 3 * turn + n, 5 * turn + n, 1.0) for n in range(3)))
        world.consume()
        spec = world.specs["congestion"]
        made = materialize(
            Materialization(scope=world.scope, spec=spec, as_of=NOON + minutes(60 * turn), through=3 * (turn + 1)),
            lake=world.lake, log=world.log, clock=world.clock,
        )  # fmt: skip
        world.publisher.publish([(made, spec)], reason="test", principal="tester")
    world.append("departures", departure(9100, 30, 1.0))
    world.consume()


@pytest.mark.parametrize(("fenced", "whole"), [(True, False), (True, True), (False, False)])
def test_a_collection_decided_before_a_rollback_takes_no_events_from_it_although_both_are_killed(
    world: World, monkeypatch: pytest.MonkeyPatch, fenced: bool, whole: bool
) -> None:
    """The collector reads which publications there are; a rollback restores its events and commits, and is killed; the
    collector prunes, and is killed. Without the fence the current publication cannot be read."""
    hand, prune = Hand(world), world.overlay.prune
    streamed(world)
    values = world.read(NOON + minutes(90), "congestion", **EWR).values

    def overtaken(view: bytes, through: int, decided: int) -> None:
        assert (through, decided) == (6, 2)
        if whole:
            world.publisher.rollback(1, **WHY)
        else:
            hand.back()
        prune(view, through, decided if fenced else 3)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(world.overlay, "prune", overtaken)
        with pytest.raises(KeyboardInterrupt):
            world.publisher.collect_garbage(keep=1)
    if not fenced:
        with pytest.raises(UnavailableError, match="are pruned"):
            world.read(NOON + minutes(90), "congestion", **EWR)
        return
    found = world.read(NOON + minutes(90), "congestion", **EWR)
    assert found.publication == 3
    assert {name: one.value for name, one in found.values.items()} == {name: one.value for name, one in values.items()}
    world.publish(NOON + minutes(90), "congestion")
    assert world.publisher.collect_garbage(keep=1).events == 4, "the fence ended with the next publication"


def test_a_rollback_restores_events_for_each_number_that_it_tries(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publication comes first, and a collection that knows it prunes; the rollback restores once more."""
    hand, transaction = Hand(world), world.database.transaction
    streamed(world)
    values = world.read(NOON + minutes(90), "congestion", **EWR).values
    prefix = view_prefix(world.specs["congestion"].key)
    raced: list[int] = []

    def overtaken() -> Any:
        if not raced:
            raced.append(world.publish(NOON + minutes(40), "route_history").number)
            world.publisher.collect_garbage(keep=1)
            raced.append(world.overlay.read([prefix]).pruned[prefix])
        return transaction()

    monkeypatch.setattr(hand.rollback, "transaction", overtaken)
    done = hand.back()
    assert raced == [3, 6]
    assert done.publication == 4
    found = world.read(NOON + minutes(90), "congestion", **EWR)
    assert {name: one.value for name, one in found.values.items()} == {name: one.value for name, one in values.items()}


def test_events_that_are_pruned_while_others_are_put_back_are_put_back_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, read = Hand(world), world.log.read
    streamed(world)
    values = world.read(NOON + minutes(90), "congestion", **EWR).values
    prefix = view_prefix(world.specs["congestion"].key)
    world.overlay.prune(prefix, 4, 2)

    def pruned_meanwhile(*given: Any) -> Any:
        found = read(*given)
        world.overlay.prune(prefix, 6, 2)
        return found

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(world.log, "read", pruned_meanwhile)
        hand.back()
    found = world.read(NOON + minutes(90), "congestion", **EWR)
    assert found.publication == 3
    assert {name: one.value for name, one in found.values.items()} == {name: one.value for name, one in values.items()}


def test_a_definition_that_is_given_up_meanwhile_is_told(world: World) -> None:
    """A release that pinned it was live when the rollback looked, and is not any more."""
    looks = 0

    def declared() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return {spec.key: spec for spec in world.specs.values() if looks == 1 or spec.name != "congestion"}

    hand = Hand(world, declared)
    world.publish(NOON)
    world.publish(NOON + minutes(30))
    with pytest.raises(ConflictError, match="not declared any more"):
        hand.back()
    assert looks == 2
    assert hand.acts == []
