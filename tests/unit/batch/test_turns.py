"""Turns are shared out over tenants, and none is lost."""

from __future__ import annotations

import asyncio

from antiphon.batch.job_order import Claim
from antiphon.batch.turns import Turns


def claim(tenant: str) -> Claim:
    """What each of them waits with; in these tests nobody waits for long."""
    return Claim(tenant, tenant)


async def test_a_small_tenant_does_not_wait_for_a_large_one() -> None:
    turns, order = Turns(2, lambda: 0.0), list[str]()

    async def one(tenant: str) -> None:
        await turns.take(claim(tenant))
        order.append(tenant)
        await asyncio.sleep(0)
        turns.give_back(claim(tenant))

    large = [asyncio.create_task(one("large")) for _ in range(50)]
    await asyncio.sleep(0)
    small = [asyncio.create_task(one("small")) for _ in range(3)]
    await asyncio.gather(*large, *small)
    assert max(at for at, tenant in enumerate(order) if tenant == "small") < 12
    assert turns.taken == {}


async def test_of_equals_who_waited_longest_is_next() -> None:
    turns = Turns(1, lambda: 0.0)
    await turns.take(claim("a"))
    waiting = {tenant: asyncio.create_task(turns.take(claim(tenant))) for tenant in ("a", "b", "c")}
    await asyncio.sleep(0)
    turns.give_back(claim("a"))
    await asyncio.sleep(0)
    assert turns.taken == {"b": 1}
    turns.give_back(claim("b"))
    await asyncio.sleep(0)
    assert turns.taken == {"c": 1}
    turns.give_back(claim("c"))
    await asyncio.sleep(0)
    assert turns.taken == {"a": 1}
    await asyncio.gather(*waiting.values())


async def test_a_wait_that_is_given_up_takes_no_turn() -> None:
    turns = Turns(1, lambda: 0.0)
    await turns.take(claim("a"))
    given_up = asyncio.create_task(turns.take(claim("b")))
    late = asyncio.create_task(turns.take(claim("b")))
    await asyncio.sleep(0)
    given_up.cancel()
    turns.give_back(claim("a"))
    await asyncio.gather(given_up, late, return_exceptions=True)
    assert turns.taken == {"b": 1}
    turns.give_back(claim("b"))
    handed = asyncio.create_task(turns.take(claim("a")))
    await asyncio.sleep(0)
    again = asyncio.create_task(turns.take(claim("c")))
    await asyncio.sleep(0)
    turns.give_back(claim("a"))
    again.cancel()  # it has just been given the turn and does not know yet
    await asyncio.gather(handed, again, return_exceptions=True)
    assert turns.taken == {}


async def test_who_has_little_time_left_goes_before_others_and_leaves_them_some() -> None:
    turns, given = Turns(8, lambda: 0.0), list[str]()
    filling = Claim("x", "filling")
    for _ in range(8):
        await turns.take(filling)

    async def one(wanted: Claim) -> None:
        await turns.take(wanted)
        given.append(wanted.job)

    pressed = Claim("late", "pressed", deadline=100.0, seconds_left=60.0)
    waiting = [asyncio.create_task(one(wanted)) for wanted in (*[claim("calm")] * 8, *[pressed] * 8)]
    await asyncio.sleep(0)
    for _ in range(8):
        turns.give_back(filling)
        await asyncio.sleep(0)
    assert given == ["pressed"] * 6 + ["calm"] * 2, "three quarters of eight"
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
