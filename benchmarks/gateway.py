"""Latency that the gateway adds to the engine's own: first byte and last byte of a streamed completion.

The platform runs as a user starts it, with the simulated engine (an engine step costs nothing, so what is left is
ours). The same prompts go by turns straight to the engine's socket and through HTTP; each pair gives one
difference. A receipt is committed before the last byte, so what the last byte adds after the first one is compared with
what one commit costs on the same disk. That is measured on answers of one token: an engine that costs nothing sends
its tokens faster than anybody would relay them, and a longer answer would measure the relaying instead.

    python -m benchmarks.gateway [--pairs 300] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.receipts import Receipts
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.engine.client import EngineClient
from antiphon.engine.messages import Delta, Generate
from antiphon.governance.principal import Principal
from antiphon.serving.request import AnswerRequest
from antiphon.testing.fakes import make_receipt

MODEL = "smollm2-135m"
TOKENS = 16
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="30 pairs")
    options = parser.parse_args()
    pairs = 30 if options.quick else options.pairs
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder, platform_of(Path(folder)) as (project, port):
        direct, through = asyncio.run(measure(project, port, pairs, TOKENS))
        bare_end, our_end = asyncio.run(measure(project, port, pairs, 1))
        commit = asyncio.run(commits(Path(folder), pairs))
    rows = {
        "first byte, engine": [first for first, _ in direct],
        "first byte, gateway": [first for first, _ in through],
        "first byte, added": [ours[0] - bare[0] for ours, bare in zip(through, direct, strict=True)],
        "last byte, engine": [last for _, last in bare_end],
        "last byte, gateway": [last for _, last in our_end],
        "last byte, added": [ours[1] - bare[1] for ours, bare in zip(our_end, bare_end, strict=True)],
        "after the first, added": [
            (ours[1] - ours[0]) - (bare[1] - bare[0]) for ours, bare in zip(our_end, bare_end, strict=True)
        ],
        f"last of {TOKENS}, added": [ours[1] - bare[1] for ours, bare in zip(through, direct, strict=True)],
        "one commit": commit,
    }
    print(f"{'ms':<22}{'p10':>8}{'p50':>8}{'p90':>8}{'p99':>8}")
    table = {}
    for name, seconds in rows.items():
        p10, p50, p90, p99 = table[name] = [round(1e3 * rank(seconds, share), 3) for share in (0.1, 0.5, 0.9, 0.99)]
        print(f"{name:<22}{p10:>8.2f}{p50:>8.2f}{p90:>8.2f}{p99:>8.2f}")
    added, last = table["first byte, added"][1], table["after the first, added"][1]
    summary = {
        "benchmark": "gateway",
        "at": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": platform.processor() or platform.machine(),
        "pairs": pairs,
        "milliseconds_p10_p50_p90_p99": table,
        "first_byte_added_p50_ms": added,
        "last_byte_added_beyond_commit_p50_ms": round(last - table["one commit"][1], 3),
        "goal_first_byte_p50_ms": 2.0,
        "met": added < 2.0,
    }
    line = json.dumps(summary)
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    with (results / "gateway.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


def rank(values: list[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextlib.contextmanager
def platform_of(folder: Path) -> Iterator[tuple[Path, int]]:
    """``antiphon init`` and ``antiphon up`` with a simulated engine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    program = [sys.executable, "-m", "antiphon.cli.main"]
    subprocess.run([*program, "init", "bench", "--port", str(port)], cwd=folder, check=True, capture_output=True)
    project = folder / "bench"
    settings = project / "antiphon.toml"
    settings.write_text(settings.read_text().replace("[engine]", '[engine]\nkind = "simulated"'))
    environment = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    up = subprocess.Popen([*program, "up", "--json"], cwd=project, stdout=subprocess.PIPE, env=environment, text=True)
    try:
        assert up.stdout is not None
        for line in up.stdout:
            if '"event":"up"' in line:
                break
        else:
            raise SystemExit("The platform did not start.")
        yield project, port
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


async def measure(
    project: Path, port: int, pairs: int, tokens: int
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Seconds to the first and to the last byte, pair by pair; which of the two goes first alternates."""
    key = (project / ".antiphon" / "keys" / "admin.key").read_text().strip()
    engine = EngineClient(project / ".antiphon" / "run" / "engine.sock", peer="bench")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    direct, through = [], []
    for number in range(pairs + WARM_UP):
        prompt = f"Round {number} of the measurement. Tell me what you see."
        ways = [
            ("direct", straight(engine, prompt, tokens)),
            ("through", over_http(reader, writer, key, prompt, tokens)),
        ]
        for name, way in ways if number % 2 else reversed(ways):
            took = await way
            if number >= WARM_UP:
                (direct if name == "direct" else through).append(took)
    writer.close()
    await engine.close()
    return direct, through


async def straight(engine: EngineClient, prompt: str, tokens: int) -> tuple[float, float]:
    begin, first = time.perf_counter(), 0.0
    async for event in engine.generate(Generate(f"b{time.monotonic_ns()}", MODEL, prompt, tokens)):
        if isinstance(event, Delta) and not first:
            first = time.perf_counter() - begin
    return first, time.perf_counter() - begin


async def over_http(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str, prompt: str, tokens: int
) -> tuple[float, float]:
    body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": tokens, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n"
    head += f"content-length: {len(body)}\r\n"
    begin, first = time.perf_counter(), 0.0
    writer.write(head.encode() + b"\r\n" + body)
    status = await reader.readline()
    assert b" 200 " in status, status
    while line := await reader.readline():
        if line.startswith(b"data: {") and not first:
            first = time.perf_counter() - begin
        elif line == b"data: [DONE]\n":
            last = time.perf_counter() - begin
            while await reader.readline() != b"0\r\n":
                pass
            await reader.readline()
            return first, last
    raise RuntimeError("The connection ended early.")


async def commits(folder: Path, count: int) -> list[float]:
    """Seconds of one receipt's commit by itself, in a catalog on the same disk."""
    database = Database.open(f"sqlite:///{folder}/commit.db")
    database.migrate()
    receipts, group = Receipts(database), GroupCommit(database)
    asker = Principal("bench", "default", "service")
    spent = []
    for number in range(count):
        request = AnswerRequest(scope=Scope(), principal=asker, application=MODEL, question=f"Round {number}")
        receipt, texts = make_receipt(request, f"text {number}", SystemClock())
        begin = time.perf_counter()
        await group.submit(lambda connection, made=(receipt, texts): receipts.add(*made, within=connection))
        spent.append(time.perf_counter() - begin)
    group.close()
    database.close()
    assert statistics.median(spent) > 0
    return spent


if __name__ == "__main__":
    main()
