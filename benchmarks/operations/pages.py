"""How soon each page of the dashboard comes, with many predictions and a year of history, while both paths work.

A catalog is filled with receipts over a year (seeded; three applications, two paths, guards of which one acts in a
thousandth), a year of measurements as the platform keeps them, and batch jobs. Then the gateway serves over HTTP,
with a model that says what it is told: users ask at a steady rate, and a thread writes answers of a batch, while every
page is fetched in turn, many times (but those of definitions, of which none are applied). The time is a client's, on
the loopback and in the gateway's process, so the server's is below it.

    python -m benchmarks.operations.pages [--size ci|demo|full] [--catalog sqlite|postgresql] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/pages.jsonl``; exit code 1 when a page's p95 is over 300 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from benchmarks.durability.kill_harness_command import finish
from benchmarks.operations.history import Processes, fill_year, record_hours
from starlette.routing import Route
from tests.catalogs import catalog_url, drop
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import Running, serve

from antiphon.catalog import schema
from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.measurements import MeasurementRows
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.receipt import GuardReceipt, Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ManualClock, SystemClock
from antiphon.core.scope import Scope
from antiphon.gateway.dashboard.routes import routes
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import AnswerRequest

SIZES: dict[str, dict[str, int]] = {
    "ci": {"predictions": 5_000, "hours": 1, "looks": 5},
    "demo": {"predictions": 100_000, "hours": 1, "looks": 20},
    "full": {"predictions": 1_000_000, "hours": 2, "looks": 40},
}
GOAL_SECONDS = 0.3
SCOPE = Scope("default", "dev")
ONLINE_PER_SECOND, BATCH_PER_SECOND = 10.0, 20.0
_RARE = 1_000
_AT_ONCE = 2_000
_NAMING = (
    "/login", "/releases/diff", "/models/compare", "/changes.atom", "/dashboard/rollout", "/dashboard/changes",
)  # fmt: skip
SEARCHES = (
    "/requests?verdict=template",
    "/requests?verdict=template&verdict=retry&path=batch&span=1y",
    "/requests?application=triage&path=online&span=30d",
    "/requests?role=shadow&role=live&model=tiny",
    "/requests?text=nothing+says+this",
    "/?span=1y",
    "/dashboard/series?span=1y",
    "/dashboard/series?span=1h",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--catalog", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(catalog_url(Path(folder), options.catalog), **SIZES[options.size]))
    line = {"benchmark": "pages", "size": options.size, "catalog": options.catalog, "cores": os.cpu_count(), **found}
    for address, figures in line["pages"].items():
        sys.stdout.write(f"{address:<64} {figures['p50']:>8.1f} {figures['p95']:>8.1f} ms\n")
    return finish("pages", line, keep=options.keep)


async def measure(url: str, predictions: int, hours: int, looks: int) -> dict[str, Any]:
    """All figures: milliseconds of every page, and the load beside them."""
    clock = ManualClock(SystemClock().now() - timedelta(hours=hours, seconds=30))
    database = Database.open(url, clock=clock)
    database.migrate()
    rows = MeasurementRows(database, "dev")
    record_hours(Processes(seed=20), rows, clock, hours)
    fill_year(database, rows, clock)
    begin = time.perf_counter()
    _fill_receipts(database, predictions)
    filled = time.perf_counter() - begin
    database.close()
    database = Database.open(url)
    try:
        pages, load = await _pages(database, looks)
    finally:
        drop(database)
    slowest = max(figures["p95"] for figures in pages.values())
    return {
        "predictions": predictions,
        "fill_seconds": round(filled, 1),
        "load": load,
        "pages": pages,
        "slowest_p95_ms": slowest,
        "holds": slowest <= GOAL_SECONDS * 1_000,
    }


def _fill_receipts(database: Database, number: int) -> None:
    """Receipts spread over the year that ends now, as the repository writes them."""
    chance, now = random.Random(20), SystemClock().now()
    rows, receipts = SealedRows(database, "receipts.payload", Receipt), Receipts(database)
    asker = Principal(id="asker", tenant=SCOPE.tenant, role="service")
    made = {}
    for application in ("desk", "triage", "extraction"):
        request = AnswerRequest(SCOPE, asker, application, {"shop": "tea"}, question="Late?")
        receipt, texts = fakes.make_receipt(request, "Yes.", SystemClock())
        receipts.add(receipt, texts)
        made[application] = receipt
    for first in range(0, number, _AT_ONCE):
        some = []
        for position in range(first, min(first + _AT_ONCE, number)):
            acted = "template" if position % _RARE == 0 else "pass"
            receipt = msgspec.structs.replace(
                made[chance.choice(("desk", "desk", "triage", "extraction"))],
                prediction=f"pred_{position:026}",
                release=f"rel_{position * 40 // number}",
                path="batch" if chance.random() < 0.6 else "online",
                guards=(GuardReceipt("figures", acted),),  # type: ignore[arg-type]
                created_at=now - timedelta(days=365) * (1 - position / number),
            )
            facets = receipt.facets
            some.append(rows.row(receipt, saved_tokens=0, **msgspec.structs.asdict(facets), kind=facets.kind))
        with database.transaction() as connection:
            connection.execute(schema.receipts.insert(), some)


async def _pages(database: Database, looks: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    keys = Keys(database, fakes.SECRET)
    admin, service = (keys.create("default", role, role)[0] for role in ("admin", "service"))
    answerer = fakes.FakeAnswerer(Receipts(database), database.clock)
    services = fakes.gateway_services(database, answerer)
    trail = services.predictions.search._store.trail
    services = fakes.replaced(services, trail=trail)
    fakes.make_release(database, SCOPE)
    found: dict[str, list[float]] = {}
    async with serve(services) as running, httpx2.AsyncClient(base_url=running.url, timeout=60) as client:
        await sign_in(client, admin)
        addresses = [*_addresses(), *SEARCHES]
        page = (await client.get("/requests")).text
        if deep := re.search(r'href="(/requests\?before=[^"]+)"', page):
            addresses.append(deep[1])
        newest = re.search(r'<tr id="(pred_[^"]+)"', page)
        assert newest is not None
        addresses.append(f"/requests/{newest[1]}")
        # As the gateway does when it is ready: modules are no garbage.
        gc.collect()
        gc.freeze()
        async with _load(running, service, database) as load:
            for address in list(addresses):  # Once, unmeasured: templates are compiled.
                answer = await client.get(address)
                if answer.status_code == 404:  # A page of definitions: none are applied here.
                    addresses.remove(address)
                elif answer.status_code != 200:
                    raise SystemExit(f"{address} was answered {answer.status_code}")
            for _ in range(looks):
                for address in addresses:
                    begin = time.perf_counter()
                    (await client.get(address)).raise_for_status()
                    found.setdefault(address.partition("before=")[0], []).append(time.perf_counter() - begin)
    return {address: _ms(seconds) for address, seconds in found.items()}, load


def _addresses() -> list[str]:
    """Every page, and part of one, whose address names nothing."""
    return [
        route.path
        for route in routes()
        if isinstance(route, Route)
        and "GET" in (route.methods or ())
        and "{" not in route.path
        and route.path not in _NAMING
    ]


@asynccontextmanager
async def _load(running: Running, key: str, database: Database) -> AsyncIterator[dict[str, float]]:
    """Users who ask and a batch that is answered, until the block ends; then how many a second there were."""
    ended, told = threading.Event(), {"online_per_second": 0.0, "batch_per_second": 0.0}
    answered = [0, 0]

    async def ask() -> None:
        headers = {"authorization": f"Bearer {key}"}
        body = {"model": "desk", "messages": [{"role": "user", "content": "Late?"}]}
        async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=60) as client:
            while not ended.is_set():
                (await client.post("/v1/chat/completions", json=body)).raise_for_status()
                answered[0] += 1
                await asyncio.sleep(1 / ONLINE_PER_SECOND)

    def work() -> None:
        jobs, receipts = Jobs(database), Receipts(database)
        job = jobs.create(SCOPE, application="desk", release=None, input="i", output="o", principal="p", total=10**6)
        epoch = jobs.take_over(SCOPE, job.id)
        asker = Principal(id="asker", tenant=SCOPE.tenant, role="service")
        request = AnswerRequest(SCOPE, asker, "desk", {"shop": "tea"}, path="batch", question="Late?")
        while not ended.wait(1 / BATCH_PER_SECOND):
            receipt, texts = fakes.make_receipt(request, "Yes.", database.clock)
            receipts.add(receipt, texts)
            jobs.write_rows(SCOPE, job.id, epoch, [JobRow(answered[1], {"prediction": receipt.prediction})])
            answered[1] += 1

    batch, online, begin = threading.Thread(target=work), asyncio.create_task(ask()), time.perf_counter()
    batch.start()
    try:
        yield told
    finally:
        ended.set()
        await online
        await asyncio.to_thread(batch.join)
        seconds = time.perf_counter() - begin
        told |= {
            "online_per_second": round(answered[0] / seconds, 1), "batch_per_second": round(answered[1] / seconds, 1)
        }  # fmt: skip


def _ms(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {"p50": round(statistics.median(ordered) * 1e3, 1), "p95": round(p95 * 1e3, 1)}


if __name__ == "__main__":
    sys.exit(main())
