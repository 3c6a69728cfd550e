"""PostgreSQL as a source: published end to end, of one snapshot of the database, and whatever goes wrong with it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.ports import free_port
from tests.integration.features.world import NOON, World, minutes
from tests.servers import PostgresProcess, until

from antiphon import Entity, Source, col, count, feature_view, last
from antiphon import sum as total
from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.offline.lineage import trace

PASSWORD = "ORDERS_PASSWORD"


@pytest.fixture(scope="module")
def process() -> Iterator[PostgresProcess]:
    with PostgresProcess() as started:
        yield started


@pytest.fixture
def orders(process: PostgresProcess, monkeypatch: pytest.MonkeyPatch) -> PostgresProcess:
    """A table ``shop.orders`` of 500 rows, one a minute before noon."""
    monkeypatch.setenv(PASSWORD, process.password)
    process.run(
        "DROP SCHEMA IF EXISTS shop CASCADE",
        "CREATE SCHEMA shop",
        "CREATE TABLE shop.orders (order_id uuid PRIMARY KEY, shop text, at timestamptz, amount numeric, note text)",
        "INSERT INTO shop.orders SELECT md5(n::text)::uuid, 'shop-' || n % 3, "
        f"'{NOON.isoformat()}'::timestamptz - n * interval '1 minute', n / 4.0, 'note ' || n "
        "FROM generate_series(0, 499) n",
    )
    return process


def spec(process: PostgresProcess, **changes: Any) -> FeatureViewSpec:
    place = {"url": process.url, "table": "shop.orders", "password_variable": PASSWORD} | changes
    source = Source.table("orders", event_time="at", event_id="order_id", **place)

    @feature_view(entity=Entity("shop", ["shop"]), source=source)
    class Orders:
        orders_2h = count(window="2h")
        amount_2h = total(col.amount, window="2h", scale="0.01")
        note = last(col.note)

    return Orders.spec()


@pytest.fixture
def opening(tmp_path: Path) -> Iterator[Callable[[FeatureViewSpec], World]]:
    made: list[World] = []

    def world(view: FeatureViewSpec) -> World:
        made.append(World(tmp_path, view))
        return made[-1]

    yield world
    for one in made:
        one.close()


Opening = Callable[[FeatureViewSpec], World]


def test_a_table_is_materialized_published_and_read(orders: PostgresProcess, opening: Opening) -> None:
    world = opening(spec(orders))
    manifest = world.materialize("orders", NOON)
    assert manifest.rows_in == 500
    assert manifest.source.startswith(f"shop.orders of 127.0.0.1:{orders.port}/postgres, 500 row(s), snapshot ")
    assert "hunter2" not in str(msgspec.to_builtins(manifest))
    world.publish(NOON)
    values = world.read(NOON, shop="shop-1").values
    expected = [n for n in range(500) if n % 3 == 1 and n < 120]
    assert values["orders.orders_2h"].value == len(expected)
    assert values["orders.amount_2h"].value == sum(n / 4 for n in expected)
    assert values["orders.note"].value == "note 1"
    traced = trace(world.specs["orders"], "note", {"shop": "shop-1"}, NOON, scope=Scope(), known_by=NOON)
    assert [row.columns["note"] for row in traced.rows] == ["note 1"]


def test_a_new_row_is_a_new_snapshot_and_none_is_the_same(orders: PostgresProcess, opening: Opening) -> None:
    world = opening(spec(orders))
    first, again = world.materialize("orders", NOON), world.materialize("orders", NOON)
    assert again.id == first.id
    assert again.source_hash == first.source_hash
    orders.run(f"INSERT INTO shop.orders VALUES (md5('x')::uuid, 'shop-9', '{NOON.isoformat()}', 1, 'new')")
    after = world.materialize("orders", NOON)
    assert after.id != first.id
    assert after.source_hash != first.source_hash
    assert after.rows_out == first.rows_out + 1


def test_everything_is_of_the_moment_at_which_reading_began(orders: PostgresProcess, opening: Opening) -> None:
    """Another session rewrites the table and commits while a query naps in the middle of reading it."""
    slow = "SELECT *, pg_sleep(CASE WHEN note = 'note 9' THEN 1.0 ELSE 0 END)::text AS nap FROM shop.orders"
    world = opening(spec(orders, table=None, query=slow))
    made: list[Any] = []
    reading = threading.Thread(target=lambda: made.append(world.publish(NOON)))
    reading.start()
    until(lambda: _naps(orders))
    orders.run("UPDATE shop.orders SET note = 'rewritten', amount = 0", "DELETE FROM shop.orders WHERE shop = 'shop-0'")
    reading.join(timeout=60)
    assert made
    assert world.read(NOON, shop="shop-0").values["orders.orders_2h"].value == 40
    assert world.read(NOON, shop="shop-2").values["orders.note"].value == "note 2"


def _naps(process: PostgresProcess) -> bool:
    return bool(process.run("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))


@pytest.mark.parametrize("how", ["server", "session"])
def test_a_database_that_vanishes_in_the_middle_publishes_nothing(
    orders: PostgresProcess, opening: Opening, how: str
) -> None:
    large = (
        "SELECT md5(n::text)::uuid AS order_id, 'shop-1' AS shop, now() AS at, 1.0::numeric AS amount, "
        "CASE WHEN n = 6000 THEN pg_sleep(3600)::text ELSE repeat('x', 10000) END AS note "
        "FROM generate_series(1, 6001) n"
    )
    good = spec(orders)
    world = opening(good)
    world.publish(NOON)
    before = world.read(NOON, shop="shop-1")
    bad = msgspec.structs.replace(good, source=msgspec.structs.replace(good.source, table=None, query=large))
    world.specs["orders"] = bad
    failed: list[BaseException] = []

    def publish() -> None:
        try:
            world.publish(NOON + minutes(5))
        except BaseException as error:
            failed.append(error)

    reading = threading.Thread(target=publish)
    reading.start()
    until(lambda: _naps(orders))
    if how == "server":
        orders.end(signal.SIGQUIT)
    else:
        orders.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    reading.join(timeout=60)
    assert len(failed) == 1
    assert isinstance(failed[0], UnavailableError), failed
    assert "went away before the last row" in str(failed[0])
    assert world.read(NOON, shop="shop-1") == before
    if how == "server":
        with pytest.raises(UnavailableError, match="is away"):
            world.publish(NOON + minutes(5))
        orders.start()
    world.specs["orders"] = good
    assert world.publish(NOON + minutes(5)).number == 2


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"table": "shop.absent"}, InvalidInputError, "absent"),
        ({"table": None, "query": "SELECT nothing FROM shop.orders"}, InvalidInputError, "nothing"),
        ({"table": None, "query": "SELEKT"}, InvalidInputError, "syntax"),
        ({"table": None, "query": "SELECT 1; SELECT 2"}, InvalidInputError, "cannot"),
        (
            {"table": None, "query": "WITH gone AS (DELETE FROM shop.orders RETURNING *) SELECT * FROM gone"},
            InvalidInputError,
            "may not write",
        ),
        (
            {"table": None, "query": "SELECT *, note::int AS n FROM shop.orders"},
            InvalidInputError,
            "invalid input syntax",
        ),
        ({"password_variable": "NOT_SET_AT_ALL"}, SetupError, "NOT_SET_AT_ALL is not set"),
        ({"password_variable": "WRONG_PASSWORD"}, SetupError, "WRONG_PASSWORD"),
    ],
    ids=["table", "column", "syntax", "two", "writes", "value", "unset", "wrong"],
)
def test_what_cannot_be_read_says_so(
    orders: PostgresProcess, opening: Opening, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any], error: type[Exception], says: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("WRONG_PASSWORD", "not it")
    world = opening(spec(orders, **changes))
    with pytest.raises(error, match=says) as refused:
        world.publish(NOON)
    assert "note 1" not in str(refused.value), "errors hold no values"
    assert orders.run("SELECT count(*) FROM shop.orders") == [(500,)]
    assert world.publications.current(world.scope) is None


def test_a_database_that_is_away_is_said(
    orders: PostgresProcess, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = opening(spec(orders, url=f"postgresql://antiphon@127.0.0.1:{free_port()}/postgres"))
    with pytest.raises(UnavailableError, match="is away") as away:
        world.publish(NOON)
    assert orders.password not in str(away.value)
    world = opening(spec(orders, url=orders.url.replace("/postgres", "/absent")))
    with pytest.raises(SetupError, match="no such database"):
        world.publish(NOON)


def test_odd_types_become_text_and_rows_without_keys_are_rejected(orders: PostgresProcess, opening: Opening) -> None:
    at = NOON.replace(tzinfo=None).isoformat()
    orders.run(
        "CREATE TYPE shop.mood AS ENUM ('fine', 'odd')",
        "CREATE TABLE shop.odd (order_id uuid, shop shop.mood, at timestamp, amount numeric, note jsonb, tags text[], "
        "nap interval, address inet)",
        "INSERT INTO shop.odd VALUES "
        f"(md5('1')::uuid, 'fine', '{at}', 'NaN', '{{\"a\": [1]}}', '{{x}}', '1h', '::1'), "
        f"(md5('2')::uuid, 'fine', '{at}', 12345678901234567890.5, NULL, NULL, NULL, NULL), "
        "(md5('3')::uuid, 'odd', NULL, 1, NULL, NULL, NULL, NULL), "
        f"(md5('4')::uuid, NULL, '{at}', 1, NULL, NULL, NULL, NULL)",
    )
    world = opening(spec(orders, table="shop.odd"))
    manifest = world.materialize("orders", NOON)
    assert (manifest.rows_in, manifest.rows_rejected, manifest.rows_out) == (4, 2, 1)
    world.publish(NOON)
    values = world.read(NOON, shop="fine").values
    assert values["orders.orders_2h"].value == 2
    assert values["orders.amount_2h"].value in (0, None), "neither NaN nor what is out of range counts"
    assert values["orders.note"].value == '{"a": [1]}'


def test_an_empty_table_is_no_rows_and_no_mistake(orders: PostgresProcess, opening: Opening) -> None:
    orders.run("TRUNCATE shop.orders")
    manifest = opening(spec(orders)).materialize("orders", NOON)
    assert (manifest.rows_in, manifest.rows_out) == (0, 0)


def test_more_rows_than_a_batch_holds_stay_within_memory(orders: PostgresProcess, opening: Opening) -> None:
    many = (
        "SELECT md5(n::text)::uuid AS order_id, 'shop-' || n % 50 AS shop, "
        f"'{NOON.isoformat()}'::timestamptz - (n % 100) * interval '1 minute' AS at, n::numeric AS amount, "
        "repeat('x', 900) AS note FROM generate_series(1, 30000) n"
    )
    world = opening(spec(orders, table=None, query=many))
    world.publish(NOON)
    assert world.read(NOON, shop="shop-7").values["orders.orders_2h"].value == 600


def test_where_a_database_is_and_who_asks_is_no_part_of_what_is_meant(process: PostgresProcess) -> None:
    here = spec(process)
    elsewhere = spec(process, url="postgresql://other@10.0.0.1/else", password_variable="OTHER")
    assert here.definition_version == elsewhere.definition_version
    assert here.definition_version != spec(process, table="shop.others").definition_version
    assert here.definition_version != spec(process, table=None, query="SELECT * FROM shop.orders").definition_version


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"url": "postgresql://u:secret@h/d"}, "holds a password"),
        ({"url": "postgresql://h/d?password=secret"}, "holds a password"),
        ({"url": "mysql://h/d"}, "must be postgresql://"),
        ({"url": "postgresql://h/d"}, "needs a user"),
        ({"url": None}, "a path or a url"),
        ({"path": "x.csv"}, "not both"),
        ({"query": "SELECT 1"}, "a table or a query"),
        ({"table": None}, "a table or a query"),
        ({"table": "a.b.c"}, "is no table"),
        ({"url": None, "table": None, "path": "gs://b/x.parquet", "password_variable": None}, "of this machine"),
    ],
)
def test_a_declaration_that_is_wrong_is_refused(
    process: PostgresProcess, changes: dict[str, Any], mistake: str
) -> None:
    place = {"url": process.url, "table": "orders", "password_variable": PASSWORD} | changes
    source = Source.table("orders", event_time="at", **place)
    found = " ".join(source.mistakes())
    assert mistake in found
    assert "secret" not in found


def test_batch_and_online_are_compared_after_the_database_moved_on(orders: PostgresProcess, opening: Opening) -> None:
    from tests.integration.features.monitoring.test_skew import measured

    world = opening(spec(orders))
    world.publish(NOON)
    assert {basis for one in measured(world).features for basis in one.judged_by} == {"source"}
    orders.run("UPDATE shop.orders SET amount = amount + 1", "DELETE FROM shop.orders WHERE shop = 'shop-0'")
    report = measured(world)
    assert (report.compared, report.different) == (3 * 3, 0)
    assert {basis for one in report.features for basis in one.judged_by} == {"lake"}
