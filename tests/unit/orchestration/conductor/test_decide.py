"""The conductor's decisions, as a function of the schedules' state and the time."""

from __future__ import annotations

from datetime import datetime, timedelta
from math import pi, sin
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.catalog.run_holds import RunHold
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.clock import UTC
from antiphon.definitions.cron import CronTime
from antiphon.definitions.schedules import EvaluateWork, PrecomputeWork, RefreshWork, RetrainWork, ScheduleSpec
from antiphon.definitions.triggers import (
    AllOf,
    AnyOf,
    ExpectedRequests,
    ForgettingLimit,
    Interval,
    NewDrift,
    NewOutcomes,
    NewPublication,
    NewRequests,
)
from antiphon.learning.retraining.forgetting import ForgettingMeasure
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.durations import RunDurations
from antiphon.orchestration.conductor.forecast import QUARTER, learn
from antiphon.orchestration.conductor.placement import latest_start
from antiphon.orchestration.conductor.state import Observation, PlannedRun, ScheduleOutlook, ScheduleState

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def schedule(spec: ScheduleSpec | None = None, **changes: Any) -> ScheduleState:
    spec = spec or ScheduleSpec("nightly", "desk", EvaluateWork(), Interval("24h"), settle=600, catch_up=7 * 86_400)
    record = ScheduleRecord(spec.name, 0, NOON, NOON)
    return msgspec.structs.replace(ScheduleState(spec, record), **changes)


def when(trigger: Any, **observed: Any) -> ScheduleState:
    spec = ScheduleSpec("nightly", "desk", EvaluateWork(), trigger, settle=600, catch_up=3_600)
    return schedule(spec, observed=Observation(**observed))


def one(state: ScheduleState, now: datetime) -> PlannedRun | ScheduleOutlook:
    decision = decide([state], now)
    assert len(decision.outlooks) == 1  # Whatever happens, there is one sentence about it.
    return decision.orders[0] if decision.orders else decision.outlooks[0]


def order(state: ScheduleState, now: datetime) -> PlannedRun:
    found = one(state, now)
    assert isinstance(found, PlannedRun), found
    return found


def outlook(state: ScheduleState, now: datetime) -> ScheduleOutlook:
    found = one(state, now)
    assert isinstance(found, ScheduleOutlook), found
    return found


def hold(begins: datetime, until: datetime) -> RunHold:
    return RunHold("h", "window", "peak", ("table_job",), begins, until, "the window peak", "ada")


def test_an_interval_is_due_once_it_has_passed() -> None:
    waiting = outlook(schedule(), NOON + 23 * HOUR)
    assert (waiting.stage, waiting.earliest) == ("waits", NOON + DAY)
    assert order(schedule(), NOON + DAY).cause == "24h have passed since 2026-06-01 12:00Z"
    assert decide([schedule()], NOON).next_look == NOON + DAY


def test_a_clock_time_is_due_when_it_came_since_the_last_run_and_not_too_long_ago() -> None:
    clock = when(CronTime("0 3 * * *", "Europe/Berlin"))  # 01:00 UTC in summer
    at = datetime(2026, 6, 2, 1, tzinfo=UTC)
    assert outlook(clock, at - HOUR).earliest == at
    assert order(clock, at).cause == "0 3 * * * (Europe/Berlin) came at 2026-06-02 01:00Z"
    assert order(clock, at + HOUR)  # The last minute of an hour of catching up.
    missed = outlook(clock, at + 2 * HOUR)
    assert missed.earliest == at + DAY
    assert "too long ago" in missed.reason


def test_events_are_counted_since_the_last_run() -> None:
    assert outlook(when(NewOutcomes(500), outcomes=499), NOON).reason.startswith("499 of 500 new outcomes")
    assert order(when(NewOutcomes(500), outcomes=500), NOON).cause.startswith("500 of 500 new outcomes")


