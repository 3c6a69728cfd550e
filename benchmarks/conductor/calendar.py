"""Simulated weeks of schedules: the real ``decide`` over a clock of its own, beside cron and one who knows everything.

Durations, traffic and the moments at which outcomes are enough come from generators that know nothing of the conductor.
Traffic varies as much from quarter to quarter as the Azure trace of conversations does from minute to minute
(``benchmarks/colocation/AZURE_2023.md``). A run takes as long as was drawn, whoever began it, and stands still while a
blackout holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from math import exp, pi, sin

import msgspec
import numpy as np

from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.definitions.cron import CronTime
from antiphon.definitions.schedules import EvaluateWork, PrecomputeWork, ScheduleSpec
from antiphon.definitions.triggers import NewOutcomes
from antiphon.definitions.windows import WindowSpec
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.durations import RunDurations, durations_of
from antiphon.orchestration.conductor.forecast import QUARTER, LoadForecast, learn, moment_of, quarter_of
from antiphon.orchestration.conductor.state import Observation, PlannedRun, ScheduleState

START = datetime(2026, 3, 2, tzinfo=UTC)
DAY, LOOK = timedelta(days=1), timedelta(minutes=5)
HISTORY_WEEKS = 3


# --------------------------------------------------------------------- deadlines


class Briefing(msgspec.Struct, frozen=True):
    """A job with a deadline each day: the middle of its durations in minutes, and how they vary (of the logarithm)."""

    name: str
    ready_by: CronTime
    minutes: float
    spread: float
    blackout: WindowSpec | None = None


BRIEFINGS = (
    Briefing("steady", CronTime("0 6 * * *", "Europe/Berlin"), 40, 0.1),
    Briefing("varying", CronTime("30 7 * * MON-FRI", "America/New_York"), 90, 0.3),
    Briefing(
        "interrupted", CronTime("0 9 * * *", "Asia/Tokyo"), 60, 0.2,
        WindowSpec("backup", CronTime("0 7 * * *", "Asia/Tokyo"), 5_400.0, "blackout", ("batch",)),
    ),
    Briefing("impossible", CronTime("0 4 * * *"), 300, 0.1, WindowSpec("night", CronTime("30 4 * * *"), 77_400.0)),
)  # fmt: skip
"""The last one has two hours a day for five hours of work: no policy meets it, and it must be named beforehand."""


class DeadlineFigures(msgspec.Struct, frozen=True):
    """Deadlines of a briefing under a policy.

    Attributes:
        missed: those that were not met though one who knew how long the run takes could have met it; of ``feasible``.
        warned: runs that were begun as late, of those that ended late.
        early_minutes: between the end of a run and its deadline, in the middle: answers are as old as that.
    """

    deadlines: int
    feasible: int
    missed: int
    late: int
    warned: int
    early_minutes: float


def conduct_deadlines(briefing: Briefing, days: int, seed: int) -> DeadlineFigures:
    """The conductor's own decisions, with what it learns from the runs before."""
    spec = ScheduleSpec(
        briefing.name, "desk", PrecomputeWork("rows.csv"), ready_by=briefing.ready_by, lead=7_200.0,
        settle=60.0, catch_up=6 * 3_600.0,
    )  # fmt: skip
    random, took = np.random.default_rng(seed), list[float]()
    record = ScheduleRecord(briefing.name, 0, START, START)
    served: datetime | None = None
    ended_at: datetime | None = None
    found: list[tuple[datetime, datetime, float, bool]] = []
    now = START
    while now < START + days * DAY:
        holds = tuple(_holds(briefing, now))
        runtime = durations_of(took[-50:])
        state = ScheduleState(spec, record, ended_at=ended_at, served=served, runtime=runtime, holds=holds)
        decision = decide([state], now)
        if not decision.orders:
            now = max(now + LOOK, min(decision.next_look or now + LOOK, now + DAY))
            continue
        planned, minutes = decision.orders[0], _drawn(briefing, random)
        assert planned.deadline is not None
        ended_at = _end_of(now, timedelta(minutes=minutes), briefing)
        took.append((ended_at - now).total_seconds() if briefing.blackout is None else 60 * minutes)
        found.append((planned.deadline, ended_at, minutes, planned.late))
        served = planned.deadline
        record = msgspec.structs.replace(record, sequence=record.sequence + 1, since=now, run="run")
        now = max(ended_at, now + LOOK)
    return _figures(briefing, found)


