"""What Trust costs the gateway: requests a second with identity, policy and audit, beside a gateway without them.

Two gateways over one project, one catalog and one simulated engine: the real one (an API key of a service account that
is confined to answering, a Cedar decision, an audit record of each answer in the receipt's transaction, a user on whose
behalf it asks), and one that is composed here without (``trustless_gateway``). The same requests go to both over
connections that are kept alive, in short slices by turns; each pair of slices gives one ratio, so that what else the
machine does falls on both sides of it. Two kinds are asked: an application with features and a template, and a plain
model by its name, the least that an answer can be. Each question is new, so that it is generated, kept and committed.

A gateway that waits for the engine has time to spare, and its rate hides what Trust costs. So both gateways are bound
to one core and the figure that is held against the goal is the loss at saturation: by how much fewer requests that core
can answer, 1 - (processor seconds of a request without) / (with). The loss of the rates that were seen stands beside
it, with the share of the core that the gateway used.

That the two differ in Trust alone is looked at as well: the real one refuses a wrong key and has a record of each
answer, the other does neither.

    python -m benchmarks.governance.trust_cost [--size ci|full]

A table, then one JSON line, kept in ``benchmarks/results/trust_cost.jsonl``; exit code 1 when the goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from benchmarks.gateway.contenders import Cores
from benchmarks.gateway.figures import cpu_seconds, paired_ratio, rank
from benchmarks.governance.encrypted_project import Client, EncryptedProject, make, serving
from tests.chaos.harness.running import ready, scratch, until
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"rounds": 6, "slice_seconds": 1.5, "shops": 200},
    "short": {"rounds": 24, "slice_seconds": 1.5, "shops": 500},
    "full": {"rounds": 60, "slice_seconds": 3.0, "shops": 1_000},
}
CONNECTIONS = 12
WARM_SECONDS = 2.0
GOAL_LOSS = 0.10
WAYS = ("with", "without")
RESULTS = Path(__file__).parents[1] / "results"


class Slice(msgspec.Struct, frozen=True):
    """One slice at one gateway: requests a second, and its processor seconds for each request."""

    rate: float
    cpu: float
    answered: int

    @property
    def busy(self) -> float:
        """The share of a core that the gateway used."""
        return self.rate * self.cpu


class Gateway(msgspec.Struct, frozen=True):
    """Where one of the two listens, its process, and the key that is sent to it."""

    port: int
    pid: int
    key: str


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="ci")
    size = parser.parse_args().size
    cores = Cores.of_this_machine()
    bind(cores.others, os.getpid())
    with scratch() as folder:
        found = asyncio.run(measure(Path(folder) / "project", SIZES[size], cores))
    summary = {
        "benchmark": "trust_cost",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "connections": CONNECTIONS,
        "goal_loss": GOAL_LOSS,
        **found,
    }
    summary["met"] = all(kind["loss_at_saturation"][0] < GOAL_LOSS for kind in found["kinds"].values())
    print_table(summary)
    line = json.dumps(summary)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "trust_cost.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)
    return 0 if summary["met"] else 1


async def measure(folder: Path, size: dict[str, Any], cores: Cores) -> dict[str, Any]:
    """Slices of both gateways by turns, by kind of request; each gateway is bound to its core.

    Raises:
        RuntimeError: the two gateways do not differ as they should, or a request was not answered.
    """
    project = make(folder, "plaintext")
    async with serving(project) as processes, Client(project) as client:
        shops = [f"shop-{number}" for number in range(size["shops"])]
        await client.publish(shops, "a note", "first")
        limits = {"actions": ["answer", "originate"], "resources": ["application/*"]}
        made = await client.post("/admin/keys", {"name": "asker", "role": "service", **limits})
        stop(processes[2])  # the worker: it has published, and would work beside what is measured
        async with without_trust(project) as other:
            gateways = {"with": Gateway(project.port, processes[1].pid, made["key"]), "without": other}
            bind(cores.gateway, *(gateway.pid for gateway in gateways.values()))
            await require_difference(project, gateways)
            slices: dict[str, dict[str, list[Slice]]] = {}
            records = audited(project)
            answered = 0
            for kind in ("application", "plain model"):
                found = slices[kind] = {way: [] for way in WAYS}
                for way in WAYS:
                    warm = await ask_for(gateways[way], kind, shops, WARM_SECONDS)
                    answered += warm.answered if way == "with" else 0
                for number in range(size["rounds"]):
                    for way in WAYS if number % 2 else reversed(WAYS):
                        found[way].append(await ask_for(gateways[way], kind, shops, size["slice_seconds"]))
                answered += sum(one.answered for one in found["with"])
            if audited(project) - records != answered:
                raise RuntimeError(f"{answered} answers have {audited(project) - records} audit records.")
    return {
        "rounds": size["rounds"],
        "slice_seconds": size["slice_seconds"],
        "answers_recorded": answered,
        "kinds": {kind: compared(found) for kind, found in slices.items()},
    }


def compared(slices: dict[str, list[Slice]]) -> dict[str, Any]:
    """Losses as median, and between what it lies in nine of ten resamples of the pairs."""
    rates = {way: [one.rate for one in found] for way, found in slices.items()}
    costs = {way: [one.cpu for one in found] for way, found in slices.items()}
    pairs = [one / other for one, other in zip(rates["with"], rates["without"], strict=True)]
    return {
        "requests_per_second": {way: round(statistics.median(found), 1) for way, found in rates.items()},
        "gateway_core_share": {
            way: round(statistics.median(one.busy for one in found), 3) for way, found in slices.items()
        },
        "gateway_cpu_ms": {way: round(1e3 * statistics.median(found), 4) for way, found in costs.items()},
        "loss": _loss(paired_ratio(rates["with"], rates["without"])),
        "loss_at_saturation": _loss(paired_ratio(costs["without"], costs["with"])),
        "pairwise_ratio_p10_p50_p90": [round(rank(pairs, share), 4) for share in (0.1, 0.5, 0.9)],
    }


def _loss(ratio: list[float]) -> list[float]:
    """Of a ratio and its interval, in the same order: median, low, high."""
    median, low, high = ratio
    return [round(1 - median, 4), round(1 - high, 4), round(1 - low, 4)]


def bind(core: int | None, *processes: int) -> None:
    """Keep all threads of processes on a core; nothing is bound on a machine with one."""
    if core is None:
        return
    for process in processes:
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})


@asynccontextmanager
async def without_trust(project: EncryptedProject) -> AsyncIterator[Gateway]:
    """The other gateway, over the same project."""
    port, log = free_port(), project.directory / "logs" / "trustless.log"
    command = (
        sys.executable, "-m", "benchmarks.governance.trustless_gateway", "--project", str(project.root), "--port",
        str(port),
    )  # fmt: skip
    with log.open("ab") as out:
        process = start_child(
            command, cwd=project.folder, env=project.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        await until(lambda: ready(f"http://127.0.0.1:{port}", process, log), bool, 60)
        yield Gateway(port, process.pid, "ak_nobody")
    finally:
        stop(process)


async def require_difference(project: EncryptedProject, gateways: dict[str, Gateway]) -> None:
    """See that one has Trust and the other has not: else their ratio would say nothing.

    Raises:
        RuntimeError: it is not so.
    """
    found: dict[str, tuple[int, int]] = {}
    for way, gateway in gateways.items():
        before = audited(project)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}") as client:
            body = {"model": "simulated", "messages": [{"role": "user", "content": way}], "max_tokens": 2}
            refused = await client.post("/v1/chat/completions", json=body, headers={"authorization": "Bearer wrong"})
            allowed = await client.post(
                "/v1/chat/completions", json=body, headers={"authorization": f"Bearer {gateway.key}"}
            )
            if allowed.status_code != 200:
                raise RuntimeError(f"The gateway {way} Trust answers with {allowed.status_code}: {allowed.text[:300]}")
        found[way] = (refused.status_code, audited(project) - before)
    if found != {"with": (401, 1), "without": (200, 0)}:
        raise RuntimeError(f"The two gateways do not differ in Trust: {found}.")


def audited(project: EncryptedProject) -> int:
    """Audit records of answers."""
    with closing(sqlite3.connect(project.directory / "catalog.db")) as connection:
        counted = connection.execute("SELECT count(*) FROM audit_entries WHERE action = 'answer'").fetchone()
    return int(counted[0])


async def ask_for(gateway: Gateway, kind: str, shops: list[str], seconds: float) -> Slice:
    """Ask over so many connections for so long.

    Raises:
        RuntimeError: a request was not answered with 200.
    """
    count, end = 0, time.monotonic() + seconds

    async def connection(number: int) -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {gateway.key}\r\n"
        head += f"x-antiphon-user: user-{number}\r\ncontent-type: application/json\r\n"
        turn = 0
        try:
            while time.monotonic() < end:
                turn += 1
                body = _body(kind, shops[(number * 101 + turn) % len(shops)])
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                answer = await reader.readuntil(b"\r\n\r\n")
                length = int(answer.lower().partition(b"content-length:")[2].split()[0])
                content = await reader.readexactly(length)
                if not answer.startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError(f"A request was answered with {answer[:60]!r} {content[:300]!r}.")
                count += 1
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    began, spent = time.monotonic(), cpu_seconds(gateway.pid)
    await asyncio.gather(*(connection(number) for number in range(CONNECTIONS)))
    took = time.monotonic() - began
    return Slice(count / took, (cpu_seconds(gateway.pid) - spent) / max(1, count), count)


def _body(kind: str, shop: str) -> bytes:
    question = f"{time.monotonic_ns()}?"
    messages = [{"role": "user", "content": question}]
    if kind == "application":
        return json.dumps({"model": "desk", "entity": {"shop": shop}, "messages": messages}).encode()
    return json.dumps({"model": "simulated", "messages": messages, "max_tokens": 8}).encode()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process as its supervisor would, and by force where that takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def print_table(summary: dict[str, Any]) -> None:
    print(f"{'':<46}{'with':>10}{'without':>10}{'loss':>9}   90 %")
    for kind, found in summary["kinds"].items():
        rows = (
            ("requests/s", found["requests_per_second"], "loss"),
            ("gateway CPU ms", found["gateway_cpu_ms"], "loss_at_saturation"),
            ("gateway's share of its core", found["gateway_core_share"], None),
        )
        for name, values, loss in rows:
            print(f"{f'{kind}, {name}':<46}{values['with']:>10.3f}{values['without']:>10.3f}", end="")
            print("" if loss is None else "{:>9.1%}   {:.1%} to {:.1%}".format(*found[loss]))
    print(
        f"{CONNECTIONS} connections, {summary['rounds']} rounds, {summary['cores']} cores, load {summary['load']}: "
        f"{'met' if summary['met'] else 'MISSED'} (loss at saturation < {GOAL_LOSS:.0%})"
    )


if __name__ == "__main__":
    sys.exit(main())
