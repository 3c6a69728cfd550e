"""Error budgets and burn rates: pure, from counts by period.

An error budget is the share of bad requests that an objective allows over its window; a burn rate of 1 uses it up
exactly at the window's end. An alert needs the same rate over a long window, so that one failure is no alert, and over
a twelfth of it, so that it ends soon after the cause does: multi-window, multi-burn-rate alerts of *The Site
Reliability Workbook* (O'Reilly 2018), chapter 5.

With few requests a rate says little: one failure of three is thirty times the budget of 99 %. So an alert also needs
evidence: were the true share what the alert's rate allows, so many bad ones would come with a probability of at most
:data:`LEAST_LIKELY`, by Chernoff's bound on the binomial tail (*Ann. Math. Statist.* 23, 1952), which holds for every
number of requests. It also holds for the sum of values from 0 to 1 (Hoeffding, *J. Amer. Statist. Assoc.* 58, 1963,
theorem 1), as losses of answers are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from antiphon.catalog.measurements import begin_of
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


Basis = Literal["events", "time", "loss", "bias", "money"]
"""``events``: bad requests of all. ``time``: bad seconds, of which one says what the next will. ``loss``: the sum of
losses from 0 to 1. ``bias``: the sum of signed errors, each from -1 to 1. ``money``: what was spent, in answers that
could have been had for it, by the hour."""

MEANS: tuple[Basis, ...] = ("loss", "bias", "money")
"""A mean that keeps to its bound is no burn, however much of a window's part it uses: their rules begin at 1."""

_HOUR = timedelta(hours=1)


class Counts(msgspec.Struct, frozen=True):
    """Bad ones of all, or a sum and how many values it has."""

    bad: float = 0.0
    total: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.bad + other.bad, self.total + other.total)

    @property
    def mean(self) -> float:
        return self.bad / self.total if self.total else 0.0

    @property
    def share(self) -> float:
        """The distance of the mean from zero."""
        return abs(self.mean)


@dataclass(frozen=True)
class CountHistory:
    """Counts of an objective over time.

    Attributes:
        fine: counts of the last days by the minute (of money by the hour), for the rules; ``coarse``: those of the
            window, by the hour or finer.
        until: the moment up to which anything is known; ``None``: the present one.
    """

    fine: Mapping[datetime, Counts] = field(default_factory=dict)
    coarse: Mapping[datetime, Counts] = field(default_factory=dict)
    basis: Basis = "events"
    until: datetime | None = None


class BurnAlert(msgspec.Struct, frozen=True):
    """A rule whose conditions hold: the rates over both windows, and the rate that it allows; ``until`` is the moment
    up to which outcomes are known, where they come later than answers."""

    severity: AlertSeverity
    long_seconds: int
    long_rate: float
    short_rate: float
    limit: float
    until: datetime | None = None

    @property
    def sentence(self) -> str:
        """For people."""
        hours = self.long_seconds / 3_600
        span = f"{hours:g} h" if hours < 48 else f"{hours / 24:g} d"
        known = "" if self.until is None else f", by outcomes of answers until {self.until:%Y-%m-%d %H:%MZ}"
        return (
            f"The error budget burns {self.long_rate:.1f} times as fast as it may over {span} "
            f"(limit {self.limit:.1f}){known}."
        )


class BudgetState(msgspec.Struct, frozen=True):
    """An objective as it stands.

    Attributes:
        attained: share of good ones over the window, or 1 less the mean; ``None`` without any, and of money.
        mean: of a mean, over the window.
        known_until: the moment up to which outcomes are known, where they come later than answers.
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
    mean: float | None = None
    known_until: datetime | None = None

    @property
    def severity(self) -> AlertSeverity | None:
        """Of the worst alert."""
        return self.alerts[0].severity if self.alerts else None


def assess(history: CountHistory, budget: float, window: timedelta, now: datetime) -> BudgetState:
    """The state of an objective.

    Args:
        budget: the share of bad ones, or the mean, that is allowed.
    """
    end = history.until or now
    whole = _within(history.coarse, now - window)
    alerts = [alert for rule in RULES if (alert := _alert(rule, history, budget, window, end, whole.total)) is not None]
    return BudgetState(
        now,
        whole.total,
        None if not whole.total or history.basis == "money" else 1 - whole.share,
        1 - whole.share / budget,
        _lately(history, _HOUR, end).share / budget,
        tuple(sorted(alerts, key=lambda one: (one.severity != "critical", -one.long_rate / one.limit))),
        whole.mean if whole.total and history.basis in MEANS else None,
        history.until,
    )


def _alert(
    rule: BurnRule, history: CountHistory, budget: float, window: timedelta, end: datetime, counted: float
) -> BurnAlert | None:
    limit = rule.rate(window) if history.basis not in MEANS else max(rule.rate(window), 1.0)
    long, short = (_lately(history, span, end) for span in (rule.long, rule.long / SHORT_PART))
    allowed = limit * budget
    if min(long.share, short.share) <= allowed or not _evident(history.basis, long, allowed, rule.budget * counted):
        return None
    seconds = int(rule.long.total_seconds())
    return BurnAlert(rule.severity, seconds, long.share / budget, short.share / budget, limit, history.until)


def _evident(basis: Basis, seen: Counts, allowed: float, spent: float) -> bool:
    """Tells whether counts above a rate are more than chance. Money that is spent is no sample of anything: of it
    the rule's part of the budget must be gone, by the answers that there were."""
    if basis == "money":
        return seen.bad >= spent
    # Above one nothing can be: such an objective alerts by its slower rules alone.
    if allowed >= 1:
        return False
    return basis == "time" or (unlikely_bias if basis == "bias" else unlikely)(seen, allowed)


def unlikely(seen: Counts, share: float) -> bool:
    """Tells whether so many bad ones would hardly come if their true share were no more than this one."""
    if seen.share <= share:
        return False
    return math.exp(-seen.total * _divergence(seen.share, share)) <= LEAST_LIKELY


def unlikely_bias(seen: Counts, bias: float) -> bool:
    """Tells whether errors this far from zero on average would hardly come if they were no further off than this.

    Each error is what came true, 0 or 1, less a probability: it lies in an interval of length 1, by which Hoeffding's
    inequality (*J. Amer. Statist. Assoc.* 58, 1963, theorem 2) bounds either side.
    """
    excess = seen.share - bias
    return excess > 0 and 2 * math.exp(-2 * seen.total * excess**2) <= LEAST_LIKELY


def _divergence(seen: float, true: float) -> float:
    """Kullback and Leibler's, of two shares, in nats."""
    found = 0.0
    if seen > 0:
        found += seen * math.log(seen / true)
    if seen < 1:
        found += (1 - seen) * math.log((1 - seen) / (1 - true))
    return found


def _lately(history: CountHistory, span: timedelta, end: datetime) -> Counts:
    """The counts of a span; of hours those in which it lies."""
    since = begin_of(end - span, _HOUR) if history.basis == "money" else end - span
    return _within(history.fine, since)


def _within(counts: Mapping[datetime, Counts], since: datetime) -> Counts:
    found = Counts()
    for start, one in counts.items():
        if start >= since:
            found += one
    return found
