"""The event log on a cluster of three: a node that is killed or hangs is gone round, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness.ports import free_port
from tests.integration.features.streaming.test_nats_losses import some
from tests.integration.features.world import World
from tests.servers import NatsProcess, until

from antiphon.catalog.features.events import StreamHomes
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.streaming.nats_access import require_url
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer

DEV = Scope()


@pytest.fixture
def nodes() -> Iterator[list[NatsProcess]]:
    routes = [f"nats://127.0.0.1:{free_port()}" for _ in range(3)]
    started = [
        NatsProcess("-n", f"node-{place}", "--cluster_name", "three", "-cluster", at, "-routes", ",".join(routes))
        for place, at in enumerate(routes)
    ]
    try:
        for node in started:
            node.start()
        yield started
    finally:
        for node in started:
            node.remove()


def answered(ask: Callable[[], int]) -> int:
    """Its answer, once there is one."""
    found: list[int] = []
    failed: list[str] = []

    def asked() -> bool:
        try:
            found.append(ask())
        except AntiphonError as error:
            if "a moment ago" not in str(error):
                failed.append(f"{error} {error.__cause__!r}")
            return False
        return True

    try:
        until(asked, 60)
    except AssertionError:
        raise AssertionError(failed[-3:]) from None
    return found[-1]


@pytest.fixture
def server(nodes: list[NatsProcess]) -> Iterator[NatsServer]:
    places = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    made = NatsServer(f"nats://{places}?replicas=3", timeout=1.5)
    yield made
    made.close()


@pytest.fixture
def log(server: NatsServer, tmp_path: Path) -> Iterator[NatsEventLog]:
    world = World(tmp_path)
    yield NatsEventLog(server, StreamHomes(world.database), PlainCodec())
    world.close()


def read(log: NatsEventLog) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []

    def ask() -> int:
        found[:] = [(each.offset, each.event.event_id) for each in log.read(DEV, "departures", 0, 9)]
        return len(found)

    answered(ask)
    return found


@pytest.mark.chaos
def test_a_node_that_is_killed_is_gone_round(nodes: list[NatsProcess], server: NatsServer, log: NatsEventLog) -> None:
    assert answered(lambda: log.append(DEV, "departures", some(1, 2))) == 2
    nodes[server._address].kill()
    assert answered(lambda: log.append(DEV, "departures", some(2, 3))) == 3
    assert read(log) == [(1, "e1"), (2, "e2"), (3, "e3")]


@pytest.mark.chaos
@pytest.mark.skipif(os.environ.get("CHAOS_SIZE") != "full", reason="a quarter of a minute; part of `make chaos-log`")
def test_without_a_majority_nothing_is_taken_nor_said_to_be(nodes: list[NatsProcess], log: NatsEventLog) -> None:
    assert answered(lambda: log.append(DEV, "departures", some(1, 2))) == 2
    nodes[0].kill()
    nodes[1].pause()
    for _ in range(3):
        with pytest.raises(UnavailableError):
            log.append(DEV, "departures", some(3))
    nodes[0].start()
    assert answered(lambda: log.append(DEV, "departures", some(3, 4))) == 4
    assert read(log) == [(number, f"e{number}") for number in range(1, 5)]


@pytest.mark.parametrize("url", ["nats://h:1,,g:2", "nats://h:1,:2", "nats://h:1,g:port", "nats://h:1,"])
def test_every_node_needs_a_name(url: str) -> None:
    with pytest.raises(InvalidInputError, match="no URL of an event log"):
        require_url(url)
