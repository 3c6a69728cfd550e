"""Engines are drained while another one serves their models, by one person at a time, and come back by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.joined_engines import join
from tests.harness.mended_desk import MendedDesk

from antiphon.catalog.engine_instances import EngineInstances
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.services.engines.drains import EngineDrains


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    yield desk
    desk.store.close()


def drained(desk: MendedDesk) -> list[str]:
    leases = ProcessLeases(desk.store.database, desk.store.scope.environment)
    return [one.name for one in EngineInstances(leases).living() if one.drained]


def test_a_drain_is_told_ended_and_on_record(desk: MendedDesk) -> None:
    drains = EngineDrains(desk.store)
    join(desk.store, "one", running_online=2, waiting_batch=1)
    join(desk.store, "two")
    held = drains.drain("ada", "one", "it is slow", "1h")
    assert (held.engine, held.principal) == ("one@host", "ada")
    assert drained(desk) == ["default/one@host"]
    assert [(one.name, one.requests, one.drain) for one in drains.list()] == [
        ("one@host", 3, held), ("two@host", 0, None),
    ]  # fmt: skip
    assert drains.drain("ada", "one@host", "it is slow", "2h") == held, "she has it already"
    with pytest.raises(ConflictError, match="ada drains one@host: it is slow"):
        drains.drain("ben", "one", "mine", "1h")
    assert drains.resume("ben", "one", "it is quick again") == held
    assert drains.resume("ben", "one", "once more") is None
    assert drained(desk) == []
    entries = sorted(desk.store.audit.query(desk.scope), key=lambda one: one.sequence)
    assert [(one.principal, one.action, one.subject) for one in entries if one.action.startswith("engine.")] == [
        ("ada", "engine.drain", "one@host"), ("ben", "engine.resume", "one@host"),
    ]  # fmt: skip


def test_it_ends_by_itself(desk: MendedDesk) -> None:
    join(desk.store, "one")
    join(desk.store, "two")
    EngineDrains(desk.store).drain("ada", "one", "it is slow", "1m")
    desk.clock.advance(timedelta(seconds=61))
    join(desk.store, "one")
    assert drained(desk) == []


def test_the_last_one_that_serves_a_model_is_not_drained(desk: MendedDesk) -> None:
    drains = EngineDrains(desk.store)
    join(desk.store, "one", models=("words", "desk.v1"))
    with pytest.raises(ConflictError, match=r"No other engine serves desk\.v1, words"):
        drains.drain("ada", "one", "it is slow", "1h")
    join(desk.store, "two")
    with pytest.raises(ConflictError, match=r"No other engine serves desk\.v1\."):
        drains.drain("ada", "one", "it is slow", "1h")
    drains.drain("ada", "two", "it is slow", "1h")
    with pytest.raises(ConflictError):
        drains.drain("ada", "one", "it is slow", "1h")


def test_mistakes_are_told(desk: MendedDesk) -> None:
    drains = EngineDrains(desk.store)
    join(desk.store, "one")
    join(desk.store, "two")
    with pytest.raises(NotFoundError, match="No engine 'tow' has joined"):
        drains.drain("ada", "tow", "it is slow", "1h")
    for reason, duration in ((" ", "1h"), ("it is slow", "8d"), ("it is slow", "soon")):
        with pytest.raises(InvalidInputError):
            drains.drain("ada", "one", reason, duration)
    join(desk.store, "one", host="other")
    with pytest.raises(InvalidInputError, match="Several hosts have an engine 'one'"):
        drains.drain("ada", "one", "it is slow", "1h")
    assert drains.drain("ada", "one@other", "it is slow", "1h").engine == "one@other"
