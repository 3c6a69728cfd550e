"""What telemetry costs the gateway: requests that one core answers with spans on the disk, and with all of it sent to a
collector, beside a gateway that records nothing.

Three gateways over one project, one catalog and one simulated engine, each bound to the same core:

- ``off``: ``OTEL_SDK_DISABLED``;
- ``files``: as ``antiphon up`` records by default;
- ``collector``: spans, metrics and log lines go to rotel, a collector of somebody else's; metrics every ten seconds,
  six times as often as by default.

The same requests go to all over connections that are kept alive, in slices by turns; figures are ratios within a round.
A request that waits for an engine leaves the gateway time to spare, so what is held against the goal is the loss at
saturation: 1 - (processor seconds of a request without) / (with), the threads that send included.

    python -m benchmarks.operations.telemetry_cost [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/telemetry_cost.jsonl``; exit code 1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.durability.kill_harness_command import finish
from benchmarks.gateway.contenders import Cores
from benchmarks.gateway.figures import paired_ratio
from benchmarks.governance.encrypted_project import Client, EncryptedProject, make, serving
from benchmarks.governance.trust_cost import CONNECTIONS, WARM_SECONDS, Gateway, Slice, ask_for, bind, stop
from tests.chaos.harness.running import ready, scratch, until
from tests.harness.collector import Collector, sent_to
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"rounds": 4, "slice_seconds": 1.0, "shops": 200},
    "demo": {"rounds": 20, "slice_seconds": 3.0, "shops": 500},
    "full": {"rounds": 60, "slice_seconds": 6.0, "shops": 1_000},
}
WAYS = ("off", "files", "collector")
KINDS = ("application", "plain model")
GOAL_LOSS = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    cores = Cores.of_this_machine()
    bind(cores.others, os.getpid())
    with scratch() as folder, Collector() as collector:
        found = asyncio.run(measure(Path(folder) / "project", SIZES[options.size], cores, collector))
        received = {
            signal: len(told()) for signal, told in (("spans", collector.spans), ("metrics", collector.metrics))
        }
    line = {
        "benchmark": "telemetry_cost", "size": options.size, "cores": os.cpu_count(), "connections": CONNECTIONS,
        "goal_loss": GOAL_LOSS, "received": received, **found,
    }  # fmt: skip
    line["holds"] = all(kind[way]["loss"][0] < GOAL_LOSS for kind in found["kinds"].values() for way in WAYS[1:])
    print_table(line)
    return finish("telemetry_cost", line, keep=options.keep)


async def measure(folder: Path, size: dict[str, Any], cores: Cores, collector: Collector) -> dict[str, Any]:
    """Slices of all gateways by turns, by kind of request.

    Raises:
        RuntimeError: a request was not answered, or the collector got nothing.
    """
    project = make(folder, "plaintext")
    environments = {"off": {"OTEL_SDK_DISABLED": "true"}, "files": {}, "collector": sent_to(collector, 10_000)}
    async with serving(project) as processes, Client(project) as client:
        shops = [f"shop-{number}" for number in range(size["shops"])]
        await client.publish(shops, "a note", "first")
        key = (await client.post("/admin/keys", {"name": "asker", "role": "service"}))["key"]
        stop(processes[2])  # the worker: it has published, and would work beside what is measured
        stop(processes[1])
        async with gateways(project, key, environments) as asked:
            bind(cores.gateway, *(gateway.pid for gateway in asked.values()))
            slices: dict[str, dict[str, list[Slice]]] = {}
            for kind in KINDS:
                found = slices[kind] = {way: [] for way in WAYS}
                for way in WAYS:
                    await ask_for(asked[way], kind, shops, WARM_SECONDS)
                for number in range(size["rounds"]):
                    for way in (*WAYS[number % 3 :], *WAYS[: number % 3]):
                        found[way].append(await ask_for(asked[way], kind, shops, size["slice_seconds"]))
    if not collector.spans():
        raise RuntimeError("The collector got no span.")
    return {"rounds": size["rounds"], "kinds": {kind: compared(found) for kind, found in slices.items()}}


def compared(slices: dict[str, list[Slice]]) -> dict[str, Any]:
    """Processor milliseconds of a request, and the loss with the range of nine of ten resamples."""
    costs = {way: [one.cpu for one in found] for way, found in slices.items()}
    figures: dict[str, Any] = {way: {"cpu_ms": round(1e3 * statistics.median(costs[way]), 4)} for way in WAYS}
    for way in WAYS[1:]:
        median, low, high = paired_ratio(costs["off"], costs[way])
        figures[way]["loss"] = [round(1 - median, 4), round(1 - high, 4), round(1 - low, 4)]
    return figures


@asynccontextmanager
async def gateways(
    project: EncryptedProject, key: str, environments: dict[str, dict[str, str]]
) -> AsyncIterator[dict[str, Gateway]]:
    """A gateway for each environment, over the same project."""
    started: dict[str, tuple[Gateway, subprocess.Popen[bytes]]] = {}
    inherited = {name: value for name, value in project.environment.items() if not name.startswith("OTEL_")}
    try:
        for way, environment in environments.items():
            port, log = free_port(), project.directory / "logs" / f"gateway-{way}.log"
            command = (
                sys.executable, "-m", "antiphon.app.gateway", "--project", str(project.root), "--name", way, "--port",
                str(port),
            )  # fmt: skip
            with log.open("ab") as out:
                process = start_child(
                    command, cwd=project.folder, env=inherited | environment, stdin=subprocess.DEVNULL, stdout=out,
                    stderr=out,
                )  # fmt: skip
            started[way] = Gateway(port, process.pid, key), process
            await until(lambda at=port, one=process, into=log: ready(f"http://127.0.0.1:{at}", one, into), bool, 60)
        yield {way: gateway for way, (gateway, _) in started.items()}
    finally:
        for _, process in started.values():
            stop(process)


def print_table(line: dict[str, Any]) -> None:
    print(f"{'processor ms of a request':<30}{'off':>9}{'files':>9}{'collector':>11}   loss (90 %)")
    for kind, found in line["kinds"].items():
        losses = "; ".join("{} {:.1%} ({:.1%} to {:.1%})".format(way, *found[way]["loss"]) for way in WAYS[1:])
        figures = "".join(f"{found[way]['cpu_ms']:>{width}.3f}" for way, width in zip(WAYS, (9, 9, 11), strict=True))
        print(f"{kind:<30}{figures}   {losses}")
    print(f"{line['received']['spans']} spans and {line['received']['metrics']} metrics arrived")


if __name__ == "__main__":
    sys.exit(main())
