"""What a worker does for its tenant pauses while the tenant is not served."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.orchestration.test_duties import Part, until

from antiphon.core.errors import UnavailableError
from antiphon.orchestration.tenant_pause import TenantPause


async def test_parts_pause_while_their_tenant_is_suspended_and_go_on_when_it_is_resumed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    part, stop, state, looks = Part(), asyncio.Event(), ["active"], list[str]()

    def read(tenant: str) -> str:
        looks.append(tenant)
        if state[0] == "away":
            raise UnavailableError("The catalog is away.")
        return state[0]

    async def looked() -> None:
        count = len(looks) + 3
        await until(lambda: len(looks) >= count)

    caplog.set_level(logging.INFO, "antiphon.worker")
    task = asyncio.create_task(TenantPause("acme", "its streams", [part], read, every=0.005).run_until(stop))
    await until(lambda: part.done)
    state[0] = "away"
    await looked()
    assert (part.done, part.times) == (True, 1), "what was known last holds"
    for number, left in enumerate(("suspended", "deleted"), start=1):
        state[0] = left
        await until(lambda: not part.done)
        await looked()
        assert (part.done, part.times) == (False, number)
        state[0] = "away"
        await looked()
        assert not part.done
        state[0] = "active"
        await until(lambda: part.done)
    stop.set()
    await task
    assert not part.done
    assert set(looks) == {"acme"}
    assert [record.message for record in caplog.records] == [
        "The tenant acme is suspended: its streams pause.",
        "The tenant acme is served again: its streams go on.",
        "The tenant acme is deleted: its streams pause.",
        "The tenant acme is served again: its streams go on.",
    ]


async def test_a_part_that_fails_ends_with_its_error() -> None:
    class Broken:
        async def run_until(self, stop: asyncio.Event) -> None:
            raise ValueError("broken")

    with pytest.raises(ExceptionGroup):
        await TenantPause("acme", "its streams", [Broken()], lambda tenant: "active").run_until(asyncio.Event())
