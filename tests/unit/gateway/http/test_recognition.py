"""Requests with one key at the same time: one of them reads the catalog, and nobody is believed beyond the lease."""

from __future__ import annotations

import asyncio
import threading

import pytest

from antiphon.core.errors import UnauthenticatedError
from antiphon.gateway.http.incoming import Recognition
from antiphon.governance.identity.principal import Principal

ANN = Principal("ann", "default", "service")


class Reading:
    """A bearer whose reading waits for :attr:`go`; ``remembers`` says whether a lease keeps what was read."""

    def __init__(self, *, remembers: bool = True, fails: bool = False) -> None:
        self.go, self.begun = threading.Event(), 0
        self._remembers, self._fails = remembers, fails
        self._known: Principal | None = None
        self._holds = 1_000

    def revoke_after(self, readings: int) -> None:
        """Only so many readings find the key."""
        self._holds = readings

    def remembered(self, text: str) -> Principal | None:
        return self._known

    def authenticate(self, text: str) -> Principal:
        self.begun += 1
        number = self.begun
        assert self.go.wait(10)
        if self._fails or number > self._holds:
            raise UnauthenticatedError("No.", where="authorization")
        if self._remembers:
            self._known = ANN
        return ANN


async def arrive(bearer: Reading, count: int) -> list[Principal | BaseException]:
    """So many requests at once; the first one's reading ends after all have arrived."""
    recognition = Recognition()
    asked = [asyncio.ensure_future(recognition.principal(bearer, "ak_1")) for _ in range(count)]
    while bearer.begun == 0:
        await asyncio.sleep(0)
    bearer.go.set()
    return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)


async def test_a_crowd_with_one_key_reads_once() -> None:
    bearer = Reading()
    assert await arrive(bearer, 300) == [ANN] * 300
    assert bearer.begun == 1


async def test_whoever_came_during_a_reading_that_is_not_remembered_has_the_next_one() -> None:
    bearer = Reading(remembers=False)
    assert await arrive(bearer, 300) == [ANN] * 300
    assert bearer.begun == 2, "one that began before they came, and one after"


async def test_a_key_that_does_not_hold_is_refused_to_each() -> None:
    bearer = Reading(fails=True)
    found = await arrive(bearer, 300)
    assert len(found) == 300
    assert all(isinstance(one, UnauthenticatedError) for one in found)
    assert bearer.begun == 2


async def test_what_was_read_before_a_request_came_is_not_its_answer() -> None:
    """Revoked in between: who comes after the revocation is refused, though a reading from before it ends later."""
    bearer, recognition = Reading(remembers=False), Recognition()
    before = asyncio.ensure_future(recognition.principal(bearer, "ak_1"))
    while bearer.begun == 0:
        await asyncio.sleep(0)
    after = asyncio.ensure_future(recognition.principal(bearer, "ak_1"))
    await asyncio.sleep(0)
    bearer.revoke_after(1)
    bearer.go.set()
    assert await before == ANN
    with pytest.raises(UnauthenticatedError):
        await after


async def test_the_next_one_reads_after_a_reading_was_given_up() -> None:
    recognition, bearer = Recognition(), Reading()
    first = asyncio.ensure_future(recognition.principal(bearer, "ak_1"))
    while bearer.begun == 0:
        await asyncio.sleep(0)
    first.cancel()
    bearer.go.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await recognition.principal(bearer, "ak_1") == ANN
