"""Error budgets and burn rates: pure, from counts by period.

An error budget is the share of bad requests that an objective allows over its window; a burn rate of 1 uses it up
exactly at the window's end. An alert needs the same rate over a long window, so that one failure is no alert, and over
a twelfth of it, so that it ends soon after the cause does: multi-window, multi-burn-rate alerts of *The Site
Reliability Workbook* (O'Reilly 2018), chapter 5.

With few requests a rate says little: one failure of three is thirty times the budget of 99 %. So an alert also needs
evidence: were the true share what the alert's rate allows, so many bad ones would come with a probability of at most
:data:`LEAST_LIKELY`, by Chernoff's bound on the binomial tail (*Ann. Math. Statist.* 23, 1952), which holds for every
number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta

import msgspec

from antiphon.catalog.objective_states import AlertSeverity

LEAST_LIKELY = 0.001

SHORT_PART = 12
"""The short window of a rule is so many times shorter than its long one."""


class BurnRule(msgspec.Struct, frozen=True):
    """An alert when a part of the budget is used up within a window."""

    severity: AlertSeverity
    long: timedelta
    budget: float

    def rate(self, window: timedelta) -> float:
        """The burn rate that uses up so much of a budget of this window."""
        return self.budget * (window / self.long)


RULES = (
    BurnRule("critical", timedelta(hours=1), 0.02),
    BurnRule("critical", timedelta(hours=6), 0.05),
    BurnRule("warning", timedelta(days=3), 0.10),
)


class Counts(msgspec.Struct, frozen=True):
    """Bad ones of all. ``independent``: they are requests; otherwise seconds, of which one says what the next will."""

    bad: float = 0.0
    total: float = 0.0
    independent: bool = True

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.bad + other.bad, self.total + other.total, self.independent and other.independent)

    @property
    def share(self) -> float:
        return self.bad / self.total if self.total else 0.0


class BurnAlert(msgspec.Struct, frozen=True):
    """A rule whose conditions hold: the rates over both windows, and the rate that it allows."""

    severity: AlertSeverity
    long_seconds: int
    long_rate: float
    short_rate: float
    limit: float

    @property
    def sentence(self) -> str:
        """For people."""
        hours = self.long_seconds / 3_600
        span = f"{hours:g} h" if hours < 48 else f"{hours / 24:g} d"
        return (
            f"The error budget burns {self.long_rate:.1f} times as fast as it may over {span} (limit {self.limit:.1f})."
        )


class BudgetState(msgspec.Struct, frozen=True):
    """An objective as it stands.

    Attributes:
        attained: share of good ones over the window; ``None`` without any.
        budget_left: of the error budget, 1 when nothing was bad, negative when more was than is allowed.
        burn_hour: burn rate of the last hour.
        alerts: the worst first.
    """

    at: datetime
    total: float
    attained: float | None
    budget_left: float
    burn_hour: float
    alerts: tuple[BurnAlert, ...] = ()

    @property
    def severity(self) -> AlertSeverity | None:
        """Of the worst alert."""
        return self.alerts[0].severity if self.alerts else None


def assess(
    fine: Mapping[datetime, Counts], coarse: Mapping[datetime, Counts], target: float, window: timedelta, now: datetime
) -> BudgetState:
    """The state of an objective.

    Args:
        fine: counts of the last days by the minute, for the rules; ``coarse``: those of the window by the hour.
    """
    budget = 1 - target
    whole = _within(coarse, now - window)
    alerts = [alert for rule in RULES if (alert := _alert(rule, fine, budget, window, now)) is not None]
    return BudgetState(
        now,
        whole.total,
        None if not whole.total else 1 - whole.share,
        1 - whole.share / budget,
        _within(fine, now - timedelta(hours=1)).share / budget,
        tuple(sorted(alerts, key=lambda one: (one.severity != "critical", -one.long_rate / one.limit))),
    )


def _alert(
    rule: BurnRule, fine: Mapping[datetime, Counts], budget: float, window: timedelta, now: datetime
) -> BurnAlert | None:
    limit = rule.rate(window)
    long, short = (_within(fine, now - span) for span in (rule.long, rule.long / SHORT_PART))
    allowed = limit * budget
    # Above one nothing can be: such an objective alerts by its slower rules alone.
    if allowed >= 1 or min(long.share, short.share) <= allowed:
        return None
    if long.independent and not unlikely(long, allowed):
        return None
    seconds = int(rule.long.total_seconds())
    return BurnAlert(rule.severity, seconds, long.share / budget, short.share / budget, limit)


def unlikely(seen: Counts, share: float) -> bool:
    """Tells whether so many bad ones would hardly come if their true share were no more than this one."""
    if seen.share <= share:
        return False
    return math.exp(-seen.total * _divergence(seen.share, share)) <= LEAST_LIKELY


def _divergence(seen: float, true: float) -> float:
    """Kullback and Leibler's, of two shares, in nats."""
    found = 0.0
    if seen > 0:
        found += seen * math.log(seen / true)
    if seen < 1:
        found += (1 - seen) * math.log((1 - seen) / (1 - true))
    return found


def _within(counts: Mapping[datetime, Counts], since: datetime) -> Counts:
    found = Counts()
    for start, one in counts.items():
        if start >= since:
            found += one
    return found
