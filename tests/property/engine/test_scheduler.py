from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.latency_model import LatencyModel
from antiphon.engine.scheduler import Budget, Plan, SequenceView, State, plan

CHUNK = 32


@st.composite
def states(draw: st.DrawFn) -> State:
    """States as a lane can have them: never more residents than slots, kept sequences are batch ones."""
    slots = draw(st.integers(1, 6))
    resident = draw(st.integers(0, slots))
    absent = draw(st.integers(0, 6))
    orders = draw(st.permutations(range(resident + absent)))
    sequences = []
    for number, order in enumerate(orders):
        priority = draw(st.sampled_from(["online", "batch"]))
        places = ["resident"] if number < resident else ["waiting", "kept"] if priority == "batch" else ["waiting"]
        place = draw(st.sampled_from(places))
        generating = place != "waiting" and draw(st.booleans())
        position = draw(st.integers(1, 500)) if generating or place == "kept" else 0
        pending = draw(st.integers(1, 8)) if generating else draw(st.integers(1, 300))
        sequences.append(SequenceView(number, priority, order, position, pending, generating, place))  # type: ignore[arg-type]
    seconds = draw(st.tuples(*[st.floats(0, 0.01)] * 4))
    return State(tuple(sequences), slots, CHUNK, LatencyModel(seconds), draw(st.booleans()))


budgets = st.builds(Budget, st.floats(1e-4, 1), st.floats(1e-4, 1), st.integers(1, 300))


def by_ticket(state: State) -> dict[int, SequenceView]:
    return {sequence.ticket: sequence for sequence in state.sequences}


def residents_after(state: State, decided: Plan) -> set[int]:
    before = {sequence.ticket for sequence in state.sequences if sequence.place == "resident"}
    return before - set(decided.keep) | set(decided.admit)


@given(states(), budgets)
def test_a_plan_can_be_carried_out(state: State, budget: Budget) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    after = residents_after(state, decided)
    assert len(after) <= state.slots
    assert all(views[ticket].place == "resident" and views[ticket].priority == "batch" for ticket in decided.keep)
    assert all(views[ticket].place != "resident" for ticket in decided.admit)
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
def test_there_is_progress(state: State, budget: Budget) -> None:
    decided = plan(state, budget)
    assert bool(decided.decode or decided.prefill) == bool(state.sequences)


@given(states(), budgets)
def test_batch_never_keeps_online_from_a_slot_or_a_token(state: State, budget: Budget) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    after = residents_after(state, decided)
    if any(view.priority == "online" and ticket not in after for ticket, view in views.items()):
        assert all(views[ticket].priority == "online" for ticket in after)
    online = {ticket for ticket in after if views[ticket].priority == "online" and views[ticket].generating}
    assert online <= set(decided.decode)


@given(states(), budgets)
def test_online_work_does_not_depend_on_batch(state: State, budget: Budget) -> None:
    """With slots for all, removing every batch sequence changes nothing about online's part of the plan."""
    roomy = State(state.sequences, len(state.sequences) + 1, CHUNK, state.model, state.online_elsewhere)
    views = by_ticket(state)
    without = tuple(sequence for sequence in state.sequences if sequence.priority == "online")
    alone = plan(State(without, roomy.slots, CHUNK, state.model, state.online_elsewhere), budget)
    together = plan(roomy, budget)

    def online(tickets: tuple[int, ...]) -> list[int]:
        return [ticket for ticket in tickets if views[ticket].priority == "online"]

    assert online(together.decode) == online(alone.decode)
    assert [item for item in together.prefill if views[item[0]].priority == "online"] == list(alone.prefill)


@given(states(), budgets)
def test_batch_is_added_only_inside_the_budget(state: State, budget: Budget) -> None:
    decided = plan(state, budget)
    views = by_ticket(state)
    worked = {ticket for ticket, _ in decided.prefill} | set(decided.decode)
    batch = {ticket for ticket in worked if views[ticket].priority == "batch"}
    online_present = any(views[ticket].priority == "online" for ticket in residents_after(state, decided))
    limit = budget.step_seconds if online_present or state.online_elsewhere else budget.idle_step_seconds
    if batch and len(worked) > 1:
        assert decided.predicted_seconds <= limit * (1 + 1e-9)


@given(states(), budgets)
def test_the_plan_is_a_function(state: State, budget: Budget) -> None:
    assert plan(state, budget) == plan(state, budget)
