"""The feature platform against its goals: every measure, beside Feast in the same run.

    python -m benchmarks.features [--size ci|demo|full] [--no-peer] [--only PART …] [--keep]

Each part is a benchmark of its own (``python -m benchmarks.features.lookup`` …), run in a process of its own, one after
the other. What it prints is passed on; its last line, one JSON object, is held against the goals. Feast 0.67 is
installed in an environment of its own (``scripts/feast-environment``), tuned as its guides say
(``benchmarks/features/feast_peer.py``).

The table at the end says of each goal what was measured and whether it is met; ``-`` where its part was left out. One
JSON line last. ``--keep`` appends it, and the parts' lines, to ``benchmarks/results``. The exit code is 1 when a part
failed, not when a goal is missed: that is for the reader.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from antiphon.core.child_process import start_child

RESULTS = Path(__file__).parents[1] / "results"
SIZES = ("ci", "demo", "full")
LIMIT = 3_600.0
"""Seconds after which a part is ended."""

Lines = Mapping[str, Any]
"""The last line of each part that ran."""


class Part(NamedTuple):
    """A benchmark: its module, whether it has Feast beside it, and how long it takes at each size, roughly."""

    module: str
    peer: bool
    minutes: tuple[float, float, float]

    def command(self, size: str, peer: bool) -> list[str]:
        arguments = ["-m", f"benchmarks.{self.module}"]
        if self.module == "features.faults":
            # Its faults do not depend on a size; a healthy day more or less does.
            arguments += ["--healthy", {"ci": "12", "demo": "60", "full": "240"}[size]]
        else:
            arguments += ["--size", size]
        return [sys.executable, *arguments, *(["--no-peer"] if self.peer and not peer else [])]


PARTS = {
    "lookup": Part("features.lookup", True, (1, 2, 4)),
    "publish": Part("features.publish", False, (0.2, 0.3, 6)),
    "point_in_time": Part("features.point_in_time", False, (0.5, 2, 5)),
    "flips": Part("features.flips", True, (0.5, 2, 8)),
    "stream": Part("features.stream", False, (0.5, 2, 6)),
    "faults": Part("features.faults", False, (1, 2, 4)),
    "chaos": Part("durability.feature_chaos", False, (0.5, 2, 12)),
    "crowd": Part("durability.feature_crowd", False, (0.3, 3, 9)),
}


class Found(NamedTuple):
    """A figure, and whether it meets its goal; ``None``: nothing to hold it against."""

    figure: str
    met: bool | None


class Goal(NamedTuple):
    """What is to be shown, and how it is read from the parts' lines; ``KeyError``: its part, or Feast, was left out."""

    measure: str
    goal: str
    read: Callable[[Lines], Found]


def lookup(store: str, count: int, times: float, how: str) -> Callable[[Lines], Found]:
    def read(lines: Lines) -> Found:
        faster = lines["lookup"]["times_faster"][f"{store}_{count}_{how}"]
        return Found(f"{faster:.1f} x, {lines['lookup'][store][str(count)][how]['p50_ms']:.3f} ms", faster >= times)

    return read


def publish_rate(lines: Lines) -> Found:
    rate = case(lines, 100_000)["rows_per_second"]
    return Found(f"{rate:,.0f} rows/s", rate >= 100_000)


def publish_beside_feast(store: str) -> Callable[[Lines], Found]:
    """Like beside like: a store in a file beside SQLite, a server beside a server."""

    def read(lines: Lines) -> Found:
        published = case(lines, 100_000) if store == "lmdb" else lines["publish"]["redis"]
        peer = {"lmdb": "sqlite", "redis": "redis"}[store]
        theirs = lines["lookup"]["entities"] / lines["lookup"]["feast"][peer]["materialize_seconds"]
        times = published["rows_per_second"] / theirs
        said = f"{times:.1f} x ({published['rows_per_second']:,.0f} rows/s, {peer} {theirs:,.0f}"
        if store == "redis":
            said += f"; storing alone, with that client, {published['bare_rows_per_second']:,.0f}"
        return Found(f"{said})", times >= 20)

    return read


def publish_memory(lines: Lines) -> Found:
    megabytes = case(lines, 100_000)["anonymous_mb"]
    return Found(f"{megabytes:.0f} MB", megabytes < 400)


