"""The audit log: what it catches, what it costs, and how fast it is on disk.

    python -m benchmarks.governance.audit [--size ci|demo|full]

Tampering: every byte of every stored row, node and head of a small log is changed, every row is removed, every two
records are swapped; an older copy of the catalog and another history are held against the witness. Throughput: records
through the group writer, each group flushed to disk before the next is begun, beside a bare SQLite loop that commits
prepared rows of the same sizes into the same tables in as many transactions on the same disk, turn by turn. Cost: what
a request waits for in ``enqueue``, alone and while the writer works. A table, then one JSON line, kept in
``benchmarks/results/audit.jsonl``; exit code 1 when a line of the contract is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.governance.audit_tampering import FLIPS, Tampering

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.governance.audit.checkpoint_key import CheckpointKey
from antiphon.governance.audit.checkpointing import CheckpointSigner
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.proof import prove
from antiphon.governance.audit.verification import verify
from antiphon.governance.audit.witness import Witness
from antiphon.governance.audit.writer import AuditWriter

# Samples by size: records written for throughput, blocks they are written in, requests timed, records of the small
# log, bits flipped in each byte, proofs timed. Nothing is drawn at random; salts are the system's.
SIZES = {
    "ci": {"records": 10_000, "blocks": 2, "requests": 2_000, "small": 17, "flips": (0x01, 0x80), "proofs": 50},
    "demo": {"records": 40_000, "blocks": 4, "requests": 5_000, "small": 20, "flips": FLIPS, "proofs": 200},
    "full": {"records": 200_000, "blocks": 10, "requests": 20_000, "small": 34, "flips": FLIPS, "proofs": 1_000},
}
GROUP = 1_000
"""Records that a flush is waited for."""

RECORDS_A_SECOND = 10_000
ENQUEUE_SECONDS = 0.3e-3
SCOPE, SECRET, KEY = Scope(), b"s" * 32, CheckpointKey(b"k" * 32)
RESULTS = Path(__file__).parents[1] / "results" / "audit.jsonl"


def main() -> int:
    parser = argparse.ArgumentParser(description="The audit log: what it catches, what it costs, how fast it is.")
    parser.add_argument("--size", choices=SIZES, default="ci")
    options = parser.parse_args()
    sample: dict[str, Any] = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="bench-audit-") as folder:
        result = {
            "benchmark": "audit",
            "size": options.size,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
            "tampering": tampering(Path(folder) / "small", sample["small"], sample["flips"]),
            "throughput": throughput(Path(folder) / "large", sample["records"], sample["blocks"], sample["proofs"]),
            "enqueue": enqueue(Path(folder) / "cost", sample["requests"]),
        }
    result["passed"] = passed(result)
    print_table(result)
    RESULTS.parent.mkdir(exist_ok=True)
    line = json.dumps(result)
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    print(line)
    return 0 if result["passed"] else 1


def passed(result: dict[str, Any]) -> bool:
    """Whether every line of the contract holds."""
    caught = result["tampering"]
    return (
        all(caught[kind]["missed"] == 0 for kind in ("changes", "removals", "swaps"))
        and caught["cut"]
        and caught["fork"]
        and not caught["cut_without_witness"]
        and result["throughput"]["records_per_second"] >= RECORDS_A_SECOND
        and result["throughput"]["sound"]
        and result["enqueue"]["p50"] <= ENQUEUE_SECONDS
    )


def opened(folder: Path) -> tuple[Database, AuditLog]:
    folder.mkdir(parents=True, exist_ok=True)
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    database.migrate()
    return database, AuditLog(database, SECRET)


def tampering(folder: Path, records: int, flips: tuple[int, ...]) -> dict[str, Any]:
    """How many changes, removals and swaps there are, and how many are missed or not named."""
    database, log = opened(folder)
    for number in range(records):
        log.append(SCOPE, "ann", "release.activate", f"rel_{number}", {"count": number}, originator="zoe")
    CheckpointSigner(log, KEY, Witness(folder / "witness")).sign(SCOPE)
    found: dict[str, Any] = {}
    with closing(Tampering(folder / "catalog.db")) as attacker:
        for kind, ways in (
            ("changes", attacker.changes(flips)), ("removals", attacker.removals()), ("swaps", attacker.swaps()),
        ):  # fmt: skip
            tried = missed = 0
            for _ in ways:
                tried, missed = tried + 1, missed + verify(log, SCOPE, key=KEY).sound
            found[kind] = {"tried": tried, "missed": missed}
    assert verify(log, SCOPE, key=KEY).sound
    database.close()
    return {**found, **histories(folder / "histories")}


def histories(folder: Path) -> dict[str, bool]:
    """An older copy of the catalog, and one that went another way, held against the witness."""
    database, log = opened(folder)
    witness = Witness(folder / "witness")

    def write(count: int, action: str) -> None:
        for number in range(count):
            log.append(SCOPE, "ann", action, f"rel_{number}")

    write(20, "release.activate")
    database.erase_free_space()
    shutil.copy(folder / "catalog.db", folder / "copy")
    write(20, "release.activate")
    CheckpointSigner(log, KEY, witness).sign(SCOPE)
    database.close()
    for file in folder.glob("catalog.db*"):
        file.unlink()
    shutil.copy(folder / "copy", folder / "catalog.db")
    database, log = opened(folder)
    kept = witness.read().of(KEY.origin(SCOPE))
    cut = not verify(log, SCOPE, key=KEY, checkpoints=kept).sound
    alone = not verify(log, SCOPE, key=KEY).sound
    write(30, "keys.create")
    fork = not verify(log, SCOPE, key=KEY, checkpoints=kept).sound
    database.close()
    return {"cut": cut, "fork": fork, "cut_without_witness": alone}


def throughput(folder: Path, records: int, blocks: int, proofs: int) -> dict[str, Any]:
    """Records a second on disk, beside bare SQLite, block by block; then the whole log is verified."""
    database, log = opened(folder)
    writer = AuditWriter(log)
    each = records // blocks
    ours: list[float] = []
    bare: list[float] = []
    with closing(bare_catalog(folder / "bare")) as connection:
        for block in range(blocks):
            ours.append(each / timed(lambda block=block: write(writer, block * each, each)))
            groups = prepared(block * each, each)
            bare.append(each / timed(lambda groups=groups: write_bare(connection, groups)))
    writer.close()
    size = log.database.path.stat().st_size
    began = time.perf_counter()
    found = verify(log, SCOPE, key=KEY)
    seconds = time.perf_counter() - began
    signed = CheckpointSigner(log, KEY, Witness(folder / "witness")).sign(SCOPE)
    assert signed is not None
    step = max(1, records // proofs)
    proved = [
        timed(lambda number=number: prove(log, KEY, SCOPE, number, signed)) for number in range(0, each * blocks, step)
    ]
    database.close()
    return {
        "records": each * blocks,
        "records_per_second": round(statistics.median(ours)),
        "slowest_block": round(min(ours)),
        "bare_records_per_second": round(statistics.median(bare)),
        "ratio": round(statistics.median(our / alone for our, alone in zip(ours, bare, strict=True)), 3),
        "sound": found.sound and found.entries == each * blocks,
        "verified_per_second": round(found.entries / seconds),
        "bytes_per_record": round(size / found.entries),
        "prove_p50": statistics.median(proved),
    }


def write(writer: AuditWriter, start: int, count: int) -> None:
    """Records in groups; each group is on disk before the next one is begun."""
    for first in range(start, start + count, GROUP):
        for number in range(first, min(first + GROUP, start + count)):
            writer.enqueue(
                SCOPE, f"user{number % 50}", "data.read", f"pred_{number}",
                {"route": "/admin/predictions/{prediction}", "method": "GET", "status": 200},
            )  # fmt: skip
        writer.flush()


def bare_catalog(folder: Path) -> sqlite3.Connection:
    """A catalog with the same tables and indexes, opened by nothing but SQLite with the catalog's settings."""
    opened(folder)[0].close()
    connection = sqlite3.connect(folder / "catalog.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cache_size=-16000"):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def prepared(start: int, count: int) -> list[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]:
    """Rows of records and nodes, group by group: their number, sizes and order are those that the log writes."""
    groups = []
    for first in range(start, start + count, GROUP):
        numbers = range(first, min(first + GROUP, start + count))
        detail = '{"method":"GET","route":"/admin/predictions/{prediction}","status":200}'
        rows = [
            (
                "default", "dev", number, 1_795_560_323_931_182 + number, f"user{number % 50}", os.urandom(16), None,
                None, f"pred_{number}", os.urandom(16), detail, os.urandom(16), "data.read", "done", None,
                os.urandom(32), None,
            )
            for number in numbers
        ]  # fmt: skip
        nodes = [
            ("default", "dev", level, number >> level, os.urandom(32))
            for number in numbers
            for level in (4, 8, 12, 16)
            if (number + 1) % (1 << level) == 0
        ]
        groups.append((rows, nodes))
    return groups


