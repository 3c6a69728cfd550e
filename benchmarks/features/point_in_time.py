"""Point-in-time joins beside a bare ASOF join of DuckDB: time, memory, rows.

    python -m benchmarks.features.point_in_time [--size ci|demo|full] [--threads 1]

A frame of rows (entity, moment) is joined to a file of events, with 10 and with 100 events an entity:

``last``     two features ``last``, which is what the bare join does;
``windows``  ``count``, ``mean`` and ``sum`` over 2 hours and 7 days: six features;
``late``     two features ``last`` of events with ids that arrive up to a day late, in whole minutes, 1 % of them twice.

The bare join reads the same two Parquet files in the same number of threads, ``ASOF LEFT JOIN … ON entity AND moment ≥
time`` (of ``late`` the time at which an event became available), and both end in an Arrow table. Every join runs in a
fresh process that has imported its libraries before the clock starts; rounds are interleaved, and the ratio is that of
neighbors. Memory is the greatest RssAnon of the process, sampled every 5 ms from outside. Before anything is timed,
values of both are compared: ``last`` with every row of the bare join, the others with a walk over the events of rows
drawn by the seed. Sample and seed are declared: uniform draws, seed 20240101.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.core.child_process import start_child

RESULTS = Path(__file__).parents[1] / "results"
SEED = 20240101
KINDS = ("last", "windows", "late")
GOAL_RATIO, GOAL_ANONYMOUS_MB = 1.5, 600.0
_WINDOWS = {"2h": 2 * 3_600_000_000, "7d": 7 * 86_400_000_000}


class Size(NamedTuple):
    """Events of the file, rows of the frame, rounds, rows that are checked by walking."""

    events: int
    rows: int
    rounds: int
    walked: int


SIZES = {
    "ci": Size(20_000, 2_000, 1, 20),
    "demo": Size(1_000_000, 100_000, 2, 50),
    "full": Size(1_000_000, 100_000, 7, 200),
}


def write(folder: Path, size: Size, per_entity: int) -> None:
    """The events and the frame, as Parquet."""
    import duckdb

    entities = size.events // per_entity
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET threads = 1")
    connection.execute(f"SELECT setseed({SEED % 1_000 / 1_000})")
    day, minute = 86_400_000_000, 60_000_000
    connection.execute(
        f"CREATE TABLE events AS SELECT 'event-' || i AS id, 'driver-' || (i % {entities}) AS driver, "
        f"1704067200000000 + CAST(random() * 90 * {day} AS BIGINT) AS t, random() < 0.5 AS late, "
        f"CAST(random() * {day} AS BIGINT) AS lag, round(random() * 100, 2) AS x, CAST(random() * 10 AS INTEGER) AS y "
        f"FROM range({size.events}) AS drawn(i)"
    )
    connection.execute(
        f"COPY (SELECT driver, make_timestamptz(t) AS happened, x, y FROM events) TO '{folder}/plain.parquet'"
    )
    connection.execute(
        f"COPY (WITH told AS (SELECT id, driver, t // {minute} * {minute} AS t, "
        f"(t + CASE WHEN late THEN lag ELSE 0 END) // {minute} * {minute} AS seen, x, y FROM events), "
        f"again AS (SELECT * REPLACE (seen + 3 * {minute} AS seen) FROM told WHERE hash(id) % 100 = 0) "
        "SELECT id, driver, make_timestamptz(t) AS happened, make_timestamptz(seen) AS known, x, y FROM "
        "(FROM told UNION ALL FROM again)) "
        f"TO '{folder}/late.parquet'"
    )
    connection.execute(
        f"COPY (SELECT i AS n, 'driver-' || CAST(floor(random() * {entities}) AS BIGINT) AS driver, "
        f"make_timestamptz(1704067200000000 + CAST((8 + random() * 82) * {day} AS BIGINT)) AS as_of "
        f"FROM range({size.rows}) AS drawn(i)) TO '{folder}/frame.parquet'"
    )
    connection.close()


def bare_join(folder: Path, kind: str, threads: int) -> Any:
    """The join that DuckDB does by itself."""
    import duckdb

    file, when = ("late", "known") if kind == "late" else ("plain", "happened")
    connection = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": "1024MiB"})
    found = connection.sql(
        f"SELECT f.*, e.x, e.y FROM read_parquet('{folder}/frame.parquet') f ASOF LEFT JOIN "
        f"read_parquet('{folder}/{file}.parquet') e ON f.driver = e.driver AND f.as_of >= e.{when}"
    ).to_arrow_table()
    connection.close()
    return found


def view(folder: Path, kind: str) -> Any:
    """The view that ours joins."""
    from antiphon import Entity, Source, col, count, feature_view, last, mean, sum

    driver = Entity("driver", ["driver"])
    plain = Source.table("plain", path=f"{folder}/plain.parquet", event_time="happened")
    late = Source.table(
        "late", path=f"{folder}/late.parquet", event_time="happened", available_at="known", event_id="id"
    )
    if kind == "windows":

        @feature_view(entity=driver, source=plain)
        class Joined:
            count_2h = count(window="2h")
            count_7d = count(window="7d")
            mean_2h = mean(col.x, window="2h", scale="0.01")
            mean_7d = mean(col.x, window="7d", scale="0.01")
            sum_2h = sum(col.x, window="2h", scale="0.01")
            sum_7d = sum(col.x, window="7d", scale="0.01")
    else:

        @feature_view(entity=driver, source=late if kind == "late" else plain)
        class Joined:
            x = last(col.x)
            y = last(col.y)

    return Joined.spec()


def our_join(folder: Path, spec: Any, threads: int) -> Any:
    from antiphon.core.scope import Scope
    from antiphon.features.offline.compute import ComputeLimits
    from antiphon.features.offline.point_in_time.join import point_in_time

    return point_in_time(folder / "frame.parquet", [spec], scope=Scope(), limits=ComputeLimits(threads=threads))


def child(which: str, folder: Path, kind: str, threads: int) -> dict[str, Any]:
    """One timed join in this process, its libraries loaded before."""
    import duckdb
    import numpy  # noqa: F401
    import pyarrow.compute  # noqa: F401

    duckdb.connect().execute("SELECT 1").fetchall()
    if which == "ours":
        from antiphon.features.offline.point_in_time import event_columns, join, view_columns  # noqa: F401

        spec = view(folder, kind)
        started = time.perf_counter()
        found = our_join(folder, spec, threads)
    else:
        started = time.perf_counter()
        found = bare_join(folder, kind, threads)
    return {"seconds": time.perf_counter() - started, "rows": found.num_rows}


def spawn(which: str, folder: Path, kind: str, threads: int) -> dict[str, Any]:
    """:func:`child` in a fresh process, and its greatest anonymous memory in MiB."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.features.point_in_time",
        "--child",
        which,
        str(folder),
        kind,
        str(threads),
    ]
    peak = 0
    with start_child(command, stdout=subprocess.PIPE, env=os.environ) as process:
        status = Path(f"/proc/{process.pid}/status")
        deadline = time.monotonic() + 170
        while process.poll() is None:
            if time.monotonic() > deadline:
                process.kill()
                raise TimeoutError(f"{which} {kind} took longer than 170 seconds")
            try:
                lines = status.read_text().splitlines()
            except (FileNotFoundError, ProcessLookupError):
                break
            peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
            time.sleep(0.005)
        assert process.stdout is not None
        printed = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{which} {kind} failed")
    return {**json.loads(printed), "anonymous_mb": peak / 1024}


