"""How soon a row that another system writes counts online, and whether each counts once over kills.

    python -m benchmarks.features.following [--size ci|demo|full] [--seed N]

A project with a real worker process (``antiphon.app.worker``) follows a table of a real PostgreSQL (declared time 5 s)
and messages of a real NATS server (declared time 2 s); its catalog is SQLite, its online store LMDB.

Freshness. About every other second a burst of rows is committed in one transaction, or of messages published; the last
of it is of an entity that nobody else writes. From the end of the commit (of the last message's acknowledgment) its
feature is read through ``FeatureReader`` every 2 ms until the row counts. The time in between is a sample.

Kills. Then bursts go on from a thread while the worker is killed at seeded moments and started again, refreshes are
ordered beside, and PostgreSQL is killed once and comes back after some seconds. In the end every row in the table, and
every message that was acknowledged, must count once: counts and sums of each shop are compared with SQL over the table,
with the online values before and after a refresh that reads the whole log, and with a view that reads the same table in
batch, bit for bit. There is no peer in the run: the products that do this run on a JVM of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.core.child_process import start_child

RESULTS = Path(__file__).parents[1] / "results"
SHOPS = 20
VARIABLE = "BENCHMARK_PASSWORD"
DECLARED = {"postgres": 5.0, "nats": 2.0}
_PATIENCE = 60.0

_DEFINITIONS = """
from antiphon import Entity, NatsSubject, PostgresTable, Source, col, count, feature_view, last
from antiphon import sum as total

shop = Entity("shop", keys=["shop"])
payments = Source.stream(
    "payments", event_time="at", event_id="id",
    follow=PostgresTable(url="@URL@", table="payments", watermark="id", password_variable="@VARIABLE@", within="5s"),
)
clicks = Source.stream(
    "clicks", event_time="at", event_id="_sequence", follow=NatsSubject(url="@NATS@", stream="CLICKS", within="2s"),
)
table = Source.table(
    "payments_table", url="@URL@", table="payments", password_variable="@VARIABLE@", event_time="at", event_id="id"
)


@feature_view(entity=shop, source=payments)
class Postgres:
    rows = count(window="2d")
    amount = total(col.amount, window="2d", scale="0.01")
    newest = last(col.amount, window="2d")


@feature_view(entity=shop, source=clicks)
class Nats:
    rows = count(window="2d")
    amount = total(col.amount, window="2d", scale="0.01")
    newest = last(col.amount, window="2d")


@feature_view(entity=shop, source=table)
class Batch:
    rows = count(window="2d")
    amount = total(col.amount, window="2d", scale="0.01")
    newest = last(col.amount, window="2d")
