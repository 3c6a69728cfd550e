"""Batch beside online on vLLM: its own priority scheduling, static caps and our scheduler class on the same arrivals.

    python -m benchmarks.colocation.vllm --size ci|demo|full [--rate R] [--eager] [--trace FILE] [--record]

Two servers from ``scripts/vllm-environment``, one after the other: vLLM as it is, and vLLM with
``antiphon.engine.backends.vllm.scheduler.AntiphonScheduler``; everything else is the same. Requests go through the
product's own remote engine, with forced lengths. A table, one JSON line last; the trace has a line for every pass in
which our policy held batch work back that priority alone would have computed. ``ci`` takes four minutes, ``demo`` nine,
``full`` an hour; servers' starts included, of which the first compiles for some minutes (not with ``--eager``).
Nothing else should run here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from benchmarks.colocation.figures import interval, pooled
from benchmarks.colocation.open_loop import DRAIN_SECONDS, MODEL, OpenLoop
from benchmarks.colocation.outcome import SERVICE_TPOT, SERVICE_TTFT, Outcome, slowdowns
from benchmarks.colocation.traces import (
    BATCH_IN_FLIGHT,
    Request,
    Scaling,
    arrivals,
)
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.scheduling.service_level import ServiceLevel

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "colocation_vllm.jsonl"
TRACE = "conv"
RATE = 0.15
"""Share of the arrivals; fewer than the comparison on our own engine takes: a pass of vLLM's on two cores takes 40 ms
and more. A machine on which online alone misses its service level should be given fewer."""
SLOTS = 32
START_SECONDS = 600.0
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """What is compared: a server, how many batch requests it is offered at once, what online requests ask for."""

    name: str
    ours: bool
    batch: int
    level: ServiceLevel | None = None


ONLINE_ONLY = Policy("online only", False, 0)
POLICIES = (
    ONLINE_ONLY,
    Policy("static cap 1", False, 1),
    Policy("static cap 4", False, 4),
    Policy("vLLM's priority", False, BATCH_IN_FLIGHT),
    Policy("ours, service level", True, BATCH_IN_FLIGHT, ServiceLevel(SERVICE_TTFT, SERVICE_TPOT)),
    Policy("ours, slowdown 25%", True, BATCH_IN_FLIGHT, ServiceLevel(slowdown=0.25)),
)
SHORT = ("online only", "static cap 4", "vLLM's priority", "ours, service level", "ours, slowdown 25%")


@dataclass(frozen=True, slots=True)
class Size:
    """Windows, and how long batch runs alone."""

    seeds: tuple[int, ...]
    seconds: float
    alone_seconds: float
    policies: tuple[str, ...]


SIZES = {
    "ci": Size((0,), 20.0, 20.0, SHORT),
    "demo": Size((0,), 50.0, 50.0, tuple(policy.name for policy in POLICIES)),
    "full": Size((0, 1, 2), 180.0, 60.0, tuple(policy.name for policy in POLICIES)),
}


@contextlib.asynccontextmanager
async def server(*, ours: bool, eager: bool, trace: Path, log: Path, options: Sequence[str] = ()) -> AsyncIterator[str]:
    """A vLLM server, with more ``options`` of its command; yields its URL.

    Raises:
        RuntimeError: it does not come up, with the end of its log.
    """
    script = str(ROOT / "scripts" / "vllm-environment")
    python = Path(subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True).stdout.strip())
    port = free_port()
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
        "--model", str(python.parents[1] / "models" / MODEL), "--served-model-name", MODEL, "--max-model-len", "1024",
        "--max-num-seqs", str(SLOTS), "--scheduling-policy", "priority", *options,
    ]  # fmt: skip
    if ours:
        settings = json.dumps({"antiphon": {"trace": str(trace)}})
        command += ["--scheduler-cls", "antiphon.engine.backends.vllm.scheduler.AntiphonScheduler"]
        command += ["--additional-config", settings]
    if eager:
        command.append("--enforce-eager")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    with log.open("w") as written:
        process = start_child(command, env=environment, stdout=written, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + START_SECONDS
        while await _unfinished(url) is None:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"vLLM did not come up:\n{log.read_text()[-3000:]}")
            await asyncio.sleep(0.25)
        yield url
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def _unfinished(url: str) -> float | None:
    """Requests that the server has; ``None`` while it does not answer."""
    try:
        async with httpx2.AsyncClient(timeout=5.0, trust_env=False) as client:
            text = (await client.get(f"{url}/metrics")).text
    except httpx2.HTTPError:
        return None
    names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{")
    found = [float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(names)]
    return sum(found) if found else None


async def window(url: str, policy: Policy, online: Sequence[Request], seconds: float, number: int) -> Outcome:
    """One run."""
    engine = RemoteEngine(url, serves="vllm")
    try:
        run = OpenLoop(engine, online, seconds, batch=policy.batch, level=policy.level, number=number)
        for _ in range(WARM_UP):  # Our scheduler's model then has seen passes.
            await run.warm_up([64, 96, 128, 160])
        await run.run(lambda: _unfinished(url))
    finally:
        await engine.close()
    until = time.monotonic() + DRAIN_SECONDS
    while await _unfinished(url) and time.monotonic() < until:
        await asyncio.sleep(0.1)
    return Outcome(policy.name, seconds, tuple(run.served), run.batch_tokens, 0.0, 0, False, run.latest_sending)


async def compare(size: Size, scaling: Scaling, *, eager: bool, trace: Path) -> tuple[dict[str, list[Outcome]], float]:
    """Every policy over every seed, and batch alone in tokens a second."""
    began = time.monotonic()

    def told(text: str) -> None:
        print(f"  {time.monotonic() - began:6.1f} s  {text}", file=sys.stderr, flush=True)

    runs: dict[str, list[Outcome]] = {name: [] for name in size.policies}
    alone = 0.0
    number = 0
    for ours in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            async with server(ours=ours, eager=eager, trace=trace, log=Path(folder) / "vllm.log") as url:
                told(f"{'our' if ours else 'stock'} server")
                for seed in size.seeds:
                    online = arrivals(TRACE, seed, size.seconds, scaling)
                    for policy in POLICIES:
                        if policy.ours != ours or policy.name not in runs:
                            continue
                        number += 1_000_000 // 8
                        outcome = await window(url, policy, online, size.seconds, number)
                        runs[policy.name].append(outcome)
                        told(f"seed {seed}: {policy.name}, {outcome.batch_rate:.1f} batch tok/s")
                if not ours:  # Last, so that the server is warm.
                    endless = Policy("batch alone", False, BATCH_IN_FLIGHT)
                    alone = (await window(url, endless, (), size.alone_seconds, 10_000_000)).batch_rate
                    told(f"batch alone, {alone:.1f} batch tok/s")
    return runs, alone


def rows(runs: dict[str, list[Outcome]], alone: float) -> list[dict[str, Any]]:
    """Figures by policy; seconds, and intervals of 95 % of a bootstrap over seeds and requests."""
    draw = np.random.default_rng(0)
    found = []
    for name, of in runs.items():
        within = [np.array([served.within for served in run.served], dtype=float) for run in of]
        slower = [slowdowns(reference, run) for reference, run in zip(runs[ONLINE_ONLY.name], of, strict=True)]
        every = np.concatenate(slower)
        rate = float(np.mean([run.batch_rate for run in of]))
        p50, p90, p99 = (float(value) for value in np.percentile(every, [50, 90, 99], method="inverted_cdf"))
        found.append({
            "policy": name, "simulated": False, "seeds": len(of), "requests": len(every),
            "within": float(np.concatenate(within).mean()), "within_interval": interval(within, np.mean, draw),
            "ttft": pooled(of, "ttft"), "tpot": pooled(of, "tpot"),
            "slowdown": (float(every.mean()), p50, p90, p99), "slowdown_interval": interval(slower, np.mean, draw),
            "rate": rate, "of_alone": rate / alone,
        })  # fmt: skip
    return found


def decisions(trace: Path) -> dict[str, Any]:
    """What the trace comes to."""
    lines = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
    beside = [line for line in lines if line["online_tokens"]]
    deciding = [line["deciding_ms"] for line in lines]
    passes = sum(line["predicted_ms"] for line in lines)
    return {
        "passes_held": len(lines),
        "beside_online": len(beside),
        "batch_tokens_held": sum(line["batch_tokens_by_priority_alone"] - line["batch_tokens"] for line in beside),
        "deciding_ms": [round(float(each), 2) for each in np.percentile(deciding, [50, 99])] if deciding else None,
        "deciding_share": round(sum(deciding) / passes, 4) if passes else None,
    }


def print_table(found: list[dict[str, Any]], alone: float) -> None:
    print(f"\n{TRACE}, vLLM, {found[0]['requests']} online requests; within: TTFT at most 1 s and TPOT at most 100 ms")
    print(f"X = {alone:.1f} batch tok/s alone")
    print(
        f"{'policy':<22}{'within':>8}{'TTFT p50/p90/p99 ms':>24}{'TPOT p50/p90/p99 ms':>22}"
        f"{'slowdown mean/p50/p90':>24}{'batch tok/s':>13}{'of X':>7}"
    )
    for row in found:
        ttft, tpot = (
            " / ".join("never" if not np.isfinite(each) else f"{each * 1e3:.0f}" for each in row[name])
            for name in ("ttft", "tpot")
        )
        mean, p50, p90, _ = row["slowdown"]
        print(
            f"{row['policy']:<22}{row['within']:>8.1%}{ttft:>24}{tpot:>22}{f'{mean:.2f} / {p50:.2f} / {p90:.2f}':>24}"
            f"{row['rate']:>13.1f}{row['of_alone']:>7.0%}"
        )


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return [_short(each) for each in value] if isinstance(value, tuple) else value


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.colocation.vllm", description="Batch beside online on vLLM."
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--rate", type=float, default=RATE, help="share of the trace's arrivals")
    parser.add_argument("--eager", action="store_true", help="without vLLM's compilation: slower passes, a quick start")
    parser.add_argument("--trace", type=Path, help="keep the decisions here")
    parser.add_argument("--record", action="store_true", help="append the JSON line to benchmarks/results")
    options = parser.parse_args()
    size, scaling = SIZES[options.size], Scaling(rate=options.rate)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trace = (options.trace or Path(folder) / "decisions.jsonl").absolute()
        trace.unlink(missing_ok=True)
        runs, alone = asyncio.run(compare(size, scaling, eager=options.eager, trace=trace))
        held = decisions(trace)
    found = rows(runs, alone)
    print_table(found, alone)
    late = max(run.latest_sending for of in runs.values() for run in of)
    print(f"\nour policy held batch back in {held['beside_online']} passes beside online work, and there")
    print(f"{held['batch_tokens_held']} tokens that priority alone would have computed;", end=" ")
    if held["deciding_share"] is not None:
        print(f"deciding took {held['deciding_share']:.1%} of those passes;", end=" ")
    print(f"requests were sent up to {late * 1e3:.0f} ms late")
    line = {
        "benchmark": "colocation_vllm", "at": datetime.now(UTC).isoformat(timespec="seconds"), "size": options.size,
        "trace": TRACE, "scaling": {"rate": scaling.rate, "prompt": scaling.prompt, "output": scaling.output},
        "eager": options.eager, "seeds": size.seeds, "seconds": size.seconds, "alone": round(alone, 2),
        "decisions": held, "latest_sending": round(late, 4),
        "rows": [{name: _short(value) for name, value in row.items()} for row in found],
        "took": round(time.monotonic() - began, 1),
    }  # fmt: skip
    text = json.dumps(line)
    if options.record:
        with RESULTS.open("a") as results:
            results.write(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # It ends the engine that it started.
    sys.exit(main())
