"""Changed views applied to a running platform while clients ask and processes are killed: nothing that is asked fails.

Run ``python -m benchmarks.durability.apply_kills --size ci|demo|full``: a table, then one JSON line. Full is 100
applies. Each changes what both views of the live application mean, so that neither's new version is published before; a
victim drawn with the seed is killed with SIGKILL at a drawn moment of it: the command ``antiphon apply`` itself, the
worker, the gateway, or nothing. An apply whose command was killed is either finished by the worker or was not ordered;
then it is given again.

What counts, said before: every question and every lookup, from before the first apply until after the last. Whatever is
not answered with 200 is a failure, with one exception: a connection that broke between a kill of the gateway and its
being ready again, because no process can answer for one that was killed. An answer with another status is a failure
then, too. Every answer must be made from features of the definition versions that its release pins.

``--broken`` applies in the order that was mended (definitions and the live pointer first): the check must fail.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from tests.chaos.harness.running import scratch, supervised, until
from tests.harness.ports import free_port

from antiphon.core.child_process import die_with_parent
from antiphon.services.apply.workflow import open_applies
from antiphon.services.project.store import Store

SIZES = {"ci": 4, "demo": 20, "full": 100}
VICTIMS = ("apply", "worker", "apply", "worker", "gateway", "none", "apply", "worker")
SEED = 20130410
ASKERS = 3
PAUSE_SECONDS = 0.05
APPLY_SECONDS = 300.0
RESULTS = Path(__file__).parents[1] / "results" / "apply_kills.jsonl"
ROWS = 5_000
PORTS = ("bergen", "oslo", "turku", "tallinn")
_COMMAND = ("-m", "antiphon.cli.main", "apply")
_BROKEN = ("-m", "benchmarks.durability.apply_order_broken")
_SETTINGS = """[project]
name = "harbor"

[engine]
kind = "simulated"
models = ["simulated"]
slots = 8

[gateway]
port = @PORT@

[worker]
lease = "3s"
"""
_DEFINITIONS = """from antiphon import Application, Decoding, Entity, Figure, Prompt, Reuse, Source
from antiphon import col, count, feature_view
from antiphon import sum as total

calls = Source.table("calls", path="calls.csv", event_time="at", event_id="id")
port = Entity("port", keys=["port"])


@feature_view(entity=port, source=calls, refresh="1d")
class Traffic:
    ships = count(window="@HOURS@h")


@feature_view(entity=port, source=calls, refresh="1d")
class Cargo:
    tons = total(col.tons, window="@HOURS@h", scale="1")


