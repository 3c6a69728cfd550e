"""Worker processes that share one stream: one joins, one stands still for longer than its lease, one is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.features.streaming.stream_worker import SCOPE, STREAM, Sold, consumer_of
from tests.servers import RedisProcess

from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.child_process import start_child
from antiphon.core.errors import UnavailableError
from antiphon.features.online.overlay_records import PARTITIONS, view_prefix

NOON, SHOPS, LEASE = datetime(2013, 4, 10, 12, tzinfo=UTC), 40, 1.2


@pytest.fixture(params=["lmdb", "redis-server"])
def redis(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the overlay's server; ``-`` in a file."""
    if request.param == "lmdb":
        yield "-"
        return
    server = RedisProcess(request.param)
    server.start()
    yield server.url
    server.remove()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def event(number: int) -> Event:
    """Every seventh is late, every thirteenth names no shop."""
    moment = NOON + timedelta(seconds=number - (500 if number % 7 == 0 else 0))
    payload = {"amount": number} | ({"shop": f"shop-{number % SHOPS}"} if number % 13 else {})
    return Event(f"order-{number}", moment, moment, payload)


def test_workers_share_a_stream_and_count_each_event_once_whatever_happens_to_them(tmp_path: Path, redis: str) -> None:
    with ExitStack() as stack:
        database, watching, overlay = consumer_of(tmp_path, redis, stack)
        database.migrate()
        log, leases, prefix = (
            EventLog(database),
            ProcessLeases(database, SCOPE.environment),
            view_prefix(Sold.spec().key),
        )
        workers: dict[str, subprocess.Popen[str]] = {}
        sent = 0

        def start(name: str) -> None:
            module = "tests.integration.features.streaming.stream_worker"
            command = [sys.executable, "-m", module, str(tmp_path), redis, name, str(LEASE)]
            workers[name] = start_child(command, stdout=subprocess.PIPE, text=True)
            stack.callback(workers[name].stdout.close)
            stack.callback(workers[name].wait)
            stack.callback(workers[name].kill)
            assert workers[name].stdout.readline() == "ready\n"

        def held() -> dict[str, int]:
            """Partitions by worker."""
            found: dict[str, int] = {}
            for lease in leases.living(f"streams/{SCOPE.tenant}/partition/"):
                name = lease.holder.split("/")[0]
                found[name] = found.get(name, 0) + 1
            return found

        def append(number: int) -> None:
            nonlocal sent
            for begin in range(sent + 1, sent + number + 1, 10):
                log.append(SCOPE, STREAM, [event(n) for n in range(begin, begin + 10)])
            sent += number

        def stop(name: str) -> None:
            """Stop a worker that holds no lock of the catalog's file at that moment: nobody would get it."""
            while True:
                workers[name].send_signal(signal.SIGSTOP)
                try:
                    with database.transaction():
                        return
                except UnavailableError:
                    workers[name].send_signal(signal.SIGCONT)

        def consumed() -> bool:
            return overlay.read([prefix]).offsets[prefix] == sent

        start("one")
        append(200)
        until(lambda: held() == {"one": PARTITIONS})
        start("two")
        append(200)
        until(lambda: held() == {"one": 4, "two": 4})
        until(consumed)
        stop("one")
        until(lambda: held() == {"two": PARTITIONS})
        append(200)
        until(consumed)
        append(200)
        workers["one"].send_signal(signal.SIGCONT)  # It goes on with partitions that are not its own.
        append(200)
        until(lambda: held() == {"one": 4, "two": 4})
        workers["two"].kill()
        append(200)
        until(lambda: held() == {"one": PARTITIONS})
        until(consumed)
        workers["one"].send_signal(signal.SIGTERM)
        assert workers["one"].wait(30) == 0
        assert held() == {}

        (status,) = watching.status(NOON)
        (view,) = status.views
        usable = [n for n in range(1, sent + 1) if n % 13]
        first_late = [n for n in usable if n % 7 == 0]
        assert (view.consumed, view.rejected, view.late) == (sent, sent - len(usable), len(first_late))
        online = watching._online
        hashes = {name: online.entity_hash("shop", [name]) for name in (f"shop-{n}" for n in range(SHOPS))}
        found = overlay.read([prefix], [(prefix, hashed, 0) for hashed in hashes.values()]).events
        for name, hashed in hashes.items():
            assert [one.offset for one in found[prefix, hashed]] == [n for n in usable if f"shop-{n % SHOPS}" == name]
