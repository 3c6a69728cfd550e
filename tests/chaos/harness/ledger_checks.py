"""The invariants of the ledger under kills: it is held against receipts, attempts of runs and readings of meters.

Nothing here is the product's code: rows are read by SQL, and what each source makes of quantities and money is worked
out again. Readings and attempts are noted by triggers within the catalog, in the transactions that move them.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
from tests.chaos.harness.chaos_evidence import opened

TRIGGERS = """
CREATE TABLE chaos_readings (meter TEXT, process TEXT, total BIGINT, part BIGINT, read_at BIGINT);
CREATE TRIGGER chaos_first_reading AFTER INSERT ON meter_readings BEGIN
  INSERT INTO chaos_readings VALUES (NEW.meter, NEW.process, NEW.total, NEW.part, NEW.read_at); END;
CREATE TRIGGER chaos_reading AFTER UPDATE ON meter_readings BEGIN
  INSERT INTO chaos_readings VALUES (NEW.meter, NEW.process, NEW.total, NEW.part, NEW.read_at); END;
CREATE TABLE chaos_attempts (run TEXT, workflow TEXT, begun BIGINT, ended BIGINT, lost BIGINT);
CREATE TRIGGER chaos_attempt AFTER UPDATE ON runs
  WHEN OLD.worker IS NOT NULL AND (NEW.worker IS NULL OR NEW.epoch <> OLD.epoch) BEGIN
  INSERT INTO chaos_attempts VALUES (OLD.id, OLD.workflow, OLD.claimed_at,
    CASE WHEN NEW.epoch <> OLD.epoch THEN OLD.lease_until ELSE NEW.updated_at END, NEW.epoch <> OLD.epoch); END;
"""

_SECOND, _HOUR = 1_000_000, 3_600_000_000
_QUANTITIES = {
    "engine": _SECOND, "gpu": _SECOND, "worker": _SECOND, "training_processor": _SECOND,
    "memory": 1_073_741_824 * 3_600, "storage": 1_073_741_824 * 30 * 86_400,
}  # fmt: skip
"""Quantities of the ledger in a unit that is priced; a token is one."""
SHARED = "*"
"""In the place of the tenant: what belongs to none."""
TOKENS = ("prompt_token", "cached_prompt_token", "completion_token")
_OF_ANSWERS = ("tenant", "application", "release", "path", "role", "principal", "engine", "model", "work", "resource")


class LedgerEvidence(msgspec.Struct, frozen=True):
    """Everything the checks look at.

    Attributes:
        totals: dimension to what ``antiphon cost show`` says the sum by it is: of its lines, and as it is told.
        budgets: lines of ``antiphon budgets list``; ``held``: micro-units and ends of shares that are left, in seconds
            after everything had ended.
        wall_micros: microseconds for which processes ran.
    """

    entries: tuple[dict[str, Any], ...] = ()
    receipts: tuple[dict[str, Any], ...] = ()
    readings: tuple[dict[str, Any], ...] = ()
    attempts: tuple[dict[str, Any], ...] = ()
    prices: tuple[dict[str, Any], ...] = ()
    totals: dict[str, tuple[int, int]] = {}
    budgets: tuple[dict[str, Any], ...] = ()
    held: tuple[tuple[int, float], ...] = ()
    wall_micros: int = 0


def make_triggers(catalog: Path) -> None:
    """Note every reading and every end of an attempt from now on."""
    with closing(sqlite3.connect(catalog)) as connection:
        connection.executescript(TRIGGERS)


def read_ledger(catalog: Path, ended_at: float) -> dict[str, Any]:
    """The fields of :class:`LedgerEvidence` that are in the catalog."""
    with closing(sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row

        def rows(statement: str) -> tuple[dict[str, Any], ...]:
            return tuple(dict(row) for row in connection.execute(statement))

        return {
            "entries": rows("SELECT * FROM ledger_entries"),
            "receipts": tuple(
                {**opened(row["payload"]), "tenant": row["tenant"]}
                for row in rows("SELECT tenant, payload FROM receipts")
            ),
            "readings": rows("SELECT * FROM chaos_readings ORDER BY rowid"),
            "attempts": rows("SELECT * FROM chaos_attempts ORDER BY rowid"),
            "prices": rows("SELECT * FROM prices ORDER BY sequence"),
            "held": tuple(
                (row["held"], row["until"] / _SECOND - ended_at)
                for row in rows("SELECT held, until FROM budget_shares")
            ),
        }


def answers_once(found: LedgerEvidence) -> list[str]:
    """The ledger has what answers took as their receipts say it, of each combination of dimensions."""
    receipts: Counter[tuple[str, ...]] = Counter()
    for receipt in found.receipts:
        usage = receipt["usage"]
        cached = min(usage["cached_prompt_tokens"], usage["prompt_tokens"])
        counted = {
            "answer": 1,
            "engine": round(usage["engine_seconds"] * _SECOND),
            "gpu": round(usage.get("gpu_seconds", 0.0) * _SECOND),
            "prompt_token": usage["prompt_tokens"] - cached,
            "cached_prompt_token": cached,
            "completion_token": usage["completion_tokens"],
        }
        for resource, quantity in counted.items():
            row = {**receipt, **_of_receipt(receipt), "resource": resource}
            receipts[tuple(row[name] for name in _OF_ANSWERS)] += quantity
    ledger: Counter[tuple[str, ...]] = Counter()
    for entry in found.entries:
        if entry["resource"] in ("answer", "engine", "gpu", *TOKENS):
            ledger[tuple(entry[name] for name in _OF_ANSWERS)] += entry["quantity"]
    return _differences("of answers", receipts, ledger)


def _of_receipt(receipt: dict[str, Any]) -> dict[str, str]:
    """The dimensions that a receipt says in other words: its last attempt's model, its job or batch by the request."""
    request, attempts = str(receipt["request"]), receipt["attempts"]
    ordered = receipt["path"] == "batch" and request.startswith(("job_", "batch_"))
    return {
        "engine": receipt["engine"] or "",
        "model": attempts[-1]["model"] if attempts else "",
        "work": request.rpartition("_")[0] if ordered else "",
    }


