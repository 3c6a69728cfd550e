"""Users of two applications, who ask at a rate that does not wait for answers, and what they felt."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

from antiphon.cli.blueprints.orders import SHOPS
from antiphon.cli.blueprints.tickets import draw_ticket

APPLICATIONS = ("desk", "triage")
TIMEOUT = 15.0
_MOST_OPEN = 200


class AskedQuestion(msgspec.Struct, frozen=True):
    """A question that has ended; times are of the monotonic clock, ``status`` 0 without a response in time."""

    application: str
    due: float
    seconds: float
    status: int

    @property
    def answered(self) -> bool:
        return self.status == 200


class UserImpact(msgspec.Struct, frozen=True):
    """Questions while a fault lasted, those of them that failed or took far longer than usual, and the share of such
    questions before it."""

    questions: int
    failed: int
    slow: int
    usual: float

    @property
    def share(self) -> float:
        return (self.failed + self.slow) / self.questions if self.questions else 0.0

    @property
    def felt(self) -> bool:
        """At least three questions, and one of fifty more than usual."""
        return self.failed + self.slow >= 3 and self.share >= self.usual + 0.02


class Users:
    """Asks both applications, each at ``rate`` a second, in a Poisson stream. Faults change ``rate`` and what is asked.

    Attributes:
        words: that each question has in addition. patience: seconds after which a user hangs up.
        mistakes: share of questions that are wrong by themselves, and are no part of what is felt.
    """

    def __init__(self, url: str, key: str, chance: random.Random, rate: float) -> None:
        self._url, self._key, self._chance = f"{url}/v1/chat/completions", key, chance
        self.rate = dict.fromkeys(APPLICATIONS, rate)
        self.words = 0
        self.patience = TIMEOUT
        self.mistakes = 0.0
        self.asked: list[AskedQuestion] = []
        self._open = 0

    async def ask(self) -> None:
        """Ask until cancelled."""
        connections = aiohttp.TCPConnector(limit=0, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connections, headers={"authorization": f"Bearer {self._key}"}) as session,
            asyncio.TaskGroup() as group,
        ):
            for application in APPLICATIONS:
                group.create_task(self._stream(session, group, application))

    async def until_answered(self) -> None:
        """Ask each application until it answers: its first release goes live, and its features are published."""
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {self._key}"}) as session:
            for application in APPLICATIONS:
                status = 0
                while status != 200:
                    async with session.post(self._url, json=question(application, self._chance)) as response:
                        status = response.status
                    await asyncio.sleep(0.2)

    async def _stream(self, session: aiohttp.ClientSession, group: asyncio.TaskGroup, application: str) -> None:
        due = time.monotonic()
        while True:
            due += self._chance.expovariate(self.rate[application])
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._open >= _MOST_OPEN:
                self.asked.append(AskedQuestion(application, due, TIMEOUT, 0))
                continue
            body = question(application, self._chance, self.words)
            mistaken = self._chance.random() < self.mistakes
            if mistaken:
                body["model"] = "no-such-application"
            group.create_task(self._question(session, application, due, body, keep=not mistaken))

    async def _question(
        self, session: aiohttp.ClientSession, application: str, due: float, body: dict[str, Any], keep: bool
    ) -> None:
        self._open += 1
        status, patience = 0, self.patience
        try:
            async with asyncio.timeout(patience), session.post(self._url, json=body) as response:
                await response.read()
                status = response.status
        except TimeoutError:
            keep = keep and patience >= TIMEOUT
        except (OSError, aiohttp.ClientError):
            status = 0
        finally:
            self._open -= 1
        if keep:
            self.asked.append(AskedQuestion(application, due, time.monotonic() - due, status))

    def impact(self, usual: tuple[float, float], begun: float, until: float) -> UserImpact:
        """The impact on questions that were due in a span, against a usual one of the same run (monotonic times)."""
        before = self._between(*usual)
        bound = slow_bound([one.seconds for one in before if one.answered])
        felt = self._between(begun, until)
        return UserImpact(
            len(felt),
            sum(not one.answered for one in felt),
            sum(one.answered and one.seconds > bound for one in felt),
            sum(not one.answered or one.seconds > bound for one in before) / max(1, len(before)),
        )

    def _between(self, begin: float, end: float) -> list[AskedQuestion]:
        return [one for one in self.asked if begin <= one.due < end]


def slow_bound(seconds: Sequence[float]) -> float:
    """Seconds beyond which an answer is far later than usual: three times the usual ninth decile, at least one."""
    if not seconds:
        return 1.0
    return max(1.0, 3 * sorted(seconds)[max(0, math.ceil(0.9 * len(seconds)) - 1)])


def question(application: str, chance: random.Random, words: int = 0) -> dict[str, Any]:
    """A request as a user of an application sends it."""
    said: str
    if application == "desk":
        entity = {"shop": chance.choice(sorted(SHOPS))}
        said = f"Will my order {chance.randrange(10**6)} be on time?"
    else:
        customer, said, _, _ = draw_ticket(chance)
        entity = {"customer": customer}
        said = f"{said} ({chance.randrange(10**6)})"
    said += " please" * words
    return {"model": application, "entity": entity, "messages": [{"role": "user", "content": said}]}


async def flood(url: str, key: str, at_once: int, seconds: float, body: dict[str, Any]) -> int:
    """Send one request again and again, so many at once, for so long; how many were sent."""
    end, sent = time.monotonic() + seconds, 0
    content = json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

    async def one(session: aiohttp.ClientSession) -> None:
        nonlocal sent
        while time.monotonic() < end:
            sent += 1
            try:
                async with session.post(f"{url}/v1/chat/completions", data=content) as response:
                    await response.read()
            except (OSError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)

    limits = aiohttp.ClientTimeout(total=TIMEOUT)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=limits) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(at_once):
            group.create_task(one(session))
    return sent