pilot = Application(
    "pilot", ungated="a benchmark asks at once",
    model="simulated", purpose="guide", entities=[port], features=[Traffic, Cargo],
    figures=[Figure("traffic.ships", step=1), Figure("cargo.tons", step=1)],
    prompt=Prompt("{{ entity.port }}: {{ features.traffic.ships }}, {{ features.cargo.tons }}. {{ question }}"),
    decoding=Decoding(max_tokens=8), reuse=Reuse("never", identical_prompts=False),
)
"""


@dataclass
class Report:
    """The outcome of a run."""

    kills: Counter[str] = field(default_factory=Counter)
    applies: int = 0
    given_again: int = 0
    apply_seconds: list[float] = field(default_factory=list)
    questions: int = 0
    lookups: int = 0
    failures: list[str] = field(default_factory=list)
    broken_by_gateway_kills: int = 0
    wrong_versions: list[str] = field(default_factory=list)
    releases_seen: int = 0
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        return not self.failures and not self.wrong_versions


class Clients:
    """Askers and a looker-up that go on until stopped."""

    def __init__(self, url: str, key: str, report: Report) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._report = report
        self._stop = asyncio.Event()
        self.predictions: list[str] = []
        self.gateway_down: list[list[float]] = []
        """From each kill of the gateway until it was ready again, monotonic."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(ASKERS):
                group.create_task(self._ask(number))
            group.create_task(self._look_up())

    def stop(self) -> None:
        self._stop.set()

    async def _ask(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            asked += 1
            body = {
                "model": "pilot",
                "messages": [{"role": "user", "content": f"{number}.{asked}"}],
                "entity": {"port": PORTS[asked % len(PORTS)]},
            }
            found = await self._send("/v1/chat/completions", body)
            self._report.questions += 1
            if found is not None:
                self.predictions.append(found["antiphon"]["prediction"])

    async def _look_up(self) -> None:
        while not self._stop.is_set():
            body = {"features": ["traffic", "cargo.tons"], "entities": [{"port": PORTS[0]}]}
            await self._send("/v1/features/lookup", body)
            self._report.lookups += 1

    async def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        """One request on a connection of its own; ``None`` when it failed."""
        began = time.monotonic()
        try:
            async with httpx2.AsyncClient(base_url=self._url, headers=self._headers, timeout=60.0) as client:
                answer = await client.post(path, json=body)
            if answer.status_code == 200:
                found: dict[str, Any] = answer.json()
                await asyncio.sleep(PAUSE_SECONDS)
                return found
            self._report.failures.append(f"{path}: {answer.status_code} {answer.text[:500]}")
        except httpx2.TransportError as error:
            now = time.monotonic()
            if any(began <= down[1] and now >= down[0] for down in self.gateway_down):
                self._report.broken_by_gateway_kills += 1
            else:
                self._report.failures.append(f"{path}: {type(error).__name__} {error}")
        await asyncio.sleep(PAUSE_SECONDS)
        return None


def write_project(root: Path) -> str:
    """Write the project; the gateway's address."""
    root.mkdir(parents=True, exist_ok=True)
    number = free_port()
    (root / "antiphon.toml").write_text(_SETTINGS.replace("@PORT@", str(number)), encoding="utf-8")
    now = datetime.now(UTC).isoformat()
    rows = (f"{row},{PORTS[row % len(PORTS)]},{now},{row % 97}\n" for row in range(ROWS))
    (root / "calls.csv").write_text("id,port,at,tons\n" + "".join(rows), encoding="utf-8")
    declare(root, 0)
    return f"http://127.0.0.1:{number}"


def declare(root: Path, number: int) -> None:
    """Write definitions in which every view means something else than before."""
    (root / "definitions.py").write_text(_DEFINITIONS.replace("@HOURS@", str(24 + number)), encoding="utf-8")


async def run(
    root: Path, *, applies: int, seed: int = SEED, broken: bool = False, seconds: float = 3_600.0, say: bool = False
) -> Report:
    """Run the harness in an empty folder, for so many applies or so many seconds.

    Raises:
        TimeoutError: the platform did not come up, or an apply did not end.
        AssertionError: an apply ended with an error, or something else than it declared is live.
    """
    report, began = Report(), time.monotonic()
    url = write_project(root)
    async with supervised(root, url):
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        await until(lambda: _ready(url, key), bool, 240)
        clients, store = Clients(url, key, report), Store.open(root)
        asking = asyncio.create_task(clients.run())
        try:
            chance, asked = random.Random(seed), time.monotonic()
            for number in range(1, applies + 1):
                if time.monotonic() - asked > seconds:
                    break
                victim = "none" if broken else VICTIMS[(number - 1) % len(VICTIMS)]
                await _apply(store, url, number, victim, chance, clients, report, broken)
                if say:
                    sys.stderr.write(f"{number:3}/{applies}  {victim:<8} {report.apply_seconds[-1]:.1f} s\n")
        finally:
            clients.stop()
            await asyncio.wait_for(asking, 120)
        _check_versions(store, clients.predictions, report)
        store.close()
    report.seconds = time.monotonic() - began
    return report


async def _ready(url: str, key: str) -> bool:
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
        body = {"model": "pilot", "messages": [{"role": "user", "content": "?"}], "entity": {"port": PORTS[0]}}
        return (await client.post("/v1/chat/completions", json=body)).status_code == 200


async def _apply(
    store: Store,
    url: str,
    number: int,
    victim: str,
    chance: random.Random,
    clients: Clients,
    report: Report,
    broken: bool,
) -> None:
    root, before, began = store.paths.root, _live(store), time.monotonic()
    declare(root, number)
    command = await _command(root, broken)
    typical = statistics.median(report.apply_seconds[-5:]) if report.apply_seconds else 4.0
    ending = asyncio.ensure_future(command.communicate())
    await asyncio.wait({ending}, timeout=chance.random() * typical)
    if victim == "apply":
        if command.returncode is None:
            command.kill()
    elif victim != "none":
        await _kill(root, url, victim, clients)
    report.kills[victim] += 1
    _, said = await asyncio.wait_for(ending, APPLY_SECONDS)
    assert command.returncode in (0, -signal.SIGKILL), said.decode()
    async with asyncio.timeout(APPLY_SECONDS):
        while open_applies(store):
            await asyncio.sleep(0.05)
    if _live(store) == before:
        assert command.returncode == -signal.SIGKILL, "it ended well and nothing went live"
        report.given_again += 1
        again = await _command(root, broken)
        _, said = await asyncio.wait_for(again.communicate(), APPLY_SECONDS)
        assert again.returncode == 0, said.decode()
    after = _live(store)
    assert after != before, "nothing went live"
    report.applies += 1
    report.apply_seconds.append(time.monotonic() - began)


async def _command(root: Path, broken: bool) -> asyncio.subprocess.Process:
    words = _BROKEN if broken else _COMMAND
    return await asyncio.create_subprocess_exec(
        *die_with_parent((sys.executable, *words, "--project", str(root), "--json")),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def _kill(root: Path, url: str, victim: str, clients: Clients) -> None:
    """Kill a process of the platform and wait until its successor works."""
    record = root / ".antiphon" / "run" / f"{victim}.pid"
    pid = json.loads(record.read_bytes())["pid"]
    down = [time.monotonic(), float("inf")]
    if victim == "gateway":
        clients.gateway_down.append(down)
    os.kill(pid, signal.SIGKILL)

    async def replaced() -> bool:
        try:
            if json.loads(record.read_bytes())["pid"] == pid:
                return False
        except FileNotFoundError:  # The supervisor took the dead one's record away; its successor has not written yet.
            return False
        if victim == "worker":
            return (root / ".antiphon" / "run" / "worker.ready").exists()
        async with httpx2.AsyncClient(base_url=url, timeout=5.0) as probe:
            return (await probe.get("/readyz")).status_code == 200

    await until(replaced, bool, APPLY_SECONDS)
    down[1] = time.monotonic()


def _live(store: Store) -> str:
    release = store.releases.live(store.scope, "pilot")
    assert release is not None
    return release.id


def _check_versions(store: Store, predictions: list[str], report: Report) -> None:
    """Hold what each answer was made from against what its release pins."""
    pinned: dict[str, dict[str, str]] = {}
    for prediction in predictions:
        receipt = store.receipts.get(store.scope, prediction)
        if receipt.release not in pinned:
            release = store.releases.get(store.scope, receipt.release)
            pinned[receipt.release] = dict(release.bundle.application.features)
        used = {one.name.partition(".")[0]: one.definition_version for one in receipt.features}
        if used != pinned[receipt.release]:
            report.wrong_versions.append(f"{prediction} of {receipt.release} was made from {used}")
    report.releases_seen = len(pinned)


def table(report: Report) -> str:
    """The report as a table for people."""
    kills = ", ".join(f"{victim} {count}" for victim, count in sorted(report.kills.items()))
    lines = [
        f"{report.applies} applies of changed views under load in {report.seconds:.0f} s; killed: {kills}",
        f"  an apply took {statistics.median(report.apply_seconds):.1f} s (median), "
        f"{max(report.apply_seconds):.1f} s (longest); {report.given_again} were given again after their command died",
        f"  {report.questions} questions and {report.lookups} lookups, answered by {report.releases_seen} releases",
        f"  {report.broken_by_gateway_kills} connections broken by a kill of the gateway (not counted)",
        f"  {'ok  ' if not report.failures else 'FAIL'} failed requests: {len(report.failures)}",
        f"  {'ok  ' if not report.wrong_versions else 'FAIL'} answers from features of another definition version: "
        f"{len(report.wrong_versions)}",
    ]
    lines += [f"         {one}" for one in (*report.failures[:5], *report.wrong_versions[:5])]
    return "\n".join(lines)


def summary(report: Report, size: str) -> dict[str, Any]:
    """The report as one JSON line."""
    return {
        "benchmark": "apply_kills",
        "size": size,
        "holds": report.holds,
        "applies_wanted": SIZES[size],
        "applies": report.applies,
        "kills": dict(report.kills),
        "given_again": report.given_again,
        "requests": report.questions + report.lookups,
        "failed_requests": len(report.failures),
        "broken_by_gateway_kills": report.broken_by_gateway_kills,
        "wrong_versions": len(report.wrong_versions),
        "releases": report.releases_seen,
        "apply_seconds": {
            "median": round(statistics.median(report.apply_seconds), 2),
            "longest": round(max(report.apply_seconds), 2),
        },
        "seconds": round(report.seconds, 1),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run and print; the exit code is 1 when a request failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.apply_kills", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seconds", type=float, default=3_600.0, help="begin no further apply after so long")
    parser.add_argument("--broken", action="store_true", help="in the order that was mended: it must fail")
    parser.add_argument("--keep", action="store_true", help="append the JSON line to benchmarks/results")
    options = parser.parse_args(arguments)
    with scratch() as folder:
        report = asyncio.run(
            run(
                Path(folder),
                applies=SIZES[options.size],
                seed=options.seed,
                broken=options.broken,
                seconds=options.seconds,
                say=True,
            )
        )
    line = json.dumps(summary(report, options.size))
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(line + "\n")
    sys.stdout.write(f"{table(report)}\n{line}\n")
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
