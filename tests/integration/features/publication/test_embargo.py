"""An embargo: a snapshot passes its gates, waits, and flips later by the worker."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.integration.features.offline.test_refresh import run_refresh
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.world import NOON, World, minutes

from antiphon.core.errors import FeatureUnavailableError
from antiphon.features.offline.refresh import RefreshResult


async def test_a_snapshot_under_embargo_is_published_when_it_is_over(world: World) -> None:
    spec = msgspec.structs.replace(world.specs["congestion"], embargo=3_600_000_000)
    other = world.specs["route_history"]
    world.definitions.put(world.scope, spec)
    run = await run_refresh(
        world, {"views": [spec.key, other.key], "as_of": NOON.isoformat(), "reason": "figures", "principal": "ops"}
    )
    result = msgspec.convert(run.result, RefreshResult)
    assert result.publication == 1
    assert result.staged == {spec.key: NOON + timedelta(hours=1)}
    assert world.read(NOON, "route_history", **EWR).publication == 1
    with pytest.raises(FeatureUnavailableError):
        world.read(NOON, "congestion", **EWR)
    assert world.refresher.release_staged() == 0
    world.clock.advance(minutes(59))
    assert world.refresher.release_staged() == 0
    world.clock.advance(timedelta(days=400_000))
    world.publisher.collect_garbage()  # its online file may go meanwhile; the lake's files may not
    assert [one.snapshot for one in world.staged.list(world.scope)] == [result.snapshots[spec.key]]
    assert world.refresher.release_staged() == 1
    assert world.refresher.release_staged() == 0
    publication = world.publications.current(world.scope)
    assert publication is not None
    assert (publication.number, publication.reason, publication.principal) == (2, "figures, after its embargo", "ops")
    assert world.read(NOON, "congestion", **EWR).values["congestion.departures_2h"].value == 1


async def test_what_is_newer_is_not_replaced_by_what_waited(world: World) -> None:
    spec = world.specs["congestion"]
    embargoed = msgspec.structs.replace(spec, embargo=60_000_000)
    world.definitions.put(world.scope, embargoed)
    await run_refresh(world, {"views": [spec.key], "as_of": NOON.isoformat()})
    world.definitions.put(world.scope, spec)  # the embargo is lifted
    await run_refresh(world, {"views": [spec.key], "as_of": (NOON + minutes(30)).isoformat()})
    before = world.publications.current(world.scope)
    world.clock.advance(minutes(5))
    assert world.refresher.release_staged() == 1
    assert world.publications.current(world.scope) == before
