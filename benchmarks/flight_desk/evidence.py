"""Evidence after a run of the flight desk: every prediction explained, a sample made again byte for byte.

``python -m benchmarks.flight_desk.evidence [--project DIR] [--replays 200] [--rows 200] [--seed 1]`` looks at the
project that ``make demo`` left behind. For every receipt, ``explain`` must have all its parts; for a seeded sample,
each feature's value must come out again when it is computed anew from the source rows. Then a seeded sample of
generations, half online and half batch as far as there are so many, is made again by a running engine. A table, then
one JSON line, kept in ``benchmarks/results/evidence.jsonl``; exit code 1 when anything is missing or different.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from antiphon.app.wiring import ProcessServices, open_project
from antiphon.catalog.serving.receipt import Receipt
from antiphon.services.predictions import ProjectPredictions

PROJECT = Path(__file__).parents[2] / "examples" / "flight_desk" / "out" / "demo" / "project"
CONCURRENCY = 8


def missing_parts(told: Mapping[str, Any]) -> list[str]:
    """What an explanation lacks; empty for a whole one."""
    needed = (
        "prediction", "request", "trace", "tenant", "environment", "path", "as_of", "created_at", "entity", "answer",
        "finish_reason", "publication", "features", "generations", "feature_fingerprint",
    )  # fmt: skip
    lacks = [name for name in needed if told.get(name) in (None, "", [], {})]
    lacks += [f"release.{name}" for name in ("id", "content_hash", "model") if not told["release"].get(name)]
    lacks += ["policy.digest"] * (not told["policy"]["digest"])
    lacks += ["cost.amount"] * (told["cost"]["amount"] is None)
    for made in told["generations"]:
        lacks += [f"generation.{name}" for name in ("prompt", "text", "fingerprint", "token_ids") if not made.get(name)]
    for feature in told["features"]:
        name = feature["name"]
        lacks += [f"{name}.snapshot"] * (feature["snapshot"] is None)
        rows = feature["lineage"]
        if rows is None:
            continue
        lacks += [f"{name}.rows"] * (feature["value"] not in (None, 0) and not rows["contributing"])
        if feature["contract"] != "defaulted" and rows["value"] != feature["value"]:
            lacks.append(f"{name}: read {feature['value']}, from its rows {rows['value']}")
    return lacks


def every_receipt(wired: ProcessServices) -> list[Receipt]:
    """All receipts of the project, newest first."""
    found: list[Receipt] = []
    while page := wired.store.receipts.list(
        wired.store.scope, before=found[-1].created_at if found else None, limit=1_000
    ):
        found += page
    return found


def explain_all(wired: ProcessServices, receipts: list[Receipt], with_rows: list[Receipt]) -> Counter[str]:
    """How often each part is missing: every prediction, and a sample down to the source rows."""
    explaining, lacks = ProjectPredictions(wired.store), Counter[str]()
    for receipt in receipts:
        lacks.update(missing_parts(explaining.explain(receipt.scope, receipt.prediction, source_rows=False)))
    print(f"explained {len(receipts)}", file=sys.stderr, flush=True)
    told_at = time.monotonic()
    for number, receipt in enumerate(with_rows, start=1):
        lacks.update(missing_parts(explaining.explain(receipt.scope, receipt.prediction)))
        if time.monotonic() - told_at > 10:
            told_at = time.monotonic()
            print(f"down to source rows {number}/{len(with_rows)}", file=sys.stderr, flush=True)
    return lacks


async def replay_all(wired: ProcessServices, receipts: list[Receipt]) -> list[Mapping[str, Any]]:
    """Made again, several at once, so that each runs in a crowd."""
    explaining, limit = ProjectPredictions(wired.store), asyncio.Semaphore(CONCURRENCY)

    async def one(receipt: Receipt) -> Mapping[str, Any]:
        async with limit:
            return await explaining.replay(wired.engine, receipt.scope, receipt.prediction)

    return list(await asyncio.gather(*(one(receipt) for receipt in receipts)))


def sample(receipts: list[Receipt], size: int, seed: int) -> list[Receipt]:
    """Half generated online, half in batch; where one path has too few, the other fills up."""
    drawn = random.Random(seed)
    made = {
        path: [r for r in receipts if r.path == path and r.cache.origin == "generated"] for path in ("online", "batch")
    }
    batch = drawn.sample(made["batch"], min(size // 2, len(made["batch"])))
    online = drawn.sample(made["online"], min(size - len(batch), len(made["online"])))
    return batch + online


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Explain, replay, count."""
    wired = open_project(options.project)
    try:
        receipts = every_receipt(wired)
        started = time.perf_counter()
        with_rows = random.Random(options.seed).sample(receipts, min(options.rows, len(receipts)))
        lacks = await asyncio.to_thread(explain_all, wired, receipts, with_rows)
        explained = time.perf_counter() - started
        chosen = sample(receipts, options.replays, options.seed)
        started = time.perf_counter()
        replays = await replay_all(wired, chosen)
        return {
            "benchmark": "evidence",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "predictions": len(receipts),
            "whole_explanations": len(receipts) if not lacks else None,
            "down_to_source_rows": len(with_rows),
            "missing": dict(lacks.most_common(10)),
            "explain_seconds": round(explained, 1),
            "replayed": len(replays),
            "replayed_by_path": dict(Counter(receipt.path for receipt in chosen)),
            "generations": sum(len(one["attempts"]) for one in replays),
            "distinct_texts": len({one["attempts"][0]["text"] for one in replays}),
            "identical": sum(bool(one["identical"]) for one in replays),
            "replay_seconds": round(time.perf_counter() - started, 1),
            "seed": options.seed,
            "holds": not lacks and bool(replays) and all(one["identical"] for one in replays),
        }
    finally:
        await wired.close()


def main(arguments: list[str] | None = None) -> int:
    """Print a table and the JSON line; returns 1 unless everything holds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--project", type=Path, default=PROJECT)
    parser.add_argument("--replays", type=int, default=200)
    parser.add_argument("--rows", type=int, default=200, help="explanations taken down to their source rows")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    from examples.flight_desk import host

    with host.running(options.project, lambda text: print(text, file=sys.stderr)):
        result = asyncio.run(run(options))
    for name, value in result.items():
        print(f"{name:<20} {value}")
    line = json.dumps(result)
    with (Path(__file__).parents[1] / "results" / "evidence.jsonl").open("a") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
