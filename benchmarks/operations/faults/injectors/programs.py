"""Injectors of programs that call: loops, pulls of features, attacks on the protocol, and probes that are harmless."""

from __future__ import annotations

import asyncio
import json
import random
import time
from contextlib import suppress

import aiohttp
from benchmarks.operations.faults.injectors.callers import paced, send
from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.project import FaultyProject, antiphon
from benchmarks.operations.faults.users import Users, question

from antiphon.cli.blueprints.orders import SHOPS

_TIMEOUT = aiohttp.ClientTimeout(total=15.0)
_MOST_MAILS = 180


async def mail_loop(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Two answering machines write to each other: whatever comes back is answered by two mails, which quote it."""
    end, opened = time.monotonic() + seconds, 0
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session,
        asyncio.TaskGroup() as group,
    ):

        async def mail(words: int) -> None:
            nonlocal opened
            body = question("triage", chance, words)
            try:
                await send(session, "POST", f"{project.url}/v1/chat/completions", project.key, body)
            finally:
                opened -= 1
            for _ in range(2):
                begin(min(words + 10, 200))

        def begin(words: int) -> None:
            nonlocal opened
            if time.monotonic() < end and opened < _MOST_MAILS:
                opened += 1
                group.create_task(mail(words))

        for _ in range(3):
            begin(0)


async def lookups_pulled(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A nightly program reads features online that it could read in batch: long lists of entities, many at once."""
    end, url = time.monotonic() + seconds, f"{project.url}/v1/features/lookup"
    shops = [{"shop": shop} for shop in sorted(SHOPS)]
    body = {"entities": (shops * 200)[:1_000], "features": ["today", "usually"]}

    async def one(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            await send(session, "POST", url, project.key, body)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=_TIMEOUT) as session,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(60):
            group.create_task(one(session))


_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: desk\r\n"
_SMUGGLED = (
    _HEAD
    + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /admin/keys HTTP/1.1\r\nHost: a\r\n\r\n",
    _HEAD + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello",
    _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    _HEAD + b"Transfer-Encoding: xchunked\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    _HEAD + b"Content-Length: -1\r\n\r\nhello",
    _HEAD + b"X-Split: a\x00b\r\n\r\n",
    b"GET /admin/keys HTTP/1.1\nHost: desk\n\n",
    b"GET /v1/models HTTP/9.9\r\nHost: desk\r\n\r\n",
    b"GET http://127.0.0.1/admin/keys HTTP/1.1\r\nHost: \r\nHost: desk\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)


async def requests_smuggled(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Requests whose length two servers would read unlike, so that a second one is hidden in them (smuggling)."""

    async def one() -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", project.port)
                try:
                    writer.write(chance.choice(_SMUGGLED))
                    await writer.drain()
                    await reader.read(4_096)
                finally:
                    writer.transport.abort()

    await paced(seconds, 20.0, one)


async def ids_guessed(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Somebody with a reader's key goes through ids, in the hope of what others asked and got."""
    words = ("keys", "create", "reader", "--role", "viewer", "--expires-in", "1d", "--json")
    made = await asyncio.to_thread(antiphon, project.root, *words)
    key = str(json.loads(made)["key"])

    def place() -> str:
        kind, prefix = chance.choice(
            (("v1/responses", "resp_"), ("v1/files", "file-"), ("v1/batches", "batch_"), ("admin/predictions", "pred_"))
        )
        return f"{project.url}/{kind}/{prefix}{chance.randbytes(16).hex()}"

    async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
        await paced(seconds, 25.0, lambda: send(session, "GET", place(), key, None))


async def probes_of_a_balancer(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A load balancer looks whether the port is open: it connects and goes, and resets the connection each time."""

    async def one() -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(5.0):
                _, writer = await asyncio.open_connection("127.0.0.1", project.port)
                writer.transport.abort()

    await paced(seconds, 10.0, one)


PROGRAMS: dict[str, Injector] = {
    "mail_loop": mail_loop,
    "lookups_pulled": lookups_pulled,
    "requests_smuggled": requests_smuggled,
    "ids_guessed": ids_guessed,
    "probes_of_a_balancer": probes_of_a_balancer,
}
