"""Service levels of online requests, and the due times of tokens that follow from them."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

import msgspec

HOPELESS_SLOWDOWN = 0.25
"""Slowdown that batch work may cause to a request that would miss its level without any batch work."""


class Factors(NamedTuple):
    """Multipliers of allowances, at most 1: of those in seconds, and of the slowdown."""

    seconds: float = 1.0
    slowdown: float = 1.0


UNTIGHTENED = Factors()


class ServiceLevel(msgspec.Struct, frozen=True, array_like=True):
    """Bounds that batch work must leave a request. Both kinds of bound may be set; the earlier due time counts.

    Attributes:
        ttft: seconds from arrival to the first token.
        tpot: seconds a token after the first one, on average over the tokens so far.
        latency: seconds from arrival to the last token.
        slowdown: share by which it may take longer than in an engine without batch work, at every token: 0.1 is a
        tenth.
    """

    ttft: float | None = None
    tpot: float | None = None
    latency: float | None = None
    slowdown: float | None = None

    def due(
        self, arrived: float, first_token: float | None, emitted: int, alone: float, factors: Factors = UNTIGHTENED
    ) -> float:
        """The moment at which the next token is due.

        Args:
            arrived: arrival of the request; like all instants here, seconds of one monotonic clock.
            first_token: the moment at which its first token was out.
            emitted: tokens that are out.
            alone: the moment at which the next token would be out without batch work.
            factors: tighten the allowances.
        """
        bounds = [inf]
        if first_token is None:
            if self.ttft is not None:
                bounds.append(_due(arrived, self.ttft, alone, factors.seconds))
        elif self.tpot is not None:
            bounds.append(_due(first_token, emitted * self.tpot, alone, factors.seconds))
        if self.latency is not None:
            bounds.append(_due(arrived, self.latency, alone, factors.seconds))
        if self.slowdown is not None:
            bounds.append(alone + factors.slowdown * self.slowdown * (alone - arrived))
        return min(bounds)

    def met_seconds(self, arrived: float, first_token: float, ended: float, tokens: int) -> bool:
        """True if a request that has ended was served within the bounds in seconds."""
        if self.ttft is not None and first_token - arrived > self.ttft:
            return False
        if self.tpot is not None and tokens > 1 and (ended - first_token) / (tokens - 1) > self.tpot:
            return False
        return self.latency is None or ended - arrived <= self.latency

    def met_slowdown(self, arrived: float, ended: float, alone: float) -> bool:
        """True if a request that has ended was slowed down by no more than its bound; ``alone`` is the moment at which
        its last token would have been out without batch work."""
        return self.slowdown is None or ended - arrived <= (1.0 + self.slowdown) * (alone - arrived)

    @property
    def in_seconds(self) -> bool:
        """True if any bound is in seconds."""
        return self.ttft is not None or self.tpot is not None or self.latency is not None

    def allowance(self, alone: float, factors: Factors = UNTIGHTENED) -> float:
        """Seconds by which a request that takes ``alone`` seconds without batch work may be delayed at its arrival."""
        bounds = [inf if self.ttft is None else factors.seconds * self.ttft / 4]
        bounds.append(inf if self.slowdown is None else 2 * factors.slowdown * self.slowdown * alone)
        return min(bounds)


DEFAULT_LEVEL = ServiceLevel(slowdown=0.25)
"""Level of a request that names none."""


def _due(begin: float, seconds: float, alone: float, factor: float) -> float:
    """``seconds`` after the beginning, or sooner. A bound that is missed even without batch work must neither stop
    batch for good nor be ignored: the request may be slowed down a little."""
    if alone > begin + seconds:
        return alone + HOPELESS_SLOWDOWN * (alone - begin)
    return max(begin + factor * seconds, alone)
