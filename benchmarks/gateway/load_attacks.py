"""Another tenant's waiting times beside each of several attacks on load, with and without it, in interleaved rounds.

The whole platform runs (``antiphon up``, llama.cpp with a real model). One tenant asks one request after another, each
with a prompt of its own; in every other round another tenant attacks meanwhile, in a process of its own on the same
cores. Declared: ``SIZES`` (pairs of rounds, requests a round), seed 20131129 for prompts and for which round of a pair
comes first. Compared are p50 and p99 of all requests of the rounds with the attack and without it. Beside them: the
slowest answer of ``/healthz`` on a fresh connection, and the largest resident memory of gateway and engine, and what it
is :data:`AFTER_SECONDS` later.

    python -m benchmarks.gateway.load_attacks [--size ci|demo|full] [--attack NAME …]

A table, then one JSON line, kept in ``benchmarks/results/load_attacks.jsonl``. Exit code 1 when a p99 is beyond
``MOST_RATIO`` times the one without, an answer fails, the gateway has more than ``MOST_GATEWAY_MIB`` or ``/healthz``
takes more than a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from tests.chaos.harness.running import supervised
from tests.harness.ports import free_port
from tests.harness.ungated import declare_ungated

from antiphon.core.child_process import die_with_parent
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store

MODEL, ENCODER = "smollm2-135m", "minilm-l6-v2"
SEED = 20131129
SIZES = {"ci": (1, 6), "demo": (2, 15), "full": (4, 25)}
MOST_RATIO, MOST_GATEWAY_MIB, MOST_HEALTH_SECONDS = 2.0, 400.0, 1.0
AFTER_SECONDS = 5.0
CONTEXT = 2_048
PROMPT_WORDS, ANSWER_TOKENS = 90, 48
RESULTS = Path(__file__).parents[1] / "results"
WORDS = "tide gate harbor signal ladder copper meadow winter lantern gravel orchard ferry basin chalk"


@dataclass
class World:
    """The running platform, a key of each tenant, and where it is."""

    url: str
    port: int
    owner: str
    rival: str
    supervisor: int

    def client(self, key: str) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=512, max_keepalive_connections=512)
        headers = {"authorization": f"Bearer {key}"}
        # It speaks no TLS: reading the machine's certificates once a client would take longer than what is measured.
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=120.0, limits=limits, verify=False)

    def mebibytes(self, process: str) -> float:
        """Resident memory of the supervisor's child whose command names this module."""
        for folder in Path("/proc").iterdir():
            with suppress(OSError, ValueError, IndexError):
                if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) != self.supervisor:
                    continue
                if process.encode() in (folder / "cmdline").read_bytes():
                    return int((folder / "statm").read_text().split()[1]) * 4 / 1024
        return 0.0


@dataclass
class Measurement:
    """Latencies and failures that a tenant saw in all rounds of one kind, and the largest memory of the processes."""

    seconds: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    gateway: float = 0.0
    engine: float = 0.0

    def percentile(self, share: float) -> float:
        return float(np.percentile(self.seconds, share)) if self.seconds else float("inf")


Attack = Callable[[World, random.Random], Coroutine[Any, Any, None]]


def text(chance: random.Random, count: int) -> str:
    """So many words."""
    known = WORDS.split()
    return " ".join(chance.choice(known) for _ in range(count))


async def repeated(world: World, clients: int, path: str, body: Callable[[], dict[str, Any]]) -> None:
    """So many clients of the rival that ask again as soon as they are answered, until cancelled."""

    async def client() -> None:
        async with world.client(world.rival) as http:
            while True:
                with suppress(httpx2.HTTPError):
                    answer = await http.post(path, json=body())
                    if answer.status_code >= 400:
                        await asyncio.sleep(0.02)

    await asyncio.gather(*(client() for _ in range(clients)))


async def echo(world: World, chance: random.Random) -> None:
    """Four clients, each a prompt near the context's end with echo and the log-probabilities of five alternatives."""
    await repeated(
        world,
        4,
        "/v1/completions",
        lambda: {
            "model": MODEL,
            "prompt": text(chance, 1_200),
            "echo": True,
            "logprobs": 5,
            "max_tokens": 1,
        },
    )


async def tokenize(world: World, chance: random.Random) -> None:
    """Eight clients with 3.9 MB to be tokenized, and eight with the most that is allowed."""
    large, allowed = text(chance, 620_000)[:3_900_000], text(chance, 50_000)[:250_000]
    await asyncio.gather(
        repeated(world, 8, "/tokenize", lambda: {"model": MODEL, "prompt": large}),
        repeated(world, 8, "/tokenize", lambda: {"model": MODEL, "prompt": allowed}),
    )


