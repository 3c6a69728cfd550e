"""The fair queue shares slots out over tenants and loses none."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from antiphon.batch.fair_queue import FairQueue, SlotRequest


def slot(tenant: str) -> SlotRequest:
    """A request of this tenant; none waits for long in these tests."""
    return SlotRequest(tenant, tenant)


async def test_a_small_tenant_does_not_wait_for_a_large_one() -> None:
    queue, order = FairQueue(2, lambda: 0.0), list[str]()

    async def one(tenant: str) -> None:
        await queue.acquire(slot(tenant))
        order.append(tenant)
        await asyncio.sleep(0)
        queue.release(slot(tenant))

    large = [asyncio.create_task(one("large")) for _ in range(50)]
    await asyncio.sleep(0)
    small = [asyncio.create_task(one("small")) for _ in range(3)]
    await asyncio.gather(*large, *small)
    assert max(at for at, tenant in enumerate(order) if tenant == "small") < 12
    assert queue._held == {}


async def test_of_equals_who_waited_longest_is_next() -> None:
    queue = FairQueue(1, lambda: 0.0)
    await queue.acquire(slot("a"))
    waiting = {tenant: asyncio.create_task(queue.acquire(slot(tenant))) for tenant in ("a", "b", "c")}
    await asyncio.sleep(0)
    queue.release(slot("a"))
    await asyncio.sleep(0)
    assert queue._held == {"b": 1}
    queue.release(slot("b"))
    await asyncio.sleep(0)
    assert queue._held == {"c": 1}
    queue.release(slot("c"))
    await asyncio.sleep(0)
    assert queue._held == {"a": 1}
    await asyncio.gather(*waiting.values())


async def test_a_wait_that_is_given_up_takes_no_turn() -> None:
    queue = FairQueue(1, lambda: 0.0)
    await queue.acquire(slot("a"))
    given_up = asyncio.create_task(queue.acquire(slot("b")))
    late = asyncio.create_task(queue.acquire(slot("b")))
    await asyncio.sleep(0)
    given_up.cancel()
    queue.release(slot("a"))
    await asyncio.gather(given_up, late, return_exceptions=True)
    assert queue._held == {"b": 1}
    queue.release(slot("b"))
    handed = asyncio.create_task(queue.acquire(slot("a")))
    await asyncio.sleep(0)
    again = asyncio.create_task(queue.acquire(slot("c")))
    await asyncio.sleep(0)
    queue.release(slot("a"))
    again.cancel()  # it has just been given the turn and does not know yet
    await asyncio.gather(handed, again, return_exceptions=True)
    assert queue._held == {}


async def test_who_has_little_time_left_goes_before_others_and_leaves_them_some() -> None:
    queue, given = FairQueue(8, lambda: 0.0), list[str]()
    filling = SlotRequest("x", "filling")
    for _ in range(8):
        await queue.acquire(filling)

    async def one(urgent: SlotRequest) -> None:
        await queue.acquire(urgent)
        given.append(urgent.job)

    pressed = SlotRequest("late", "pressed", deadline=100.0, seconds_left=60.0)
    waiting = [asyncio.create_task(one(urgent)) for urgent in (*[slot("calm")] * 8, *[pressed] * 8)]
    await asyncio.sleep(0)
    for _ in range(8):
        queue.release(filling)
        await asyncio.sleep(0)
    assert given == ["pressed"] * 6 + ["calm"] * 2, "three quarters of eight"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("share", [1.0, 2.0])
async def test_a_tenant_has_slots_by_its_share(slots: int, share: float) -> None:
    """Whoever gets a slot gives it back at once and asks again: in the long run each has its part of all slots."""
    queue, had = FairQueue(slots, lambda: 0.0, {"twice": share, "once": 1.0}.__getitem__), Counter[str]()

    async def one(tenant: str) -> None:
        for _ in range(60):
            await queue.acquire(slot(tenant))
            if had.total() < 90:
                had[tenant] += 1
            await asyncio.sleep(0)
            queue.release(slot(tenant))

    await asyncio.gather(*(one(tenant) for tenant in ("once", "twice") for _ in range(12)))
    assert had["twice"] / had["once"] == pytest.approx(share, rel=0.2)
    assert queue._held == {}
