"""Flips of the live pointer under load: how soon the last request starts on the old release, and whether any answer
fails or is made from two releases.

The processes are the real ones with the simulated engine. Everything that one of the two releases makes carries its
mark: its model, its prompt, the step to which its figure is printed, and the first and the last word of its answer,
which its output schema allows alone. Clients ask in a closed loop, every second question streamed, while the pointer
is activated forward and rolled back. An answer is mixed when its parts, its receipt or its attempts carry more than one
release's marks, or another's than the release that its receipt names.

A flip counts from the return of its commit. A request is late when it was sent after that and answered by the old
release. An answer that is under way at the next flip and comes from that one's release is not counted as late.

    python -m benchmarks.learning.flips [--flips 100] [--clients 6] [--seed 20130410]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import msgspec
from tests.chaos.harness.running import scratch, separate, until
from tests.harness.ports import free_port

from antiphon.catalog.releases.releases import Bundle, ModelPin, Release
from antiphon.catalog.serving.receipt import Receipt
from antiphon.definitions.application import Figure
from antiphon.definitions.prompt import Prompt
from antiphon.releases.live import LEASE_SECONDS
from antiphon.services.apply.apply import apply
from antiphon.services.engines import commands
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

RESULTS = Path(__file__).parents[1] / "results"
APPLICATION, SHOP, SOLD = "desk", "tea", 123
MARKS = {"alpha": "120", "beta": "100"}
"""A release's mark, and what it prints of 123: alpha in tens, beta in hundreds."""
BETWEEN = (0.6, 1.0)
"""Seconds between two flips: longer than the lease, and of no fixed phase to it."""
GOAL_SECONDS = 1.0

_DEFINITIONS = f'''"""What is flipped."""

from antiphon import Application, Decoding, Entity, Figure, Prompt, Reuse, Source, col, feature_view
from antiphon import sum as total

shop = Entity("shop", keys=["shop"])
orders = Source.stream("orders", event_time="ordered", available_at="known", event_id="order_id")


@feature_view(entity=shop, source=orders, owner="bench")
class Summed:
    """What the orders came to."""

    amount = total(col.amount, window="28d", scale="1")


desk = Application(
    "{APPLICATION}", ungated="a benchmark asks at once",
    purpose="bench", owner="bench", entities=[shop], features=[Summed], model="alpha",
    prompt=Prompt(template="before"), decoding=Decoding(max_tokens=600),
    figures=[Figure("summed.amount", step=1)], reuse=Reuse("never", identical_prompts=False),
)
'''


@dataclass(frozen=True)
class Asked:
    """One question: when it was sent and its answer had arrived, and what came; ``failure`` says why nothing did."""

    began: float
    ended: float
    streamed: bool
    failure: str | None = None
    text: str = ""
    release: str = ""
    prediction: str = ""


@dataclass(frozen=True)
class Flip:
    """One move of the pointer: monotonic seconds at its call and at its commit."""

    action: str
    before: str
    after: str
    called: float
    committed: float


@dataclass
class Clients:
    """Clients that ask in a closed loop until they are stopped."""

    url: str
    key: str
    asked: list[Asked] = field(default_factory=list)
    stopped: bool = False

    async def run(self, count: int) -> None:
        headers = {"authorization": f"Bearer {self.key}"}
        limits = httpx2.Limits(max_connections=count, max_keepalive_connections=count)
        async with (
            httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=20.0, limits=limits) as client,
            asyncio.TaskGroup() as group,
        ):
            for number in range(count):
                group.create_task(self._repeat(client, number))

    async def _repeat(self, client: httpx2.AsyncClient, number: int) -> None:
        turn = 0
        while not self.stopped:
            turn += 1
            streamed = (turn + number) % 2 == 0
            body = {
                "model": APPLICATION,
                "messages": [{"role": "user", "content": f"Question {number}.{turn}?"}],
                "entity": {"shop": SHOP},
                "stream": streamed,
            }
            began = time.monotonic()
            try:
                text, made = await (_stream(client, body) if streamed else _whole(client, body))
                answer = Asked(
                    began, time.monotonic(), streamed, None, text, str(made["release"]), str(made["prediction"])
                )
            except (httpx2.HTTPError, ValueError, KeyError) as error:
                answer = Asked(began, time.monotonic(), streamed, f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.05)
            self.asked.append(answer)