async def crowd(world: World, chance: random.Random) -> None:
    """64 requests at once."""
    await repeated(
        world, 64, "/v1/completions", lambda: {"model": MODEL, "prompt": text(chance, 100), "max_tokens": 96}
    )


async def giant(world: World, chance: random.Random) -> None:
    """Eight clients with prompts of 3.9 MB."""
    prompt = text(chance, 620_000)[:3_900_000]
    await repeated(world, 8, "/v1/completions", lambda: {"model": MODEL, "prompt": prompt, "max_tokens": 8})


async def embeddings(world: World, chance: random.Random) -> None:
    """Eight clients, each 64 texts to be embedded near the encoder's longest."""
    texts = [text(chance, 150) for _ in range(64)]
    await repeated(world, 8, "/v1/embeddings", lambda: {"model": ENCODER, "input": texts})


async def replay(world: World, chance: random.Random) -> None:
    """Forty replays at once of one of the rival's own predictions."""
    async with world.client(world.rival) as http:
        body = {"model": MODEL, "prompt": text(chance, 200), "max_tokens": 96}
        answer = await http.post("/v1/completions", json=body)
        answer.raise_for_status()
        prediction = answer.json()["antiphon"]["prediction"]
    await repeated(world, 40, f"/admin/predictions/{prediction}/replay", dict)


async def sending(world: World, connections: int, begin: bytes, piece: bytes, most: int) -> None:
    """Raw connections that send until so much is sent or taken no more, and never read; again once they are closed."""
    loop = asyncio.get_running_loop()

    async def one() -> None:
        while True:
            with socket.socket() as peer:
                peer.setblocking(False)
                with suppress(OSError, TimeoutError):
                    await loop.sock_connect(peer, ("127.0.0.1", world.port))
                    await loop.sock_sendall(peer, begin)
                    sent = 0
                    while sent < most:
                        await asyncio.wait_for(loop.sock_sendall(peer, piece), 5.0)
                        sent += len(piece)
                    await asyncio.sleep(10)
            await asyncio.sleep(0.05)

    await asyncio.gather(*(one() for _ in range(connections)))


