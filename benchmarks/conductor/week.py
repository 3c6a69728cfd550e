"""A simulated week of one machine: users, refreshes, a retraining when outcomes are enough, briefings that are to be
ready in the morning, and a backfill without end; the conductor beside what others do.

Two scales. What a second of engine time is worth at a rate of arrivals comes from the engine's own step loop over
windows of the Azure trace (``benchmarks/colocation/simulator.py``, whose error ``make bench-colocation`` tells), for
each way to admit batch work. The week is then played in steps of ten seconds: the conductor with its real decisions
(``decide``, ``next_turn`` and the fair queue's rule), the others as their rule says.

- ``cron at night``: backfill from 22:00 to 6:00, the training at 1:00, the briefings at 2:00 (UTC).
- ``hourly cron``: at each full hour a 24th of the briefings and half an hour of backfill; what is due to be trained.
- ``priority queue``: one kind at a time, briefings before training before backfill, as soon as they are due.
- ``static cap``: all as soon as they are due; at most four batch requests in the engine.
- ``AIMD gate``: the same; as many as users' time to first token allows, by additive increase, multiplicative decrease.

Engines of the others put online requests first. Their training runs at idle priority beside users, whose calls then
take as much longer as ``make bench-beside-training`` measures.

The oracle gives background work every second that the engine can give it within the bound of users' times (5 %), and
never waits for a deadline: goodput is all work that was done, in batch tokens, over that. A policy that keeps no such
bound may get more than it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import inf

import msgspec
import numpy as np
from benchmarks.colocation import oracle
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.compare import bound
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.policies import Policy, aimd_gate, online_only, ours, priority_only, static_cap
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import Scaling, arrivals
from benchmarks.conductor.calendar import DAY, HISTORY_WEEKS, START, Users, learned, traffic

from antiphon.batch.fair_queue import ESCALATED_SHARE, SlotRequest
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.settings_processes import IdleSharesSettings
from antiphon.definitions.cron import CronTime
from antiphon.definitions.schedules import PrecomputeWork, RetrainWork, ScheduleSpec
from antiphon.definitions.triggers import NewOutcomes
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.durations import durations_of
from antiphon.orchestration.conductor.forecast import moment_of, quarter_of
from antiphon.orchestration.conductor.state import Observation, ScheduleState
from antiphon.orchestration.idle_turns import Contender, IdleTurns, next_turn

STEP = 10.0
"""Seconds of a step of the week."""

SCALING = Scaling(0.16, 0.03, 0.25)
"""Of the trace of conversations at the busiest quarter of an hour."""

SLOWDOWN = 0.05
"""By which users' requests may be slower than alone, for the conductor's engine and the oracle."""

RATES = (0.0, 0.02, 0.1, 0.3, 0.6, 1.0)
"""Shares of the busiest rate for which windows of the engine are simulated; between them it is interpolated."""

BESIDE_TRAINING, LEFT_BY_BATCH, REFRESH_BESIDE = 1.27, 0.08, 2.5
"""Measured, not simulated: a call beside a training at idle priority takes so many times as long
(``make bench-beside-training``); training beside saturated batch work makes so much of its speed, and a refresh takes
so many times as long (``make bench-conductor-hour``, without turns)."""

BRIEFING_HOURS, TRAINING_HOURS, SPREAD = 2.0, 1.5, 0.15
"""Of the machine alone, in the middle; and how both vary, of the logarithm."""

REFRESH_EVERY, REFRESH_SECONDS = 600.0, 6.0
READY_BY = CronTime("0 6 * * *", "Europe/Berlin")
WAITS = timedelta(days=1)
"""A training may wait so long once it is due."""


class EngineFigures(msgspec.Struct, frozen=True):
    """What an engine gives at one rate of arrivals.

    Attributes:
        batch: tokens a second. quiet: share of the time in which nobody is served, nor was a second before.
        ttft, tpot: seconds, of each request.
    """

    batch: float
    busy: float
    quiet: float
    ttft: tuple[float, ...]
    tpot: tuple[float, ...]


Table = Sequence[EngineFigures]


class WeekFigures(msgspec.Struct, frozen=True):
    """A week under one policy.

    Attributes:
        deadlines, missed: of briefings and trainings that one who knew everything could have met.
        backfill: tokens of work without a deadline a second. goodput: of all work, over that of the oracle; of_bound:
            over what a programme with all knowledge and the quickest calls gives, which no engine reaches.
        ttft, tpot: p50 and p99 in seconds; inflation: p99 over that with online requests alone, for both.
        training_hours: between the moment that a training was due and its end, in the middle.
    """

    deadlines: int
    missed: int
    backfill: float
    goodput: float
    of_bound: float
    ttft: tuple[float, float]
    tpot: tuple[float, float]
    ttft_inflation: float
    tpot_inflation: float
    training_hours: float


class Engines(msgspec.Struct, frozen=True):
    """Tables of every way to admit batch work, by rate; those beside a training, and without batch work."""

    alone: Table
    alone_training: Table
    ours: Table
    bound: tuple[float, ...]
    others: dict[str, tuple[Table, Table]]

    @property
    def idle_rate(self) -> float:
        """Batch tokens a second of a machine without users."""
        return self.ours[0].batch


def engines(calibration: Calibration, seeds: Sequence[int], seconds: float) -> Engines:
    """Simulates the engine at every rate, in every way. Where users are to notice nothing, some percent are told from
    the machine's noise by many windows only; a fourth of them do for the others."""

    few = seeds[: max(len(seeds) // 4, 1)]

    def table(make: Callable[[], Policy], seeds: Sequence[int] = few, pace: float = 1.0) -> Table:
        return [_figures(calibration, make, rate, seeds, seconds, pace) for rate in RATES]

    peers: dict[str, Callable[[], Policy]] = {
        "priority": priority_only,
        "static cap": lambda: static_cap(4),
        "AIMD gate": aimd_gate,
    }
    return Engines(
        table(online_only, seeds),
        table(online_only, pace=BESIDE_TRAINING),
        table(lambda: ours(ServiceLevel(slowdown=SLOWDOWN)), seeds),
        tuple(_bound(calibration, rate, few, seconds) for rate in RATES),
        {name: (table(make), table(make, pace=BESIDE_TRAINING)) for name, make in peers.items()},
    )


def _figures(
    calibration: Calibration,
    make: Callable[[], Policy],
    rate: float,
    seeds: Sequence[int],
    seconds: float,
    pace: float,
) -> EngineFigures:
    scaling = Scaling(SCALING.rate * rate, SCALING.prompt, SCALING.output)
    runs = []
    for seed in seeds:
        online = arrivals("conv", seed, seconds, scaling) if rate else ()
        runs.append(simulate(calibration, make(), online, seconds, seed=seed, pace=lambda _: pace))
    served = [one for run in runs for one in run.served]
    return EngineFigures(
        float(np.mean([run.batch_rate for run in runs])),
        float(np.mean([run.busy for run in runs])),
        float(np.mean([quiet_share(run) for run in runs])),
        tuple(one.ttft for one in served),
        tuple(one.tpot for one in served if one.output_tokens > 1),
    )


def _bound(calibration: Calibration, rate: float, seeds: Sequence[int], seconds: float) -> float:
    """Batch tokens a second at most, if all arrivals were known and every call were the quickest."""
    scaling = Scaling(SCALING.rate * rate, SCALING.prompt, SCALING.output)
    found = []
    for seed in seeds:
        online = arrivals("conv", seed, seconds, scaling) if rate else ()
        run = simulate(calibration, online_only(), online, seconds, seed=seed)
        found.append(bound(calibration, run, oracle.due_by_slowdown(run, SLOWDOWN), 0.05))
    return float(np.mean(found))


def quiet_share(run: Outcome) -> float:
    """The share of a window in which no request is under way, nor was within a second before."""
    free, until = 0.0, 0.0
    for one in sorted(run.served, key=lambda served: served.at):
        free += max(min(one.at, run.seconds) - until, 0.0)
        until = max(until, (one.tokens[-1] if one.tokens else one.at) + 1.0)
    return (free + max(run.seconds - until, 0.0)) / run.seconds


# ---------------------------------------------------------------------- the week


class Share(msgspec.Struct, frozen=True):
    """How one step's machine is divided.

    Attributes:
        batch: tokens a second for briefings and backfill together; training: of its speed alone.
        briefing: of the batch tokens. table: where users' times come from.
    """

    batch: float
    training: float
    briefing: float
    table: Table


class _Job(msgspec.Struct):
    """Work with a deadline: what is left of it, in tokens or in seconds of training."""

    due: datetime
    deadline: datetime
    left: float
    began: datetime | None = None
    ended: datetime | None = None


class Week(msgspec.Struct):
    """The state of a week as a policy sees it."""

    now: datetime
    rate: float
    briefing: _Job | None
    training: _Job | None
    engines: Engines

    def at(self, table: Table) -> tuple[float, float, float]:
        """Batch tokens a second, busy share and quiet share at the present rate."""
        return self._between(table, "batch"), self._between(table, "busy"), self._between(table, "quiet")

    def _between(self, table: Table, name: str) -> float:
        return float(np.interp(self.rate, RATES, [getattr(one, name) for one in table]))


def play(users: Users, days: int, seed: int, engines: Engines, dispersion: float) -> dict[str, WeekFigures]:
    """Every policy over the same days."""
    policies: dict[str, Callable[[], _Policy]] = {
        "conductor": _Conductor,
        "cron at night": _CronAtNight,
        "hourly cron": _HourlyCron,
        "priority queue": _PriorityQueue,
        "static cap": lambda: _AtOnce("static cap"),
        "AIMD gate": lambda: _AtOnce("AIMD gate"),
    }
    random = np.random.default_rng([seed, 19])
    begin = START + HISTORY_WEEKS * 7 * DAY
    counts = traffic(users, begin + (days + 3) * DAY, random, dispersion)
    # Requests by quarter of an hour, of the busiest usual one.
    busiest = max(users.usual(moment_of(one)) for one in range(quarter_of(begin), quarter_of(begin + 7 * DAY)))
    rates = {at: min(count / busiest, 1.0) for at, count in counts.items()}
    briefings, trainings = _work(begin, days, random, engines.idle_rate)
    alone = _users(engines.alone, [(rate, None) for rate in _steps(begin, days, rates)], {})
    steps = _steps(begin, days, rates)
    most = [
        STEP * sum(float(np.interp(rate, RATES, by_rate)) for rate in steps)
        for by_rate in ([one.batch for one in engines.ours], engines.bound)
    ]
    found = {}
    for name, make in policies.items():
        found[name] = _played(make(), begin, days, rates, counts, engines, briefings, trainings, alone, most)
    return found


def _work(begin: datetime, days: int, random: np.random.Generator, rate: float) -> tuple[list[_Job], list[_Job]]:
    briefings, trainings = [], []
    for day in range(days):
        deadline = READY_BY.after(begin + day * DAY)
        assert deadline is not None
        size = BRIEFING_HOURS * 3_600 * float(np.exp(random.normal(0.0, SPREAD)))
        briefings.append(_Job(deadline - DAY, deadline, size * rate))
        due = begin + day * DAY + timedelta(hours=float(random.uniform(9, 18)))
        takes = TRAINING_HOURS * 3_600 * float(np.exp(random.normal(0.0, SPREAD)))
        trainings.append(_Job(due, due + WAITS, takes))
    return briefings, trainings


def _steps(begin: datetime, days: int, rates: dict[datetime, float]) -> list[float]:
    return [rates[moment_of(quarter_of(begin + timedelta(seconds=n * STEP)))] for n in range(int(days * 86_400 / STEP))]


class _Policy(ABC):
    """Divides the machine of one step."""

    def __init__(self) -> None:
        self.counts: dict[datetime, int] = {}

    @abstractmethod
    def divide(self, week: Week) -> Share:
        """How the machine is divided now."""

    def ended(self, kind: str, job: _Job) -> None:  # noqa: B027
        """Called when a job has ended."""


def _played(
    policy: _Policy,
    begin: datetime,
    days: int,
    rates: dict[datetime, float],
    counts: dict[datetime, int],
    engines: Engines,
    briefings: Sequence[_Job],
    trainings: Sequence[_Job],
    alone: tuple[tuple[float, float], tuple[float, float]],
    most: Sequence[float],
) -> WeekFigures:
    todo = {
        "briefing": [msgspec.structs.replace(job) for job in briefings],
        "training": [msgspec.structs.replace(job) for job in trainings],
    }
    done: dict[str, list[_Job]] = {"briefing": [], "training": []}
    policy.counts = counts
    tables: dict[int, Table] = {}
    served: list[tuple[float, int | None]] = []
    backfill = work = 0.0
    for number in range(int(days * 86_400 / STEP)):
        now = begin + timedelta(seconds=number * STEP)
        rate = rates[moment_of(quarter_of(now))]

        def current(kind: str, at: datetime = now) -> _Job | None:
            return todo[kind][0] if todo[kind] and todo[kind][0].due <= at else None

        week = Week(now, rate, current("briefing"), current("training"), engines)
        share = policy.divide(week)
        # A refresh takes its seconds from batch work, whoever decides.
        tokens = share.batch * STEP * (1 - REFRESH_SECONDS / REFRESH_EVERY)
        for kind, job, amount in (
            ("briefing", week.briefing, tokens * share.briefing),
            ("training", week.training, STEP * share.training),
        ):
            if job is None or amount <= 0:
                continue
            job.began = job.began or now
            work += min(amount, job.left) * (1.0 if kind == "briefing" else engines.idle_rate)
            job.left -= amount
            if job.left <= 0:
                job.ended = now + timedelta(seconds=STEP)
                done[kind].append(todo[kind].pop(0))
                policy.ended(kind, job)
        rest = tokens * (1 - (share.briefing if week.briefing is not None else 0.0))
        backfill, work = backfill + rest, work + rest
        tables[id(share.table)] = share.table
        served.append((rate, id(share.table)))
    end, work = begin + days * DAY, work + days * 86_400 / REFRESH_EVERY * REFRESH_SECONDS * engines.idle_rate
    jobs = [*done["briefing"], *done["training"], *todo["briefing"], *todo["training"]]
    # Of the first day nothing was known, and its work was there when the week began.
    closed = [job for job in jobs if begin + 1.5 * DAY < job.deadline <= end]
    took = [(job.ended - job.due).total_seconds() / 3_600 for job in done["training"] if job.ended is not None]
    ttft, tpot = _users(engines.alone, served, tables)
    return WeekFigures(
        len(closed),
        sum(1 for job in closed if job.ended is None or job.ended > job.deadline),
        round(backfill / (days * 86_400), 2),
        round(work / most[0], 3),
        round(work / most[1], 3),
        ttft,
        tpot,
        round(ttft[1] / alone[0][1], 3),
        round(tpot[1] / alone[1][1], 3),
        round(float(np.median(took)), 1) if took else inf,
    )


def _users(
    alone: Table, served: Sequence[tuple[float, int | None]], tables: dict[int, Table]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """p50 and p99 of users' times to first token and per token: each step's requests are those of the simulated rates
    on both sides of its own, weighted by how near they are and how many arrive."""
    weights: dict[tuple[int | None, int], float] = {}
    for rate, table in served:
        above = min(int(np.searchsorted(RATES, rate)), len(RATES) - 1)
        below = max(above - 1, 0)
        span = RATES[above] - RATES[below]
        near = (rate - RATES[below]) / span if span else 1.0
        for index, part in ((above, near), (below, 1 - near)):
            if index > 0:
                weights[table, index] = weights.get((table, index), 0.0) + rate * part
    found = []
    for name in ("ttft", "tpot"):
        values, mass = [], []
        for (table, index), weight in weights.items():
            samples = getattr((alone if table is None else tables[table])[index], name)
            values.append(np.array(samples))
            mass.append(np.full(len(samples), weight / max(len(samples), 1)))
        order = np.argsort(joined := np.concatenate(values))
        cumulated = np.cumsum(np.concatenate(mass)[order])
        at = [joined[order][int(np.searchsorted(cumulated, share * cumulated[-1]))] for share in (0.5, 0.99)]
        found.append((round(float(at[0]), 4), round(float(at[1]), 4)))
    return found[0], found[1]


# ------------------------------------------------------------------ the policies


class _Conductor(_Policy):
    """Real decisions: start times, places in quiet times, turns, and the fair queue's rule among jobs."""

    def __init__(self) -> None:
        super().__init__()
        self._turns = IdleTurns()
        self._took: dict[str, list[float]] = {"briefing": [], "training": []}
        self._open: dict[str, _Job] = {}
        self._due: datetime | None = None
        self._cause: str | None = None
        self._looked = 0
        self._served: datetime | None = None
        self._since = START

    def ended(self, kind: str, job: _Job) -> None:
        assert job.ended is not None
        assert job.began is not None
        self._took[kind].append((job.ended - job.began).total_seconds())
        self._open.pop(kind, None)
        if kind == "briefing":
            self._served = job.deadline
        else:
            self._due = None

    def divide(self, week: Week) -> Share:
        self._order(week)
        batch, _, _ = week.at(week.engines.ours)
        _, _, calm = week.at(week.engines.alone)
        now, idle = week.now.timestamp(), week.engines.idle_rate
        briefing, training = self._open.get("briefing"), self._open.get("training")
        share, escalates = 0.0, False
        pressing = Contender("batch")
        if briefing is not None:
            left = briefing.left / max(batch, 1e-6)
            request = SlotRequest("default", "briefing", now, briefing.deadline.timestamp(), left)
            escalates = request.escalates(now)
            share = ESCALATED_SHARE if escalates else 0.5
            pressing = Contender("batch", request.deadline, left, "briefing")
        if training is None:
            self._turns = next_turn(self._turns, [pressing], now, IdleSharesSettings().by_work, 5.0)
            return Share(batch, 0.0, share, week.engines.ours)
        left = training.left / max(calm, 0.05)
        learning = Contender("training", training.deadline.timestamp(), left, "training")
        self._turns = next_turn(self._turns, [pressing, learning], now, IdleSharesSettings().by_work, 5.0)
        if self._turns.turn == "training":
            # Users' seconds are no turn of training's: batch work has what the engine finds beside them.
            return Share(max(batch - calm * idle, 0.0), calm, share, week.engines.ours)
        return Share(batch, 0.0, share, week.engines.ours)

    def _order(self, week: Week) -> None:
        """Order what the conductor would, once in five minutes."""
        moment = int(week.now.timestamp() // 300)
        if moment == self._looked:
            return
        self._looked = moment
        if "briefing" not in self._open and week.briefing is not None:
            spec = ScheduleSpec(
                "briefing", "desk", PrecomputeWork("rows.csv"), ready_by=READY_BY, lead=4 * 3_600.0, settle=60.0,
                catch_up=6 * 3_600.0,
            )  # fmt: skip
            served = self._served or week.briefing.deadline - DAY
            state = ScheduleState(
                spec, ScheduleRecord("briefing", 0, served, served), served=served,
                runtime=durations_of(self._took["briefing"]),
            )  # fmt: skip
            if decide([state], week.now).orders:
                self._open["briefing"] = week.briefing
        if "training" not in self._open and week.training is not None:
            spec = ScheduleSpec(
                "retrain", "desk", RetrainWork(), NewOutcomes(1), within=WAITS.total_seconds(), catch_up=86_400.0
            )
            record = ScheduleRecord("retrain", 0, week.training.due, week.training.due, due_at=self._due)
            state = ScheduleState(
                spec, msgspec.structs.replace(record, due_cause=self._cause), observed=Observation(1),
                runtime=durations_of(self._took["training"] or [2 * TRAINING_HOURS * 3_600]),
                forecast=learned(self.counts, moment_of(quarter_of(week.now))),
            )  # fmt: skip
            decision = decide([state], week.now)
            if decision.orders:
                self._open["training"] = week.training
            elif self._due is None:
                self._due, self._cause = week.now, decision.outlooks[0].due


class _AtOnce(_Policy):
    """All work as soon as it is due, behind one gate of the engine."""

    def __init__(self, gate: str) -> None:
        super().__init__()
        self._gate = gate

    def divide(self, week: Week) -> Share:
        return _together(week, self._gate, week.briefing, week.training, backfill=True)


class _PriorityQueue(_Policy):
    """One kind at a time, in a fixed order."""

    def divide(self, week: Week) -> Share:
        if week.briefing is not None:
            return _together(week, "priority", week.briefing, None, backfill=False)
        if week.training is not None:
            return _together(week, "priority", None, week.training, backfill=False)
        return _together(week, "priority", None, None, backfill=True)


class _CronAtNight(_Policy):
    """Fixed hours of the night."""

    def divide(self, week: Week) -> Share:
        hour = week.now.hour
        night = hour >= 22 or hour < 6
        briefing = week.briefing if _begun(week.briefing) or 2 <= hour < 6 else None
        training = week.training if _begun(week.training) or 1 <= hour < 6 else None
        return _together(week, "priority", briefing, training, backfill=night)


class _HourlyCron(_Policy):
    """A part each hour."""

    def __init__(self) -> None:
        super().__init__()
        self._job: _Job | None = None
        self._whole = 0.0

    def divide(self, week: Week) -> Share:
        briefing = week.briefing
        if briefing is not self._job:
            self._job, self._whole = briefing, 0.0 if briefing is None else briefing.left
        if briefing is not None:
            hours = (week.now - briefing.due).total_seconds() // 3_600 + 1
            if briefing.left <= self._whole * max(1 - hours / 24, 0.0):
                briefing = None  # This hour's part is done.
        training = week.training if _begun(week.training) or week.now.minute == 0 else None
        return _together(week, "priority", briefing, training, backfill=week.now.minute < 30)


def _begun(job: _Job | None) -> bool:
    return job is not None and job.began is not None


def _together(week: Week, gate: str, briefing: _Job | None, training: _Job | None, *, backfill: bool) -> Share:
    """What runs at once shares the machine as the operating system divides it."""
    plain, beside = week.engines.others[gate]
    if briefing is None and not backfill:
        _, busy, _ = week.at(week.engines.alone)
        learns = 0.0 if training is None else 1 - busy
        return Share(0.0, learns, 0.0, week.engines.alone if training is None else week.engines.alone_training)
    table = plain if training is None else beside
    batch, _, _ = week.at(table)
    share = 0.0 if briefing is None else 0.5 if backfill else 1.0
    return Share(batch, LEFT_BY_BATCH if training is not None else 0.0, share, table)
