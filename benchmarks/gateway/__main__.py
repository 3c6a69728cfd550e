"""What a gateway costs: ours beside LiteLLM's proxy in the same run, by turns, before the same upstream.

Three measurements. *Latency*: what is added to the first and to the last byte of a streamed answer, one request at a
time, to the bare upstream's in the same turn. *Saturation*: requests a second of one gateway process on one core.
*Crowd*: 1,000 streams at once on one process. Ours is measured before an OpenAI-compatible URL (``kind = "remote"``),
as LiteLLM's is, and before our own simulated engine; it authenticates, decides by policy, audits and commits a receipt
of each answer before its last byte, LiteLLM's checks its master key and keeps nothing.

    python -m benchmarks.gateway [--size ci|demo|full] [--no-peer]

A table, then one JSON line, kept in ``benchmarks/results/gateway.jsonl``; exit code 1 when a goal is missed.
``scripts/litellm-environment`` makes LiteLLM's environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gateway import contenders, crowd, latency, saturation
from benchmarks.gateway.load import Loader

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"pairs": 150, "rounds": 3, "seconds": 1.0, "streams": 200, "tokens": 24},
    "demo": {"pairs": 300, "rounds": 6, "seconds": 1.5, "streams": 1_000, "tokens": 32},
    "full": {"pairs": 500, "rounds": 12, "seconds": 2.0, "streams": 1_000, "tokens": 48},
}
ENGINE_TOKEN_MILLISECONDS = 0.1
"""Of the simulated engine in the crowd, so that a step for 1,000 streams takes 100 ms and all are open at once."""
GOAL_FIRST_P50, GOAL_FIRST_P99, GOAL_TIMES = 1.5, 5.0, 5.0
GOAL_BEYOND_COMMIT = 1.0
"""Milliseconds: what may come between the commit and the last byte."""
RESULTS = Path(__file__).parents[1] / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--no-peer", action="store_true", help="without LiteLLM")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        found = measure(Path(folder), SIZES[options.size], not options.no_peer)
    summary = {
        "benchmark": "gateway",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        **found,
    }
    summary["goals"] = goals(summary)
    summary["met"] = all(summary["goals"].values())
    print_tables(summary)
    line = json.dumps(summary)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "gateway.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)
    return 0 if summary["met"] else 1


def measure(folder: Path, size: dict[str, Any], peer: bool) -> dict[str, Any]:
    """Every figure, of processes that this starts and ends."""
    cores = contenders.Cores.of_this_machine()
    found: dict[str, Any] = {"crowd": {}}
    with contextlib.ExitStack() as started:
        loader = started.enter_context(
            Loader(cores.prefix(cores.others), contenders.environment(), folder / "found.json")
        )
        upstream = started.enter_context(contenders.upstream(cores, folder / "upstream.log"))
        gateways = [started.enter_context(contenders.over_remote(folder / "remote", upstream, cores))]
        engine, socket = started.enter_context(contenders.over_engine(folder / "engine", cores))
        if peer:
            gateways.append(started.enter_context(contenders.litellm(folder / "litellm", upstream, cores)))
        found["ceiling"] = saturation.ceiling(loader, upstream, size["seconds"])
        found["latency_ms_p10_p50_p90_p99"] = {
            "upstream": latency.before_upstream(loader, upstream, gateways, size["pairs"]),
            "engine": latency.before_engine(engine, socket, folder, size["pairs"]),
        }
        found["saturation"] = saturation.measure(loader, (engine, *gateways), size["rounds"], size["seconds"])
        for gateway in gateways:
            found["crowd"][gateway.name] = crowd.measure(
                loader, gateway, gateway.asked_for(contenders.PACED), size["streams"], size["tokens"]
            )
    with contextlib.ExitStack() as started:
        loader = started.enter_context(
            Loader(cores.prefix(cores.others), contenders.environment(), folder / "found.json")
        )
        pace = ("--simulated-decode-milliseconds", str(ENGINE_TOKEN_MILLISECONDS))
        slots = size["streams"] + 8
        engine, _ = started.enter_context(
            contenders.over_engine(folder / "crowd", cores, slots=slots, options=pace)
        )  # fmt: skip
        found["crowd"][engine.name] = crowd.measure(loader, engine, engine.target, size["streams"], size["tokens"])
    return found


def goals(summary: dict[str, Any]) -> dict[str, bool]:
    """Which of the goals are met."""
    latencies = summary["latency_ms_p10_p50_p90_p99"]
    first, ours = latencies["upstream"]["first byte added, antiphon, remote"], latencies["engine"]
    met = {
        "first byte p50": first[1] < GOAL_FIRST_P50,
        "first byte p99": first[3] < GOAL_FIRST_P99,
        "last byte": ours["after the first byte added"][1] - ours["one commit"][1] < GOAL_BEYOND_COMMIT,
        "all streams complete": all(
            one["complete"] == one["streams"] for name, one in summary["crowd"].items() if name != "LiteLLM"
        ),
    }
    if "LiteLLM" in summary["saturation"]["whole"]:
        for kind, found in summary["saturation"].items():
            met[f"times LiteLLM, {kind}"] = found["antiphon, remote"]["times_the_last"][0] >= GOAL_TIMES
    return met


def print_tables(summary: dict[str, Any]) -> None:
    for before, table in summary["latency_ms_p10_p50_p90_p99"].items():
        print(f"{'ms, before the ' + before:<44}{'p10':>9}{'p50':>9}{'p90':>9}{'p99':>9}")
        for name, values in table.items():
            print(f"{name:<44}" + "".join(f"{value:>9.2f}" for value in values))
    for kind, found in summary["saturation"].items():
        bare = summary["ceiling"][kind]
        print(f"{kind + ', one process on one core':<44}{'req/s':>9}{'CPU ms':>9}{'times':>9}   90 %")
        print(f"{'no gateway':<44}{bare['requests_per_second']:>9.0f}")
        for name, one in found.items():
            times, low, high = one["times_the_last"]
            print(
                f"{name:<44}{one['requests_per_second']:>9.0f}{one['gateway_cpu_ms']:>9.2f}{times:>9.2f}"
                f"   {low:.2f} to {high:.2f}"
            )
    columns = ("whole", "at once", "p50 ms", "p99 ms", "MB rest", "MB most", "KB each")
    print(f"{'crowd, first byte and memory':<44}" + "".join(f"{column:>9}" for column in columns))
    for name, one in summary["crowd"].items():
        _, p50, _, p99 = one["first_byte_ms"] or (0.0,) * 4
        values = (one["complete"], one["most_open_at_once"], p50, p99)
        memory = (one["resident_mb_at_rest"], one["resident_mb_at_most"], one["kb_per_stream"])
        print(f"{name:<44}" + "".join(f"{value:>9.0f}" for value in (*values, *memory)))
    print(", ".join(f"{name}: {'met' if met else 'MISSED'}" for name, met in summary["goals"].items()))


if __name__ == "__main__":
    sys.exit(main())