async def pipelined(world: World, chance: random.Random) -> None:
    """80 connections, each 2 MB of requests whose answers are not read."""
    request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
    await sending(world, 80, b"", request * (65_536 // len(request)), 2_000_000)


async def trailers(world: World, chance: random.Random) -> None:
    """Ten connections with trailers that do not end."""
    begin = b"POST /v1/models HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    await sending(world, 10, begin, b"x: a\r\n" * 10_000, 64 << 20)


async def half_open(world: World, chance: random.Random) -> None:
    """400 connections that send half a head."""
    await sending(world, 400, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx: ", b"", 0)


ATTACKS: dict[str, Attack] = {
    "echo with log-probabilities": echo,
    "tokenize flood": tokenize,
    "crowd of one tenant": crowd,
    "giant prompts": giant,
    "embedding flood": embeddings,
    "replay flood": replay,
    "pipelined connections": pipelined,
    "endless trailers": trailers,
    "half-open connections": half_open,
}


async def ask(world: World, http: httpx2.AsyncClient, chance: random.Random, found: Measurement) -> None:
    began = time.monotonic()
    body = {"model": MODEL, "prompt": text(chance, PROMPT_WORDS), "max_tokens": ANSWER_TOKENS}
    try:
        answer = await http.post("/v1/completions", json=body)
    except httpx2.HTTPError as error:
        found.failed.append(repr(error))
        return
    if answer.status_code == 200:
        found.seconds.append(time.monotonic() - began)
    else:
        found.failed.append(f"{answer.status_code} {answer.text[:200]}")


async def watch(world: World, found: Measurement) -> None:
    """Health and memory, four times a second."""
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(10.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                healthy = (await reader.read()).startswith(b"HTTP/1.1 200 ")
                writer.close()
            found.health.append(time.monotonic() - began if healthy else 10.0)
        except (OSError, TimeoutError):
            found.health.append(10.0)
        found.gateway = max(found.gateway, world.mebibytes("antiphon.app.gateway"))
        found.engine = max(found.engine, world.mebibytes("antiphon.engine"))
        await asyncio.sleep(0.25)


@asynccontextmanager
async def attacking(world: World, name: str, seed: int) -> AsyncIterator[None]:
    """An attack in a process of its own, from a second before until the end; it must not end by itself."""
    given = json.dumps({"name": name, "world": asdict(world), "seed": seed})
    program = (sys.executable, "-m", "benchmarks.gateway.load_attacks", "--attacker", given)
    process = await asyncio.create_subprocess_exec(*die_with_parent(program), stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert await process.stdout.readline(), f"{name} did not begin"
        await asyncio.sleep(1.0)
        yield
        assert process.returncode is None, f"{name} ended by itself"
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def attack_until_killed(given: dict[str, Any]) -> None:
    """What the process of an attack does."""
    print("begun", flush=True)
    asyncio.run(ATTACKS[given["name"]](World(**given["world"]), random.Random(given["seed"])))


async def round_of(world: World, name: str | None, requests: int, seed: int, found: Measurement) -> None:
    """One round, beside an attack or without; the attack begins a second before the first request."""
    chance = random.Random(seed)
    around = attacking(world, name, seed + 1) if name is not None else nullcontext()
    async with around, world.client(world.owner) as http:
        watching = asyncio.create_task(watch(world, found))
        for _ in range(requests):
            await ask(world, http, chance, found)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    await asyncio.sleep(1.0)


async def compare(world: World, name: str, size: str) -> dict[str, Any]:
    """One attack's row."""
    chance, without, beside = random.Random(f"{SEED} {name}"), Measurement(), Measurement()
    pairs, requests = SIZES[size]
    for pair in range(pairs):
        order = [(None, without), (name, beside)]
        chance.shuffle(order)
        for attack, found in order:
            await round_of(world, attack, requests, chance.randrange(1 << 30) + pair, found)
    await asyncio.sleep(AFTER_SECONDS)
    return {
        "attack": name,
        "requests": pairs * requests,
        "p50_without": round(without.percentile(50), 3),
        "p99_without": round(without.percentile(99), 3),
        "p50_beside": round(beside.percentile(50), 3),
        "p99_beside": round(beside.percentile(99), 3),
        "ratio": round(beside.percentile(99) / without.percentile(99), 2),
        "failed": len(beside.failed) + len(without.failed),
        "failures": beside.failed[:3] + without.failed[:3],
        "health": round(max(beside.health, default=0.0), 3),
        "gateway_mib": round(beside.gateway),
        "gateway_mib_after": round(world.mebibytes("antiphon.app.gateway")),
        "engine_mib": round(beside.engine),
        "engine_mib_after": round(world.mebibytes("antiphon.engine")),
    }


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    port, program = free_port(), (sys.executable, "-m", "antiphon.cli.main")
    subprocess.run([*program, "init", "attacked", "--port", str(port)], cwd=folder, check=True, capture_output=True)
    root = folder / "attacked"
    declare_ungated(root, "a benchmark asks at once")
    settings = root / "antiphon.toml"
    engine = f'[engine]\ncontext = {CONTEXT}\nembedding_models = ["{ENCODER}"]'
    settings.write_text(settings.read_text(encoding="utf-8").replace("[engine]", engine), encoding="utf-8")
    store = Store.open(root)
    try:
        made = first_key(store)
        owner = made[0] if made is not None else (store.paths.keys / "admin.key").read_text(encoding="utf-8").strip()
        rival = store.keys.create("rival", "rita", "admin")[0]
        url = f"http://127.0.0.1:{port}"
        async with supervised(root, url) as supervisor:
            yield World(url, port, owner, rival, supervisor.pid)
    finally:
        store.close()


async def measure(size: str, names: list[str]) -> list[dict[str, Any]]:
    rows = []
    with tempfile.TemporaryDirectory(prefix="load-attacks-") as folder:
        async with running(Path(folder)) as world:
            await round_of(world, None, 3, SEED, Measurement())
            print(
                f"{'attack':<29}{'p50':>7}{'beside':>8}{'p99':>8}{'beside':>8}{'ratio':>7}{'healthz':>9}"
                f"{'gateway MiB':>14}{'engine MiB':>14}  failed"
            )
            for name in names:
                row = await compare(world, name, size)
                rows.append(row)
                gateway = f"{row['gateway_mib']} → {row['gateway_mib_after']}"
                engine = f"{row['engine_mib']} → {row['engine_mib_after']}"
                print(
                    f"{name:<29}{row['p50_without']:>7}{row['p50_beside']:>8}{row['p99_without']:>8}"
                    f"{row['p99_beside']:>8}{row['ratio']:>7}{row['health']:>9}{gateway:>14}{engine:>14}  "
                    f"{row['failed']}",
                    flush=True,
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=tuple(SIZES), default="ci")
    parser.add_argument("--attack", action="append", choices=tuple(ATTACKS), help="only this one; may be repeated")
    parser.add_argument("--attacker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attacker is not None:
        attack_until_killed(options.attacker)
        return 1
    rows = asyncio.run(measure(options.size, options.attack or list(ATTACKS)))
    held = all(
        row["ratio"] <= MOST_RATIO
        and not row["failed"]
        and row["gateway_mib"] <= MOST_GATEWAY_MIB
        and row["health"] <= MOST_HEALTH_SECONDS
        for row in rows
    )
    record = {
        "benchmark": "load_attacks",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "size": options.size,
        "seed": SEED,
        "held": held,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "load_attacks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    print(json.dumps(record))
    return int(not held)


if __name__ == "__main__":
    sys.exit(main())
