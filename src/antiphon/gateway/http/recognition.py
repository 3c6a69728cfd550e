"""Authentication, done once for all requests that come with the same key at the same time.

Without it each of a thousand requests that arrive after a key's lease has run out would read the catalog in a thread of
its own, forty at a time, each a detour of several turns of a busy event loop: the last one waited for seconds.

Invariant: nobody is recognized by less than by reading alone. A request takes what is remembered within the lease, or
what was read after it had come; never what somebody began to read before.
"""

from __future__ import annotations

import asyncio

from starlette.concurrency import run_in_threadpool

from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tokens import Authenticator


class Recognition:
    """Keys and tokens that are being read now; of one event loop."""

    def __init__(self) -> None:
        self._readings: dict[str, asyncio.Task[Principal]] = {}

    async def principal(self, bearer: Authenticator, text: str) -> Principal:
        """Returns the principal of a key or token.

        Raises:
            UnauthenticatedError: it does not hold.
            UnavailableError: the catalog, or the token issuer, is away.
        """
        known = bearer.remembered(text)
        if known is None and (begun := self._readings.get(text)) is not None:
            await asyncio.wait([begun])
            known = bearer.remembered(text)
        if known is not None:
            return known
        # Shielded: others wait for this reading too, whoever began it.
        return await asyncio.shield(self._reading(bearer, text))

    def _reading(self, bearer: Authenticator, text: str) -> asyncio.Task[Principal]:
        """The reading that begins now, or that another who waited has just begun."""
        reading = self._readings.get(text)
        if reading is None or reading.done():
            reading = asyncio.get_running_loop().create_task(run_in_threadpool(bearer.authenticate, text))
            self._readings[text] = reading
            reading.add_done_callback(lambda ended: self._ended(text, ended))
        return reading

    def _ended(self, text: str, reading: asyncio.Task[Principal]) -> None:
        if self._readings.get(text) is reading:
            del self._readings[text]
        if not reading.cancelled():
            reading.exception()  # Looked at, for whoever waited may be gone.
