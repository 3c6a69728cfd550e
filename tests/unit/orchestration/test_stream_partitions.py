"""Partitions of streams are divided among the workers that live, and move when workers come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.catalog.examples import open_database

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock
from antiphon.core.errors import UnavailableError
from antiphon.features.online.overlay_records import PARTITIONS
from antiphon.orchestration.duties import LeaseHolder
from antiphon.orchestration.stream_partitions import StreamPartitions, assigned, held_partitions

ALL = frozenset(range(PARTITIONS))
SECONDS = 15.0


class Host:
    """Workers of one machine and their catalog; time passes for all of them at once."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(datetime(2013, 4, 10, tzinfo=UTC))
        self.leases = ProcessLeases(open_database(folder, clock=self.clock), "dev")
        self.streams = {"clicks", "orders"}
        self.shares = PARTITIONS
        self.ended: set[str] = set()
        self.started = 0

    def worker(self, name: str) -> StreamPartitions:
        self.started += 1
        holder = self.holder(f"process {self.started}")
        return StreamPartitions(holder, "acme", name, streams=lambda: self.streams, shares=self.shares)

    def holder(self, name: str) -> LeaseHolder:
        gone = self.ended.__contains__
        return LeaseHolder(self.leases, name, gone, seconds=SECONDS, monotonic=self.clock.monotonic)

    async def settle(self, *workers: StreamPartitions) -> None:
        """Each looks twice, as within a few seconds."""
        for _ in range(2):
            self.clock.advance(timedelta(seconds=2))
            for worker in workers:
                await worker.balance()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def owned(*workers: StreamPartitions) -> list[Mapping[str, frozenset[int]]]:
    return [dict(worker.owned) for worker in workers]


@given(st.integers(0, 5), st.integers(1, PARTITIONS), st.integers(1, 9))
def test_every_partition_is_one_workers_and_all_have_as_many_shares_or_one_fewer(
    streams: int, shares: int, workers: int
) -> None:
    followed = {f"stream-{number}" for number in range(streams)}
    names = [f"worker-{number}" for number in range(workers)]
    divided = [assigned(followed, shares, reversed(names), name) for name in names]
    every = [(stream, part) for one in divided for stream, parts in one.items() for part in parts]
    assert sorted(every) == [(stream, part) for stream in sorted(followed) for part in range(PARTITIONS)]
    size = PARTITIONS / shares
    held = [sum(round(len(parts) / size) for parts in one.values()) for one in divided]
    if PARTITIONS % shares == 0:
        assert max(held) - min(held) <= 1
    for stream in followed:
        assert sum(stream in one for one in divided) <= shares, "no more workers read it than may"


async def test_a_stream_is_one_workers_unless_it_may_be_shared(host: Host) -> None:
    host.shares = 1
    one, two, three = (host.worker(name) for name in "abc")
    await host.settle(one, two, three)
    assert owned(one, two, three) == [{}, {"clicks": ALL}, {"orders": ALL}]


async def test_a_worker_alone_has_everything_and_a_second_one_gets_half(host: Host) -> None:
    one, two = host.worker("a"), host.worker("b")
    await one.balance()
    assert owned(one) == [{"clicks": ALL, "orders": ALL}]
    await two.balance()
    assert owned(two) == [{}], "nothing is taken that is not given back"
    await one.balance()
    await two.balance()
    assert owned(one, two) == [{"clicks": ALL}, {"orders": ALL}]
    host.streams = {"clicks"}
    await host.settle(one, two)
    assert owned(one, two) == [{"clicks": {0, 1, 2, 3}}, {"clicks": {4, 5, 6, 7}}]


async def test_it_is_told_which_worker_holds_which_partition(host: Host) -> None:
    assert held_partitions(host.leases, "acme") == {}
    one, two = host.worker("a"), host.worker("b")
    host.streams = {"eu/clicks"}
    await host.settle(one, two)
    assert held_partitions(host.leases, "acme") == {"eu/clicks": {"a": (0, 1, 2, 3), "b": (4, 5, 6, 7)}}
    assert held_partitions(host.leases, "acm") == {}, "other tenants have streams of their own"
    host.clock.advance(timedelta(seconds=SECONDS + 1))
    assert held_partitions(host.leases, "acme") == {}, "nobody renews them"


