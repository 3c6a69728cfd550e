"""Following a table of a real PostgreSQL: every committed row is read, whatever its transaction and watermark."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import msgspec
import pytest
from tests.integration.features.following.postgres_payments import VARIABLE, Reading, create, payments, reader, session
from tests.servers import PostgresProcess, until

from antiphon import PostgresTable, Source
from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError

PAID = "'2026-11-30 10:00+00'"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresProcess]:
    with PostgresProcess() as found:
        yield found


Begin = Callable[[Source], Reading]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Makes readings, which are closed at the end."""
    with ExitStack() as stack:

        def made(source: Source) -> Reading:
            reading = Reading(source)
            stack.callback(reading.close)
            return reading

        yield made


@pytest.fixture(autouse=True)
def table(server: PostgresProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, server.password)
    create(server)


def insert(number: int, shop: str = "a", amount: str = "1.25") -> str:
    return (
        f"INSERT INTO payments (shop, amount, paid_at) "
        f"SELECT '{shop}', {amount}, timestamptz {PAID} + n * interval '1 s' FROM generate_series(1, {number}) AS n"
    )


def test_rows_come_in_pages_with_their_times_and_as_batch_reads_them(server: PostgresProcess, begin: Begin) -> None:
    server.run(insert(7))
    reading = begin(payments(server.url))
    assert reading.on(limit=3) == [str(number) for number in range(1, 8)]
    first = reading.events[0]
    assert first.event_time == first.available_at == datetime(2026, 11, 30, 10, 0, 1, tzinfo=UTC)
    assert (first.payload["shop"], first.payload["amount"], first.payload["id"]) == ("a", 1.25, 1)
    assert reading.on() == []
    server.run(insert(2))
    assert reading.on(limit=2)[-2:] == ["8", "9"]


def test_a_transaction_that_ends_late_is_not_missed(server: PostgresProcess, begin: Begin) -> None:
    """Its numbers are below others that were read long ago; a savepoint's transaction has a number of its own."""
    with session(server, autocommit=False) as slow, session(server, autocommit=False) as nested:
        slow.execute(insert(1, "slow"))
        nested.execute("SELECT 1")
        with nested.transaction():
            nested.execute(insert(1, "nested"))
        server.run(insert(3))
        reading = begin(payments(server.url))
        assert set(reading.on()) == {"3", "4", "5"}
        server.run(insert(1))
        reading.on()
        slow.commit()
        assert "1" in reading.on()
        nested.commit()
        assert "2" in reading.on()
        assert reading.ids == {str(number) for number in range(1, 7)}


def test_a_watermark_that_steps_back_or_lies_in_the_future_hides_nothing(server: PostgresProcess, begin: Begin) -> None:
    source = payments(server.url, watermark="added")
    reading = begin(source)
    server.run(insert(1), "INSERT INTO payments (shop, paid_at, added) VALUES ('b', now(), now() + interval '9 years')")
    reading.on()
    server.run(insert(1))
    assert "3" in reading.on()
    server.run("INSERT INTO payments (shop, paid_at, added) VALUES ('b', now(), now() - interval '9 years')")
    until(lambda: reading.on() and "4" in reading.ids)


def test_rows_without_id_watermark_or_time_are_counted_with_a_reason_and_hold_up_no_other(
    server: PostgresProcess, begin: Begin
) -> None:
    create(server, "number int, id text UNIQUE, amount numeric, paid_at text")
    server.run(
        "INSERT INTO payments (number, id, amount, paid_at) VALUES (1, 'a', 1, '2026-11-30 10:00'), "
        "(2, 'b', 1, 'yesterday'), (3, NULL, 1, '2026-11-30 10:00'), (4, 'd', 'NaN', '2026-11-30 10:00'), "
        "(5, 'e', 1e300 * 1e300, 'infinity'), (6, 'f', 1e300 * 1e300, '2026-11-30T10:00:00Z'), (NULL, 'g', 1, 'now')"
    )
    reading = begin(payments(server.url, watermark="number"))
    assert reading.on() == ["a", "d", "f"]
    assert [event.payload["amount"] for event in reading.events] == [1, None, None]
    assert (reading.refused, reading.refusal) == (4, "number or id is null")
    assert reading.on() == []
    assert reading.refused == 4