def write_bare(
    connection: sqlite3.Connection, groups: list[tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]
) -> None:
    """The same transactions: a group's records, nodes and head, then the flush."""
    for rows, nodes in groups:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(f"INSERT INTO audit_entries VALUES ({', '.join('?' * 17)})", rows)
        connection.executemany("INSERT INTO audit_nodes VALUES (?, ?, ?, ?, ?)", nodes)
        connection.execute(
            "INSERT OR REPLACE INTO audit_heads VALUES ('default', 'dev', ?, ?, '', ?)",
            (rows[-1][2] + 1, os.urandom(320), os.urandom(32)),
        )
        connection.execute("COMMIT")


def enqueue(folder: Path, requests: int) -> dict[str, Any]:
    """Seconds that a request spends in ``enqueue`` while the writer commits, and for an act within its transaction."""
    database, log = opened(folder)
    writer = AuditWriter(log)
    write(writer, 0, 200)

    def one() -> None:
        writer.enqueue(SCOPE, "user1", "decision", "application/desk", {"policy": "ab12", "path": "online"})

    times = sorted(timed(one) for _ in range(requests))
    writer.flush()
    durable = sorted(
        timed(lambda: writer.record(SCOPE, "user1", "data.read", "pred_1")) for _ in range(max(50, requests // 20))
    )
    with database.transaction() as connection:
        within = sorted(
            timed(lambda: log.append(SCOPE, "user1", "answer", "pred_1", {"sha256": "ab" * 32}, within=connection))
            for _ in range(max(200, requests // 10))
        )
    writer.close()
    database.close()
    return {
        "requests": requests,
        "p50": statistics.median(times),
        "p99": times[int(len(times) * 0.99)],
        "record_p50": statistics.median(durable),
        "record_p99": durable[int(len(durable) * 0.99)],
        "within_p50": statistics.median(within),
    }


def timed(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def print_table(result: dict[str, Any]) -> None:
    caught, speed, cost = result["tampering"], result["throughput"], result["enqueue"]
    rows = [
        *((f"{kind}: tried, missed", f"{caught[kind]['tried']:,}, {caught[kind]['missed']}", "0 missed") for kind in
          ("changes", "removals", "swaps")),
        ("older copy found by the witness", str(caught["cut"]), "True"),
        ("another history found by the witness", str(caught["fork"]), "True"),
        ("older copy found without it", str(caught["cut_without_witness"]), "False"),
        ("records/s on disk (median block)", f"{speed['records_per_second']:,}", f">= {RECORDS_A_SECOND:,}"),
        ("records/s on disk (slowest block)", f"{speed['slowest_block']:,}", ""),
        ("bare SQLite rows/s, ratio", f"{speed['bare_records_per_second']:,}, {speed['ratio']:.2f}", ""),
        ("records verified/s", f"{speed['verified_per_second']:,}", ""),
        ("bytes a record with indexes", str(speed["bytes_per_record"]), ""),
        ("a proof, p50 ms", f"{speed['prove_p50'] * 1e3:.2f}", ""),
        ("enqueue p50, p99 µs", f"{cost['p50'] * 1e6:.1f}, {cost['p99'] * 1e6:.1f}", f"<= {ENQUEUE_SECONDS * 1e6:.0f}"),
        ("enqueue and flush p50, p99 ms", f"{cost['record_p50'] * 1e3:.2f}, {cost['record_p99'] * 1e3:.2f}", ""),
        ("append within a transaction p50 µs", f"{cost['within_p50'] * 1e6:.0f}", ""),
    ]  # fmt: skip
    for name, value, wanted in rows:
        print(f"{name:<40}{value:>22}  {wanted}")
    print(f"{result['cores']} cores, load {result['load']}: {'passed' if result['passed'] else 'MISSED'}")


if __name__ == "__main__":
    sys.exit(main())
