"""Circuit breaker: stops calls to a dependency that keeps failing, then lets one probe at a time test it.

Invariants:
- While the breaker is open no caller waits for the dependency, and the error says when it is probed next.
- At most one probe is under way at a time. Unless the policy says otherwise, calls that began before the breaker opened
  neither open nor close it.

States and transitions as in Nygard, "Release It!" (2nd edition, 2018), 5.2. Two rules open it: a share of failures
within a window of time, or failures in a row (:func:`consecutive_failures`). The wait before a probe doubles with each
probe that fails, up to a maximum, with jitter so that many processes do not probe at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from antiphon.core.errors import UnavailableError

CircuitState = Literal["closed", "open", "half-open"]


class BreakerPolicy(msgspec.Struct, frozen=True):
    """Rules that open a circuit breaker and schedule its probes.

    Attributes:
        window: seconds for which an outcome counts.
        least: fewer outcomes than this never open the breaker.
        share: share of failures among them from which the breaker opens.
        first_wait: seconds until the first probe; the wait doubles up to ``longest_wait``.
        jitter: greatest random change of a wait, as a share of it.
        success_resets: a success discards the outcomes before it, so that only failures in a row open the breaker.
        late_outcomes: calls that began before the breaker opened count as well: a success closes it, a failure starts
            the wait anew.
    """

    window: float = 30.0
    least: int = 3
    share: float = 0.5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    jitter: float = 0.2
    success_resets: bool = False
    late_outcomes: bool = False


def consecutive_failures(failures: int, wait: float) -> BreakerPolicy:
    """Policy of a breaker that opens after so many failures in a row and probes every ``wait`` seconds."""
    return BreakerPolicy(
        window=float("inf"), least=failures, share=1.0, first_wait=wait, longest_wait=wait, jitter=0.0,
        success_resets=True, late_outcomes=True,
    )  # fmt: skip


class CallPermit(msgspec.Struct, frozen=True):
    """Permission for one call: the breaker's period in which it began, and whether it is a probe."""

    period: int
    probe: bool


class BreakerStatus(msgspec.Struct, frozen=True, rename={"name": "engine", "calls": "asked"}):
    """State and counts of a circuit breaker.

    Attributes:
        calls, failed: calls since the process started whose end said something about the dependency, and those of them
            that failed. ``opened``: how often the breaker opened.
        next_probe_seconds: seconds until the next probe; ``None`` while closed.
    """

    name: str
    state: CircuitState
    calls: int
    failed: int
    opened: int
    next_probe_seconds: float | None


class CircuitBreaker:
    """Circuit breaker of one dependency, which ``name`` says in errors and status. Safe to share between threads.

    ``monotonic`` gives seconds, ``chance`` a uniform number in [0, 1)."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        monotonic: Callable[[], float],
        chance: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self._name = name
        self._policy = policy
        self._monotonic = monotonic
        self._chance = chance
        self._lock = threading.Lock()
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._failures = 0
        """Failures among the outcomes."""
        self._period = 0
        self._opened_until: float | None = None
        self._waits = 0
        self._probing = False
        self._calls = self._failed = self._opened = 0

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Guard one call. An ``UnavailableError`` that leaves the block counts as a failure, any other error does not:
        the dependency answered.

        Raises:
            UnavailableError: the breaker is open.
        """
        permit = self.enter()
        if permit is None:
            raise UnavailableError(
                f"{self._name} failed repeatedly and is not called for {self.wait:.1f} s more.",
                where=self._name,
                next_step="See that the server runs and is reached from here.",
            )
        failed = False
        try:
            yield
        except UnavailableError:
            failed = True
            raise
        finally:
            self.record(permit, failed=failed)

    def enter(self) -> CallPermit | None:
        """Permit one call, or return ``None`` while the breaker is open."""
        with self._lock:
            if self._opened_until is None:
                return CallPermit(self._period, probe=False)
            if self._probing or self._monotonic() < self._opened_until:
                return None
            self._probing = True
            return CallPermit(self._period, probe=True)

    def record(self, permit: CallPermit, *, failed: bool | None, counted: bool = True) -> None:
        """Record how a call ended; ``None`` when its end says nothing about the dependency, as when its caller left. A
        probe that is no caller's is not ``counted`` among the calls."""
        with self._lock:
            if failed is not None and counted:
                self._calls += 1
                self._failed += failed
            current = permit.period == self._period
            if current and permit.probe:
                self._probing = False
            if failed is None or not (current or self._policy.late_outcomes):
                return
            if self._opened_until is None:
                self._count(failed)
            elif not failed:
                self._close()
            elif current:
                self._open()
            else:
                self._opened_until = self._monotonic() + self._policy.first_wait

    @property
    def is_closed(self) -> bool:
        """True while every call is permitted."""
        return self._opened_until is None

    @property
    def wait(self) -> float:
        """Seconds until the next call is permitted; 0 while closed."""
        until = self._opened_until
        return 0.0 if until is None else max(0.0, until - self._monotonic())

    @property
    def status(self) -> BreakerStatus:
        """The present state and the counts."""
        with self._lock:
            state: CircuitState = "closed" if self._opened_until is None else "half-open" if self._probing else "open"
            return BreakerStatus(
                self._name, state, self._calls, self._failed, self._opened, None if state == "closed" else self.wait
            )

    def _count(self, failed: bool) -> None:
        if not failed and self._policy.success_resets:
            self._outcomes.clear()
            self._failures = 0
            return
        now = self._monotonic()
        self._outcomes.append((now, failed))
        self._failures += failed
        while self._outcomes[0][0] < now - self._policy.window:
            self._failures -= self._outcomes.popleft()[1]
        if len(self._outcomes) >= self._policy.least and self._failures >= self._policy.share * len(self._outcomes):
            self._open()

    def _open(self) -> None:
        policy = self._policy
        wait = min(policy.first_wait * 2.0**self._waits, policy.longest_wait)
        # The exponent stops growing once the longest wait is reached, so it cannot overflow.
        self._waits += wait < policy.longest_wait
        self._opened_until = self._monotonic() + wait * (1.0 + policy.jitter * (2.0 * self._chance() - 1.0))
        self._opened += 1
        self._start_period()

    def _close(self) -> None:
        self._opened_until = None
        self._waits = 0
        self._start_period()

    def _start_period(self) -> None:
        self._period += 1
        self._probing = False
        self._outcomes.clear()
        self._failures = 0
