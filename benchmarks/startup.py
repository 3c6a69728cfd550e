"""How long a fresh process takes to ``import antiphon`` and to print ``antiphon --help``; goals 0.2 s and 0.4 s.

Run ``python -m benchmarks.startup``: a table, then one JSON line (kept in ``benchmarks/results/startup.jsonl``).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

RUNS = 15
CASES = {
    "import antiphon": ([sys.executable, "-c", "import antiphon"], 0.2),
    "antiphon --help": ([sys.executable, "-m", "antiphon.cli.main", "--help"], 0.4),
    "python (the floor)": ([sys.executable, "-c", "pass"], None),
}


def main() -> int:
    """Measure, print, keep; returns 1 when a goal is missed."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, (command, _) in CASES.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    rows = {
        name: {"min": min(taken), "median": statistics.median(taken), "max": max(taken), "goal": CASES[name][1]}
        for name, taken in seconds.items()
    }
    for name, row in rows.items():
        print(f"{name:<20} min {row['min']:.3f}  median {row['median']:.3f}  max {row['max']:.3f}  goal {row['goal']}")
    met = all(row["goal"] is None or row["median"] < row["goal"] for row in rows.values())
    line = json.dumps(
        {"benchmark": "startup", "at": datetime.now(UTC).isoformat(), "runs": RUNS, "seconds": rows, "met": met}
    )
    with (Path(__file__).parent / "results" / "startup.jsonl").open("a") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