"""


class FollowingSize(NamedTuple):
    """Bursts of each kind, rows of a burst, kills of the worker, seconds for which PostgreSQL is away."""

    bursts: int
    rows: int
    kills: int
    away: float


SIZES = {
    "ci": FollowingSize(5, 200, 3, 3.0),
    "demo": FollowingSize(50, 1_000, 20, 60.0),
    "full": FollowingSize(200, 5_000, 100, 60.0),
}


class Bench:
    """The project, its servers and its worker."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        from tests.servers import NatsProcess, PostgresProcess

        self.postgres = stack.enter_context(PostgresProcess(durable=True))
        self.nats = stack.enter_context(NatsProcess())
        self.nats.ask("$JS.API.STREAM.CREATE.CLICKS", name="CLICKS", subjects=["clicks"])
        os.environ[VARIABLE] = self.postgres.password
        self.postgres.run(
            "CREATE TABLE payments (id bigserial PRIMARY KEY, shop text, amount numeric(12, 2), at timestamptz)"
        )
        text = _DEFINITIONS.replace("@URL@", self.postgres.url).replace("@NATS@", self.nats.url)
        (folder / "definitions.py").write_text(text.replace("@VARIABLE@", VARIABLE), encoding="utf-8")
        settings = '[project]\nname = "following"\n\n[engine]\nkind = "simulated"\nmodels = ["simulated"]\n'
        (folder / "antiphon.toml").write_text(settings + '\n[worker]\nlease = "2s"\nnice = 0\n', encoding="utf-8")
        self._folder = folder
        self._worker: subprocess.Popen[bytes] | None = None
        stack.callback(self.kill)
        self.start()
        from antiphon.services.apply.apply import apply
        from antiphon.services.features.platform import FeaturePlatform
        from antiphon.services.project.store import Store

        self.store = Store.open(folder)
        stack.callback(self.store.close)
        self.platform = FeaturePlatform(self.store)
        stack.callback(self.platform.close)
        apply(self.store, principal="benchmark")
        self.published = 0
        self.commit("warm", 1)
        self.publish("warm", 1)
        self.refresh()

    def start(self) -> None:
        log = (self._folder / "worker.out").open("ab")
        with log:
            command = [sys.executable, "-m", "antiphon.app.worker", "--project", str(self._folder)]
            self._worker = start_child(command, stdout=log, stderr=log)

    def kill(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()

    def commit(self, shop: str | None, rows: int, amount: float = 1.25) -> None:
        """One transaction of so many rows; without a name of all shops in turn."""
        import psycopg

        with psycopg.connect(self.postgres.url_with_password) as connection, connection.cursor() as cursor:
            now = datetime.now(UTC)
            named = [(shop or f"shop-{number % SHOPS}", amount + number % 7, now) for number in range(rows)]
            cursor.executemany("INSERT INTO payments (shop, amount, at) VALUES (%s, %s, %s)", named)

    def publish(self, shop: str | None, messages: int, amount: float = 1.25) -> None:
        for number in range(messages):
            name, value = shop or f"shop-{number % SHOPS}", amount + number % 7
            body = {"shop": name, "amount": value, "at": datetime.now(UTC).isoformat()}
            self.nats.put("clicks", json.dumps(body).encode())
            self.published += 1

    def refresh(self, whole: bool = False) -> None:
        """A refresh of every view by the worker; returns once it has ended."""
        run = self.platform.refresh(self.store.scope, whole=whole)
        waited(lambda: self.store.runs.get(self.store.scope, run).status in ("succeeded", "failed"))
        assert self.store.runs.get(self.store.scope, run).status == "succeeded"

    def read(self, view: str, shop: str) -> dict[str, Any]:
        spec = next(one for one in self.platform.views().values() if one.name == view)
        found = self.platform.published(self.store.scope).read(
            {view: spec.definition_version}, {"shop": shop}, datetime.now(UTC)
        )
        return {name.partition(".")[2]: one.value for name, one in found.values.items()}

    def all_of(self, view: str) -> list[dict[str, Any]]:
        return [self.read(view, f"shop-{number}") for number in range(SHOPS)]


def waited(condition: Callable[[], object]) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"It did not come true within {_PATIENCE} s.")
        time.sleep(0.01)


def freshness(bench: Bench, kind: str, size: FollowingSize) -> dict[str, Any]:
    """Samples of one kind."""
    samples: list[float] = []
    chance = random.Random(kind)
    write = bench.commit if kind == "postgres" else bench.publish
    for number in range(size.bursts):
        begun, shop = time.perf_counter(), f"probe-{kind}-{number}"
        write(None, size.rows if kind == "postgres" else size.rows // 10)
        write(shop, 1)
        committed = time.perf_counter()
        while not bench.read(kind, shop)["rows"]:
            if time.perf_counter() - committed > _PATIENCE:
                raise RuntimeError(f"A row does not count after {_PATIENCE} s.")
            time.sleep(0.002)
        samples.append(time.perf_counter() - committed)
        # At no fixed distance: the follower looks at one.
        time.sleep(max(0.0, begun + 1.0 + 2.0 * chance.random() - time.perf_counter()))
    ordered = sorted(samples)
    return {
        "declared_s": DECLARED[kind],
        "samples": len(ordered),
        "p50_s": round(ordered[len(ordered) // 2], 3),
        "p99_s": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))], 3),
        "most_s": round(ordered[-1], 3),
        "late": sum(sample > DECLARED[kind] for sample in ordered),
    }