def large_memory(lines: Lines) -> Found:
    megabytes = case(lines, 10_000_000)["anonymous_mb"]
    return Found(f"{megabytes:,.0f} MB", megabytes < 4_000)


def linear(lines: Lines) -> Found:
    """Time a row of ten million entities beside that of one million."""
    small, large = case(lines, 1_000_000), case(lines, 10_000_000)
    ratio = small["rows_per_second"] / large["rows_per_second"]
    return Found(f"{ratio:.2f} x the time a row of a tenth of them, {large['seconds']:.0f} s", ratio <= 1.2)


def gate_cost(lines: Lines) -> Found:
    share = max(one["gates_share"] for one in lines["publish"]["cases"])
    return Found(f"{share:.1%}", share < 0.2)


def case(lines: Lines, entities: int) -> dict[str, Any]:
    found: dict[int, dict[str, Any]] = {one["entities"]: one for one in lines["publish"]["cases"]}
    return found[entities]


def joins(lines: Lines) -> Found:
    line = lines["point_in_time"]
    return Found(f"{line['worst_ratio']:.2f} x at worst", line["goal_ratio"])


def join_memory(lines: Lines) -> Found:
    line = lines["point_in_time"]
    most = max(one["ours_anonymous_mb"] for one in line.values() if isinstance(one, dict))
    return Found(f"{most} MiB", line["goal_memory"])


def join_rows(lines: Lines) -> Found:
    line = lines["point_in_time"]
    return Found(f"{line['wrong_values']} values wrong", line["no_row_lost"] and not line["wrong_values"])


def flips(lines: Lines) -> Found:
    return Found(f"p99 {lines['flips']['worst_p99_ms']:.1f} ms at worst", lines["flips"]["goal_p99"])


def torn(lines: Lines) -> Found:
    line = lines["flips"]
    batches = sum(line[store]["batches"] for store in ("lmdb", "redis"))
    shares = {store: one["share"] for store, one in line.get("feast", {}).items() if "share" in one}
    beside = ", ".join(f"Feast {store} {share:.1%}" for store, share in shares.items())
    return Found(f"{line['torn']} of {batches:,}{'; ' if beside else ''}{beside}", line["torn"] == 0)


def backward(lines: Lines) -> Found:
    return Found(str(lines["flips"]["backward"]), lines["flips"]["backward"] == 0)


def servable(lines: Lines) -> Found:
    line = lines["stream"]
    kept = ", ".join(f"{kind} {rate:,}/s" for kind, rate in line["kept_up_to"].items())
    p99 = max(
        rate["p99_ms"] for kind in line["kept_up_to"] for rate in line[kind]["rates"] if rate["kept"]
    )  # fmt: skip
    return Found(f"p99 {p99:,.0f} ms; sustained {kept}", line["goal_p99"])


def faults(lines: Lines) -> Found:
    line = lines["faults"]
    return Found(
        f"{line['held']} of {line['faults']}, {line['false_alarms']} false alarms in {line['healthy_refreshes']} days",
        line["held"] == line["faults"] >= 15,
    )


def kills(lines: Lines) -> Found:
    runs = lines["chaos"]["runs"]
    wrong = sum(sum(run["violations"].values()) for run in runs)
    return Found(f"{sum(run['kills'] for run in runs)} kills, {wrong} violations", lines["chaos"]["holds"])


def crowd(lines: Lines) -> Found:
    line = lines["crowd"]
    runs, off = line["runs"], line["found_after_kills"]
    wrong = sum(sum(run["violations"].values()) for run in runs)
    kills, cuts = (sum(run[one] for run in runs) for one in ("kills", "power_cuts"))
    said = f"{kills} kills, {cuts} power cuts, {wrong} violations"
    return Found(
        f"{said}; {sum(one is not None for one in off.values())} of {len(off)} defences off found", line["holds"]
    )