def check(folder: Path, kind: str, threads: int, walked: int) -> int:
    """How many values of our join are not what they must be; shares nothing with it."""
    import duckdb

    ours = our_join(folder, view(folder, kind), threads)
    frame = duckdb.sql(f"SELECT n, driver, epoch_us(as_of) AS t FROM read_parquet('{folder}/frame.parquet')").fetchall()
    assert [row[0] for row in frame] == ours.column("n").to_pylist()
    if kind == "last":
        bare = bare_join(folder, kind, threads).sort_by("n")
        return sum(
            a != b
            for name in ("x", "y")
            for a, b in zip(ours.column(f"joined.{name}").to_pylist(), bare.column(name).to_pylist(), strict=True)
        )
    file, seen, identity = ("late", "known", "id") if kind == "late" else ("plain", "happened", "NULL")
    connection = duckdb.connect()
    wrong = 0
    for place in range(0, len(frame), max(1, len(frame) // walked)):
        _, driver, t = frame[place]
        events = connection.execute(
            f"SELECT epoch_us(happened), epoch_us({seen}), {identity}, x, y FROM "
            f"read_parquet('{folder}/{file}.parquet') WHERE driver = ?",
            [driver],
        ).fetchall()
        events = [event for event in events if event[0] <= t and event[1] <= t]
        wanted = last_told(events) if kind == "late" else windows_told(events, t)
        wrong += sum(ours.column(f"joined.{name}")[place].as_py() != value for name, value in wanted.items())
    connection.close()
    return wrong


def last_told(events: list[tuple[Any, ...]]) -> dict[str, Any]:
    """Of the latest instant the greatest hash of an id counts, of one id the version that was known first."""
    import hashlib

    def order(event: tuple[Any, ...]) -> tuple[Any, ...]:
        return event[0], hashlib.sha256(event[2].encode()).hexdigest()[:24], -event[1]

    if not events:
        return {"x": None, "y": None}
    newest = max(events, key=order)
    return {"x": newest[3], "y": float(newest[4])}


def windows_told(events: list[tuple[Any, ...]], t: int) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    for name, width in _WINDOWS.items():
        hundredths = [round(event[3] * 100) for event in events if event[0] > t - width]
        wanted[f"count_{name}"] = len(hundredths)
        wanted[f"sum_{name}"] = sum(hundredths) / 100
        wanted[f"mean_{name}"] = sum(hundredths) / (100 * len(hundredths)) if hundredths else None
    return wanted


def measure(folder: Path, kind: str, size: Size, threads: int) -> dict[str, Any]:
    """Rounds of both in turn; the order changes from round to round."""
    found: dict[str, list[dict[str, Any]]] = {"bare": [], "ours": []}
    for turn in range(size.rounds):
        for which in ("bare", "ours") if turn % 2 == 0 else ("ours", "bare"):
            found[which].append(spawn(which, folder, kind, threads))
    seconds = {which: [one["seconds"] for one in runs] for which, runs in found.items()}
    ratios = sorted(a / b for a, b in zip(seconds["ours"], seconds["bare"], strict=True))
    return {
        "bare_seconds": round(statistics.median(seconds["bare"]), 4),
        "ours_seconds": round(statistics.median(seconds["ours"]), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least": round(ratios[0], 3),
        "ratio_most": round(ratios[-1], 3),
        "bare_anonymous_mb": round(max(one["anonymous_mb"] for one in found["bare"])),
        "ours_anonymous_mb": round(max(one["anonymous_mb"] for one in found["ours"])),
        "rows_in": size.rows,
        "rows_out": min(one["rows"] for one in found["ours"]),
        "bare_rows_out": min(one["rows"] for one in found["bare"]),
        "wrong_values": check(folder, kind, threads, size.walked),
    }


def run(size: str, threads: int = 1) -> dict[str, Any]:
    """Measure at a size; the figures under ``KIND_PER``, and whether the goals hold."""
    chosen = SIZES[size]
    line: dict[str, Any] = {
        "benchmark": "feature_pit",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "events": chosen.events,
        "rounds": chosen.rounds,
        "threads": threads,
        "seed": SEED,
        "load": round(os.getloadavg()[0], 2),
    }
    for per_entity in (10, 100):
        with tempfile.TemporaryDirectory() as name:
            write(Path(name), chosen, per_entity)
            for kind in KINDS:
                line[f"{kind}_{per_entity}"] = measure(Path(name), kind, chosen, threads)
    cells = [line[f"{kind}_{per_entity}"] for kind in KINDS for per_entity in (10, 100)]
    goals = [line[f"{kind}_{per_entity}"] for kind in KINDS[:2] for per_entity in (10, 100)]
    line["worst_ratio"] = max(cell["ratio"] for cell in goals)
    line["goal_ratio"] = line["worst_ratio"] <= GOAL_RATIO
    line["goal_memory"] = all(cell["ours_anonymous_mb"] <= GOAL_ANONYMOUS_MB for cell in cells)
    line["no_row_lost"] = all(cell["rows_out"] == cell["rows_in"] for cell in cells)
    line["wrong_values"] = sum(cell["wrong_values"] for cell in cells)
    return line


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--child"]:
        which, folder, kind, threads = arguments[1:]
        print(json.dumps(child(which, Path(folder), kind, int(threads))))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="append the line to benchmarks/results")
    options = parser.parse_args(arguments)
    line = run(options.size, options.threads)
    print(
        f"{'join':12} {'bare s':>8} {'ours s':>8} {'ratio (least … most)':>24} {'MiB bare':>9} {'ours':>6}   rows wrong"
    )
    for kind in KINDS:
        for per_entity in (10, 100):
            cell = line[f"{kind}_{per_entity}"]
            spread = f"{cell['ratio']:.2f} ({cell['ratio_least']:.2f} … {cell['ratio_most']:.2f})"
            timed = f"{cell['bare_seconds']:8.3f} {cell['ours_seconds']:8.3f} {spread:>24}"
            held = f"{cell['bare_anonymous_mb']:9} {cell['ours_anonymous_mb']:6}"
            print(f"{kind + ' ' + str(per_entity):12} {timed} {held} {cell['rows_out']:6} {cell['wrong_values']:5}")
    print(json.dumps(line))
    if options.keep:
        with (RESULTS / "feature_pit.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
    return 0 if line["no_row_lost"] and not line["wrong_values"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
