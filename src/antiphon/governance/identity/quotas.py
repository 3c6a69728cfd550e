"""Quotas of API keys, shared by every gateway over one catalog.

A gateway draws from the catalog a *share*: what a request needs and, with it, up to a :data:`SHARES`-th of the quota,
which it then uses without asking. The rest of a share is given back with the next draw after :data:`SHARE_SECONDS`, but
for the part that has run down meanwhile.
Tokens are reserved when a request is let in and settled when it has ended.

Invariants:
- Nothing is used that was not drawn before, so gateways together let in what one would. What they may differ by is the
  shares that they hold: at most a :data:`SHARES`-th of the quota a gateway, kept from the others while it is unused.
- A reservation may be too small by the prompt's tokens that nobody had counted yet. The difference is owed: nothing
  else is let in before it has run down.
- Usage is in the catalog before it is used: a restart or a crash gives nobody a fresh quota.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from math import ceil, inf

import msgspec

from antiphon.catalog.serving.quotas import Draw, QuotaLevels
from antiphon.core.clock import Clock, microseconds
from antiphon.core.errors import RateLimitError
from antiphon.core.token_bucket import MICROSECONDS, Level, Meter
from antiphon.governance.identity.principal import REQUESTS, Principal

SHARES = 64
SHARE_SECONDS = 2.0
_MOST_ACCOUNTS = 10_000


class QuotaStatus(msgspec.Struct, frozen=True):
    """Remainder of a quota, and seconds until it is whole again."""

    meter: Meter
    remaining: int
    reset: float


class Grant:
    """A request that was let in."""

    def __init__(self, account: _Account | None, tokens: float) -> None:
        self._account = account
        self._tokens = tokens
        self._drawn_at = account.drawn_at if account is not None else 0

    def settle(self, tokens: int) -> None:
        """Count what was really used instead of what was reserved; the second time changes nothing."""
        if self._account is not None:
            self._account.settle(self._tokens - tokens, self._drawn_at)
            self._account = None


class Quotas:
    """Lets requests in. Safe to share between threads."""

    def __init__(self, levels: QuotaLevels, clock: Clock) -> None:
        self._levels = levels
        self._clock = clock
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._lock = threading.Lock()
        self.used = levels.used

    def at_once(self, principal: Principal, tokens: int) -> Grant | None:
        """Let a request in that needs at most so many tokens, if that can be said without the catalog.

        Raises:
            RateLimitError: a quota is used up, and was so when the catalog was asked last.
        """
        account = self._account(principal)
        if account is None:
            return Grant(None, 0)
        return account.from_share(tokens, microseconds(self._clock.now()))

    def grant(self, principal: Principal, tokens: int) -> Grant:
        """Let a request in; it may wait for the catalog.

        Raises:
            RateLimitError: a quota is used up; ``retry_after`` says until when.
            UnavailableError: the catalog is away.
        """
        account = self._account(principal)
        if account is None:
            return Grant(None, 0)
        with account.drawing:
            known = account.from_share(tokens, microseconds(self._clock.now()))
            return known if known is not None else account.draw(self._levels, tokens)

    def statuses(self, principal: Principal) -> tuple[QuotaStatus, ...]:
        """Status of each quota as far as this gateway knows; empty without quotas."""
        account = self._account(principal)
        return () if account is None else account.statuses(microseconds(self._clock.now()))

    def close(self) -> None:
        """Give back what is held and not used."""
        with self._lock:
            accounts, self._accounts = list(self._accounts.values()), {}
        for account in accounts:
            with account.drawing:
                account.give_back(self._levels)

    def _account(self, principal: Principal) -> _Account | None:
        allowance = principal.allowance
        meters = allowance.meters
        if not meters:
            return None
        key = principal.tenant, allowance.bucket or principal.credential
        found = self._accounts.get(key)
        if found is not None and found.meters == meters:
            return found
        with self._lock:
            found = self._accounts.get(key)
            if found is None or found.meters != meters:
                if len(self._accounts) >= _MOST_ACCOUNTS:
                    # What it holds counts as used: it runs down by itself.
                    self._accounts.pop(next(iter(self._accounts)))
                found = self._accounts[key] = _Account(*key, meters)
            return found


class _Account:
    """One key's shares in this process."""

    def __init__(self, tenant: str, bucket: str, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.drawing = threading.Lock()
        self.drawn_at = 0
        self._tenant, self._bucket = tenant, bucket
        self._lock = threading.Lock()
        self._shares = {meter.name: 0.0 for meter in meters}
        self._levels: Mapping[str, Level] = {}
        self._refused: tuple[int, int, str] | None = None

    def from_share(self, tokens: int, now: int) -> Grant | None:
        with self._lock:
            if self._refused is not None:
                least, until, meter = self._refused
                if tokens >= least and now < until:
                    raise self._refusal(meter, tokens, (until - now) / MICROSECONDS)
            if now - self.drawn_at > SHARE_SECONDS * MICROSECONDS:
                return None
            needs = {meter.name: _need(meter, tokens) for meter in self.meters}
            if any(self._shares[name] < need for name, need in needs.items()):
                return None
            for name, need in needs.items():
                self._shares[name] -= need
            return Grant(self, tokens)

    def draw(self, levels: QuotaLevels, tokens: int) -> Grant:
        refused = self._exchange(levels, tokens)
        if refused is not None:
            raise self._refusal(refused[0], tokens, refused[1])
        return Grant(self, tokens)

    def give_back(self, levels: QuotaLevels) -> None:
        if self._levels:
            self._exchange(levels, None)

    def settle(self, tokens: float, drawn_at: int) -> None:
        with self._lock:
            for meter in self.meters:
                level = self._levels.get(meter.name)
                if meter.name == REQUESTS or (tokens > 0 and level is not None and level.emptied_at > drawn_at):
                    continue  # what has run down meanwhile is not there to be given back
                self._shares[meter.name] += tokens
            if tokens > 0:
                self._refused = None

    def statuses(self, now: int) -> tuple[QuotaStatus, ...]:
        with self._lock:
            found = []
            for meter in self.meters:
                level = self._levels.get(meter.name)
                used = max(0.0, meter.drained(level, now).used - self._shares[meter.name]) if level is not None else 0.0
                remaining = max(0, int(meter.capacity - used + 1e-6))
                found.append(QuotaStatus(meter, remaining, meter.reset(used, now)))
            return tuple(found)

    def _exchange(self, levels: QuotaLevels, tokens: int | None) -> tuple[str, float] | None:
        """Give the shares back, and take new ones for a request; returns the meter that refused and for how long."""
        with self._lock:
            returned, self._shares = self._shares, dict.fromkeys(self._shares, 0.0)
        takes = []
        for meter in self.meters:
            need = 0.0 if tokens is None else _need(meter, tokens)
            share = 0.0 if tokens is None else max(need, meter.capacity / SHARES)
            if meter.name == REQUESTS:
                share = max(need, float(int(share)))
            takes.append(Draw(meter, need, share, returned[meter.name], self._levels.get(meter.name)))
        try:
            drawn = levels.draw(self._tenant, self._bucket, takes)
        except BaseException:
            with self._lock:
                for name, share in returned.items():
                    self._shares[name] += share
            raise
        with self._lock:
            self._levels, self.drawn_at = drawn.levels, drawn.at
            self._refused = None
            if drawn.refused is not None:
                if tokens is not None and drawn.wait != inf:
                    self._refused = (tokens, drawn.at + ceil(drawn.wait * MICROSECONDS), drawn.refused)
                return drawn.refused, drawn.wait
            for each in takes:
                self._shares[each.meter.name] += drawn.taken[each.meter.name] - each.need
        return None

    def _refusal(self, name: str, tokens: int, wait: float) -> RateLimitError:
        meter = next(meter for meter in self.meters if meter.name == name)
        what, of = ("requests", 1) if name == REQUESTS else ("tokens", tokens)
        per = "day" if meter.calendar else "minute"
        if wait == inf:
            return RateLimitError(
                f"The request may take {of} {what}; the key has {meter.capacity} per {per}.",
                retry_after=wait,
                where=name,
                next_step="Ask for fewer tokens (`max_completion_tokens`), or use a key with a larger quota.",
            )
        return RateLimitError(
            f"The key's {meter.capacity} {what} per {per} are used up: this request needs {of}.",
            retry_after=wait,
            where=name,
            next_step=f"Try again in {wait:.3g} s, or ask an administrator for a larger quota.",
        )


def _need(meter: Meter, tokens: int) -> float:
    return 1.0 if meter.name == REQUESTS else float(tokens)