def test_rows_are_read_once_they_were_written_whatever_writes_beside(server: PostgresProcess, begin: Begin) -> None:
    """Writers of many kinds at once, aborted ones too; pages are small, so that rows come between them."""
    seed = random.Random(7)
    done, kept = threading.Event(), set[str]()

    def write(number: int) -> None:
        own = random.Random(number)
        with session(server, autocommit=False) as connection:
            for _ in range(25):
                found = []
                connection.execute("SELECT 1")  # Otherwise the first savepoint would be a transaction.
                for _ in range(own.randint(1, 4)):
                    with connection.transaction():
                        row = connection.execute(insert(1, f"s{number}") + " RETURNING id").fetchone()
                        assert row is not None
                        found.append(str(row[0]))
                    time.sleep(own.random() / 500)
                if own.random() < 0.2:
                    connection.rollback()
                else:
                    connection.commit()
                    kept.update(found)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    reading = begin(payments(server.url))
    for thread in threads:
        thread.start()
    waiting = threading.Thread(target=lambda: ([thread.join() for thread in threads], done.set()))
    waiting.start()
    while not done.is_set():
        reading.on(limit=seed.randint(1, 20))
        if seed.random() < 0.1:  # A crash: another reader goes on from the position.
            reading.reader.close()
            reading.reader = reader(payments(server.url))
    waiting.join()
    reading.on()
    assert reading.ids == kept
    assert len(kept) > 200


def test_what_cannot_be_followed_is_said_with_the_next_step(
    server: PostgresProcess, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.run("CREATE VIEW paid AS SELECT * FROM payments")
    for options, said in (
        ({"watermark": "serial"}, r"no column 'serial'; it has id, shop, amount, paid_at, added"),
        ({"watermark": "shop"}, "the watermark 'shop' is text"),
        ({"event_time": "at"}, "no column 'at'"),
        ({"event_id": "shop"}, "no unique index says that 'shop' names a row"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            begin(payments(server.url, **options)).on()
    spec = payments(server.url).spec()
    for table, said in (("nothing", "no such table"), ("paid", "it is no table")):
        follow = PostgresTable(url=server.url, table=table, watermark="id", password_variable=VARIABLE)
        with pytest.raises(InvalidInputError, match=said):
            reader(msgspec.structs.replace(spec, follow=follow)).read(None, 10)
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(SetupError, match="refuses access"):
        begin(payments(server.url)).on()


def test_a_server_that_is_away_or_was_set_back_is_read_again(server: PostgresProcess, begin: Begin) -> None:
    server.run(insert(2))
    reading = begin(payments(server.url))
    reading.on()
    server.end(signal.SIGQUIT)
    with pytest.raises(UnavailableError, match="PostgreSQL is away"):
        reading.on()
    server.start()
    server.run("INSERT INTO payments (id, shop, paid_at) VALUES (3, 'c', now())")  # Its numbers go on at 34.
    assert "3" in reading.on()
    ahead = reading.position.replace('"polled":', '"polled":9').replace('"swept":', '"swept":9')
    reading.position = ahead
    assert reading.on() == ["1", "2", "3"]


def test_a_reading_that_hangs_is_cut_off_from_another_thread(server: PostgresProcess, begin: Begin) -> None:
    server.run(insert(1))
    reading = begin(payments(server.url))
    reading.on()
    failed: list[Exception] = []

    def hang() -> None:
        try:
            reading.on()
        except UnavailableError as error:
            failed.append(error)

    # A worker of the server belongs to each session: all of them stand still with the table locked.
    with session(server, autocommit=False) as locking:
        locking.execute("LOCK TABLE payments IN ACCESS EXCLUSIVE MODE")
        thread = threading.Thread(target=hang)
        thread.start()
        until(lambda: server.run("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] == 1)
        reading.reader.abandon()
        thread.join(5)
        assert not thread.is_alive()
    assert failed


def test_parts_of_a_table_and_columns_of_any_type_and_name_are_read(server: PostgresProcess, begin: Begin) -> None:
    create(
        server,
        'id uuid, paid_at timestamp, "of 100 %s" float4, body jsonb, note text[], PRIMARY KEY (id, paid_at)) '
        "PARTITION BY RANGE (paid_at",
    )
    server.run(
        "CREATE TABLE payments_1 PARTITION OF payments FOR VALUES FROM ('2026-11-01') TO ('2026-12-01')",
        "CREATE TABLE payments_2 PARTITION OF payments DEFAULT",
        "INSERT INTO payments SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, "
        "timestamp '2026-11-30 23:59:58' + n * interval '1 s', 0.1, '{\"a\": 1}', '{x,y}' "
        "FROM generate_series(1, 4) AS n",
    )
    reading = begin(payments(server.url, watermark="paid_at"))
    assert [one[-1] for one in reading.on(limit=2)] == ["1", "2", "3", "4"]
    payload = reading.events[0].payload
    assert payload["of 100 %s"] == pytest.approx(0.1, abs=1e-8)
    assert (payload["body"], payload["note"]) == ('{"a": 1}', "{x,y}")
    assert reading.events[1].event_time == datetime(2026, 12, 1, tzinfo=UTC)
    assert reading.on() == []
