"""What can be wrong with a PostgreSQL server, and what a catalog on it says and does then."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import psycopg
import pytest
import sqlalchemy as sa
from tests.catalogs import catalog_url, postgres
from tests.harness.ports import free_port
from tests.integration.gateway.tls_world import issue
from tests.servers import PostgresProcess
from tests.unit.catalog.examples import DEV
from typer.testing import CliRunner

from antiphon.app.wiring import ProcessServices
from antiphon.catalog import postgres_server, schema
from antiphon.catalog.database import Database, backend_of
from antiphon.catalog.database_errors import BUSY_SECONDS
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.postgres_server import PostgresAccess, ServerClock
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.cli.main import assemble
from antiphon.core import settings
from antiphon.core.clock import ManualClock, SystemClock
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, StorageFullError, UnavailableError
from antiphon.core.tls import ClientTls
from antiphon.gateway.application import create_app
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(catalog_url(tmp_path, "postgresql"))
    yield opened
    opened.close()


@pytest.fixture
def own_server() -> Iterator[PostgresProcess]:
    """A server that a test may stop."""
    with PostgresProcess() as server:
        yield server


def of(server: PostgresProcess, access: PostgresAccess | None = None) -> Database:
    return Database.of(backend_of(server.url, access or PostgresAccess(password=server.password)))


def told(error: AntiphonError) -> str:
    return f"{error} {error.where} {error.next_step}"


# ------------------------------------------------------------------ opening


def test_ten_processes_that_start_at_once_migrate_an_empty_database_once(tmp_path: Path) -> None:
    server = postgres()
    server.run("CREATE DATABASE empty")
    url = catalog_url(tmp_path, "postgresql").rpartition("/")[0] + "/empty"
    code = (
        f"from antiphon.catalog.database import Database; d = Database.open({url!r}); d.migrate(); print(d.revision())"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(10)
    ]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [out.strip() for out, _ in ended] == [schema.REVISION] * 10, [error[-500:] for _, error in ended]
    server.run("DROP DATABASE empty")


def test_a_server_that_is_not_there_a_wrong_password_and_a_missing_database_are_told() -> None:
    server = postgres()
    nowhere = f"postgresql://antiphon@127.0.0.1:{free_port()}/catalog"
    with pytest.raises(UnavailableError, match="away") as away:
        Database.open(nowhere)
    with pytest.raises(SetupError, match="refuses the user") as refused:
        of(server, PostgresAccess(password="wrong secret"))
    with pytest.raises(SetupError, match="no such database") as missing:
        Database.of(backend_of(server.url.replace("/postgres", "/nothing"), PostgresAccess(password=server.password)))
    for error in (away.value, refused.value, missing.value):
        assert error.next_step
        assert server.password not in told(error)
        assert "wrong secret" not in told(error)
        assert "wrong secret" not in str(error.__cause__)


def test_a_user_without_rights_an_old_server_and_a_standby_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = postgres()
    server.run("CREATE ROLE reader LOGIN PASSWORD 'reads'", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        url = server.url.replace("antiphon@", "reader@")
        with pytest.raises(SetupError, match="may not make tables"):
            Database.of(backend_of(url, PostgresAccess(password="reads")))
        with pytest.raises(SetupError, match="does not let this user"):
            Database.of(backend_of(url, PostgresAccess(password="reads", schema="elsewhere")))
    finally:
        server.run("DROP ROLE reader")
    access = PostgresAccess(password=server.password)
    with pytest.raises(UnavailableError, match="takes no writes") as standby:
        Database.of(backend_of(f"{server.url}?options=-cdefault_transaction_read_only%3Don", access))
    assert "target_session_attrs" in str(standby.value.next_step)
    monkeypatch.setattr(postgres_server, "OLDEST", 99)
    with pytest.raises(SetupError, match="version 15"):
        of(server)


def test_projects_share_a_database_by_schemas(tmp_path: Path) -> None:
    server = postgres()
    here, there = (of(server, PostgresAccess(password=server.password, schema=name)) for name in ("desk", "shop"))
    for each in (here, there):
        each.migrate()
    digest = Blobs(here).put(DEV, b"of the desk")
    with there.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 0
    assert Blobs(here).get(DEV, digest) == b"of the desk"
    with here.transaction():  # Nor does one wait for the other.
        Blobs(there).put(DEV, b"of the shop")
    for each in (here, there):
        each.close()
    server.run("DROP SCHEMA desk CASCADE", "DROP SCHEMA shop CASCADE")
    with pytest.raises(InvalidInputError, match="no name of a schema"):
        of(server, PostgresAccess(schema="desk; DROP"))


def test_a_project_opens_it_by_its_settings_and_refuses_a_password_in_the_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres()
    monkeypatch.setenv("DESK_DATABASE", server.password)
    written = f'[catalog]\nurl = "{server.url}"\npassword_variable = "DESK_DATABASE"\nschema = "project"\n'
    (tmp_path / "antiphon.toml").write_text(written)
    store = Store.open(tmp_path)
    assert store.database.revision() == schema.REVISION
    assert store.database.backend.described().startswith("PostgreSQL 1")
    store.close()
    server.run("DROP SCHEMA project CASCADE")
    monkeypatch.delenv("DESK_DATABASE")
    with pytest.raises(SetupError, match="DESK_DATABASE is not set"):
        Store.open(tmp_path)
    (tmp_path / "antiphon.toml").write_text('[catalog]\nurl = "postgresql://antiphon:hunter2@127.0.0.1/desk"\n')
    with pytest.raises(InvalidInputError, match="holds a password") as refused:
        Store(*settings.load(tmp_path)).required_files  # noqa: B018
    assert "hunter2" not in told(refused.value)


def test_doctor_says_version_latency_clock_privileges_and_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = postgres()
    monkeypatch.setenv("DESK_DATABASE", server.password)
    (tmp_path / "definitions.py").write_text("")
    written = f'[engine]\nkind = "simulated"\n[catalog]\nurl = "{server.url}"\n'
    owner = f'{written}password_variable = "DESK_DATABASE"\nschema = "doctored"\nconnections = 3\n'
    (tmp_path / "antiphon.toml").write_text(owner)
    try:
        assert doctor(tmp_path)["found"].endswith("not made yet")
        Store.open(tmp_path).close()
        found = doctor(tmp_path)["found"]
        assert re.fullmatch(
            r"PostgreSQL 1\d\S*( \([^)]*\))?, answers in [\d.]+ ms, clock 0\.\d{3} s (behind|ahead of) this machine's, "
            rf"reads and writes {len(schema.metadata.tables)} tables, up to 3 connections a process, "
            rf"\d+ of the server's 100 in use, "
            rf"FSYNC IS OFF[^,]*, schema {schema.REVISION}",
            found,
        ), found
        # A user for processes alone: it reads and writes rows, and does not own the tables.
        server.run(
            "CREATE ROLE writer LOGIN PASSWORD 'writes'",
            "GRANT USAGE, CREATE ON SCHEMA doctored TO writer",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA doctored TO writer",
        )
        monkeypatch.setenv("DESK_DATABASE", "writes")
        (tmp_path / "antiphon.toml").write_text(owner.replace("antiphon@", "writer@"))
        assert "THE TABLES ARE ANOTHER USER'S" in doctor(tmp_path)["found"]
        server.run("REVOKE DELETE ON doctored.runs, doctored.blobs FROM writer")
        lacking = doctor(tmp_path)
        assert "may not read and write every table of the catalog: blobs, runs." in lacking["problem"]
        assert "GRANT SELECT, INSERT, UPDATE, DELETE" in lacking["next_step"]
        assert "writes" not in str(lacking).replace("read and write", "")
    finally:
        server.run("DROP SCHEMA IF EXISTS doctored CASCADE")
        if server.run("SELECT 1 FROM pg_roles WHERE rolname = 'writer'"):
            server.run("DROP OWNED BY writer", "DROP ROLE writer")


def doctor(root: Path) -> dict[str, Any]:
    """The line of ``antiphon doctor`` about the catalog."""
    ran = CliRunner().invoke(assemble(), ["doctor", "--project", str(root), "--json"])
    return next(line for line in json.loads(ran.stdout) if line["check"] == "catalog")


def test_a_server_elsewhere_is_verified_unless_the_url_says_how() -> None:
    def parameters(url: str) -> dict[str, object]:
        backend = backend_of(url)
        assert isinstance(backend, postgres_server.PostgresServer)
        return dict(backend.engine.url.query)

    assert parameters("postgresql://u@db.internal/desk")["sslmode"] == "verify-full"
    assert parameters("postgresql://u@db.internal/desk?sslmode=require")["sslmode"] == "require"
    for here in ("u@127.0.0.1", "u@localhost", "u@[::1]", ""):
        assert "sslmode" not in parameters(f"postgresql://{here}/desk")
    assert "sslmode" not in parameters("postgresql://u@/desk?host=127.0.0.1:5432&host=[::1]:5433")
    for there in ("host=127.0.0.1:5432&host=10.0.0.6:5432", "host=127.0.0.1,db.internal", "host=db.internal:5432"):
        assert parameters(f"postgresql://u@/desk?{there}")["sslmode"] == "verify-full"


def test_a_server_is_verified_by_the_named_authority_and_no_other(tmp_path: Path) -> None:
    authority, stranger = issue("authority", authority=True), issue("stranger", authority=True)
    server = PostgresProcess(certificate=issue("server", authority).write(tmp_path, "server"))
    trusted, _ = authority.write(tmp_path, "authority")
    other, _ = stranger.write(tmp_path, "stranger")
    try:
        server.start()
        url = server.url.replace("127.0.0.1", "localhost")
        opened = Database.of(backend_of(url, PostgresAccess(server.password, tls=ClientTls(trusted))))
        with opened.read() as connection:
            assert connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar()
        opened.close()
        with pytest.raises(SetupError, match="no certificate for its name") as refused:
            Database.of(backend_of(url, PostgresAccess(server.password, tls=ClientTls(other))))
        assert "[catalog] authority" in str(refused.value.next_step)
        with pytest.raises(SetupError, match="no certificate for its name"):
            Database.of(backend_of(f"{url}?sslmode=verify-full&sslrootcert=system", PostgresAccess(server.password)))
    finally:
        server.remove()
    plain = postgres()
    with pytest.raises(SetupError, match="no certificate for its name"):
        of(plain, PostgresAccess(plain.password, tls=ClientTls(trusted)))


# ------------------------------------------------------------------ while it runs


def test_a_server_that_was_started_again_is_used_again(own_server: PostgresProcess) -> None:
    database = of(own_server)
    database.migrate()
    blobs = Blobs(database)
    digest = blobs.put(DEV, b"before")
    own_server.kill()
    for use in (lambda: blobs.get(DEV, digest), lambda: blobs.put(DEV, b"meanwhile")):
        with pytest.raises(UnavailableError, match="away"):
            use()
    own_server.start()
    assert blobs.get(DEV, digest) == b"before"
    assert blobs.get(DEV, blobs.put(DEV, b"after")) == b"after"
    database.close()


async def test_a_gateway_says_that_its_server_takes_no_writes_and_goes_on_once_it_does(
    own_server: PostgresProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESK_DATABASE", own_server.password)
    (tmp_path / "definitions.py").write_text("")
    (tmp_path / "antiphon.toml").write_text(
        f'[engine]\nkind = "simulated"\n[catalog]\nurl = "{own_server.url}"\npassword_variable = "DESK_DATABASE"\n'
    )
    store = Store.open(tmp_path)
    made = first_key(store)
    assert made is not None
    wired = ProcessServices(store, "gateway")
    app = create_app(wired.gateway_services())
    headers = {"authorization": f"Bearer {made[0]}"}
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://desk", headers=headers) as desk:

        async def catalog() -> str | None:
            return (await desk.get("/readyz")).json()["parts"]["catalog"]

        assert await catalog() is None
        own_server.run("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        async with asyncio.timeout(30):
            while await catalog() is None:
                await asyncio.sleep(0.01)
        assert "takes no writes" in str(await catalog())
        refused = await desk.post("/admin/tenants", json={"name": "acme"})
        assert (refused.status_code, "takes no writes" in refused.text) == (503, True), refused.text
        assert "default_transaction_read_only" in refused.text
        listed = await desk.get("/admin/tenants")
        assert (listed.status_code, "acme" in listed.text) == (200, False), "What only reads goes on."
        writer = f"{own_server.url_with_password}?options=-cdefault_transaction_read_only%3Doff"
        with psycopg.connect(writer, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            connection.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(30):
            while await catalog() is not None:
                await asyncio.sleep(0.01)
        assert (await desk.post("/admin/tenants", json={"name": "acme"})).status_code == 201
    await wired.close()


def test_a_server_whose_disk_is_full_is_told_and_used_again_once_there_is_room(database: Database) -> None:
    # The server's own error, which a test cannot have by filling its disk.
    full = "BEGIN RAISE EXCEPTION 'could not extend file with secret values' USING ERRCODE = 'disk_full'; END"
    with database.transaction() as connection:
        connection.exec_driver_sql(f"CREATE FUNCTION be_full() RETURNS trigger LANGUAGE plpgsql AS $$ {full} $$")
        connection.exec_driver_sql("CREATE TRIGGER full_up BEFORE INSERT ON blobs EXECUTE FUNCTION be_full()")
    blobs = Blobs(database)
    with pytest.raises(StorageFullError, match="disk is full") as refused:
        blobs.put(DEV, b"too much")
    assert "secret" not in told(refused.value)
    with database.transaction() as connection:
        connection.exec_driver_sql("DROP FUNCTION be_full CASCADE")
    assert blobs.get(DEV, blobs.put(DEV, b"room again")) == b"room again"


def test_a_transaction_whose_connection_breaks_is_undone_and_told(database: Database) -> None:
    blobs = Blobs(database)

    def cut() -> None:
        with database.transaction() as connection:
            blobs.put(DEV, b"half", within=connection)
            own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            postgres().run(f"SELECT pg_terminate_backend({own})")
            blobs.put(DEV, b"other half", within=connection)

    with pytest.raises(UnavailableError, match="away"):
        cut()
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 0
    blobs.put(DEV, b"and the lock is free again")


def test_a_group_whose_connection_breaks_is_undone_and_told_as_a_whole(database: Database) -> None:
    commit, blobs = GroupCommit(database), Blobs(database)
    began, free = threading.Event(), threading.Event()

    def cut(connection: sa.Connection) -> None:
        own = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        postgres().run(f"SELECT pg_terminate_backend({own})")
        blobs.put(DEV, b"first", within=connection)

    before = commit.enqueue(lambda connection: (began.set(), free.wait(30)))
    assert began.wait(30)  # What comes meanwhile is one group.
    group = [commit.enqueue(cut), commit.enqueue(lambda connection: blobs.put(DEV, b"second", within=connection))]
    free.set()
    before.result(30)
    for each in group:
        with pytest.raises(UnavailableError, match="lost"):
            each.result(30)
    commit.close()
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(schema.blobs)).scalar() == 0


def test_a_writer_that_hangs_loses_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = catalog_url(tmp_path, "postgresql")
    monkeypatch.setitem(postgres_server._OPTIONS, "idle_in_transaction_session_timeout", "200ms")
    hanging, other = Database.open(url), Database.open(url)
    held, ended = threading.Event(), threading.Event()

    def hang() -> None:
        with hanging.transaction() as connection:
            Blobs(hanging).put(DEV, b"never", within=connection)
            held.set()
            ended.wait(30)

    with ThreadPoolExecutor(1) as threads:
        hung = threads.submit(hang)
        assert held.wait(30)
        digest = Blobs(other).put(DEV, b"mine")
        ended.set()
        with pytest.raises(UnavailableError):
            hung.result(30)
    with other.read() as connection:
        assert connection.execute(sa.select(schema.blobs.c.hash)).scalars().all() == [digest]
    hanging.close()
    other.close()


def test_a_waiter_outlasts_a_writer_that_is_gone() -> None:
    assert postgres_server.LOST_SECONDS < BUSY_SECONDS


def test_the_kernel_is_told_how_long_a_statement_may_go_unheard(database: Database) -> None:
    """Keep-alive is silent while something is on its way, which would be sent again for a quarter of an hour."""
    with database.read() as connection:
        raw = connection.connection.dbapi_connection
        with socket.socket(fileno=os.dup(raw.fileno())) as line:
            assert line.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000


def test_connections_are_bounded_and_too_many_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = postgres()
    bounded = PostgresAccess(password=server.password, connections=2)
    with monkeypatch.context() as patched:
        patched.setattr(postgres_server, "BUSY_SECONDS", 0.2)
        database = of(server, bounded)
    with database.read(), database.read(), pytest.raises(UnavailableError, match="in use"), database.read():
        pass
    with database.read():
        assert database.connections() == (1, 2)
    assert database.connections() == (0, 2)
    database.close()
    database = of(server, bounded)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: database.scalar(sa.select(sa.literal(1))), range(64)))
    assert found == [1] * 64
    counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'antiphon' AND datname = 'postgres'"
    assert server.run(counted)[0][0] <= 2
    database.close()


def test_texts_and_numbers_that_it_cannot_hold_are_the_callers(database: Database) -> None:
    table = schema.feature_holds
    row = {"tenant": "default", "environment": "dev", "view": "v", "principal": "me", "created_at": SystemClock().now()}
    with pytest.raises(InvalidInputError, match="NUL"):
        database.write(sa.insert(table).values(row | {"reason": "a\0b"}))
    with pytest.raises(InvalidInputError, match="too long"):
        database.write(sa.insert(table).values(row | {"reason": "r", "view": os.urandom(9_000).hex()}))
    with pytest.raises(InvalidInputError, match="too large"):
        database.rows(sa.select(schema.publications).where(schema.publications.c.number == 2**70))


# ------------------------------------------------------------------ its clock


def test_processes_whose_clocks_differ_agree_on_the_servers(database: Database) -> None:
    assert isinstance(database.clock, ServerClock)
    wrong = ServerClock(ManualClock(datetime(1999, 1, 1, tzinfo=UTC)))
    assert wrong.now().year == 1999
    assert wrong.stale
    database.backend.clock = wrong  # type: ignore[misc]
    with database.transaction():
        pass
    assert abs(wrong.now() - SystemClock().now()) < timedelta(seconds=1)
    assert not wrong.stale


def test_the_servers_clock_goes_on_between_two_tellings() -> None:
    local = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock = ServerClock(local)
    clock.set(datetime(2030, 5, 1, tzinfo=UTC))
    local.set(datetime(1980, 1, 1, tzinfo=UTC))  # A step of this machine's wall clock changes nothing.
    local.advance(timedelta(seconds=29))
    assert clock.now() == datetime(2030, 5, 1, 0, 0, 29, tzinfo=UTC)
    assert not clock.stale
    local.advance(timedelta(seconds=2))
    assert clock.stale


def test_a_reader_tells_the_time_again_when_it_is_old(database: Database) -> None:
    clock = database.clock
    assert isinstance(clock, ServerClock)
    clock.set(datetime(2001, 1, 1, tzinfo=UTC))
    clock._reading = (clock._reading[0], time.monotonic() - ServerClock.FRESH_SECONDS - 1)  # type: ignore[index]
    with database.read():
        pass
    assert clock.now().year > 2020


def test_a_servers_clock_that_went_back_counts_and_is_told(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    clock, leases = database.clock, ProcessLeases(database, "dev")
    assert isinstance(clock, ServerClock)
    with database.transaction():
        pass
    before = caplog.text
    clock.set(SystemClock().now() + timedelta(hours=1))  # As the server said before its clock was set back.
    holding = clock.now() + timedelta(seconds=30)
    assert leases.acquire("duties", "living", 0.4)
    assert "went back by 3" in caplog.text.removeprefix(before)
    assert abs(clock.now() - SystemClock().now()) < timedelta(seconds=1)
    lease = leases.find("duties")
    assert lease is not None
    assert lease.until < holding - timedelta(minutes=59), "It is of the server's time, and none waits for an hour."
    assert not leases.acquire("duties", "other", 0.4)
    while not leases.acquire("duties", "other", 0.4):
        time.sleep(0.02)
    assert caplog.text.count("went back by") == 1


def test_an_answer_that_was_long_on_its_way_is_no_step_of_the_clock(caplog: pytest.LogCaptureFixture) -> None:
    local, said = ManualClock(datetime(2026, 1, 1, tzinfo=UTC)), datetime(2030, 5, 1, tzinfo=UTC)
    clock = ServerClock(local)
    clock.set(said, local.monotonic())
    since = local.monotonic()
    local.advance(timedelta(seconds=9))  # This process was stopped before it read the answer.
    clock.set(said, since)
    assert not caplog.records
    local.advance(timedelta(seconds=9))
    clock.set(said, local.monotonic())
    assert "went back by 9.0 s" in caplog.text
    assert clock.now() == said