GOALS = (
    Goal("lookup, 1 entity, LMDB, rows kept", ">= 8 x Feast SQLite", lookup("lmdb", 1, 8, "warm")),
    Goal("lookup, 1 entity, LMDB, first read", ">= 8 x Feast SQLite", lookup("lmdb", 1, 8, "cold")),
    Goal("lookup, 1 entity, Redis, rows kept", ">= 3 x Feast Redis", lookup("redis", 1, 3, "warm")),
    Goal("lookup, 1 entity, Redis, first read", ">= 3 x Feast Redis", lookup("redis", 1, 3, "cold")),
    Goal("lookup, 100 entities, LMDB, rows kept", ">= 20 x Feast SQLite", lookup("lmdb", 100, 20, "warm")),
    Goal("lookup, 100 entities, LMDB, first read", ">= 20 x Feast SQLite", lookup("lmdb", 100, 20, "cold")),
    Goal("lookup, 100 entities, Redis, rows kept", ">= 20 x Feast Redis", lookup("redis", 100, 20, "warm")),
    Goal("lookup, 100 entities, Redis, first read", ">= 20 x Feast Redis", lookup("redis", 100, 20, "cold")),
    Goal("publish 100k x 10, gates and seal", ">= 100,000 rows/s", publish_rate),
    Goal("the same beside Feast on SQLite", ">= 20 x", publish_beside_feast("lmdb")),
    Goal("the same into Redis, beside Feast on Redis", ">= 20 x", publish_beside_feast("redis")),
    Goal("the same, anonymous memory", "< 400 MB", publish_memory),
    Goal("10M x 10 published, anonymous memory", "< 4,000 MB", large_memory),
    Goal("the same, time", "linear in rows", linear),
    Goal("gates", "< 20 % of publishing", gate_cost),
    Goal("faults of data stopped", "each of >= 15", faults),
    Goal("point in time, 100k x 1M", "<= 1.5 x a bare ASOF join", joins),
    Goal("the same, anonymous memory", "<= 600 MB", join_memory),
    Goal("the same, rows and values", "none lost, none wrong", join_rows),
    Goal("flip and rollback across views", "p99 < 20 ms", flips),
    Goal("torn reads, by value", "0", torn),
    Goal("backward steps across two gateways", "0", backward),
    Goal("event to servable", "p99 < 1 s", servable),
    Goal("SIGKILL at random moments", "consistent, nothing lost, no orphan", kills),
    Goal("the same, ten processes at once", "and what is pinned stays", crowd),
)


def run_part(part: Part, size: str, peer: bool) -> dict[str, Any] | None:
    """The part's last line; ``None`` when it failed. What it prints is passed on."""
    command, last = part.command(size, peer), ""
    deadline = time.monotonic() + LIMIT
    with start_child(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip():
                last = line
                print(f"  {line.rstrip()[:200]}", flush=True)
            if time.monotonic() > deadline:
                process.kill()
    try:
        found: dict[str, Any] = json.loads(last)
    except ValueError:
        return None
    return found


def judged(lines: Lines) -> list[dict[str, Any]]:
    """Every goal with what was found."""
    rows = []
    for goal in GOALS:
        try:
            found = goal.read(lines)
        except KeyError:
            found = Found("-", None)
        rows.append({"measure": goal.measure, "goal": goal.goal, "figure": found.figure, "met": found.met})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--no-peer", action="store_true", help="leave Feast out")
    parser.add_argument("--only", choices=tuple(PARTS), action="append", help="this part alone; may be repeated")
    parser.add_argument("--keep", action="store_true", help="append the lines to benchmarks/results")
    options = parser.parse_args(arguments)
    chosen = {name: PARTS[name] for name in options.only or PARTS}
    place = SIZES.index(options.size)
    minutes = sum(part.minutes[place] for part in chosen.values())
    print(f"{len(chosen)} parts at size {options.size}: about {minutes:.0f} minutes on two cores.", flush=True)
    lines: dict[str, Any] = {}
    failed = []
    for name, part in chosen.items():
        started = time.monotonic()
        print(f"{name}: about {part.minutes[place]:g} minutes", flush=True)
        line = run_part(part, options.size, not options.no_peer)
        print(
            f"{name}: {'ended' if line is not None else 'failed'} after {time.monotonic() - started:.0f} s", flush=True
        )
        if line is None:
            failed.append(name)
            continue
        lines[name] = line
        if options.keep:
            keep(part.module, line)
    rows = judged(lines)
    for row in rows:
        mark = {True: "yes", False: "NO", None: "-"}[row["met"]]
        print(f"{row['measure']:42} {row['goal']:36} {row['figure']:64} {mark}")
    result = {
        "benchmark": "features", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": options.size,
        "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2), "failed": failed, "goals": rows,
    }  # fmt: skip
    if options.keep:
        keep("features", result)
    print(json.dumps(result))
    return 1 if failed else 0


def keep(name: str, line: dict[str, Any]) -> None:
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
