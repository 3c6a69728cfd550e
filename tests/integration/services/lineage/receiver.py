"""A receiver of OpenLineage over HTTP, that may be away, refuse, or leave before it answers."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from aiohttp import web


class Receiver:
    """A server on a port of its own, in a thread of its own.

    Attributes:
        bodies: of the events that it took, as they came.
        status: of its answers; of ``refused`` jobs it answers 422.
        silent: it takes what comes and answers nothing.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.status = 201
        self.silent = False
        self.refused: set[str] = set()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    @property
    def url(self) -> str:
        """Where events are posted to."""
        return f"http://127.0.0.1:{self.port}/api/v1/lineage"

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that it took."""
        return [json.loads(body) for body in self.bodies]

    def jobs(self, type: str) -> list[str]:
        """Names of the jobs of events of a type, in the order in which they came."""
        return [event["job"]["name"] for event in self.events if event["eventType"] == type]

    def start(self) -> None:
        """Listen, on the port of before if there was one."""
        self._call(self._start())

    def stop(self) -> None:
        """Be away: connections are refused."""
        self._call(self._stop())

    def close(self) -> None:
        """End for good."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_post("/api/v1/lineage", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if json.loads(body)["job"]["name"] in self.refused:
            return web.Response(status=422)
        if self.status < 300:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in request.headers.items()})
        while self.silent:
            await asyncio.sleep(0.01)
        return web.Response(status=self.status)

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)
