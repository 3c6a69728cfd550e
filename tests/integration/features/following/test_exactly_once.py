"""Rows of a table count online as often as in batch: once, over kills of workers and of the database."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from tests.integration.features.following.postgres_payments import (
    VARIABLE,
    batch_view,
    create,
    followed_view,
    session,
)
from tests.integration.features.world import NOON, World, minutes
from tests.servers import PostgresProcess, until

from antiphon.catalog.features.followed_streams import FollowedStreams
from antiphon.core.child_process import start_child
from antiphon.features.online.overlay_records import view_prefix

SHOPS, LEASE = 12, 1.2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresProcess]:
    with PostgresProcess() as found:
        monkeypatch.setenv(VARIABLE, found.password)
        create(found)
        yield found


class Writer(threading.Thread):
    """The system that writes: bursts of transactions of several rows, some long, some rolled back."""

    def __init__(self, server: PostgresProcess, seed: int) -> None:
        super().__init__()
        self._server = server
        self._random = random.Random(seed)
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.is_set():
            with suppress(psycopg.OperationalError), session(self._server, autocommit=False) as connection:
                while not self.over.is_set():
                    for _ in range(self._random.randint(1, 30)):
                        second = self._random.randrange(86_400)
                        connection.execute(
                            "INSERT INTO payments (shop, amount, paid_at) VALUES (%s, %s, %s)",
                            (
                                f"shop-{self._random.randrange(SHOPS)}",
                                self._random.randrange(10_000) / 100,
                                NOON - timedelta(seconds=second),
                            ),
                        )
                    time.sleep(self._random.random() / 20)
                    connection.rollback() if self._random.random() < 0.1 else connection.commit()
            time.sleep(0.05)


class Workers:
    """Worker processes on a folder."""

    def __init__(self, folder: Path, server: PostgresProcess, stack: ExitStack) -> None:
        self._folder = folder
        self._server = server
        self._stack = stack
        self._count = 0
        self.running: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        self._count += 1
        module = "tests.integration.features.following.follower_worker"
        name = f"worker-{self._count}"
        command = [sys.executable, "-m", module, str(self._folder), self._server.url, name, str(LEASE)]
        process = start_child(command, stdout=subprocess.PIPE, text=True)
        self._stack.callback(process.stdout.close)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        assert process.stdout.readline() == "ready\n"
        self.running.append(process)

    def kill(self, place: int) -> None:
        process = self.running.pop(place)
        process.kill()
        process.wait()


def test_every_row_counts_once_whatever_is_killed(tmp_path: Path, server: PostgresProcess) -> None:
    seed = 11
    chance = random.Random(seed)
    followed, table = followed_view(server.url).spec(), batch_view(server.url).spec()
    world, prefix, published = World(tmp_path, followed, table), view_prefix(followed.key), 0
    writers = [Writer(server, seed + number) for number in range(3)]
    with ExitStack() as stack:
        stack.callback(world.close)
        workers = Workers(tmp_path, server, stack)
        for writer in writers:
            writer.start()
            stack.callback(writer.join)
            stack.callback(writer.over.set)
        workers.start()
        for kill in range(5):
            workers.start()
            time.sleep(chance.random())
            if kill == 2:
                server.end(signal.SIGQUIT)
                time.sleep(0.5)
                server.start()
            published += 1
            world.publish(NOON + minutes(published), followed.name)
            workers.kill(chance.randrange(2))
        for writer in writers:
            writer.over.set()
            writer.join()
        ((rows,),) = server.run("SELECT count(*) FROM payments")
        assert rows > 200

        def consumed() -> bool:
            end = world.log.end(world.scope, "payments")
            return end == rows and world.overlay.read([prefix]).offsets[prefix] == rows

        until(consumed)
        state = FollowedStreams(world.database).list(world.scope)["payments"]
        assert state.refused == 0
        as_of = NOON + minutes(published + 2)
        world.publish(as_of - minutes(1), table.name)
        streamed = [found_of(world, followed.name, number, as_of) for number in range(SHOPS)]
        assert streamed == [found_of(world, table.name, number, as_of) for number in range(SHOPS)]
        assert sum(one["payments"] for one in streamed) == rows
        world.publish(as_of, followed.name)
        assert streamed == [found_of(world, followed.name, number, as_of) for number in range(SHOPS)]


def found_of(world: World, view: str, number: int, as_of: datetime) -> dict[str, object]:
    found = world.read(as_of, view, shop=f"shop-{number}")
    return {name.partition(".")[2]: one.value for name, one in found.values.items()}