def cron_deadlines(briefing: Briefing, days: int, seed: int, begins: Callable[[datetime], datetime]) -> DeadlineFigures:
    """A clock's: each run begins when ``begins`` says of its deadline, whatever is known."""
    random = np.random.default_rng(seed)
    found: list[tuple[datetime, datetime, float, bool]] = []
    deadline = briefing.ready_by.after(START + DAY)
    while deadline is not None and deadline < START + days * DAY:
        minutes = _drawn(briefing, random)
        ended = _end_of(begins(deadline), timedelta(minutes=minutes), briefing)
        found.append((deadline, ended, minutes, False))
        deadline = briefing.ready_by.after(deadline)
    return _figures(briefing, found)


def _figures(briefing: Briefing, found: Sequence[tuple[datetime, datetime, float, bool]]) -> DeadlineFigures:
    feasible = missed = late = warned = 0
    early: list[float] = []
    for deadline, ended, minutes, said in found[1:]:  # Of the first nothing was known.
        before = briefing.ready_by.before(deadline - timedelta(seconds=1)) or deadline - DAY
        can = _end_of(before, timedelta(minutes=minutes), briefing) <= deadline
        feasible += can
        missed += can and ended > deadline
        late += ended > deadline
        warned += ended > deadline and said
        early.append((deadline - ended).total_seconds() / 60)
    return DeadlineFigures(
        len(found) - 1, feasible, missed, late, warned, round(float(np.median(early)), 1) if early else 0.0
    )


def _drawn(briefing: Briefing, random: np.random.Generator) -> float:
    return briefing.minutes * float(np.exp(random.normal(0.0, briefing.spread)))


def _holds(briefing: Briefing, now: datetime) -> Iterator[RunHold]:
    moment = now
    while briefing.blackout is not None and (found := briefing.blackout.occurrence(moment)) is not None:
        if found[0] > now + 3 * DAY:
            return
        yield RunHold(f"h{found[0]}", "window", "w", ("table_job",), found[0], found[1], "blackout", "ada")
        moment = found[1]


def _end_of(begin: datetime, work: timedelta, briefing: Briefing) -> datetime:
    """The end of a run that begins then and stands still in blackouts."""
    at, left = begin, work
    while briefing.blackout is not None and (found := briefing.blackout.occurrence(at)) is not None:
        if found[0] <= at:
            at = found[1]
            continue
        if at + left <= found[0]:
            break
        left -= found[0] - at
        at = found[1]
    return at + left


# --------------------------------------------------------------------- quiet times


class Users(msgspec.Struct, frozen=True):
    """Users of an application: the hour of their peak (UTC), how sharp it is, and their weekends."""

    name: str
    peak: float
    sharpness: float
    weekend: float

    def usual(self, at: datetime) -> float:
        """Requests of a quarter of an hour, on average."""
        hour = at.hour + at.minute / 60
        shape = exp(self.sharpness * (sin((hour - self.peak) * pi / 12 + pi / 2) - 1))
        return (2.0 + 120.0 * shape) * (self.weekend if at.weekday() >= 5 else 1.0)


USERS = (
    Users("office", 13.0, 2.0, 0.15),
    Users("night", 2.5, 2.0, 1.0),
    Users("weekend", 19.0, 1.5, 3.0),
)


class QuietFigures(msgspec.Struct, frozen=True):
    """Requests that came while an hour of work ran, of an average hour's, by policy; and the forecast's own errors."""

    at_once: float
    night: float
    hourly: float
    conductor: float
    oracle: float
    covered: float
    error: float
    naive_error: float


