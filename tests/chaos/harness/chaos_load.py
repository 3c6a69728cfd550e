"""The clients of the kill harness: they ask, push events, refresh features and order batch jobs, over HTTP alone.

A client counts as acknowledged only what it was told whole: a response whose end arrived. What failed is told apart
by whether somebody answered (a refusal, which must be fair) or nobody did (the gateway was dead).
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
from tests.chaos.harness.chaos_evidence import Acknowledged, OrderedJob, Refused
from tests.chaos.harness.chaos_project import APPLICATION, QUESTION, SHOPS, STREAM, ChaosProject
from tests.chaos.harness.running import until

JOB_LINES = 300
_BACK_OFF = 0.05


class Load:
    """Clients that go on until stopped; everything they were told is kept.

    Args:
        urls: gateways of the project, each request to one by chance; the project's own alone by default.
        timeout: seconds that a client waits for anything.
        pause: seconds between two questions of a client; without one they take all that the machine has.
        tables_at_home: batch jobs are ordered of the project's own gateway alone: others do not have its folder.
    """

    def __init__(
        self, project: ChaosProject, seed: int, urls: Sequence[str] = (), timeout: float = 20.0, pause: float = 0.0,
        *, tables_at_home: bool = False,
    ) -> None:  # fmt: skip
        self._project = project
        self._chance = random.Random(seed)
        self.urls = tuple(urls) or (project.url,)
        self._gateways = random.Random(seed)
        self._tables_at = project.url if tables_at_home else None
        self._pause = pause
        self._client = httpx2.AsyncClient(headers={"authorization": f"Bearer {project.key}"}, timeout=timeout)
        self._stop = asyncio.Event()
        self._began = datetime.now(UTC) - timedelta(days=1)
        self._seen_publication: int | None = None
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[Refused] = []
        self.pushed: set[str] = set()
        self.jobs: list[OrderedJob] = []
        self.refreshes = 0
        self.longest = 0.0
        """Seconds that the slowest request has taken so far."""
        self.broken_off: list[str] = []

    async def __aenter__(self) -> Load:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def run(self, askers: int = 3) -> None:
        """Every client at once until :meth:`stop`."""
        async with asyncio.TaskGroup() as clients:
            clients.create_task(self.ask(askers))
            clients.create_task(self._repeat(self._push, random.Random(self._chance.random()), 0))
            clients.create_task(self._repeat(self._refresh, random.Random(self._chance.random()), 0))
            clients.create_task(self._repeat(self._batch, random.Random(self._chance.random()), 0))

    async def ask(self, askers: int) -> None:
        """Clients that ask, alone, until :meth:`stop`."""
        async with asyncio.TaskGroup() as clients:
            for number in range(askers):
                clients.create_task(self._repeat(self._ask, random.Random(self._chance.random()), number))

    def stop(self) -> None:
        """Let every client finish what it is doing."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Tells whether clients are to finish."""
        return self._stop.is_set()

    async def start(self) -> None:
        """First events and a first publication, so that questions have something to be answered from."""
        # An entity without any event has no features, and a question about it is rightly refused.
        first = [self._event(self._chance, shop) for shop in SHOPS]
        await self._until_answered(lambda: self.post("events", f"/admin/events/{STREAM}", {"events": first}))
        self.pushed |= {event["event_id"] for event in first}
        await self._until_answered(lambda: self._refresh(random.Random(0), 0))
        # One that is announced is not answered from yet.
        await until(
            lambda: self.get("/admin/publications"),
            lambda found: any(publication["served_at"] for publication in found["publications"]),
            180,  # Every process has just begun, and each takes seconds of a processor.
        )

    async def settle(self) -> dict[str, str]:
        """Wait until events are consumed and jobs have ended; then each shop's prediction, asked for in peace."""
        await until(lambda: self.get("/admin/streams"), lambda found: all(s["lag"] == 0 for s in found["streams"]), 60)
        for job in self.jobs:
            await until(
                lambda job=job: self.get(f"/admin/batch/{job.job}"),  # type: ignore[misc]
                lambda found: found["status"] in ("completed", "failed", "cancelled"),
                180,
            )
        settled = {}
        for shop in SHOPS:
            seen = await self._until_answered(lambda shop=shop: self._question(shop, "And now?", False, None))  # type: ignore[misc]
            settled[shop] = seen.prediction
        return settled

    async def get(self, path: str) -> dict[str, Any]:
        """A document of the admin interface.

        Raises:
            httpx2.HTTPError: nobody answered, or not with 200.
        """
        response = await self._client.get(self._at(path))
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    async def replayed(self, prediction: str) -> bool:
        """Whether a prediction is made again byte for byte.

        Raises:
            httpx2.HTTPError: nobody answered, or not with 200.
        """
        response = await self._client.post(self._at(f"/admin/predictions/{prediction}/replay"))
        response.raise_for_status()
        return bool(response.json().get("identical"))

    def _at(self, path: str) -> str:
        return f"{self._gateways.choice(self.urls)}{path}"

    async def _repeat(
        self, act: Callable[[random.Random, int], Awaitable[object]], chance: random.Random, number: int
    ) -> None:
        while not self._stop.is_set():
            if await act(chance, number) is None:
                await asyncio.sleep(_BACK_OFF)

    async def _until_answered(self, act: Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(60):
            while (found := await act()) is None:
                await asyncio.sleep(_BACK_OFF)
        return found

    async def _ask(self, chance: random.Random, number: int) -> Acknowledged | None:
        minimum = self._seen_publication if chance.random() < 0.3 else None
        question = f"{QUESTION}{number}.{chance.getrandbits(64):x}?"
        seen = await self._question(chance.choice(SHOPS), question, chance.random() < 0.5, minimum)
        if seen is not None:
            self.acknowledged.append(seen)
            self._seen_publication = max(self._seen_publication or 0, seen.publication or 0)
            await asyncio.sleep(self._pause)
        return seen

    async def _question(self, shop: str, question: str, stream: bool, minimum: int | None) -> Acknowledged | None:
        body: dict[str, Any] = {
            "model": APPLICATION,
            "messages": [{"role": "user", "content": question}],
            "entity": {"shop": shop},
            "stream": stream,
        }
        if minimum is not None:
            body["minimum_publication"] = minimum
        try:
            with self._timed():
                if stream:
                    return await self._streamed(body, minimum)
                response = await self._client.post(self._at("/v1/chat/completions"), json=body)
        except (httpx2.HTTPError, json.JSONDecodeError) as error:  # also an event that was cut off in the middle
            self._broke_off("a question", error)
            return None
        if response.status_code != 200:
            self._refusal("a question", response.status_code, response.content)
            return None
        whole = response.json()
        made = whole["antiphon"]
        return Acknowledged(made["prediction"], made["publication"], whole["choices"][0]["message"]["content"], minimum)

    async def _streamed(self, body: dict[str, Any], minimum: int | None) -> Acknowledged | None:
        text, made, ended = "", None, False
        async with self._client.stream("POST", self._at("/v1/chat/completions"), json=body) as response:
            if response.status_code != 200:
                self._refusal("a streamed question", response.status_code, await response.aread())
                return None
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    if "error" in event:
                        self._broke_off("a streamed question", event["error"].get("message"))
                        return None
                    text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                    made = event.get("antiphon") or made
        if not ended or made is None:
            self._broke_off("a streamed question", "no end")
            return None
        return Acknowledged(made["prediction"], made["publication"], text, minimum)

    async def _push(self, chance: random.Random, number: int) -> bool | None:
        """Some events, sent again until they are acknowledged: a source delivers at least once."""
        events = [self._event(chance, chance.choice(SHOPS)) for _ in range(chance.randint(1, 5))]
        body = {"events": events}
        while await self.post("events", f"/admin/events/{STREAM}", body) is None:
            if self._stop.is_set():
                return None
            await asyncio.sleep(_BACK_OFF)
        self.pushed |= {event["event_id"] for event in events}
        await asyncio.sleep(0.03)
        return True

    def _event(self, chance: random.Random, shop: str) -> dict[str, Any]:
        identity = f"o{chance.getrandbits(64):016x}"
        ordered = self._began + timedelta(seconds=chance.randrange(3_600))
        known = (ordered + timedelta(seconds=chance.randrange(600))).isoformat()
        payload = {
            "order_id": identity,
            "shop": shop,
            "amount": chance.randint(1, 1_000_000),
            "ordered": ordered.isoformat(),
            "known": known,
        }
        return {"event_id": identity, "event_time": ordered.isoformat(), "available_at": known, "payload": payload}

    async def _refresh(self, chance: random.Random, number: int) -> bool | None:
        found = await self.post("a refresh", "/admin/features/refresh", {"key": f"chaos-{self.refreshes}"})
        if found is None:
            return None
        self.refreshes += 1
        await asyncio.sleep(0.5 + chance.random())
        return True

    async def _batch(self, chance: random.Random, number: int) -> bool | None:
        """A job, and the next one when it has ended."""
        if self.jobs:
            try:
                last = await self.get(f"/admin/batch/{self.jobs[-1].job}")
            except httpx2.HTTPError:
                return None
            if last["status"] not in ("completed", "failed", "cancelled"):
                await asyncio.sleep(0.2)
                return True
        name = f"job-{len(self.jobs)}"
        lines = tuple(f"{name}.{line}" for line in range(JOB_LINES))
        source, output = (self._project.root / f"{name}.{kind}.jsonl" for kind in ("in", "out"))
        rows = ({"line": line, "shop": chance.choice(SHOPS), "question": line} for line in lines)
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        order = {"application": APPLICATION, "input": str(source), "output": str(output), "key": name}
        while (made := await self.post("a batch job", "/admin/batch", order, self._tables_at)) is None:
            if self._stop.is_set():
                return None
            await asyncio.sleep(_BACK_OFF)
        self.jobs.append(OrderedJob(made["id"], lines, output))
        return True

    async def post(self, what: str, path: str, body: dict[str, Any], at: str | None = None) -> dict[str, Any] | None:
        try:
            with self._timed():
                response = await self._client.post(self._at(path) if at is None else f"{at}{path}", json=body)
        except httpx2.HTTPError as error:
            self._broke_off(what, error)
            return None
        if response.is_success:
            found: dict[str, Any] = response.json()
            return found
        self._refusal(what, response.status_code, response.content)
        return None

    @property
    def unanswered(self) -> int:
        """The number of requests that were not answered to their end."""
        return len(self.broken_off)

    def failures(self) -> dict[str, int]:
        """Requests so far that were refused or not answered to their end, by what happened."""
        refused = (f"{one.what}: {one.status} {one.code} {one.message}".rstrip() for one in self.refused)
        return dict(Counter([*refused, *self.broken_off]))

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.longest = max(self.longest, time.monotonic() - began)

    def _broke_off(self, what: str, why: object) -> None:
        self.broken_off.append(f"{what}: {why!r}")

    def _refusal(self, what: str, status: int, content: bytes) -> None:
        try:
            error = json.loads(content)["error"]
            code, message = error["code"], str(error.get("message", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            code, message = None, ""
        self.refused.append(Refused(what, status, code, message))