async def test_a_worker_that_ended_is_not_waited_for_and_one_that_vanished_until_its_lease_ends(host: Host) -> None:
    one, two, three = (host.worker(name) for name in "abc")
    host.streams = {"clicks"}
    await host.settle(one, two, three)
    assert sorted(len(part) for worker in owned(one, two, three) for part in worker.values()) == [2, 3, 3]
    host.ended.add("process 1")
    await host.settle(two, three)
    assert owned(two, three) == [{"clicks": {0, 1, 2, 3}}, {"clicks": {4, 5, 6, 7}}]
    host.clock.advance(timedelta(seconds=SECONDS - 6))
    await three.balance()
    assert owned(three) == [{"clicks": {4, 5, 6, 7}}]
    host.clock.advance(timedelta(seconds=7))  # The second has been silent for longer than a lease.
    await three.balance()
    assert owned(three) == [{"clicks": ALL}]


async def test_one_that_stood_still_finds_that_its_part_is_anothers(host: Host) -> None:
    host.streams = {"clicks"}
    one, two = host.worker("a"), host.worker("b")
    await host.settle(one, two)
    host.clock.advance(timedelta(seconds=SECONDS + 1))
    await two.balance()
    assert owned(one, two) == [{"clicks": {0, 1, 2, 3}}, {"clicks": ALL}]
    await one.balance()
    assert owned(one) == [{}]
    await host.settle(two, one)
    assert owned(one, two) == [{"clicks": {0, 1, 2, 3}}, {"clicks": {4, 5, 6, 7}}]


async def test_a_worker_that_is_started_again_has_the_part_it_had(host: Host) -> None:
    host.streams = {"clicks"}
    one, two = host.worker("a"), host.worker("b")
    await host.settle(one, two)
    host.ended.add("process 1")
    again = host.worker("a")
    await again.balance()
    await two.balance()
    assert owned(again, two) == [{"clicks": {0, 1, 2, 3}}, {"clicks": {4, 5, 6, 7}}]


async def test_of_two_processes_of_one_name_one_consumes(host: Host) -> None:
    one, twin = host.worker("a"), host.worker("a")
    await host.settle(one, twin)
    assert owned(one, twin) == [{"clicks": ALL, "orders": ALL}, {}]


async def test_streams_of_other_tenants_are_apart(host: Host) -> None:
    one = host.worker("a")
    other = StreamPartitions(host.holder("process 9"), "other", "b", streams=lambda: {"clicks"})
    await one.balance()
    await other.balance()
    assert owned(one, other) == [{"clicks": ALL, "orders": ALL}, {"clicks": ALL}]


async def test_while_the_catalog_is_away_it_keeps_its_part_and_gives_it_back_at_the_end(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, stop = host.worker("a"), host.worker("b"), asyncio.Event()
    changed, refused = asyncio.Event(), asyncio.Event()
    one._changed = changed.set
    task = asyncio.create_task(one.run_until(stop))
    async with asyncio.timeout(10):
        await changed.wait()
    assert owned(one) == [{"clicks": ALL, "orders": ALL}]

    def away(prefix: str) -> None:
        loop.call_soon_threadsafe(refused.set)
        raise UnavailableError("The catalog is away.")

    loop = asyncio.get_running_loop()
    with monkeypatch.context() as patched:
        patched.setattr(host.leases, "living", away)
        one._wakeup.wake()
        async with asyncio.timeout(10):
            await refused.wait()
        assert owned(one) == [{"clicks": ALL, "orders": ALL}]
    stop.set()
    await task
    assert owned(one) == [{}]
    await two.balance()
    assert owned(two) == [{"clicks": ALL, "orders": ALL}]