def attempts_once(found: LedgerEvidence) -> list[str]:
    """The time of workers in the ledger is that of all attempts, of lost ones until their leases were over."""
    attempts: Counter[tuple[str, ...]] = Counter()
    for one in found.attempts:
        attempts[(one["run"], one["workflow"])] += max(0, one["ended"] - one["begun"])
    ledger: Counter[tuple[str, ...]] = Counter()
    for entry in found.entries:
        if entry["resource"] == "worker":
            ledger[(entry["work"], entry["role"])] += entry["quantity"]
    return _differences("of attempts", attempts, ledger)


def engines_once(found: LedgerEvidence) -> list[str]:
    """Measured and idle time is that of each engine process's last counts, and no more than the time there was."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for one in found.readings:
        if one["meter"].startswith("engine/"):
            last[(one["meter"], one["process"])] = one
    counted = Counter(
        engine_measured=sum(one["total"] for one in last.values()),
        engine_idle=sum(one["total"] - min(one["part"], one["total"]) for one in last.values()),
    )
    ledger: Counter[str] = Counter()
    for entry in found.entries:
        if entry["resource"] in ("engine_measured", "engine_idle"):
            ledger[entry["resource"]] += entry["quantity"]
    # A meter is of one process, and the processes of an engine follow each other.
    engines = len({entry["engine"] for entry in found.entries if entry["resource"] == "engine_measured"})
    late = ledger["engine_measured"] - found.wall_micros * engines
    return [
        *_differences("of engines", counted, ledger),
        *([f"engines are charged {late} microseconds more than there were"] if late > 0 else []),
    ]


def trainings_once(found: LedgerEvidence) -> list[str]:
    """The time of processors, and memory, of each run is that of the last readings of all its processes."""
    last = {one["meter"]: one for one in found.readings if one["meter"].startswith("training/")}
    counted: Counter[tuple[str, ...]] = Counter()
    for meter, one in last.items():
        run = meter.split("/")[1]
        counted[run, "training_processor"] += one["total"]
        counted[run, "memory"] += one["part"]
    ledger: Counter[tuple[str, ...]] = Counter()
    for entry in found.entries:
        if entry["resource"] == "training_processor" or (entry["resource"] == "memory" and entry["work"]):
            ledger[entry["work"], entry["resource"]] += entry["quantity"]
    return _differences("of trainings", counted, ledger)


def memory_once(found: LedgerEvidence) -> list[str]:
    """Memory of engines is that of each reading, for the time that the process had lived since the one before."""
    before: dict[tuple[str, str], int] = {}
    counted = 0
    for one in found.readings:
        if one["meter"].startswith("memory/"):
            process = one["meter"], one["process"]
            counted += one["total"] * (one["part"] - before.get(process, 0)) // _SECOND
            before[process] = one["part"]
    ledger = sum(one["quantity"] for one in found.entries if one["resource"] == "memory" and not one["work"])
    return _differences("of memory", Counter({"engines": counted}), Counter({"engines": ledger}))


def storage_once(found: LedgerEvidence) -> list[str]:
    """Stored bytes are those of each reading, for the whole seconds since the one before."""
    before: dict[str, int] = {}
    counted: Counter[str] = Counter()
    for one in found.readings:
        kind, _, part = one["meter"].partition("/")
        if kind == "storage":
            since = before.get(part)
            if since is not None:
                counted[part] += one["total"] * ((one["read_at"] - since) // _SECOND)
            before[part] = one["read_at"]
    ledger: Counter[str] = Counter()
    for entry in found.entries:
        if entry["resource"] == "storage":
            ledger[entry["work"]] += entry["quantity"]
    return _differences("of storage", counted, ledger)


def sum_is_measured(found: LedgerEvidence) -> list[str]:
    """The sum of all charges is the price of what was measured, whatever they are summed by."""
    expected = money(found.entries, found.prices) + _rest_of_engines(found)
    return [
        f"by {name} the lines come to {lines} micro-units and the sum is {total}; measured were {expected}"
        for name, (lines, total) in found.totals.items()
        if not lines == total == expected
    ]


def _rest_of_engines(found: LedgerEvidence) -> int:
    """Engine time that no answer is charged with: what was measured less what answers of each tenant took."""
    engines: Counter[tuple[int, str]] = Counter()
    for entry in found.entries:
        if entry["resource"] == "engine_measured":
            engines[(entry["hour"], entry["engine"])] += entry["quantity"]
    begun: dict[str, int] = {}
    for hour, engine in engines:
        begun[engine] = min(begun.get(engine, hour), hour)
    whole = sum(_rounded(found.prices, "engine", "", quantity) for quantity in engines.values())
    taken = [
        one for one in found.entries if one["resource"] == "engine" and one["hour"] >= begun.get(one["engine"], 2**62)
    ]
    return whole - money(taken, found.prices)


def budgets_are_the_ledger(found: LedgerEvidence) -> list[str]:
    """Each budget has spent what its rows of the ledger cost, and what killed processes held ends by itself."""
    wrong = []
    for line in found.budgets:
        budget = line["budget"]
        name = {"application": "application", "key": "principal"}.get(budget["kind"], "")
        of_tenants = [one for one in found.entries if one["tenant"] != SHARED]
        rows = [one for one in of_tenants if not name or one[name] == budget["subject"]]
        expected = money(rows, found.prices)
        if line["spent_micros"] != expected:
            wrong.append(f"the budget {budget['name']} has spent {line['spent_micros']}, its rows cost {expected}")
    wrong += [f"{held} micro-units are held for {until:.0f} s more" for held, until in found.held if until > 15]
    return wrong


def money(entries: Iterable[dict[str, Any]], prices: Iterable[dict[str, Any]]) -> int:
    """Micro-units of rows: rounded once an hour, resource, engine and (of tokens) model."""
    sums: Counter[tuple[Any, ...]] = Counter()
    for entry in entries:
        if entry["resource"] in (*_QUANTITIES, *TOKENS):
            model = entry["model"] if entry["resource"] in TOKENS else ""
            sums[(entry["tenant"], entry["hour"], entry["resource"], entry["engine"], model)] += entry["quantity"]
    known = tuple(prices)
    return sum(_rounded(known, resource, model, quantity) for (_, _, resource, _, model), quantity in sums.items())


def _rounded(prices: Iterable[dict[str, Any]], resource: str, model: str, quantity: int) -> int:
    named = {(one["resource"], one["model"]): one["amount"] for one in prices}
    amount = named.get((resource, model), named.get((resource, ""), "0"))
    return round(Fraction(amount) * _SECOND * quantity / _QUANTITIES.get(resource, 1))


CHECKS: dict[str, Callable[[LedgerEvidence], list[str]]] = {
    "answers = receipts": answers_once,
    "workers = attempts": attempts_once,
    "engines = counters": engines_once,
    "trainings = readings": trainings_once,
    "memory = readings": memory_once,
    "storage = readings": storage_once,
    "sum = measured": sum_is_measured,
    "budgets = ledger": budgets_are_the_ledger,
}
"""Name to check."""


def check_ledger(found: LedgerEvidence) -> dict[str, list[str]]:
    """Every check's findings; all empty when the invariants hold."""
    return {name: check(found) for name, check in CHECKS.items()}


def _differences(of: str, counted: Counter[Any], ledger: Counter[Any]) -> list[str]:
    return [
        f"{of}, {key}: counted {counted[key]}, in the ledger {ledger[key]}"
        for key in sorted(counted.keys() | ledger.keys())
        if counted[key] != ledger[key]
    ]
