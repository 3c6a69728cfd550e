"""What the ledger of cost adds to the commit of an answer.

The same receipts are committed by turns in three ways, each in a catalog of its own:

- ``without``: receipts with their entry of the audit log, as before there was a ledger;
- ``sums``: the same, with the ledger as it is: sums by the hour, written right before the commit;
- ``rows``: the same, with a row of each usage of each answer, which the ledger is not.

Alone each answer is a transaction; in groups 32 are in one. Figures are microseconds an answer, medians of the
transactions, and the difference to ``without`` of the same turn.

    python -m benchmarks.operations.ledger_cost [--catalog sqlite|postgresql] [--transactions 1500] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/ledger_cost.jsonl``; exit code 1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from benchmarks.durability.kill_harness_command import finish
from tests.catalogs import KINDS, catalog_url
from tests.chaos.harness.running import scratch
from tests.unit.catalog.examples import receipt

from antiphon.catalog.database import Database
from antiphon.catalog.dialect import driver_sql
from antiphon.catalog.serving.receipt import Attempt, Receipt, UsageReceipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.governance.audit.log import AuditLog
from antiphon.operations.cost.metering import usages_of
from antiphon.services.cost.metered_receipts import MeteredReceipts
from antiphon.services.governance.audit_trail import AuditedReceipts

WAYS = ("without", "sums", "rows")
GROUPS = (1, 32)
GOAL_MICROSECONDS = 100.0
_ROWS = (
    "CREATE TABLE usage_rows (prediction TEXT, resource TEXT, application TEXT, release TEXT, path TEXT, role TEXT, "
    "principal TEXT, engine TEXT, model TEXT, quantity BIGINT, PRIMARY KEY (prediction, resource))"
)
_ADD = "INSERT INTO usage_rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--catalog", choices=KINDS, default="sqlite")
    parser.add_argument("--transactions", type=int, default=1_500)
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    with scratch() as folder:
        catalogs = {way: _opened(Path(folder) / way, options.catalog) for way in WAYS}
        found = {group: _measured(catalogs, group, options.transactions) for group in GROUPS}
        for database in catalogs.values():
            database.close()
    line = {
        "benchmark": "ledger_cost", "catalog": options.catalog, "transactions": options.transactions,
        "microseconds": found, "goal_microseconds": GOAL_MICROSECONDS,
        "holds": all(ways["sums_added"] <= GOAL_MICROSECONDS for ways in found.values()),
    }  # fmt: skip
    print(f"{'answers a commit':<18}{'without':>10}{'sums':>10}{'rows':>10}{'sums add':>10}{'rows add':>10}")
    for group, ways in found.items():
        print(f"{group:<18}" + "".join(f"{ways[name]:>10.1f}" for name in (*WAYS, "sums_added", "rows_added")))
    return finish("ledger_cost", line, keep=options.keep)


def _opened(folder: Path, kind: str) -> Database:
    folder.mkdir()
    database = Database.open(catalog_url(folder, kind))
    database.migrate()
    with database.transaction() as connection:
        connection.execute(sa.text(_ROWS))
    return database


def _measured(catalogs: dict[str, Database], group: int, transactions: int) -> dict[str, float]:
    audited = {way: AuditedReceipts(Receipts(one), AuditLog(one, b"s" * 32)) for way, one in catalogs.items()}
    metered = MeteredReceipts(audited["sums"], catalogs["sums"])
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(max(60, transactions // group)):
        for way in WAYS[number % 3 :] + WAYS[: number % 3]:
            made = [_receipt(f"pred_{group}_{number}_{place}") for place in range(group)]
            database, receipts = catalogs[way], metered if way == "sums" else audited[way]
            begin = time.perf_counter()
            with database.transaction() as connection:
                for one in made:
                    receipts.add(one, within=connection)
                if way == "rows":
                    driver_sql(connection, _ADD, _rows(made))
            taken[way].append((time.perf_counter() - begin) / group * 1e6)
    kept = {way: values[10:] for way, values in taken.items()}
    figures = {way: round(statistics.median(values), 1) for way, values in kept.items()}
    for way in WAYS[1:]:
        added = (after - before for before, after in zip(kept["without"], kept[way], strict=True))
        figures[f"{way}_added"] = round(statistics.median(added), 1)
    return figures


def _rows(made: Sequence[Receipt]) -> list[tuple[Any, ...]]:
    return [
        (one.prediction, use.resource, use.application, use.release, use.path, use.role, use.principal, use.engine,
         use.model, use.quantity)
        for one in made
        for use in usages_of(one)
    ]  # fmt: skip


def _receipt(prediction: str) -> Receipt:
    usage = UsageReceipt(400, 120, 60, engine_seconds=0.3217, attempts=1)
    attempt = Attempt("p", "t", 0, 0.0, 1.0, 100, (), None, "smollm2-135m", "f", (), "stop")
    return receipt(prediction, created_at=datetime.now(UTC), usage=usage, attempts=(attempt,), engine="main")


if __name__ == "__main__":
    raise SystemExit(main())
