"""What it costs to know who asks, and how soon a revoked key opens nothing any more.

Cost, in process over a real catalog file: an API key and tokens of a local issuer, known within the lease and not;
then authenticate, decide and enqueue the audit record together. Revocation, over HTTP: two gateway processes of one
project, a third process (this one) revokes as `antiphon keys revoke` does, and both gateways are asked until they
refuse. The time counts from before the revocation's transaction.

    python -m benchmarks.governance.identity [--size ci|demo|full]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.harness.local_issuer import LocalIssuer
from tests.harness.ports import free_port

from antiphon.catalog.database import Database
from antiphon.core.child_process import start_child
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import OidcSettings
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.writer import AuditWriter
from antiphon.governance.identity.issuer_keys import IssuerKeys
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.tokens import BearerTokens
from antiphon.governance.policy.engine import Decider
from antiphon.services.project.store import Store

SIZES = {"ci": (8, 2_000), "demo": (30, 10_000), "full": (100, 50_000)}
"""Revocations, and calls of each kind."""

GATEWAYS = 2
PAUSE = 0.005
"""Seconds between two requests of one gateway."""

WAIT = 10.0
GOAL_SECONDS = 1.0
GOAL_TOGETHER_MS = 0.3
SECRET = bytes(range(32))
SETTINGS = """
[project]
name = "identity"

[engine]
kind = "simulated"

[gateway]
port = {port}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=SIZES, default="demo")
    options = parser.parse_args()
    revocations, calls = SIZES[options.size]
    with tempfile.TemporaryDirectory(prefix="bench-identity-") as folder:
        costs = cost(Path(folder) / "cost", calls)
    with tempfile.TemporaryDirectory(prefix="bench-identity-") as folder, gateways(Path(folder)) as ports:
        took = asyncio.run(revoke_all(Path(folder), ports, revocations))
    print(f"{'microseconds':<34}{'p50':>9}{'p90':>9}{'p99':>9}")
    table = {}
    for name, seconds in costs.items():
        table[name] = [round(1e6 * rank(seconds, share), 2) for share in (0.5, 0.9, 0.99)]
        print(f"{name:<34}" + "".join(f"{value:>9.1f}" for value in table[name]))
    p50, p99, worst = (round(1e3 * value, 1) for value in (rank(took, 0.5), rank(took, 0.99), max(took)))
    print(f"\n{len(took)} revocations seen by {GATEWAYS} gateways, ms: p50 {p50}, p99 {p99}, worst {worst}")
    together = table["authenticate, decide, enqueue"][0] / 1e3
    line = json.dumps(
        {
            "benchmark": "identity",
            "at": datetime.datetime.now(datetime.UTC).isoformat(),
            "machine": platform.processor() or platform.machine(),
            "size": options.size,
            "microseconds_p50_p90_p99": table,
            "revocation_ms_p50_p99_worst": [p50, p99, worst],
            "revocations": len(took),
            "goal_revocation_ms": 1e3 * GOAL_SECONDS,
            "together_p50_ms": round(together, 4),
            "goal_together_p50_ms": GOAL_TOGETHER_MS,
            "met": worst < 1e3 * GOAL_SECONDS and together < GOAL_TOGETHER_MS,
        }
    )
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "identity.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