def test_demand_is_due_by_requests_or_by_those_without_a_stored_answer() -> None:
    assert outlook(when(NewRequests(100), requests=99, misses=99), NOON).reason.startswith("99 of 100 new requests")
    assert order(when(NewRequests(100), requests=100), NOON).cause.startswith("100 of 100 new requests since")
    missed = when(NewRequests(20, misses=True), requests=100, misses=19)
    assert outlook(missed, NOON).reason.startswith("19 of 20 new requests without a stored answer")
    assert order(when(NewRequests(20, misses=True), misses=20), NOON).cause.startswith("20 of 20 new requests without")
    assert order(when(NewDrift(), drifted=("delay",)), NOON).cause.startswith("delay drifted")
    assert outlook(when(NewDrift(("wind",)), drifted=("delay",)), NOON).reason.startswith("no drift of wind")
    assert order(when(NewPublication(("congestion",)), published=("congestion",)), NOON)
    assert outlook(when(NewPublication(("congestion",)), published=("weather",)), NOON).earliest is None


def test_a_rush_that_is_expected_is_worked_for_beforehand_and_once() -> None:
    night = NOON + 15 * DAY - 8 * HOUR  # At four.
    moments = [NOON + number * QUARTER for number in range(16 * 96)]
    counts = {at: round(40 + 40 * sin((at.hour + at.minute / 60 - 5) * pi / 12)) for at in moments}  # Most at eleven.
    load = learn(counts, night)
    assert load is not None
    rush = when(ExpectedRequests(500, "2h"), load=load)
    waiting = outlook(rush, night)
    assert waiting.reason.endswith("of 500 requests are expected within 2h")
    assert waiting.earliest is not None
    assert 2 * HOUR < waiting.earliest - night < 5 * HOUR
    nine = night + 5 * HOUR
    due = when(ExpectedRequests(500, "2h"), load=learn(counts, nine))
    assert order(due, nine).cause.endswith("of 500 requests are expected within 2h")
    done = msgspec.structs.replace(due, record=msgspec.structs.replace(due.record, since=nine - HOUR))
    again = outlook(done, nine)
    assert (again.earliest, "counts from" in again.reason) == (nine + HOUR, True)
    assert outlook(when(ExpectedRequests(5, "2h")), night).reason == (
        "nothing is expected before there was a day of requests"
    )
    assert outlook(when(ExpectedRequests(10**6, "24h"), load=load), night).earliest is None


def test_any_is_due_with_one_and_all_with_every_one_of_its_parts() -> None:
    either = AnyOf((NewOutcomes(500), Interval("24h")))
    assert order(when(either, outcomes=7), NOON + DAY).cause.startswith("24h have passed")
    waiting = outlook(when(either, outcomes=7), NOON)
    assert waiting.earliest == NOON + DAY
    assert "7 of 500" in waiting.reason
    assert "24h pass" in waiting.reason
    both = AllOf((NewOutcomes(500), Interval("24h")))
    assert outlook(when(both, outcomes=7), NOON + DAY).earliest is None  # No time alone makes it due.
    assert outlook(when(both, outcomes=500), NOON).earliest == NOON + DAY
    assert order(when(both, outcomes=500), NOON + DAY).cause.count("since") == 2


@pytest.mark.parametrize(
    ("changes", "stage", "reason", "earliest"),
    [
        ({"open_run": "run_1", "open_status": "running"}, "runs", "its run run_1 is running", None),
        ({"ended_at": NOON + DAY}, "waits", "its last run has only just ended", NOON + DAY + timedelta(minutes=10)),
    ],
)
def test_a_run_that_has_not_ended_or_only_just_has_keeps_the_next_one_waiting(
    changes: dict[str, Any], stage: str, reason: str, earliest: datetime | None
) -> None:
    found = outlook(schedule(**changes), NOON + DAY)
    assert (found.stage, found.reason, found.earliest) == (stage, reason, earliest)


