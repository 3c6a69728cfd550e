"""Injectors of those who ask: more than there is room for, what they may not, and odd ways that harm nobody."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.project import FaultyProject, antiphon
from benchmarks.operations.faults.users import APPLICATIONS, Users, flood, question

_TIMEOUT = aiohttp.ClientTimeout(total=15.0)


async def everybody_comes(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A notice in the news: both applications are asked far more than there is room for."""
    await _asked_at(users, dict.fromkeys(APPLICATIONS, 90.0), seconds)


async def triage_campaign(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A mail to all customers has them write at once."""
    await _asked_at(users, {**users.rate, "triage": 220.0}, seconds)


async def quiet_hour(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Hardly anybody asks."""
    await _asked_at(users, dict.fromkeys(APPLICATIONS, 0.05), seconds)


async def _asked_at(users: Users, rate: dict[str, float], seconds: float) -> None:
    before = users.rate
    users.rate = rate
    try:
        await asyncio.sleep(seconds)
    finally:
        users.rate = before


async def overload_in_waves(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A scheduled program asks for everything at once, rests, and begins again."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        await flood(project.url, project.key, 150, min(4.0, left), question("desk", chance))
        await asyncio.sleep(min(3.0, max(0.0, end - time.monotonic())))


async def documents_pasted(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """An import sends whole documents as tickets, many at once."""
    await _many(project, project.key, 100, seconds, lambda: question("triage", chance, words=1_200))


async def retry_storm(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Programs that wait for a fifth of a second ask again at once, for what is late as for what is refused."""
    end, impatient = time.monotonic() + seconds, aiohttp.ClientTimeout(total=0.2)
    headers = {"authorization": f"Bearer {project.key}"}

    async def one(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            body = question("desk", chance)
            try:
                async with session.post(f"{project.url}/v1/chat/completions", json=body, headers=headers) as response:
                    await response.read()
            except (OSError, aiohttp.ClientError, TimeoutError):
                # It does not rest: one that yields to the others is enough.
                await asyncio.sleep(0)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=impatient) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(150):
            group.create_task(one(session))


async def many_choices(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A program wants the best of many answers to each ticket, which it asks for by one request."""
    await _many(project, project.key, 40, seconds, lambda: question("triage", chance) | {"n": 16, "temperature": 1.0})


async def reports_pulled(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Tables of a report each pull the longest list of predictions there is, all at once, over and over."""
    end, url = time.monotonic() + seconds, f"{project.url}/admin/predictions?limit=1000"

    async def one(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            await send(session, "GET", url, project.key, None)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(100):
            group.create_task(one(session))


async def small_bursts(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A program asks a few times at once, every few seconds, within what there is room for."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await _many(project, project.key, 4, 0.5, lambda: question("triage", chance))
        await asyncio.sleep(min(chance.uniform(4.0, 6.0), max(0.0, end - time.monotonic())))


async def keys_tried(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A list of stolen keys is tried, another key each time."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(
            seconds,
            25.0,
            lambda: send(
                session,
                "POST",
                f"{project.url}/v1/chat/completions",
                f"ak_{chance.randbytes(16).hex()}",
                question(chance.choice(APPLICATIONS), chance),
            ),
        )


_ADMIN = ("keys", "audit", "principals", "tenants", "grants", "status", "policy", "releases/desk/notes")


async def forbidden_doors(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Somebody with a service's key looks for what it opens beside what it is for."""
    made = await asyncio.to_thread(
        antiphon, project.root, "keys", "create", "kiosk", "--actions", "answer", "--for", "application/desk", "--json"
    )
    key = str(json.loads(made)["key"])
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(
            seconds,
            15.0,
            lambda: send(session, "GET", f"{project.url}/admin/{chance.choice(_ADMIN)}", key, None),
        )


async def slow_heads(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Very many connections whose requests never become whole (the attack "Slowloris")."""
    opened: list[asyncio.StreamWriter] = []
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            made = await asyncio.gather(
                *(asyncio.open_connection("127.0.0.1", project.port) for _ in range(100 if len(opened) < 3_000 else 0)),
                return_exceptions=True,
            )
            for one in made:
                if not isinstance(one, BaseException):
                    one[1].write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: desk\r\n")
                    opened.append(one[1])
            for writer in chance.sample(opened, min(len(opened), 200)):
                if not writer.is_closing():
                    writer.write(b"X-Wait: a little\r\n")
            await asyncio.sleep(0.2)
    finally:
        for writer in opened:
            writer.transport.abort()


_WEAK_PLACES = (
    ".env", ".git/config", "wp-login.php", "xmlrpc.php", "phpmyadmin/index.php", "cgi-bin/status", "actuator/env",
    "server-status", "backup.sql", "id_rsa", "solr/admin/info/system", "v1/../../etc/passwd", "static/%2e%2e/passwd",
    "console/login.jsp", "vendor/phpunit/eval-stdin.php", "config.json", "owa/auth/logon.aspx", "shell?cd+/tmp",
)  # fmt: skip


async def paths_scanned(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A scanner without a key looks for programs with known holes, dozens of paths a second."""

    def place() -> str:
        return f"{project.url}/{chance.choice(_WEAK_PLACES)}?{chance.randrange(10**6)}"

    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(seconds, 40.0, lambda: send(session, chance.choice(("GET", "POST")), place(), "", None))


async def newcomers(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Customers who signed up just now write their first tickets: nothing is known of them."""

    def ticket() -> dict[str, Any]:
        return question("triage", chance) | {"entity": {"customer": f"newcomer-{chance.randrange(10**9)}"}}

    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(
            seconds,
            2.0,
            lambda: send(session, "POST", f"{project.url}/v1/chat/completions", project.key, ticket()),
        )


async def quota_of_a_program(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A program asks more than its key allows, and is refused as was agreed; there is room for all others."""
    words = ("--actions", "answer", "--for", "application/triage", "--requests-per-minute", "10", "--json")
    made = await asyncio.to_thread(antiphon, project.root, "keys", "create", "importer", *words)
    key = str(json.loads(made)["key"])
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(
            seconds,
            2.0,
            lambda: send(session, "POST", f"{project.url}/v1/chat/completions", key, question("triage", chance)),
        )


async def expired_key(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A forgotten program comes by now and then with a key that holds no more."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(
            seconds,
            0.2,
            lambda: send(session, "GET", f"{project.url}/v1/models", "ak_0123456789abcdef", None),
        )


async def screens_on_the_wall(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Monitoring and a few people's screens ask how it is, each second."""
    places = ("/healthz", "/readyz", "/metrics", "/v1/models", "/admin/status")
    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(seconds, 5.0, lambda: send(session, "GET", project.url + chance.choice(places), project.key, None))


async def _many(
    project: FaultyProject, key: str, at_once: int, seconds: float, body: Callable[[], dict[str, Any]]
) -> None:
    """Ask so many times at once, again and again for so long, another question each time."""
    end = time.monotonic() + seconds

    async def one(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            await send(session, "POST", f"{project.url}/v1/chat/completions", key, body())

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(at_once):
            group.create_task(one(session))


async def paced(seconds: float, rate: float, ask: Callable[[], Any]) -> None:
    """Ask so often a second, for so long, whether answers come or not."""
    end = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            group.create_task(ask())
            await asyncio.sleep(min(1 / rate, max(0.0, end - time.monotonic())))


async def send(session: aiohttp.ClientSession, method: str, url: str, key: str, body: dict[str, Any] | None) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with suppress(OSError, aiohttp.ClientError, TimeoutError):
        async with session.request(method, url, json=body, headers=headers) as response:
            await response.read()
            if response.status == 429:
                await asyncio.sleep(0.05)


CALLERS: dict[str, Injector] = {
    "everybody_comes": everybody_comes,
    "triage_campaign": triage_campaign,
    "quiet_hour": quiet_hour,
    "overload_in_waves": overload_in_waves,
    "documents_pasted": documents_pasted,
    "retry_storm": retry_storm,
    "many_choices": many_choices,
    "reports_pulled": reports_pulled,
    "small_bursts": small_bursts,
    "keys_tried": keys_tried,
    "forbidden_doors": forbidden_doors,
    "slow_heads": slow_heads,
    "paths_scanned": paths_scanned,
    "newcomers": newcomers,
    "quota_of_a_program": quota_of_a_program,
    "expired_key": expired_key,
    "screens_on_the_wall": screens_on_the_wall,
}
