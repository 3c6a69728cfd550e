"""Two hosts on one PostgreSQL, short: kills and partitions under load; and that the oracles find what breaks.

The long forms are ``make chaos-processes`` and ``make chaos-hosts``, which also take defences away from the platform.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from tests.catalogs import catalog_url
from tests.chaos.harness import many_processes
from tests.chaos.harness.chaos_triggers import TakeOver, make_triggers
from tests.chaos.harness.network import PREFIX, SERVERS, Network, lacking, network
from tests.servers import PostgresProcess
from tests.unit.catalog.examples import DEV

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.child_process import start_child
from antiphon.durable import runs as runs_module
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import LeaseLostError
from antiphon.durable.runs import Runs

LONG, OVER = timedelta(minutes=1), timedelta(seconds=-1)


@pytest.mark.chaos
async def test_processes_are_killed_and_hosts_cut_off_and_nothing_is_lost(tmp_path: Path) -> None:
    partitions = 0 if lacking() else 1
    # Without the third host, which has no engine of its own: each process takes seconds of a processor to start.
    plans = many_processes.CUT_OFF[:2] if partitions else many_processes.KILLED
    report = await many_processes.run(tmp_path, kills=3, partitions=partitions, plans=plans, seed=20131129)
    assert report.violations == {name: [] for name in report.violations}, many_processes.table(report)
    assert sum(report.kills.values()) == 3
    assert {name.partition("/")[2].partition("-")[0] for name in report.kills} == {"gateway", "engine", "worker"}
    assert sum(report.faults.values()) == partitions
    assert report.acknowledged + report.job_rows > 150, "there was hardly any load to lose"


@pytest.fixture
def hosts() -> Iterator[Network]:
    if (why := lacking()) is not None:
        pytest.skip(why)
    with network(1) as made:
        yield made


@pytest.fixture
def answering(hosts: Network) -> Iterator[int]:
    """The port of a server of the hosts that answers whatever connects to it with a byte."""
    serve = f"""import socket
listener = socket.create_server(('{SERVERS}', 0))
print(listener.getsockname()[1], flush=True)
while True:
    one, _ = listener.accept()
    one.sendall(b'.')
"""
    server = start_child([*hosts.under(-1), sys.executable, "-c", serve], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        yield int(server.stdout.readline())
    finally:
        server.kill()
        server.communicate(timeout=20)


def asked(hosts: Network, port: int, within: float = 20.0) -> float | None:
    """Seconds until a host was answered; ``None``: it was not, within so many."""
    ask = f"""import socket, time
