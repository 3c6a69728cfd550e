"""Streamed events that the current publication lacks are found within a second and read again from the log.

Damaged online files and overlays are in ``tests/chaos``.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.publication.test_rollback import streamed
from tests.integration.features.world import NOON, World, minutes

from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.publication.healing import Healer, SnapshotHealth

_LATER = 1_000


def healer(world: World) -> Healer:
    health = SnapshotHealth(world.catalog, online=world.online)
    return Healer(
        world.catalog, health, publisher=world.publisher, lock=world.folder / "healing.lock",
        rebuild=lambda one, key: None,
    )  # fmt: skip


def lose_events(world: World) -> None:
    """Prune more than the current snapshot includes, as where a fence was lost."""
    world.overlay.prune(view_prefix(world.specs["congestion"].key), 7, _LATER)
    with pytest.raises(UnavailableError, match="are pruned"):
        world.read(NOON + minutes(90), "congestion", **EWR)


def test_missing_events_of_the_current_publication_are_read_again(world: World) -> None:
    streamed(world)
    before = world.read(NOON + minutes(90), "congestion", **EWR)
    healing = healer(world)
    assert healing.heal() is None
    lose_events(world)
    assert healing.heal() == "streamed events of congestion"
    assert world.read(NOON + minutes(90), "congestion", **EWR) == before
    assert healing.heal() is None


def test_a_log_that_does_not_answer_is_asked_again_after_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed(world)
    before = world.read(NOON + minutes(90), "congestion", **EWR)
    healing, asked = healer(world), list[int]()
    lose_events(world)

    def away(scope: Scope, stream: str, after: int, limit: int) -> None:
        asked.append(after)
        raise UnavailableError("The log does not answer.")

    with monkeypatch.context() as broken:
        broken.setattr(world.log, "read", away)
        assert healing.heal() is healing.heal() is None
        assert asked == [6]
    world.clock.advance(timedelta(seconds=2))
    assert healing.heal() == "streamed events of congestion"
    assert world.read(NOON + minutes(90), "congestion", **EWR) == before