def test_a_pause_and_a_refusal_are_said_until_they_are_over() -> None:
    state = schedule()
    paused = msgspec.structs.replace(
        state.record, paused_by="ada", pause_reason="the launch", paused_until=NOON + 2 * DAY
    )
    found = outlook(schedule(record=paused), NOON + DAY)
    assert (found.stage, found.reason, found.earliest) == ("paused", "paused by ada: the launch", NOON + 2 * DAY)
    assert order(schedule(record=paused), NOON + 2 * DAY)
    refused = msgspec.structs.replace(state.record, problem="no model was pulled", tried_at=NOON + DAY)
    found = outlook(schedule(record=refused), NOON + DAY)
    assert (found.stage, found.reason) == ("refused", "no model was pulled")
    assert order(schedule(record=refused), NOON + DAY + timedelta(minutes=10))


def test_a_retraining_is_full_by_its_own_condition_and_else_a_delta() -> None:
    work = RetrainWork(delta=True, full_when=Interval("30d"))
    spec = ScheduleSpec("retrain", "desk", work, NewOutcomes(500), settle=600, catch_up=86_400)
    assert not order(schedule(spec, observed=Observation(500)), NOON + DAY).full
    whole = order(schedule(spec), NOON + 30 * DAY)
    assert whole.full
    assert whole.cause.endswith("a full training")
    assert order(
        schedule(
            ScheduleSpec("retrain", "desk", RetrainWork(delta=False), NewOutcomes(1), catch_up=1),
            observed=Observation(1),
        ),
        NOON,
    ).full


def forgot(value: float) -> Observation:
    return Observation(forgotten=ForgettingMeasure("Brier score", value, value - 0.01, value + 0.01, "run_1"))


def test_a_training_that_forgot_more_than_its_bound_makes_the_next_a_full_one() -> None:
    work = RetrainWork(delta=True, full_when=AnyOf((ForgettingLimit(0.02), Interval("30d"))))
    spec = ScheduleSpec("retrain", "desk", work, NewOutcomes(500), settle=600, catch_up=86_400)
    found = order(schedule(spec, observed_full=forgot(0.031)), NOON + DAY)
    assert (found.full, found.cause) == (
        True,
        "the training run_1 forgot 0.031 of Brier score (0.021 to 0.041), more than 0.02: a full training",
    )
    assert not order(schedule(spec, observed=Observation(500), observed_full=forgot(0.02)), NOON + DAY).full
    assert outlook(when(ForgettingLimit(0.1)), NOON).reason.startswith("no training measured what it forgot since")
    assert "not more than 0.1" in outlook(schedule(when(ForgettingLimit(0.1)).spec, observed=forgot(0.05)), NOON).reason


MINUTE = timedelta(minutes=1)


def burst(calm_since: datetime, due_at: datetime | None = None, outcomes: int = 5, **changes: Any) -> ScheduleState:
    trigger = changes.pop("trigger", NewOutcomes(5))
    spec = ScheduleSpec("nightly", "desk", EvaluateWork(), trigger, catch_up=3_600, debounce=60.0, **changes)
    record = ScheduleRecord(
        "nightly", 0, NOON, NOON, due_at=due_at, due_cause="5 of 5 new outcomes" if due_at else None
    )
    return schedule(spec, record=record, observed=Observation(outcomes), calm_since=calm_since)


def test_what_arrives_in_a_burst_is_waited_for_until_it_is_calm() -> None:
    at = NOON + HOUR
    waiting = outlook(burst(at), at)
    assert (waiting.earliest, waiting.due) == (at + MINUTE, "5 of 5 new outcomes since 2026-06-01 12:00Z")
    assert waiting.reason.endswith("it waits until nothing new came for 60 s, until 2026-06-01 13:10Z at the latest")
    assert outlook(burst(at + MINUTE / 2, at, 6), at + MINUTE).earliest == at + MINUTE * 1.5
    assert order(burst(at + MINUTE / 2, at, 7), at + MINUTE * 1.5).cause.startswith("7 of 5 new outcomes")


