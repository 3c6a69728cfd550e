"""Waits of a gateway that begins again in a move."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from tests.unit.engine.routing.test_routed_engine import Fleet, routing

from antiphon.core.errors import UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.routing import routed_engine
from antiphon.services.moving.following import engines_back


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routed_engine, "LOOK_SECONDS", 0.005)


async def test_a_front_that_begins_again_later_is_waited_for() -> None:
    """A request to a gateway that knows no instance would be refused at once."""
    main, fronts = Fleet("main"), Fleet("front")
    fronts.listed.clear()
    async with routing(fronts, patience=10.0) as standby:
        waiting = asyncio.create_task(engines_back([cast(EngineClient, main.instances["main"]), standby]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        fronts.listed.add("front")
        await waiting
        assert [model.name for model in (await standby.describe()).models] == ["words"]


async def test_a_server_that_is_away_is_not_waited_for() -> None:
    fronts = Fleet("front")
    fronts.instances["front"].away = UnavailableError("The server does not answer.")
    async with routing(fronts, patience=10.0) as standby, asyncio.timeout(2):
        await engines_back([standby])