def rank(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def timed(calls: int, call: Callable[[], object], before: Callable[[], object] | None = None) -> list[float]:
    """Seconds of each call; ``before`` is not counted."""
    spent = []
    for _ in range(calls):
        if before is not None:
            before()
        begin = time.perf_counter()
        call()
        spent.append(time.perf_counter() - begin)
    return spent


def cost(folder: Path, calls: int) -> dict[str, list[float]]:
    """Seconds of each way to know who asks."""
    folder.mkdir()
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    database.migrate()
    issuer = LocalIssuer()
    issuer.add("ec", "ES256")
    issuer.add("rsa", "RS256")
    oidc = OidcSettings(issuer=issuer.url, jwks=issuer.jwks, roles={"builders": "engineer"})
    keys = Keys(database, SECRET)
    text, _ = keys.create("default", "bot", "service")
    decider, scope = Decider(), Scope()
    writer = AuditWriter(AuditLog(database, SECRET), most_waiting=1_000_000)
    fewer = max(200, calls // 20)

    def checking() -> BearerTokens:
        return BearerTokens(oidc, IssuerKeys(issuer.jwks, database.clock), keys.principals, database.clock, "default")

    tokens = checking()
    costs = {
        "API key, within the lease": timed(calls, lambda: keys.authenticate(text)),
        "API key, read from the catalog": timed(fewer, lambda: keys.authenticate(text), keys.forget),
    }
    for kid, name in (("ec", "ES256"), ("rsa", "RS256")):
        fresh = iter([issuer.token(kid, jti=str(number)) for number in range(fewer)])
        known = issuer.token(kid, exp=int(time.time()) + 3_000)
        tokens.authenticate(known)
        costs[f"token {name}, within the lease"] = timed(calls, lambda known=known: tokens.authenticate(known))
        costs[f"token {name}, first seen"] = timed(fewer, lambda fresh=fresh: tokens.authenticate(next(fresh)))

    def together() -> None:
        who = keys.authenticate(text)
        decision = decider.decide(who, "answer", "application/desk", {"purpose": "inform", "path": "online"})
        writer.enqueue(scope, who.id, "decision", "application/desk", {"policies": list(decision.policies)})

    costs["authenticate, decide, enqueue"] = timed(fewer, together)
    costs["the same, key not known"] = timed(fewer, together, keys.forget)
    writer.close()
    issuer.close()
    database.close()
    return costs


@contextlib.contextmanager
def gateways(folder: Path) -> Iterator[list[int]]:
    """Gateway processes of one project, each on its own port."""
    ports = [free_port() for _ in range(GATEWAYS)]
    (folder / "antiphon.toml").write_text(SETTINGS.format(port=ports[0]))
    Store.open(folder).close()
    started = []
    try:
        for port in ports:
            environment = {**os.environ, "OTEL_SDK_DISABLED": "true", "ANTIPHON_GATEWAY__PORT": str(port)}
            options = ("--project", str(folder), "--name", f"gateway-{port}")
            command = [sys.executable, "-m", "antiphon.app.gateway", *options]
            started.append(start_child(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for port in ports:
            wait_for(port)
        yield ports
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def wait_for(port: int, seconds: float = 60.0) -> None:
    """Until somebody accepts connections there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


async def revoke_all(folder: Path, ports: list[int], count: int) -> list[float]:
    """Seconds from each revocation to the refusal of the last gateway."""
    store = Store.open(folder)
    took = []
    try:
        for number in range(count):
            text, record = store.keys.create("default", f"bot-{number}", "viewer")
            lines = [await Line.open(port, text) for port in ports]
            for line in lines:
                for _ in range(3):
                    assert await line.status() == 200
            polls = [asyncio.create_task(refused(line)) for line in lines]
            # Each time at another place of the gateways' leases.
            await asyncio.sleep(0.05 + 0.137 * (number % 7))
            begin = time.perf_counter()
            await asyncio.to_thread(store.keys.revoke, "default", record.id)
            seen = await asyncio.wait_for(asyncio.gather(*polls), WAIT)
            took.append(max(seen) - begin)
            for line in lines:
                line.close()
    finally:
        store.close()
    return took


async def refused(line: Line) -> float:
    """When the gateway refused the key."""
    while (status := await line.status()) == 200:
        await asyncio.sleep(PAUSE)
    assert status == 401, status
    return time.perf_counter()


class Line:
    """One connection that asks with one key."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
        self._reader, self._writer = reader, writer
        self._ask = f"GET /v1/models HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {text}\r\n\r\n".encode()

    @classmethod
    async def open(cls, port: int, text: str) -> Line:
        return cls(*await asyncio.open_connection("127.0.0.1", port), text)

    async def status(self) -> int:
        self._writer.write(self._ask)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(line for line in head.split("\r\n") if line.startswith("content-length:"))
        await self._reader.readexactly(int(length.split(":")[1]))
        return int(head.split()[1])

    def close(self) -> None:
        self._writer.close()


if __name__ == "__main__":
    main()