def test_a_burst_without_an_end_is_waited_for_ten_times_as_long() -> None:
    at = NOON + HOUR
    assert outlook(burst(at + 9.9 * MINUTE, at), at + 9.9 * MINUTE).earliest == at + 10 * MINUTE
    assert order(burst(at + 10 * MINUTE, at), at + 10 * MINUTE)


def test_a_time_that_comes_waits_for_no_burst() -> None:
    at = NOON + HOUR
    assert order(burst(at, trigger=AnyOf((NewOutcomes(5), Interval("1h")))), at)
    assert outlook(burst(at, trigger=AllOf((NewOutcomes(5), Interval("1h")))), at).earliest == at + MINUTE


def test_a_full_training_waits_for_the_end_of_a_burst_too() -> None:
    work = RetrainWork(full_when=NewOutcomes(50))
    spec = ScheduleSpec("retrain", "desk", work, NewOutcomes(5), catch_up=3_600, debounce=60.0)
    waiting = schedule(spec, observed_full=Observation(50), calm_since=NOON)
    assert outlook(waiting, NOON).due == "50 of 50 new outcomes since 2026-06-01 12:00Z: a full training"
    assert order(waiting, NOON + MINUTE).full


def briefing(**changes: Any) -> ScheduleState:
    spec = ScheduleSpec(
        "briefing", "desk", PrecomputeWork("flights.csv"), None, CronTime("0 6 * * *"), lead=3_600, catch_up=6 * 3_600
    )
    return schedule(spec, **changes)


SIX = datetime(2026, 6, 2, 6, tzinfo=UTC)


def test_work_with_a_deadline_begins_as_long_before_it_as_it_takes() -> None:
    waiting = outlook(briefing(), NOON)
    assert (waiting.earliest, waiting.deadline) == (SIX - HOUR, SIX)
    begun = order(briefing(), SIX - HOUR)
    assert begun.deadline == SIX
    assert not begun.late
    assert "declared" in begun.cause
    known = briefing(runtime=RunDurations(20, 600.0, 500.0, 800.0, 900.0))
    assert outlook(known, SIX - HOUR).earliest == SIX - timedelta(minutes=15)
    assert "at most, by 20 runs" in order(known, SIX - timedelta(minutes=15)).cause


def test_time_that_is_held_is_no_time_to_work_in() -> None:
    peak = hold(SIX - 3 * HOUR, SIX - timedelta(minutes=30))
    assert outlook(briefing(holds=(peak,)), NOON).earliest == SIX - 3 * HOUR - timedelta(minutes=30)


def test_a_deadline_that_cannot_be_met_is_said_and_tried_all_the_same() -> None:
    late = order(briefing(), SIX - timedelta(minutes=10))
    assert late.late
    assert late.cause.endswith("which it is not expected to be")
    after = order(briefing(), SIX + HOUR)  # Nothing ran in the night.
    assert after.late
    assert after.deadline == SIX
    assert outlook(briefing(), SIX + 7 * HOUR).deadline == SIX + DAY  # That of today is not made up for any more.


def test_the_next_deadline_follows_the_one_that_was_served() -> None:
    record = msgspec.structs.replace(briefing().record, sequence=1, since=SIX - HOUR)
    assert outlook(briefing(record=record, served=SIX), SIX - timedelta(minutes=5)).deadline == SIX + DAY


@pytest.mark.parametrize(
    ("holds", "start"),
    [
        ((), 9),
        (((10, 11),), 8),
        (((9, 13),), 6),
        (((5, 6),), 9),
        (((10, 11), (8, 9)), 7),
        (((9, 11), (10, 13)), 6),
        (((13, 14),), 9),
        (((8, 9),), 9),
    ],
)
def test_the_latest_start_leaves_enough_free_time(holds: tuple[tuple[int, int], ...], start: int) -> None:
    def at(hour: int) -> datetime:
        return datetime(2026, 6, 1, hour, tzinfo=UTC)

    found = latest_start(at(12), 3 * HOUR, [hold(at(begins), at(until)) for begins, until in holds])
    assert found == at(start)