began = time.monotonic()
socket.create_connection(('{SERVERS}', {port}), timeout={within}).recv(1)
print(time.monotonic() - began)
"""
    done = subprocess.run([*hosts.under(0), sys.executable, "-c", ask], capture_output=True, timeout=60)
    return float(done.stdout) if done.returncode == 0 else None


def test_a_cut_host_hears_nothing_until_it_is_mended(hosts: Network, answering: int) -> None:
    assert asked(hosts, answering) is not None
    hosts.cut(0)
    assert asked(hosts, answering, within=1.0) is None
    with socket.create_connection((SERVERS, answering), timeout=5):
        pass  # Clients and oracle still reach the servers.
    hosts.mend(0)
    assert asked(hosts, answering) is not None


def test_a_delayed_host_hears_later(hosts: Network, answering: int) -> None:
    hosts.delay(0, 100)
    slow = asked(hosts, answering)
    assert slow is not None
    assert slow >= 0.4  # A round trip for the connection and one for the byte, each way 100 ms.
    hosts.delay(0, 0)
    quick = asked(hosts, answering)
    assert quick is not None
    assert quick < slow


def test_networks_of_a_killed_run_are_removed_by_the_next(hosts: Network) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    left = f"{PREFIX}-{int(ended.stdout)}-0"
    subprocess.run(["ip", "netns", "add", left], check=True)
    hosts.remove()
    with network(1):
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert left not in listed
        assert f"{PREFIX}-{os.getpid()}-0" in listed


def test_a_server_forgets_a_host_that_is_cut_off_and_was_notified(hosts: Network) -> None:
    """What is not acknowledged stops keep-alive: the listener's place would be taken for a quarter of an hour."""
    server = PostgresProcess(address=SERVERS, under=hosts.under(-1))
    url = f"{server.url_with_password}?sslmode=disable"
    listen = f"""import sys
from antiphon.catalog.database import Database
Database.open({url!r}).backend.channel.open(lambda names: print("listens", flush=True))
sys.stdin.read()
"""
    child: subprocess.Popen[bytes] | None = None
    try:
        server.start()
        child = start_child(
            [*hosts.under(0), sys.executable, "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"listens"
        with closing(Database.open(url)) as database:
            database.migrate()
            connected = f"SELECT count(*) FROM pg_stat_activity WHERE client_addr = '{hosts.inner_address(0)}'"
            assert server.run(connected) == [(1,)]
            hosts.cut(0)
            with database.transaction() as connection:
                database.backend.channel.notify(connection, ["runs"])
            until = time.monotonic() + 30
            while server.run(connected) != [(0,)]:
                assert time.monotonic() < until, "the server keeps the connection"
                time.sleep(0.25)
    finally:
        if child is not None:
            child.kill()
            child.communicate(timeout=20)
        server.remove()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[tuple[Database, str]]:
    url = catalog_url(tmp_path, "postgresql")
    with closing(Database.open(url)) as database:
        database.migrate()
        make_triggers(url)
        yield database, url


@pytest.mark.parametrize("fenced", [True, False])
def test_the_oracle_finds_what_is_written_without_a_fence(
    catalog: tuple[Database, str], monkeypatch: pytest.MonkeyPatch, fenced: bool
) -> None:
    database, url = catalog
    runs = Runs(database)
    runs.submit(DEV, "pairs", {})
    lost = runs.claim("w1", ServedRuns(DEV.environment), OVER)
    held = runs.claim("w2", ServedRuns(DEV.environment), LONG)
    assert lost is not None
    assert held is not None
    runs.record(held, "mine", 0, {}, database.clock.now())
    if not fenced:
        monkeypatch.setattr(runs_module, "holds", lambda run: schema.owned(schema.runs, run.scope, id=run.id))
        runs.record(lost, "late", 0, {}, database.clock.now())
    else:
        with pytest.raises(LeaseLostError):
            runs.record(lost, "late", 0, {}, database.clock.now())
    runs.end(held, {})
    if not fenced:
        runs.end(lost, {})
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT what, epoch, present FROM chaos_stale_commits ORDER BY at").fetchall()
    assert found == ([] if fenced else [("step", 1, 2), ("second end", 2, 2)])


def test_a_take_over_lasts_until_another_epoch_has_committed(catalog: tuple[Database, str]) -> None:
    database, url = catalog
    runs, leases = Runs(database), ProcessLeases(database, DEV.environment)
    runs.submit(DEV, "pairs", {})
    assert leases.acquire("worker/w1@here", "here/boot/4000001/1", 60)
    assert leases.acquire("duties", "here/boot/4000001/1", 60)
    assert runs.claim("w1@here", ServedRuns(DEV.environment), OVER) is not None
    struck = TakeOver(url, [4000001])
    assert struck.waits_for() == {"duties", *(run.id for run in runs.list(DEV))}
    leases.release("duties", "here/boot/4000001/1")
    leases.acquire("duties", "here/boot/4000002/1", 60)
    held = runs.claim("w2@here", ServedRuns(DEV.environment), LONG)
    assert held is not None
    assert struck.waits_for() == {held.id}, "a claim alone goes on with nothing"
    runs.record(held, "next", 0, {}, database.clock.now())
    assert struck.waits_for() == set()
    took = struck.seconds()
    assert [len(took[kind]) for kind in ("duty", "run", "claim")] == [1, 1, 1]
    assert took["claim"] <= took["run"]
