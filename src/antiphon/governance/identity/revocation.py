"""Leases on credentials, and the newest time that any process has seen.

Invariants:
- What the catalog said about a credential is believed for :data:`LEASE_SECONDS`. So revoking takes effect within that
  in every process that reaches the catalog. In one that does not, it is believed for ``bound`` seconds, and then
  nothing is: the answer is 503, not a guess.
- Expiry is judged by the newest instant that any process has noted in the catalog, or the clock if that is later. So
  a clock that jumps back revives nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import UnavailableError
from antiphon.core.leases import Leases, Renewer

V = TypeVar("V")

LEASE_SECONDS = 0.5
REVOCATION_BOUND_SECONDS = 30.0
LEEWAY = timedelta(seconds=30)
"""Allowed difference between the clocks of two machines."""

_MOST_REMEMBERED = 10_000


class CredentialLeases(Leases[bytes, V]):
    """Caches what the catalog says of credentials, by digest: for ``bound`` seconds while it is away."""

    def __init__(
        self, clock: Clock, bound: float = REVOCATION_BOUND_SECONDS, *, renewer: Renewer | None = None
    ) -> None:
        super().__init__(clock, seconds=LEASE_SECONDS, bound=bound, most=_MOST_REMEMBERED, renewer=renewer)
        self._bound_seconds = bound

    def look(self, key: bytes, read: Callable[[], V | None]) -> V | None:
        """As :meth:`Leases.look`.

        Raises:
            UnavailableError: the catalog is away, and nothing was found within the bound.
        """
        try:
            return super().look(key, read)
        except UnavailableError as error:
            raise UnavailableError(
                "The catalog is away, so no credential can be checked: a key that was seen is believed for "
                f"{self._bound_seconds:.0f} s at most.",
                where="catalog",
                next_step="Try again once it is back.",
            ) from error


class NewestTime:
    """The newest instant known: of this process's clock, and of the marks that processes leave in the catalog."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._newest = 0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """The clock's time, or the newest instant seen when the clock is behind it."""
        now = self._clock.now()
        exact = microseconds(now)
        with self._lock:
            if exact >= self._newest:
                self._newest = exact
                return now
            return from_microseconds(self._newest)

    def saw(self, mark: int | None) -> None:
        """Take note of an instant, in microseconds since 1970, that the catalog holds."""
        if mark is not None:
            with self._lock:
                self._newest = max(self._newest, mark)

    def behind(self) -> str:
        """A sentence when this clock is behind what was seen by more than the leeway, else nothing."""
        late = from_microseconds(self._newest) - self._clock.now()
        if late <= LEEWAY:
            return ""
        return (
            f" The clock of this machine is {late.total_seconds():.0f} s behind the newest time that was seen here; "
            "set it right; if it was ahead before, stop `antiphon up` and run `antiphon keys trust-clock`."
        )
