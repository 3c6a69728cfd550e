"""Quotas of API keys and of tenants, shared by every gateway over one catalog.

A request is let in when the quota of its key and that of its tenant, which all its principals use, have room for it.

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
from collections.abc import Callable, Mapping
from math import ceil, inf

import msgspec

from antiphon.catalog.serving.quotas import Draw, QuotaLevels
from antiphon.core.clock import Clock, microseconds
from antiphon.core.errors import RateLimitError
from antiphon.core.token_bucket import MICROSECONDS, Level, Meter
from antiphon.governance.identity.principal import NO_ALLOWANCE, REQUESTS, Allowance, Principal

TENANT = "*"
"""The bucket of a tenant's own quota: no key has this id."""

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

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._accounts: list[tuple[_Account, int]] = []

    def settle(self, tokens: int) -> None:
        """Count what was really used instead of what was reserved; the second time changes nothing."""
        for account, drawn_at in self._accounts:
            account.settle(self._tokens - tokens, drawn_at)
        self._accounts = []

    def add(self, account: _Account) -> None:
        """It has taken of this account."""
        self._accounts.append((account, account.drawn_at))

    def undo(self) -> None:
        """Give back what it has taken: it was not let in."""
        for account, _ in self._accounts:
            account.undo(self._tokens)
        self._accounts = []


class Quotas:
    """Lets requests in. Safe to share between threads.

    Args:
        tenant: the bounds of a tenant.
    """

    def __init__(
        self, levels: QuotaLevels, clock: Clock, tenant: Callable[[str], Allowance] = lambda tenant: NO_ALLOWANCE
    ) -> None:
        self._levels = levels
        self._clock = clock
        self._tenant = tenant
        self._accounts: dict[tuple[str, str], _Account] = {}
        self._lock = threading.Lock()
        self.used = levels.used

    def at_once(self, principal: Principal, tokens: int) -> Grant | None:
        """Let a request in that needs at most so many tokens, if that can be said without the catalog.

        Raises:
            RateLimitError: a quota is used up, and was so when the catalog was asked last.
        """
        return self._let_in(principal, tokens, lambda account: self._from_share(account, tokens))

    def grant(self, principal: Principal, tokens: int) -> Grant:
        """Let a request in; it may wait for the catalog.

        Raises:
            RateLimitError: a quota is used up; ``retry_after`` says until when.
            UnavailableError: the catalog is away.
        """

        def take(account: _Account) -> bool:
            with account.drawing:
                if not self._from_share(account, tokens):
                    account.draw(self._levels, tokens)
            return True

        granted = self._let_in(principal, tokens, take)
        assert granted is not None
        return granted

    def measures(self, principal: Principal) -> bool:
        """Tell whether any quota is kept of this principal's requests."""
        return bool(self._accounts_of(principal))

    def statuses(self, principal: Principal) -> tuple[QuotaStatus, ...]:
        """Status of each quota as far as this gateway knows, of the key's and the tenant's the one that has less left;
        empty without quotas."""
        now = microseconds(self._clock.now())
        found: dict[str, QuotaStatus] = {}
        for account in self._accounts_of(principal):
            for one in account.statuses(now):
                other = found.get(one.meter.name)
                if other is None or one.remaining < other.remaining:
                    found[one.meter.name] = one
        return tuple(found.values())

    def close(self) -> None:
        """Give back what is held and not used."""
        with self._lock:
            accounts, self._accounts = list(self._accounts.values()), {}
        for account in accounts:
            with account.drawing:
                account.give_back(self._levels)

    def _let_in(self, principal: Principal, tokens: int, take: Callable[[_Account], bool]) -> Grant | None:
        granted = Grant(tokens)
        try:
            for account in self._accounts_of(principal):
                if not take(account):
                    granted.undo()
                    return None
                granted.add(account)
        except BaseException:
            granted.undo()
            raise
        return granted

    def _from_share(self, account: _Account, tokens: int) -> bool:
        return account.from_share(tokens, microseconds(self._clock.now()))

    def _accounts_of(self, principal: Principal) -> list[_Account]:
        own, tenant = principal.allowance, self._tenant(principal.tenant)
        found = []
        if own.meters:
            found.append(self._account((principal.tenant, own.bucket or principal.credential), own.meters))
        if tenant.meters:
            found.append(self._account((principal.tenant, TENANT), tenant.meters))
        return found

    def _account(self, key: tuple[str, str], meters: tuple[Meter, ...]) -> _Account:
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
    """The shares of one key, or of one tenant, in this process."""

    def __init__(self, tenant: str, bucket: str, meters: tuple[Meter, ...]) -> None:
        self.meters = meters
        self.drawing = threading.Lock()
        self.drawn_at = 0
        self._tenant, self._bucket = tenant, bucket
        self._lock = threading.Lock()
        self._shares = {meter.name: 0.0 for meter in meters}
        self._levels: Mapping[str, Level] = {}
        self._refused: tuple[int, int, str] | None = None

    def from_share(self, tokens: int, now: int) -> bool:
        with self._lock:
            if self._refused is not None:
                least, until, meter = self._refused
                if tokens >= least and now < until:
                    raise self._refusal(meter, tokens, (until - now) / MICROSECONDS)
            if now - self.drawn_at > SHARE_SECONDS * MICROSECONDS:
                return False
            needs = {meter.name: _need(meter, tokens) for meter in self.meters}
            if any(self._shares[name] < need for name, need in needs.items()):
                return False
            for name, need in needs.items():
                self._shares[name] -= need
            return True

    def draw(self, levels: QuotaLevels, tokens: int) -> None:
        refused = self._exchange(levels, tokens)
        if refused is not None:
            raise self._refusal(refused[0], tokens, refused[1])

    def undo(self, tokens: int) -> None:
        with self._lock:
            for meter in self.meters:
                self._shares[meter.name] += _need(meter, tokens)

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
        whose = "tenant" if self._bucket == TENANT else "key"
        if wait == inf:
            return RateLimitError(
                f"The request may take {of} {what}; the {whose} has {meter.capacity} per {per}.",
                retry_after=wait,
                where=name,
                next_step="Ask for fewer tokens (`max_completion_tokens`), or an administrator for a larger quota.",
            )
        return RateLimitError(
            f"The {whose}'s {meter.capacity} {what} per {per} are used up: this request needs {of}.",
            retry_after=wait,
            where=name,
            next_step=f"Try again in {wait:.3g} s, or ask an administrator for a larger quota.",
        )


def _need(meter: Meter, tokens: int) -> float:
    return 1.0 if meter.name == REQUESTS else float(tokens)
