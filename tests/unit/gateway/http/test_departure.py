"""while_connected behaves like asyncio.timeout: its own cancellation ends it, others pass through."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.gateway.http.departure import CallerLeftError, while_connected


class Connection:
    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.messages = 0

    async def receive(self):
        self.messages += 1
        if self.messages == 1:
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_a_departure_cancels_the_block_where_it_waits() -> None:
    connection, unwound = Connection(), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            unwound.append(True)

    asyncio.get_running_loop().call_soon(connection.gone.set)
    with pytest.raises(CallerLeftError):
        async with while_connected(connection.receive):
            await work()
    assert unwound == [True]
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
    await asyncio.sleep(0)


async def test_a_block_that_ends_is_left_alone() -> None:
    connection = Connection()
    async with while_connected(connection.receive):
        await asyncio.sleep(0)
    connection.gone.set()
    await asyncio.sleep(0)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    assert tasks == set()


async def test_a_cancellation_from_outside_passes_through() -> None:
    connection = Connection()

    async def whole() -> None:
        async with while_connected(connection.receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(whole())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_its_own() -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="own"):
        async with while_connected(connection.receive):
            raise ValueError("own")


async def test_departure_and_end_in_the_same_turn() -> None:
    for turns in range(4):
        connection = Connection()
        asyncio.get_running_loop().call_soon(connection.gone.set)
        try:
            async with while_connected(connection.receive):
                for _ in range(turns):
                    await asyncio.sleep(0)
        except CallerLeftError:
            pass
        await asyncio.sleep(0)
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
