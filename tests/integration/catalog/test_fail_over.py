"""A catalog whose PostgreSQL server is lost, and whose standby takes its place."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

import pytest
from tests.servers import PostgresProcess, until
from tests.unit.catalog.examples import DEV

from antiphon.catalog.database import Database, backend_of
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.notify_channel import NotifyChannel
from antiphon.catalog.postgres_server import PostgresAccess
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import UnavailableError
from antiphon.durable.runs import Runs

PRIMARY_LOST_SECONDS = 20.0


def of_cluster(*servers: PostgresProcess) -> Database:
    hosts = "&".join(f"host={server.address}:{server.port}" for server in servers)
    url = f"postgresql://{PostgresProcess.user}@/postgres?{hosts}&target_session_attrs=read-write"
    return Database.of(backend_of(url, PostgresAccess(password=PostgresProcess.password)))


def in_time(work: Callable[[], object]) -> float:
    """Do it as a process does, again and again while the server is away; the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            work()
            return time.monotonic() - began
        except UnavailableError:
            assert time.monotonic() - began < PRIMARY_LOST_SECONDS
            time.sleep(0.05)


def test_processes_go_on_with_the_standby_that_is_promoted() -> None:
    with PostgresProcess() as primary, PostgresProcess(of=primary) as standby:
        # What is acknowledged is on both: else a fail-over may lose the last moments, whatever a client does.
        primary.run(
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            "ALTER SYSTEM SET synchronous_commit = 'remote_apply'",
            "SELECT pg_reload_conf()",
        )
        until(lambda: primary.run("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))
        gateway, worker = of_cluster(primary, standby), of_cluster(standby, primary)
        assert "away" not in worker.backend.described()
        gateway.migrate()
        blobs, commit, runs = Blobs(gateway), GroupCommit(gateway), Runs(worker)
        leases = ProcessLeases(worker, "dev")
        before = [blobs.put(DEV, b"acknowledged")]
        commit.enqueue(lambda connection: before.append(blobs.put(DEV, b"in a group", within=connection))).result(30)
        assert leases.acquire("duties", "worker", 60)
        run = runs.submit(DEV, "refresh", {})
        heard: queue.Queue[object] = queue.Queue()
        channel = NotifyChannel(worker.backend.engine, worker.backend.place)
        channel.open(heard.put)
        assert heard.get(timeout=20) is None

        primary.kill()
        with pytest.raises(UnavailableError, match=r"away|takes no writes"):
            blobs.put(DEV, b"while there is none")
        with pytest.raises(UnavailableError):
            commit.enqueue(lambda connection: blobs.put(DEV, b"nor in a group", within=connection)).result(30)
        standby.run("SELECT pg_promote()")

        for database in (gateway, worker):
            assert in_time(lambda database=database: Blobs(database).put(DEV, b"after")) < PRIMARY_LOST_SECONDS
        assert [bytes(blobs.get(DEV, digest)) for digest in before] == [b"acknowledged", b"in a group"]
        assert leases.acquire("duties", "worker", 60), "It goes on with the lease that it had."
        assert not leases.acquire("duties", "another", 60)
        assert runs.get(DEV, run).status == "queued"
        assert heard.get(timeout=20) is None, "What was rung meanwhile is made up for."
        assert Runs(gateway).submit(DEV, "refresh", {}) != run
        assert heard.get(timeout=20) is not None
        channel.close()
        commit.enqueue(lambda connection: blobs.put(DEV, b"a group again", within=connection)).result(30)
        commit.close()
        for database in (gateway, worker):
            database.close()