def test_ten_thousand_schedules_are_decided_without_one_in_another_s_way() -> None:
    states = [
        schedule(
            ScheduleSpec(f"s{n}", "desk", EvaluateWork(), NewOutcomes(n + 1), catch_up=60), observed=Observation(9)
        )
        for n in range(10_000)
    ]
    decision = decide(states, NOON)
    assert len(decision.orders) == 9
    assert len(decision.outlooks) == 10_000


NIGHT = (NOON + 9 * HOUR, NOON + 11 * HOUR)


def may_wait(**changes: Any) -> ScheduleState:
    spec = ScheduleSpec("nightly", "desk", EvaluateWork(), NewOutcomes(500), within=12 * 3_600, catch_up=3_600)
    known = {
        "observed": Observation(500),
        "runtime": RunDurations(9, 1_800.0, 1_200.0, 2_400.0, 3_600.0),
        "preferred": (NIGHT,),
    }
    return schedule(spec, **(known | changes))


def test_work_that_is_due_and_may_wait_says_what_it_waits_for_and_since_when_it_is_due() -> None:
    found = outlook(may_wait(), NOON)
    assert (found.stage, found.earliest, found.deadline) == ("waits", NIGHT[0], NOON + 12 * HOUR)
    assert found.due is not None
    assert found.due.startswith("500 of 500 new outcomes")


def test_work_that_was_due_stays_so_whatever_is_observed_later() -> None:
    record = msgspec.structs.replace(may_wait().record, due_at=NOON, due_cause="500 of 500 new outcomes")
    due = may_wait(record=record, observed=Observation(0))
    assert outlook(due, NOON + 2 * HOUR).earliest == NIGHT[0]
    begun = order(due, NIGHT[0])
    assert (begun.cause, begun.deadline, begun.late) == ("500 of 500 new outcomes", NOON + 12 * HOUR, False)
    # Without the window it begins an hour before the end of its patience at the latest.
    assert order(may_wait(record=record, preferred=()), NOON + 11 * HOUR).deadline == NOON + 12 * HOUR


def test_work_that_may_not_wait_does_not() -> None:
    waiting = may_wait()
    spec = msgspec.structs.replace(waiting.spec, within=0.0)
    assert order(msgspec.structs.replace(waiting, spec=spec), NOON).deadline is None


@pytest.mark.parametrize(
    ("now", "until", "late"),
    [
        (SIX - HOUR, None, False),
        (SIX - timedelta(minutes=10), None, True),  # It takes a quarter of an hour, and says nothing of itself.
        (SIX - timedelta(minutes=10), SIX - timedelta(minutes=2), False),
        (SIX - timedelta(minutes=50), SIX + timedelta(minutes=2), True),
    ],
)
def test_a_run_that_is_not_expected_to_keep_its_deadline_is_told_before_that_is_over(
    now: datetime, until: datetime | None, late: bool
) -> None:
    known = RunDurations(20, 600.0, 500.0, 800.0, 900.0)
    state = briefing(open_run="run_1", open_status="running", open_until=until, served=SIX, runtime=known)
    found = outlook(state, now)
    assert (found.late, found.deadline) == (late, SIX)
    assert ("not expected to keep" in found.reason) == late


