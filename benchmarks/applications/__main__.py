"""Every blueprint of ``antiphon init`` all the way: from its first command to a bad release that is stopped.

The last line is JSON: ``blueprints`` (name to whether it passed), their ``figures``, and in ``others`` the newest
measurement that is kept of each benchmark of outcomes, guards, conversations and retrieval, or ``null``.

python -m benchmarks.applications [--blueprint NAME ...] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.applications.blueprints import BLUEPRINTS
from benchmarks.applications.journey import Journey
from benchmarks.applications.state import RESULTS, newest
from tests.chaos.harness.running import scratch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blueprint", choices=BLUEPRINTS, action="append", help="one of them; all by default")
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name in options.blueprint or BLUEPRINTS:
        load = os.getloadavg()[0]
        with scratch() as folder:
            try:
                found[name] = asyncio.run(Journey(BLUEPRINTS[name], Path(folder), options.seed).run())
            except (RuntimeError, TimeoutError) as error:
                found[name] = {"passed": False, "error": f"{type(error).__name__}: {error}"[:2_000]}
        found[name]["load_before"] = round(load, 1)
        print(_line(name, found[name]), flush=True)
        if found[name]["passed"]:  # At once: those that follow take many minutes.
            with (RESULTS / "applications.jsonl").open("a", encoding="utf-8") as out:
                out.write(json.dumps(_summary({name: found[name]}, options.seed)) + "\n")
    others = newest()
    for name, measured in others.items():
        print(f"{name:<18} {_measured(measured)}")
    print(json.dumps(_summary(found, options.seed) | {"others": others}))
    return 0 if all(one["passed"] for one in found.values()) else 1


def _summary(found: dict[str, dict[str, Any]], seed: int) -> dict[str, Any]:
    return {
        "benchmark": "applications",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "blueprints": {name: one["passed"] for name, one in found.items()},
        "figures": found,
    }


def _measured(measured: dict[str, Any] | None) -> str:
    if measured is None:
        return "not measured"
    return f"measured at {measured['at'] or 'a time that it does not say'}, size {measured['size'] or 'not said'}"


def _line(name: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{name:<11} failed: {found['error']}"
    better, bad = found["better"], found["bad"]
    return (
        f"{name:<11} {'passed' if found['passed'] else 'failed'} in {found['seconds']:.0f} s: "
        f"{' → '.join(better['moves'])} after {better['requests']} requests; the bad release stopped by "
        f"{bad['stopped_by']} after {bad['requests']}: {'; '.join(bad['metrics'])}"
    )


if __name__ == "__main__":
    sys.exit(main())
