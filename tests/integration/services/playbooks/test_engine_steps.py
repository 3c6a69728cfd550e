"""Playbooks drain an engine: what is in it goes on, it comes back at the end, and a crash changes nothing of that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.joined_engines import join
from tests.harness.mended_desk import MendedDesk
from tests.integration.services.playbooks.test_playbook_runs import Crash

from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.durable.context import RunContext
from antiphon.services.engines.drains import EngineDrains

SPARE = PlaybookSpec("spare", "Drain an engine", (PlaybookStep("drain-engine", duration="2h"),), roots=("engine",))
BOTH = PlaybookSpec(
    "both", "Drain, then fail", (PlaybookStep("drain-engine"), PlaybookStep("restart-engine")), roots=("engine",)
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    desk.declare(SPARE, BOTH)
    for engine in ("engine", "engine-2"):
        join(desk.store, engine)
    yield desk
    desk.store.close()


def drains(desk: MendedDesk) -> dict[str, str]:
    """Who drains which engine."""
    return {one.name: one.drain.principal for one in EngineDrains(desk.store).list() if one.drain is not None}


def slow(desk: MendedDesk) -> None:
    desk.incident("engine/default/engine-2@host", "pace", "infrastructure")
    desk.look()


async def work(desk: MendedDesk, crash: Crash | None = None, left: int = 2) -> list[int]:
    """Take the steps while the engines tell every second what is in them; what they had when they were drained."""
    seen: list[int] = []

    async def tell() -> None:
        nonlocal left
        while True:
            for engine in ("engine", "engine-2"):
                join(desk.store, engine, running_online=left if engine == "engine-2" else 0)
            if drains(desk):
                seen.append(left)
                left = max(0, left - 1)
            desk.clock.advance(timedelta(seconds=1))
            await asyncio.sleep(0.1)

    def same(context: RunContext) -> RunContext:
        return context

    telling = asyncio.create_task(tell())
    try:
        await desk.work(same if crash is None else crash.of)
    finally:
        telling.cancel()
    return seen


async def test_it_is_drained_until_the_incident_is_over(desk: MendedDesk) -> None:
    slow(desk)
    assert desk.playbooks.rehearse("spare", "inc_1").hindrances == ("",)
    desk.playbooks.approve("inc_1.spare", "ben", "it is slow")
    assert (await work(desk))[:3] == [2, 1, 0]
    desk.look()
    run = desk.run("spare")
    assert run.state == "done", run.problem
    assert run.outcomes[0].sentence.startswith("engine-2@host gets no requests until")
    assert run.outcomes[0].sentence.endswith("and nothing is in it.")
    assert drains(desk) == {"engine-2@host": "playbook:spare"}
    assert "drains engine-2@host" in desk.playbooks.rehearse("both", "inc_1").hindrances[0]
    desk.resolve()
    desk.look()
    await work(desk)
    desk.look()
    assert desk.run("spare").state == "ended"
    assert drains(desk) == {}
    assert desk.timeline()[-1] == "engine-2@host gets requests again."


@pytest.mark.parametrize("alone", [False, True])
async def test_of_the_shipped_ones_one_is_tried_after_another(desk: MendedDesk, alone: bool) -> None:
    if alone:
        EngineDrains(desk.store).drain("ada", "engine", "an update", "1h")
    chain = ("restart-engine", "drain-engine", "limit-batch")
    for name in chain:
        desk.playbooks.allow(name, "ada", "it is a drill")
    slow(desk)
    begun: list[list[str]] = []
    for _ in range(6):
        begun.append([name for name in chain if desk.store.playbook_runs.find(desk.scope, f"inc_1.{name}") is not None])
        await work(desk)
        desk.orders.look()
    assert begun[0] == ["restart-engine"], "it runs on another host, so that its restart fails"
    assert desk.run("restart-engine").state == "failed"
    assert ["restart-engine", "drain-engine"] in begun
    if alone:
        assert [desk.run(name).state for name in chain] == ["failed", "failed", "done"]
    else:
        assert (desk.run("drain-engine").state, begun[-1]) == ("done", ["restart-engine", "drain-engine"])
        assert drains(desk) == {"engine-2@host": "playbook:drain-engine"}


@pytest.mark.parametrize("place", range(5))
async def test_a_crash_at_any_record_drains_once(desk: MendedDesk, place: int) -> None:
    slow(desk)
    desk.playbooks.approve("inc_1.spare", "ben", "it is slow")
    crash = Crash(place)
    await work(desk, crash)
    desk.look()
    assert desk.run("spare").state == "done"
    desk.resolve()
    desk.look()
    await work(desk, crash)
    desk.look()
    assert crash.crashed
    assert desk.run("spare").state == "ended"
    assert drains(desk) == {}
    acts = [one.action for one in desk.store.audit.query(desk.scope) if one.action.startswith("engine.")]
    assert sorted(acts) == ["engine.drain", "engine.resume"]


async def test_a_later_step_that_fails_gives_it_requests_again(desk: MendedDesk) -> None:
    slow(desk)
    desk.playbooks.approve("inc_1.both", "ben", "try it")
    await work(desk)
    desk.look()
    assert desk.run("both").state == "failed"
    assert "Undone: 1 drain-engine default/engine-2@host" in desk.run("both").problem
    assert drains(desk) == {}


async def test_the_last_engine_is_not_drained(desk: MendedDesk) -> None:
    EngineDrains(desk.store).drain("ada", "engine", "an update", "1h")
    slow(desk)
    desk.playbooks.approve("inc_1.spare", "ben", "try it")
    await work(desk)
    desk.look()
    assert "No other engine serves words" in desk.run("spare").problem
    assert drains(desk) == {"engine@host": "ada"}


async def test_what_a_person_drained_since_stays_drained(desk: MendedDesk) -> None:
    slow(desk)
    desk.playbooks.approve("inc_1.spare", "ben", "it is slow")
    await work(desk)
    desk.look()
    for engine in ("engine", "engine-2"):
        join(desk.store, engine)
    EngineDrains(desk.store).resume("ada", "engine-2", "mine now")
    EngineDrains(desk.store).drain("ada", "engine-2", "an update", "1h")
    desk.resolve()
    desk.look()
    await work(desk)
    desk.look()
    assert desk.run("spare").state == "ended"
    assert drains(desk) == {"engine-2@host": "ada"}