@contextmanager
def writing(bench: Bench, seed: int) -> Iterator[None]:
    """Bursts of both kinds from a thread."""
    over, chance = threading.Event(), random.Random(seed)

    def write() -> None:
        import psycopg

        while not over.is_set():
            with suppress(psycopg.OperationalError):
                bench.commit(None, chance.randint(1, 60), chance.randrange(1_000) / 100)
            bench.publish(None, chance.randint(1, 10), chance.randrange(1_000) / 100)
            time.sleep(chance.random() / 5)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def kills(bench: Bench, size: FollowingSize, seed: int) -> dict[str, Any]:
    """Kills beside bursts, and the comparison after them."""
    chance = random.Random(seed)
    with writing(bench, seed):
        for number in range(size.kills):
            time.sleep(chance.random() * 4)
            if number % 3 == 0:
                bench.platform.refresh(bench.store.scope, views=["postgres", "nats"])
            if number == size.kills // 2:
                bench.postgres.end(signal.SIGQUIT)  # At once; killed, it could not begin again before its children end.
                published = bench.published
                time.sleep(size.away)
                assert bench.published > published
                bench.postgres.start()
            bench.kill()
            bench.start()
    ((rows,),) = bench.postgres.run("SELECT count(*) FROM payments")
    scope, log = bench.store.scope, bench.store.events
    waited(lambda: log.end(scope, "payments") == rows and log.end(scope, "clicks") == bench.published)
    prefix_ends = {"payments": rows, "clicks": bench.published}
    waited(lambda: all(one.consumed == prefix_ends[one.stream] for one in bench.platform.consumer.status(now())))
    streamed = {view: bench.all_of(view) for view in ("postgres", "nats")}
    bench.refresh(whole=True)
    of_shops = bench.postgres.run(
        "SELECT shop, count(*), sum(amount)::float8 FROM payments WHERE shop LIKE 'shop-%' GROUP BY shop"
    )
    by_sql = {shop: (count, amount) for shop, count, amount in of_shops}
    online = {f"shop-{n}": (one["rows"], one["amount"]) for n, one in enumerate(streamed["postgres"])}
    equal = {
        "online_is_sql": online == by_sql,
        "online_is_batch_of_table": streamed["postgres"] == bench.all_of("batch"),
        "postgres_after_whole_refresh": streamed["postgres"] == bench.all_of("postgres"),
        "nats_after_whole_refresh": streamed["nats"] == bench.all_of("nats"),
    }
    return {"kills": size.kills, "away_s": size.away, "rows": rows, "messages": bench.published, **equal}


def now() -> datetime:
    return datetime.now(UTC)


def run(size: str, seed: int) -> dict[str, Any]:
    """Measure at a size."""
    chosen = SIZES[size]
    line: dict[str, Any] = {
        "benchmark": "feature_following",
        "at": now().isoformat(timespec="seconds"),
        "size": size,
        "seed": seed,
        "load": round(os.getloadavg()[0], 2),
        "rows_of_a_burst": {"postgres": chosen.rows, "nats": chosen.rows // 10},
    }
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        bench = Bench(Path(name), stack)
        line["freshness"] = {kind: freshness(bench, kind, chosen) for kind in DECLARED}
        line["over_kills"] = kills(bench, chosen, seed)
    return line


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    options = parser.parse_args(arguments)
    line = run(options.size, options.seed)
    print(f"{'followed':9} {'declared s':>10} {'p50 s':>7} {'p99 s':>7} {'most s':>7} {'samples':>7} {'late':>5}")
    for kind, one in line["freshness"].items():
        figures = f"{one['p50_s']:7} {one['p99_s']:7} {one['most_s']:7} {one['samples']:7} {one['late']:5}"
        print(f"{kind:9} {one['declared_s']:10} {figures}")
    found = line["over_kills"]
    equal = [found[name] for name in found if isinstance(found[name], bool)]
    print(f"{found['kills']} kills, PostgreSQL away for {found['away_s']} s: {found['rows']} rows and "
          f"{found['messages']} messages count {'once each' if all(equal) else 'WRONG'}")  # fmt: skip
    print(json.dumps(line))
    if options.keep:
        with (RESULTS / "feature_following.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if all(equal) and not any(one["late"] for one in line["freshness"].values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
