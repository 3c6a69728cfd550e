from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER, bundle

from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Releases
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.definitions.application import Decoding


def versions(releases: Releases, count: int) -> list[str]:
    return [
        releases.add(bundle(decoding=Decoding(max_tokens=n + 1)), DEV, "me", f"version {n}").id for n in range(count)
    ]


def test_equal_bundles_are_one_release(database: Database) -> None:
    releases = Releases(database)
    first = releases.add(bundle(), DEV, "me", "first")
    assert (first.number, first.stage, first.bundle, first.created_at) == (1, "draft", bundle(), NOON)
    assert releases.add(bundle(), DEV, "you", "again") == first
    second = releases.add(bundle(purpose="sell"), DEV, "me", "second")
    assert second.number == 2
    assert releases.add(bundle("other"), DEV, "me", "r").number == 1
    assert releases.add(bundle(), OTHER, "me", "r").id != first.id
    assert [r.number for r in releases.list(DEV, "desk")] == [2, 1]
    assert len(releases.list(DEV)) == 3


def test_activating_retires_the_one_before(database: Database) -> None:
    releases = Releases(database)
    first, second = versions(releases, 2)
    assert releases.live(DEV, "desk") is None
    releases.activate(DEV, "desk", first, "me", "launch")
    releases.activate(DEV, "desk", second, "me", "better")
    live = releases.live(DEV, "desk")
    assert live is not None
    assert (live.id, live.stage) == (second, "live")
    assert releases.get(DEV, first).stage == "retired"
    assert [move.stage for move in releases.stages(DEV, first)] == ["draft", "live", "retired"]
    assert releases.applications(DEV) == ["desk"]
    assert releases.live(OTHER, "desk") is None


def test_activating_the_live_one_changes_nothing(database: Database) -> None:
    releases = Releases(database)
    (first,) = versions(releases, 1)
    once = releases.activate(DEV, "desk", first, "me", "launch")
    assert releases.activate(DEV, "desk", first, "you", "again") == once
    assert len(releases.history(DEV, "desk")) == 1


def test_rollback_goes_back_step_by_step(database: Database) -> None:
    releases = Releases(database)
    ids = versions(releases, 3)
    for release in ids:
        releases.activate(DEV, "desk", release, "me", "next")
    assert releases.rollback(DEV, "desk", "me", "errors").release == ids[1]
    assert releases.get(DEV, ids[2]).stage == "rolled_back"
    assert releases.get(DEV, ids[1]).stage == "live"
    assert releases.rollback(DEV, "desk", "me", "more errors").release == ids[0]
    with pytest.raises(ConflictError, match="no earlier live release"):
        releases.rollback(DEV, "desk", "me", "even more")
    releases.activate(DEV, "desk", ids[2], "me", "mended")
    assert releases.rollback(DEV, "desk", "me", "not mended").release == ids[0]
    assert [move.action for move in releases.history(DEV, "desk")] == [
        "activate", "activate", "activate", "rollback", "rollback", "activate", "rollback",
    ]  # fmt: skip


def test_what_was_live_at_any_time_is_answerable(database: Database, clock: ManualClock) -> None:
    releases = Releases(database)
    first, second = versions(releases, 2)
    clock.advance(timedelta(hours=1))
    releases.activate(DEV, "desk", first, "me", "r")
    clock.advance(timedelta(hours=1))
    releases.activate(DEV, "desk", second, "me", "r")
    clock.advance(timedelta(hours=1))
    releases.rollback(DEV, "desk", "me", "r")

    def live_after(hours: float) -> str | None:
        found = releases.live_at(DEV, "desk", NOON + timedelta(hours=hours))
        return found.id if found is not None else None

    assert [live_after(h) for h in (0.5, 1, 1.5, 2, 2.5, 3, 9)] == [None, first, first, second, second, first, first]


def test_only_an_applications_own_release_goes_live(database: Database) -> None:
    releases = Releases(database)
    foreign = releases.add(bundle("other"), DEV, "me", "r").id
    for release in (foreign, "rel_unknown"):
        with pytest.raises(NotFoundError):
            releases.activate(DEV, "desk", release, "me", "r")
    with pytest.raises(NotFoundError):
        releases.get(OTHER, foreign)
    with pytest.raises(ConflictError):
        releases.rollback(DEV, "desk", "me", "r")
