"""Triggers: conditions for which work is due, by the clock or by what has arrived since the work was last done.

They say when and decide nothing: whether one holds is found out by the conductor, from the state of the project.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from datetime import timedelta
from math import inf
from typing import Any, TypeAlias

from antiphon.core.clock import parse_duration
from antiphon.definitions.conditions import Condition, Sign, register_compound
from antiphon.definitions.cron import CronTime
from antiphon.definitions.feature import duration_mistakes

SHORTEST_INTERVAL = timedelta(minutes=1)
SHORTEST_OUTLOOK, LONGEST_OUTLOOK = timedelta(minutes=15), timedelta(days=1)


MOST_REQUESTS = 1_000_000
"""Requests that a condition counts, at most."""


class Interval(Condition, frozen=True, tag="every"):
    """A time since the work was last done.

    Attributes:
        every: a duration of a minute or more, such as ``24h``.
    """

    every: str


class NewOutcomes(Condition, frozen=True, tag="outcomes"):
    """Outcomes of the application that arrived since the work was last done.

    Attributes:
        count: as many of them, or more.
    """

    count: int


class NewRequests(Condition, frozen=True, tag="requests"):
    """Requests of users to the application that came since the work was last done.

    Attributes:
        count: as many of them, or more.
        misses: only those that no stored answer served.
    """

    count: int
    misses: bool = False


class ExpectedRequests(Condition, frozen=True, tag="expected"):
    """Requests that the forecast expects of the application's users, at most once in the time that it looks ahead.

    Attributes:
        count: as many of them, or more.
        within: the time to come in which they are expected, a quarter of an hour to a day.
    """

    count: int
    within: str


class NewDrift(Condition, frozen=True, tag="drift"):
    """Drift in the application's newest report, of variables that did not drift when the work was last done.

    Attributes:
        variables: the report names one of these; none: any.
    """

    variables: tuple[str, ...] = ()


class NewPublication(Condition, frozen=True, tag="publication"):
    """A snapshot of a view that was published since the work was last done.

    Attributes:
        views: names of views, of which one is enough.
    """

    views: tuple[str, ...]


class ForgettingLimit(Condition, frozen=True, tag="forgetting"):
    """A training from what is new after which the application knew less of what it knew before.

    Attributes:
        bound: more than so much was forgotten, in the unit of the first outcome's metric that decides.
    """

    bound: float


class NewStaleness(Condition, frozen=True, tag="stale"):
    """A part of what the work makes that is stale: never made, or made of other inputs or by another definition."""


class AnyOf(Condition, frozen=True, tag="any"):
    """Several conditions of which one is enough: ``a | b``."""

    triggers: tuple[Trigger, ...]

    def operands(self, sign: Sign) -> tuple[Condition, ...]:
        return self.triggers if sign == "|" else (self,)


class AllOf(Condition, frozen=True, tag="all"):
    """Several conditions that must all hold: ``a & b``. One that came true stays so until the work is done."""

    triggers: tuple[Trigger, ...]

    def operands(self, sign: Sign) -> tuple[Condition, ...]:
        return self.triggers if sign == "&" else (self,)


Trigger: TypeAlias = (
    Interval
    | CronTime
    | NewOutcomes
    | NewRequests
    | ExpectedRequests
    | NewDrift
    | NewPublication
    | ForgettingLimit
    | NewStaleness
    | AnyOf
    | AllOf
)
"""Every condition for which work may be due."""

# Every condition is one of the union, which the file of the operators cannot name.
register_compound("|", AnyOf)  # type: ignore[arg-type]
register_compound("&", AllOf)  # type: ignore[arg-type]


def every(interval: str) -> Interval:
    """Declares work that is due when an interval has passed since it was last done: ``every("24h")``.

    Args:
        interval: a duration of a minute or more.
    """
    return Interval(interval)


def cron(line: str, *, zone: str = "UTC") -> CronTime:
    """Declares work that is due by the calendar: ``cron("0 3 * * *", zone="Europe/Berlin")`` at three every night.

    Args:
        line: minute, hour, day of month, month and day of week, as in a crontab.
        zone: a zone of the IANA database, whose clock it is; also through the changes of that clock.
    """
    return CronTime(line, zone)


def outcomes(count: int) -> NewOutcomes:
    """Declares work that is due when so many outcomes have arrived since it was last done: ``outcomes(500)``."""
    return NewOutcomes(count)


def requests(count: int) -> NewRequests:
    """Declares work that is due when users have asked so many times since it was last done: ``requests(1000)``."""
    return NewRequests(count)


def misses(count: int) -> NewRequests:
    """Declares work that is due when so many requests of users since it was last done were served by no stored answer:
    ``Precompute(…, when=misses(200))``."""
    return NewRequests(count, misses=True)


def expected(count: int, within: str) -> ExpectedRequests:
    """Declares work that is due when the forecast expects so many requests of users in the time to come:
    ``Precompute(…, when=expected(2000, within="2h"))`` makes answers before the morning's rush.

    Args:
        count: requests of the schedule's application; of all where it has none.
        within: a quarter of an hour to a day. Once done, the work is due again after so long at the earliest.
    """
    return ExpectedRequests(count, within)


def drift(*variables: str) -> NewDrift:
    """Declares work that is due when the report of drift newly names one of the variables: ``drift("delay")``.

    Args:
        *variables: as ``antiphon outcomes drift`` names them; none: any.
    """
    return NewDrift(variables)


def published(*views: object) -> NewPublication:
    """Declares work that is due when a snapshot of one of the views was published: ``published(Tickets)``.

    Args:
        *views: feature views or documents of the project, or their names.
    """
    names: list[Any] = [getattr(view, "name", view) for view in views]
    return NewPublication(tuple(names))


def forgetting(bound: float) -> ForgettingLimit:
    """Declares work that is due when the last training from what is new forgot more than a bound:
    ``Retrain(…, full_when=forgetting(0.02) | every("30d"))``.

    Args:
        bound: in the unit of the first outcome's metric that decides: of a label the Brier score, of a number the mean
            absolute error, of a text chrF, of a corrected output F1 of fields.
    """
    return ForgettingLimit(bound)


def stale() -> NewStaleness:
    """Declares work that is due while a part of what it makes is stale and its inputs are there: ``when=stale()``. One
    run makes one part."""
    return NewStaleness()


def needs(trigger: Condition | None, kind: type[Condition]) -> bool:
    """Tells whether a condition holds only where one of a kind does."""
    if isinstance(trigger, AnyOf):
        return all(needs(one, kind) for one in trigger.triggers)
    if isinstance(trigger, AllOf):
        return any(needs(one, kind) for one in trigger.triggers)
    return isinstance(trigger, kind)


def is_timed(trigger: Condition) -> bool:
    """Tells whether time alone makes a condition hold."""
    if isinstance(trigger, AnyOf | AllOf):
        return all(map(is_timed, trigger.triggers))
    return isinstance(trigger, Interval | CronTime)


def simple_triggers(trigger: Condition) -> Iterator[Condition]:
    """The single conditions of a trigger, from the left."""
    if isinstance(trigger, AnyOf | AllOf):
        for one in trigger.triggers:
            yield from simple_triggers(one)
    else:
        yield trigger


def describe(trigger: Trigger) -> str:
    """A condition in plain English: ``500 new outcomes or every 24h``."""
    match trigger:
        case AnyOf(triggers=several):
            return " or ".join(map(_as_operand, several))
        case AllOf(triggers=several):
            return " and ".join(map(_as_operand, several))
        case Interval(every=interval):
            return f"every {interval}"
        case CronTime():
            return trigger.describe()
        case NewOutcomes(count=count):
            return f"{count} new outcome{'s' * (count != 1)}"
        case NewRequests(count=count, misses=misses):
            stored = " without a stored answer" if misses else ""
            return f"{count} new request{'s' * (count != 1)}{stored}"
        case ExpectedRequests(count=count, within=within):
            return f"{count} request{'s' * (count != 1)} expected within {within}"
        case NewDrift(variables=names):
            return f"drift of {_one_of(names)}" if names else "drift"
        case NewPublication(views=names):
            return f"a publication of {_one_of(names)}"
        case ForgettingLimit(bound=bound):
            return f"more than {bound:g} forgotten"
        case NewStaleness():
            return "what it makes is stale"


def _as_operand(trigger: Trigger) -> str:
    text = describe(trigger)
    return f"({text})" if isinstance(trigger, AnyOf | AllOf) or "," in text else text


def _one_of(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"one of {', '.join(names)}"


def trigger_mistakes(trigger: object, label: str, views: Set[str]) -> Iterator[str]:
    """Yields the mistakes of a condition, a sentence each.

    Args:
        label: the parameter that it was given for.
        views: names of the project's feature views and documents.
    """
    match trigger:
        case AnyOf() | AllOf():
            yield from _compound_mistakes(trigger, label, views)
        case CronTime():
            yield from (f"{label}: {text}" for text in trigger.mistakes())
        case Interval(every=interval):
            wrong = list(duration_mistakes(interval, f"{label}: every"))
            yield from wrong
            if not wrong and parse_duration(interval) < SHORTEST_INTERVAL:
                yield f"{label}: every {interval} is too often; write a minute or more, such as '15m'."
        case NewOutcomes(count=count):
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                yield f"{label}: outcomes({count!r}) is no number of outcomes; write one from 1."
        case NewRequests(count=count, misses=misses):
            yield from _count_mistakes(count, label, "misses" if misses else "requests")
        case ExpectedRequests(count=count, within=within):
            yield from _count_mistakes(count, label, "expected")
            wrong = list(duration_mistakes(within, f"{label}: within"))
            yield from wrong
            if not wrong and not SHORTEST_OUTLOOK <= parse_duration(within) <= LONGEST_OUTLOOK:
                yield f"{label}: within {within} is not from 15m to 24h; the forecast is by quarters of an hour."
        case NewDrift(variables=names):
            if not all(isinstance(name, str) and name for name in names):
                yield f"{label}: drift takes names of variables, such as drift('delay'), and without one means any."
        case NewPublication(views=names):
            if not names:
                yield f"{label}: published() names no view; name those whose snapshots are waited for."
            for name in names:
                if not isinstance(name, str) or name not in views:
                    there = ", ".join(sorted(views)) or "none"
                    yield f"{label}: the project publishes no view {name!r}; there are {there}."
        case ForgettingLimit(bound=bound):
            if not isinstance(bound, int | float) or isinstance(bound, bool) or not 0 < bound < inf:
                yield f"{label}: forgetting({bound!r}) is no bound; write a number above 0, such as 0.02."
        case NewStaleness():
            return
        case _:
            yield (
                f"{label} must be a condition, such as every('24h'), cron('0 3 * * *') or outcomes(500), "
                f"not {trigger!r}."
            )


def _count_mistakes(count: object, label: str, called: str) -> Iterator[str]:
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_REQUESTS:
        yield f"{label}: {called}({count!r}) is no number of requests; write one from 1 to {MOST_REQUESTS:,}."


def _compound_mistakes(trigger: AnyOf | AllOf, label: str, views: Set[str]) -> Iterator[str]:
    if not trigger.triggers:
        yield f"{label}: {type(trigger).__name__} holds no condition; name those that it joins."
    for one in trigger.triggers:
        yield from trigger_mistakes(one, label, views)
    if isinstance(trigger, AllOf) and trigger.triggers and is_timed(trigger):
        yield (
            f"{label}: times joined by & are rarely true together; join them by |, or one of them with what must have "
            "arrived, such as every('24h') & outcomes(500)."
        )