REFRESH = RefreshWork(QUARTER // timedelta(microseconds=1), ("delays@1", "traffic@1"))


def cadence(work: RefreshWork = REFRESH, refreshed: dict[str, datetime] | None = None, **changes: Any) -> ScheduleState:
    spec = ScheduleSpec("refresh:15m", "", work, Interval("15m"))
    return schedule(spec, observed=Observation(refreshed=refreshed or {}), **changes)


def test_views_of_one_interval_are_refreshed_once_in_each_of_its_periods() -> None:
    due = order(cadence(), NOON + timedelta(minutes=7))
    assert (due.views, due.deadline, due.cause) == (
        REFRESH.views, NOON + QUARTER, "its views were not refreshed since 2026-06-01 12:00Z",
    )  # fmt: skip
    known = dict.fromkeys(REFRESH.views, NOON)
    waiting = outlook(cadence(refreshed=known), NOON + timedelta(minutes=14))
    assert (waiting.stage, waiting.earliest) == ("waits", NOON + QUARTER)
    assert order(cadence(refreshed=known), NOON + QUARTER).views == REFRESH.views
    assert order(cadence(refreshed=known), NOON + 9 * HOUR).deadline == NOON + 9 * HOUR + QUARTER, (
        "the last period alone"
    )


def test_a_view_that_is_new_within_a_period_is_refreshed_in_it_alone() -> None:
    found = order(cadence(refreshed={"delays@1": NOON}), NOON + timedelta(minutes=1))
    assert (found.views, found.cause[:14]) == (("traffic@1",), "1 of its 2 vie")


def test_a_refresh_under_way_is_looked_at_again_when_the_next_period_begins() -> None:
    running = {"open_run": "run_1", "open_status": "running", "served": NOON + QUARTER}
    found = outlook(cadence(**running), NOON + timedelta(minutes=7))
    assert (found.stage, found.earliest, found.late) == ("runs", NOON + QUARTER, False)
    late = outlook(cadence(**running), NOON + QUARTER)
    assert (late.earliest, late.late) == (None, False)
    assert late.reason == "its run run_1 is running; it was due again at 2026-06-01 12:15Z"
    assert decide([cadence()], NOON).next_look == NOON + QUARTER, "also while it is being ordered"


def test_an_interval_longer_than_the_calendar_has_one_period() -> None:
    ages = RefreshWork(999_999_999 * (DAY // timedelta(microseconds=1)), REFRESH.views)
    assert order(cadence(ages), NOON).deadline == datetime.max.replace(tzinfo=UTC)


@given(
    st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 700)), max_size=40), st.sampled_from([1, 7, 60, 240, 900])
)
def test_no_view_is_refreshed_twice_in_a_period_nor_left_out_of_one_that_was_looked_at(
    looks: list[tuple[int, int]], seconds: int
) -> None:
    """Looks are so many seconds apart, and a run that they order takes so many."""
    work = RefreshWork(seconds * 1_000_000, ("a@1", "b@1", "c@1"))
    now, busy_until, orders = NOON, NOON, dict[str, list[datetime]]()
    for apart, takes in looks:
        now += timedelta(seconds=apart)
        last = {view: moments[-1] for view, moments in orders.items()}
        running = {"open_run": "run_1"} if now < busy_until else {}
        planned = decide([cadence(work, last, **running)], now).orders
        for view in planned[0].views if planned else ():
            orders.setdefault(view, []).append(now)
        if planned:
            busy_until = now + timedelta(seconds=takes)
        if not running:
            assert {view: moments[-1] >= work.period(now)[0] for view, moments in orders.items()} == dict.fromkeys(
                work.views, True
            )
    for moments in orders.values():
        periods = [work.period(moment)[0] for moment in moments]
        assert len(periods) == len(set(periods))


def test_a_schedule_that_cannot_be_read_or_decided_keeps_no_other_waiting() -> None:
    endless = when(Interval("999999999d"))
    decision = decide([schedule(problem="its state cannot be read: KeyError"), endless, cadence()], NOON)
    assert [one.stage for one in decision.outlooks] == ["refused", "refused", "due"]
    assert decision.outlooks[1].reason.startswith("it cannot be decided: OverflowError")
    assert len(decision.orders) == 1