async def _whole(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    response = await client.post("/v1/chat/completions", json=body)
    _accept(response.status_code, response.content)
    whole = response.json()
    return whole["choices"][0]["message"]["content"], whole["antiphon"]


async def _stream(client: httpx2.AsyncClient, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    text, made, ended = "", None, False
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        _accept(response.status_code, b"" if response.status_code == 200 else await response.aread())
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise ValueError(f"the stream ended with {event['error']}")
                text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                made = event.get("antiphon") or made
    if not ended or made is None:
        raise ValueError("the stream ended early")
    return text, made


def _accept(status: int, content: bytes) -> None:
    if status != 200:
        raise httpx2.HTTPError(f"{status}: {content.decode(errors='replace')}")


def write_project(root: Path) -> str:
    """Write the project; the URL its gateway will listen at."""
    port = free_port()
    (root / "definitions.py").write_text(_DEFINITIONS, encoding="utf-8")
    models = ", ".join(f'"{mark}"' for mark in MARKS)
    (root / "antiphon.toml").write_text(
        f'[project]\nname = "flips"\n\n[engine]\nkind = "simulated"\nmodels = [{models}]\nslots = 8\n\n'
        f"[gateway]\nport = {port}\n",
        encoding="utf-8",
    )
    return f"http://127.0.0.1:{port}"


def make_releases(store: Store) -> dict[str, Release]:
    """The two releases, by their mark; the first one goes live."""
    (applied,) = apply(store, principal="bench", activate=False).releases
    made = {}
    for mark, printed in MARKS.items():
        only = {"type": "string", "enum": [mark]}
        properties = {"first": only, "words": {"type": "string", "maxLength": 60}, "last": only}
        schema = {"type": "object", "properties": properties, "required": list(properties)}
        specification = msgspec.structs.replace(
            applied.bundle.application,
            model=mark,
            prompt=Prompt(
                template=mark + " has {{ features.summed.amount }}. {{ question }}", system=f"You are {mark}."
            ),
            output_schema=msgspec.json.encode(schema).decode(),
            figures=(Figure("summed.amount", step=10.0 if printed == "120" else 100.0),),
        )
        bundle = Bundle(specification, ModelPin(mark, None), store.decider.digest)
        made[mark] = store.releases.add(bundle, store.scope, "bench", f"all of it says {mark}")
    store.releases.activate(store.scope, APPLICATION, made["alpha"].id, "bench", "first")
    return made


async def publish(url: str, key: str) -> None:
    """One event and a refresh, until a question can be answered."""
    ordered = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    payload = {"order_id": "o1", "shop": SHOP, "amount": SOLD, "ordered": ordered, "known": ordered}
    event = {"event_id": "o1", "event_time": ordered, "available_at": ordered, "payload": payload}
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20.0) as client:
        (await client.post("/admin/events/orders", json={"events": [event]})).raise_for_status()
        (await client.post("/admin/features/refresh", json={})).raise_for_status()
        body = {"model": APPLICATION, "messages": [{"role": "user", "content": "Up?"}], "entity": {"shop": SHOP}}

        async def ask() -> str:
            return (await _whole(client, body))[0]

        await until(ask, lambda text: "alpha" in text, 60.0)


async def flip(store: Store, made: dict[str, Release], flips: int, chance: random.Random) -> list[Flip]:
    """Activate beta, roll back to alpha, and again, at moments of no fixed phase."""
    moves, done = rollout_transitions(store), []
    await asyncio.sleep(BETWEEN[0])
    for number in range(flips):
        forward = number % 2 == 0
        before, after = ("alpha", "beta") if forward else ("beta", "alpha")
        reason = f"flip {number + 1}"

        def move(forward: bool = forward, reason: str = reason) -> tuple[float, float]:
            called = time.monotonic()
            if forward:
                moves.activate(store.scope, APPLICATION, made["beta"].id, principal="bench", reason=reason)
            else:
                moves.rollback(store.scope, APPLICATION, principal="bench", reason=reason)
            return called, time.monotonic()

        called, committed = await asyncio.to_thread(move)
        done.append(Flip("activate" if forward else "rollback", before, after, called, committed))
        await asyncio.sleep(chance.uniform(*BETWEEN))
    return done


def mixed(asked: Asked, receipt: Receipt, texts: Sequence[str], marks: dict[str, str]) -> str | None:
    """What is wrong with an answer, ``None`` when every part of it is of one release.

    Args:
        texts: its prompts, as the receipt names them.
        marks: release id to mark.
    """
    mark = marks.get(asked.release)
    if mark is None:
        return f"a release that nobody made: {asked.release!r}"
    other = next(one for one in MARKS if one != mark)
    with suppress(ValueError):
        output = json.loads(asked.text)
        if (output.get("first"), output.get("last")) != (mark, mark) or other in asked.text:
            return f"{mark} answered {asked.text!r}"
        if receipt.release != asked.release:
            return f"told {asked.release}, its receipt {receipt.release}"
        if not receipt.attempts or any(attempt.model != mark for attempt in receipt.attempts):
            return f"{mark} was generated by {[attempt.model for attempt in receipt.attempts]}"
        if [feature.printed for feature in receipt.features] != [MARKS[mark]]:
            return f"{mark} read {[feature.printed for feature in receipt.features]}"
        for text in texts:
            if f"You are {mark}." not in text or f"{mark} has {MARKS[mark]}." not in text or other in text:
                return f"{mark} was told {text!r}"
        return None
    return f"no JSON: {asked.text!r}"


def lags(flips: Sequence[Flip], asked: Sequence[Asked], marks: dict[str, str]) -> list[float]:
    """Per flip, seconds from its commit to the last request that was sent later and got the old release, else 0."""
    found = []
    for number, flipped in enumerate(flips):
        following = flips[number + 1] if number + 1 < len(flips) else None
        last = 0.0
        for one in asked:
            if one.failure is not None or marks.get(one.release) != flipped.before or one.began <= flipped.committed:
                continue
            if following is not None and one.ended >= following.called:
                continue
            last = max(last, one.began - flipped.committed)
        found.append(last)
    return found


async def measure(root: Path, count: int, clients: int, seed: int) -> dict[str, Any]:
    """Run the platform in an empty folder, flip, and look at every answer."""
    url = write_project(root)
    store = Store.open(root)
    try:
        made = make_releases(store)
        marks = {release.id: mark for mark, release in made.items()}
        key, _ = first_key(store) or ("", None)
        # About forty milliseconds an answer, so that flips meet requests under way.
        engine = (*commands.command(store), "--simulated-call-milliseconds", "1")
        async with separate(root, url, engine):
            await publish(url, key)
            load = Clients(url, key)
            asking = asyncio.create_task(load.run(clients))
            began = time.monotonic()
            try:
                flips = await flip(store, made, count, random.Random(seed))
            finally:
                load.stopped = True
                await asyncio.wait_for(asking, 60)
            seconds = time.monotonic() - began
        return summarize(store, flips, load.asked, marks, seconds, clients, seed)
    finally:
        store.close()


def summarize(
    store: Store, flips: list[Flip], asked: list[Asked], marks: dict[str, str], seconds: float, clients: int, seed: int
) -> dict[str, Any]:
    """Everything that is reported, with the first few of what is wrong."""
    wrong = []
    for one in asked:
        if one.failure is None:
            receipt = store.receipts.get(store.scope, one.prediction)
            texts = [store.blobs.get(store.scope, attempt.prompt_blob).decode() for attempt in receipt.attempts]
            found = mixed(one, receipt, texts, marks)
            if found is not None:
                wrong.append(found)
    failed = [one.failure for one in asked if one.failure is not None]
    late = sorted(lags(flips, asked, marks))
    under_way = sum(any(one.began < move.committed < one.ended for one in asked) for move in flips)
    took = sorted(one.ended - one.began for one in asked if one.failure is None)
    answered = {mark: sum(marks.get(one.release) == mark for one in asked) for mark in MARKS}
    p99 = _rank(late, 0.99)
    return {
        "benchmark": "flips",
        "at": datetime.now(UTC).isoformat(),
        "machine": platform.processor() or platform.machine(),
        "seed": seed,
        "flips": len(flips),
        "clients": clients,
        "seconds": round(seconds, 1),
        "requests": len(asked),
        "streamed": sum(one.streamed for one in asked),
        "answered": answered,
        "flips_with_requests_under_way": under_way,
        "answer_ms_p50_p99": [round(1e3 * _rank(took, share), 1) for share in (0.5, 0.99)],
        "commit_ms_p50_p99": [
            round(1e3 * _rank(sorted(one.committed - one.called for one in flips), share), 1) for share in (0.5, 0.99)
        ],
        "last_start_on_old_seconds_p50_p90_p99_max": [round(_rank(late, share), 3) for share in (0.5, 0.9, 0.99, 1.0)],
        "lease_seconds": LEASE_SECONDS,
        "failed": len(failed),
        "mixed": len(wrong),
        "examples": [*failed[:3], *wrong[:3]],
        "goal_p99_seconds": GOAL_SECONDS,
        "holds": p99 < GOAL_SECONDS and not failed and not wrong and min(answered.values()) > 0,
    }


def show(found: dict[str, Any]) -> None:
    p50, p90, p99, most = found["last_start_on_old_seconds_p50_p90_p99_max"]
    print(f"{found['flips']} flips in {found['seconds']} s, {found['clients']} clients, {found['requests']} requests")
    print(f"{'':<44}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}")
    print(f"{'last request started on the old release, s':<44}{p50:>8.3f}{p90:>8.3f}{p99:>8.3f}{most:>8.3f}")
    print(f"failed requests {found['failed']}, mixed answers {found['mixed']}; answers by release {found['answered']}")
    print(f"flips that met requests under way: {found['flips_with_requests_under_way']}")
    for example in found["examples"]:
        print(f"  {example}")


def _rank(ordered: Sequence[float], share: float) -> float:
    """Nearest rank of a sorted sequence."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=20130410)
    options = parser.parse_args()
    with scratch() as folder:
        found = asyncio.run(measure(Path(folder), options.flips, options.clients, options.seed))
    show(found)
    line = json.dumps(found)
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "flips.jsonl").open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
