"""Streams of server-sent events that tell open pages of a change, and nothing of what has changed.

Invariants:
- A stream tells of its own tenant's changes alone, and ends within :data:`BEAT_SECONDS` of the end of its session or of
  the right to read the dashboard. The page then fetches its part as it always did, under policy.
- However many pages are open, a tenant's topic is looked at once every :data:`LOOK_SECONDS`, and not at all while none
  is. Streams are bounded, of a principal and in all; a page that gets none looks by itself.
- An event is a hint: one that is lost costs a page the time until the next.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from antiphon.core.errors import AntiphonError, NotFoundError, OverloadedError
from antiphon.core.scope import Scope
from antiphon.gateway.http.departure import CallerLeftError, while_connected

LOOK_SECONDS = 2.0
BEAT_SECONDS = 15.0
"""Interval of comments on a stream that has nothing to tell, and of looks at its session."""
RETRY_MILLISECONDS = 3_000
MOST, MOST_EACH = 200, 20

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_CHANGED = b"event: changed\ndata: \n\n"
_BEAT = b":\n\n"

Stamp = Callable[[Scope], object]
"""A value that is another one once something that a topic is about has changed; reads the catalog."""


class LiveChanges:
    """The streams of one gateway.

    Args:
        stamps: topic to its stamp.
    """

    def __init__(self, stamps: Mapping[str, Stamp]) -> None:
        self._stamps = stamps
        self._watches: dict[tuple[Scope, str], _Watch] = {}
        self._open: Counter[str] = Counter()
        self._closed = asyncio.Event()

    @property
    def watched(self) -> int:
        """Topics of tenants that are looked at now."""
        return len(self._watches)

    def close(self) -> None:
        """End every stream, and begin no more: the gateway ends. Called in the event loop."""
        self._closed.set()

    def stream(self, scope: Scope, topic: str, principal: str, holds: Callable[[], Awaitable[object]]) -> ChangeStream:
        """A stream for a principal.

        Args:
            holds: raises once the session or its rights have ended.

        Raises:
            NotFoundError: there is no such topic.
            OverloadedError: there are as many streams as there may be, or the gateway ends.
        """
        if topic not in self._stamps:
            raise NotFoundError(
                f"There is no topic {topic!r}.", where="topic", next_step=f"Choose one of {', '.join(self._stamps)}."
            )
        return ChangeStream(self, scope, topic, principal, holds)

    def enter(self, principal: str) -> None:
        """Count a stream; raises as :meth:`stream`."""
        if self._closed.is_set() or self._open.total() >= MOST or self._open[principal] >= MOST_EACH:
            raise OverloadedError(
                "There are as many live pages as there may be.", where="stream", next_step="The page looks by itself."
            )
        self._open[principal] += 1

    def leave(self, principal: str) -> None:
        """The stream has ended."""
        self._open[principal] -= 1
        if not self._open[principal]:
            del self._open[principal]

    def watch(self, scope: Scope, topic: str) -> _Watch:
        """The watch of a topic, begun with its first listener; :meth:`unwatch` follows."""
        key = (scope, topic)
        found = self._watches.get(key)
        if found is None or found.ended:
            found = self._watches[key] = _Watch(scope, self._stamps[topic])
        found.listeners += 1
        return found

    def unwatch(self, scope: Scope, topic: str, watch: _Watch) -> None:
        """A listener has left; the last ends the watch."""
        watch.listeners -= 1
        if not watch.listeners:
            watch.end()
            if self._watches.get((scope, topic)) is watch:
                del self._watches[scope, topic]

    async def wait(self, watch: _Watch, version: int, seconds: float) -> bool:
        """Wait for a change after a version, or so long; ``False`` once there is nothing more to wait for."""
        if watch.version == version and not watch.ended and not self._closed.is_set():
            waits = [asyncio.ensure_future(one.wait()) for one in (watch.changed, self._closed)]
            try:
                await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in waits:
                    one.cancel()
        return not watch.ended and not self._closed.is_set()


class _Watch:
    """Looks at one topic of one scope until it is ended, or the catalog cannot be read."""

    def __init__(self, scope: Scope, stamp: Stamp) -> None:
        self.listeners = 0
        self.version = 0
        self.changed = asyncio.Event()
        self.ended = False
        self._task = asyncio.create_task(self._look(scope, stamp))

    def end(self) -> None:
        self.ended = True
        self.changed.set()
        self._task.cancel()

    async def _look(self, scope: Scope, stamp: Stamp) -> None:
        known: object = None
        try:
            while True:
                found = await run_in_threadpool(stamp, scope)
                if known is not None and found != known:
                    self.version += 1
                    self.changed.set()
                    self.changed = asyncio.Event()
                known = found
                await asyncio.sleep(LOOK_SECONDS)
        except AntiphonError:
            # Nothing can be told: the pages say so, and come back.
            self.ended = True
            self.changed.set()


class ChangeStream:
    """An ASGI response: a ``changed`` event after each change, and comments in between."""

    def __init__(
        self, live: LiveChanges, scope: Scope, topic: str, principal: str, holds: Callable[[], Awaitable[object]]
    ) -> None:
        self._live = live
        self._scope = scope
        self._topic = topic
        self._principal = principal
        self._holds = holds
        live.enter(principal)

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        live = self._live
        watch = live.watch(self._scope, self._topic)
        try:
            async with while_connected(receive):
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                await _tell(send, f"retry: {RETRY_MILLISECONDS}\n\n".encode())
                version, time = watch.version, asyncio.get_running_loop().time
                held_at = time()
                while await live.wait(watch, version, BEAT_SECONDS):
                    if time() - held_at >= BEAT_SECONDS:
                        await self._holds()
                        held_at = time()
                    await _tell(send, _BEAT if watch.version == version else _CHANGED)
                    version = watch.version
        except (CallerLeftError, AntiphonError):
            pass
        finally:
            live.unwatch(self._scope, self._topic, watch)
            live.leave(self._principal)
            with suppress(OSError):
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _tell(send: Send, content: bytes) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": True})
