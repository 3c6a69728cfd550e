"""How soon a refusal is answered: a refusal costs processor time that the answers of others need."""

from __future__ import annotations

from collections.abc import Callable

REFUSALS_A_SECOND, REFUSALS_AT_ONCE = 10.0, 20
"""Of one tenant; what comes faster is answered later, by at most :data:`LONGEST_HOLD_SECONDS`."""
LONGEST_HOLD_SECONDS = 2.0
_MOST_TENANTS = 10_000


class RefusalPace:
    """The pace at which each tenant is refused. ``monotonic`` is the clock, in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def hold(self, tenant: str) -> float:
        """Count a refusal of a tenant; the seconds by which it is held back."""
        now = self._monotonic()
        if len(self._until) > _MOST_TENANTS:
            self._until = {each: until for each, until in self._until.items() if until > now}
        until = max(self._until.get(tenant, now), now) + 1 / REFUSALS_A_SECOND
        held = until - now - REFUSALS_AT_ONCE / REFUSALS_A_SECOND
        # What is held back for as long as may be takes no turn: those that come later wait no longer for it.
        if held < LONGEST_HOLD_SECONDS:
            self._until[tenant] = until
        return min(max(held, 0.0), LONGEST_HOLD_SECONDS)
