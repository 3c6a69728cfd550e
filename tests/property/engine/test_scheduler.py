from dataclasses import replace
from math import inf
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.latency_model import CallModel, LatencyModel
from antiphon.engine.scheduling.scheduler import forecast, plan, should_coschedule
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget, StepPlan

CHUNK = 32


@st.composite
def states(draw: st.DrawFn) -> SchedulerState:
    """States as an executor can have them: never more residents than slots, kept sequences are batch ones."""
    slots = draw(st.integers(1, 6))
    resident = draw(st.integers(0, slots))
    absent = draw(st.integers(0, 6))
    orders = draw(st.permutations(range(resident + absent)))
    sequences = []
    for number, order in enumerate(orders):
        priority: Priority = draw(st.sampled_from(get_args(Priority)))
        places = ["resident"] if number < resident else ["waiting", "swapped"] if priority == "batch" else ["waiting"]
        place = draw(st.sampled_from(places))
        generating = place != "waiting" and draw(st.booleans())
        position = draw(st.integers(1, 500)) if generating or place == "swapped" else 0
        pending = draw(st.integers(1, 8)) if generating else draw(st.integers(1, 300))
        due = due_times(draw, priority)
        urgent = priority == "batch" and draw(st.booleans())
        sequences.append(SequenceView(number, priority, order, position, pending, generating, place, *due, urgent))
    weights = st.tuples(*[st.floats(0, 0.01)] * 3)
    excess = st.floats(1, 2)
    model = LatencyModel(
        draw(st.builds(CallModel, weights, excess=excess)), draw(st.builds(CallModel, weights, excess=excess))
    )
    slack = draw(st.one_of(st.just(inf), st.floats(-1, 1)))
    late = draw(st.booleans()), draw(st.floats(0, 8))
    return SchedulerState(tuple(sequences), slots, CHUNK, model, slack, draw(st.booleans()), *late)


def due_times(draw: st.DrawFn, priority: str) -> tuple[float, float]:
    """Seconds until a token is due, and until when batch may hold it up."""
    if priority == "batch" or draw(st.booleans()):
        return inf, inf
    due = draw(st.floats(-1, 5))
    return due, due - draw(st.floats(0, 1))


budgets = st.builds(StepBudget, st.floats(1e-4, 1), st.floats(1e-4, 1), st.integers(1, 300))


def by_ticket(state: SchedulerState) -> dict[int, SequenceView]:
    return {sequence.ticket: sequence for sequence in state.sequences}


def residents_after(state: SchedulerState, decided: StepPlan) -> set[int]:
    before = {sequence.ticket for sequence in state.sequences if sequence.residency == "resident"}
    return before - set(decided.swap_out) | set(decided.admit)


@given(states(), budgets)
def test_a_plan_can_be_carried_out(state: SchedulerState, budget: StepBudget) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    after = residents_after(state, decided)
    assert len(after) <= state.slots
    assert all(
        views[ticket].residency == "resident" and views[ticket].priority == "batch" for ticket in decided.swap_out
    )
    assert all(views[ticket].residency != "resident" for ticket in decided.admit)
    assert len(set(decided.admit)) == len(decided.admit)
    worked = [ticket for ticket, _ in decided.prefill] + list(decided.decode)
    assert after.issuperset(worked)
    assert len(set(decided.decode)) == len(decided.decode)
    assert all(views[ticket].generating for ticket in decided.decode)
    for ticket, tokens in decided.prefill:
        view = views[ticket]
        assert 0 < tokens <= view.pending
        # A prompt is cut only where a chunk ends.
        assert view.generating or tokens == view.pending or (view.position + tokens) % CHUNK == 0


@given(states(), budgets)
def test_there_is_progress(state: SchedulerState, budget: StepBudget) -> None:
    decided = plan(state, budget)
    online = any(view.priority == "online" for view in state.sequences)
    worked = bool(decided.decode or decided.prefill)
    # Batch stands still only while there is somebody online elsewhere.
    assert worked == bool(state.sequences) or (not online and not worked and state.slack_elsewhere < inf)


@given(states(), budgets)
def test_batch_never_keeps_online_from_a_slot_or_a_token(state: SchedulerState, budget: StepBudget) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    after = residents_after(state, decided)
    if any(view.priority == "online" and ticket not in after for ticket, view in views.items()):
        assert all(views[ticket].priority == "online" for ticket in after)
    online = {ticket for ticket in after if views[ticket].priority == "online" and views[ticket].generating}
    # All of them or, for one more chunk of a prompt that has less time, none.
    decoding = online & set(decided.decode)
    prompts = {ticket for ticket, _ in decided.prefill if views[ticket].priority == "online"}
    assert decoding == online or (not decoding and prompts)


@given(states(), budgets)
def test_online_work_does_not_depend_on_batch(state: SchedulerState, budget: StepBudget) -> None:
    """With slots for all, removing every batch sequence changes nothing about online's part of the plan."""
    roomy = replace(state, slots=len(state.sequences) + 1)
    views = by_ticket(state)
    without = tuple(sequence for sequence in state.sequences if sequence.priority == "online")
    alone = plan(replace(roomy, sequences=without), budget)
    together = plan(roomy, budget)

    def online(tickets: tuple[int, ...]) -> list[int]:
        return [ticket for ticket in tickets if views[ticket].priority == "online"]

    assert online(together.decode) == online(alone.decode)
    assert [item for item in together.prefill if views[item[0]].priority == "online"] == list(alone.prefill)


@given(states(), budgets)
def test_batch_makes_no_token_late_and_no_step_longer_than_an_arrival_may_wait(
    state: SchedulerState, budget: StepBudget
) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    worked = {ticket for ticket, _ in decided.prefill} | set(decided.decode)
    if not any(views[ticket].priority == "batch" for ticket in worked):
        return
    there = residents_after(state, decided)
    alone = plan(
        replace(state, sequences=tuple(v for t, v in views.items() if t in there and v.priority == "online")), budget
    )
    online = [view for ticket, view in views.items() if view.priority == "online" and ticket in there]
    added = decided.predicted_seconds - alone.predicted_seconds
    expected = forecast(sorted(online, key=lambda view: view.order), state.model, CHUNK, budget)
    allowed = min([state.slack_elsewhere, *(view.batch_deadline - expected[view.ticket] for view in online)])
    if len(worked) > 1:  # The first piece of a step may be longer: there is no smaller one.
        assert added <= max(allowed, 0.0) * (1 + 1e-9) + 1e-9
        if online or state.slack_elsewhere < inf or not state.interruptible:
            assert decided.predicted_seconds <= max(budget.arrival_seconds, alone.predicted_seconds) * (1 + 1e-9)


@given(states(), budgets)
def test_nobody_online_is_delayed_unless_that_saves_time_or_a_deadline_is_near(
    state: SchedulerState, budget: StepBudget
) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    worked = {views[ticket] for ticket in (*decided.decode, *(ticket for ticket, _ in decided.prefill))}
    shared = any(views[ticket].priority == "online" for ticket in residents_after(state, decided))
    beside = shared or state.slack_elsewhere < inf
    riding = [view for view in worked if view.priority == "batch"]
    assert not (beside and riding) or should_coschedule(state, shared=shared) or all(view.urgent for view in riding)


@given(states(), budgets)
def test_the_plan_is_a_function(state: SchedulerState, budget: StepBudget) -> None:
    assert plan(state, budget) == plan(state, budget)
