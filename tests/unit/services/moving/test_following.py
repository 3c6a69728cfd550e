"""Waits of a gateway that begins again in a move."""

from __future__ import annotations

import asyncio
from typing import cast

from tests.unit.engine.routing.test_routed_engine import Fleet, routing

from antiphon.core.errors import UnavailableError
from antiphon.core.tls import ClientTls
from antiphon.engine.api.address import NetworkAddress
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineInstance
from antiphon.services.moving.following import engines_back

MAIN = cast(EngineClient, Fleet("main").instances["main"])


class Fronts(Fleet):
    """A front that is listed from the third look on."""

    looks = 0

    async def living(self) -> list[EngineInstance]:
        self.looks += 1
        return await super().living() if self.looks > 2 else []


async def test_a_front_that_begins_again_later_is_waited_for() -> None:
    """A request to a gateway that knows no instance would be refused at once."""
    fronts = Fronts("front")
    async with routing(fronts, patience=10.0) as standby:
        await engines_back(MAIN, [standby])
        assert fronts.looks > 2
        assert [model.name for model in (await standby.describe()).models] == ["words"]


async def test_neither_a_server_that_is_away_nor_an_engine_of_another_project_is_waited_for() -> None:
    fronts, elsewhere = Fleet("front"), EngineClient(NetworkAddress("192.0.2.1", 9, ClientTls()))
    fronts.instances["front"].away = UnavailableError("The server does not answer.")
    async with routing(fronts, patience=10.0) as standby, asyncio.timeout(2):
        await engines_back(MAIN, [standby, elsewhere])