def quiet_times(users: Users, weeks: int, seed: int, dispersion: float) -> QuietFigures:
    """Places an hour of work that is due at a random moment and may wait a day, once a day."""
    random = np.random.default_rng(seed)
    end = START + (HISTORY_WEEKS + weeks) * 7 * DAY + 2 * DAY
    counts = traffic(users, end, random, dispersion)
    spec = ScheduleSpec("retrain", "desk", EvaluateWork(), NewOutcomes(1), within=86_400.0, catch_up=86_400.0)
    hour = timedelta(hours=1)
    sums: dict[str, list[float]] = {name: [] for name in ("at_once", "night", "hourly", "conductor", "oracle")}
    covered, errors, naive = [], [], []

    def during(begin: datetime) -> float:
        return float(sum(counts[moment_of(quarter_of(begin) + n)] for n in range(4)))

    for day in range(7 * weeks):
        due = START + HISTORY_WEEKS * 7 * DAY + day * DAY + timedelta(minutes=float(random.uniform(0, 1_440)))
        latest = due + DAY - hour
        starts = [moment_of(one) for one in range(quarter_of(due) + 1, quarter_of(latest) + 1)]
        three = due.replace(hour=3, minute=0, second=0, microsecond=0)
        sums["at_once"].append(during(due))
        sums["night"].append(during(three if three > due else three + DAY))
        sums["hourly"].append(during((due + hour).replace(minute=0, second=0, microsecond=0)))
        sums["oracle"].append(min(map(during, [due, *starts])))
        sums["conductor"].append(during(_begun(spec, counts, due)))
        forecast = learned(counts, due)
        for at in starts[::4]:
            estimate, count = forecast.at(at), counts[at]
            covered.append(estimate.low <= count <= estimate.high)
            errors.append(abs(estimate.expected - count))
            naive.append(abs(counts[at - 7 * DAY] - count))
    average = float(np.mean([during(moment_of(one)) for one in range(quarter_of(START), quarter_of(end) - 4)]))
    shares = {name: round(float(np.mean(found)) / average, 3) for name, found in sums.items()}
    return QuietFigures(
        **shares,
        covered=round(float(np.mean(covered)), 3),
        error=round(float(np.mean(errors)), 2),
        naive_error=round(float(np.mean(naive)), 2),
    )


def _begun(spec: ScheduleSpec, counts: dict[datetime, int], due: datetime) -> datetime:
    """The moment at which the conductor begins work that is due then, looking every quarter of an hour."""
    record, now = ScheduleRecord("retrain", 0, due - DAY, due - DAY), due
    while True:
        state = ScheduleState(
            spec, record, observed=Observation(1), runtime=RunDurations(50, 3_300.0, 3_000.0, 3_500.0, 3_600.0),
            forecast=learned(counts, now),
        )  # fmt: skip
        decision = decide([state], now)
        if decision.orders:
            assert isinstance(decision.orders[0], PlannedRun)
            return now
        (outlook,) = decision.outlooks
        if record.due_at is None:
            record = msgspec.structs.replace(record, due_at=now, due_cause=outlook.due)
        now = moment_of(quarter_of(now) + 1)


def learned(counts: dict[datetime, int], now: datetime) -> LoadForecast:
    """The forecast that the counts before a moment give."""
    past = {at: count for at, count in counts.items() if at + QUARTER <= now and at > now - HISTORY_WEEKS * 7 * DAY}
    forecast = learn(past, now)
    assert forecast is not None
    return forecast


def traffic(users: Users, end: datetime, random: np.random.Generator, dispersion: float) -> dict[datetime, int]:
    """Counts whose variance is so many times their mean (negative binomial)."""
    counts = {}
    for quarter in range(quarter_of(START), quarter_of(end)):
        mean = users.usual(moment_of(quarter))
        shape = mean / max(dispersion - 1.0, 1e-6)
        counts[moment_of(quarter)] = int(random.poisson(random.gamma(shape, mean / shape)))
    return counts
