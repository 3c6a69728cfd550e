from antiphon.engine.latency_model import LatencyModel, StepShape
from antiphon.engine.scheduler import Budget, SequenceView, State, plan

CHUNK = 32


def view(ticket: int, priority: str, **changes: object) -> SequenceView:
    fields: dict[str, object] = {
        "ticket": ticket,
        "priority": priority,
        "order": ticket,
        "position": 0,
        "pending": 100,
        "generating": False,
        "place": "resident",
    }
    return SequenceView(**{**fields, **changes})  # type: ignore[arg-type]


def decoding(ticket: int, priority: str, *, position: int = 100, pending: int = 1) -> SequenceView:
    return view(ticket, priority, position=position, pending=pending, generating=True)


def state(*sequences: SequenceView, slots: int = 4, **changes: object) -> State:
    return State(tuple(sequences), slots, CHUNK, **changes)  # type: ignore[arg-type]


def test_an_empty_state_gives_an_empty_plan() -> None:
    decided = plan(state(), Budget())
    assert decided.decode == decided.prefill == decided.admit == decided.keep == ()
    assert decided.predicted_seconds == 0


def test_online_takes_the_free_slots_before_batch() -> None:
    waiting = [view(1, "batch", place="waiting"), view(2, "batch", place="waiting"), view(3, "online", place="waiting")]
    decided = plan(state(*waiting, slots=2), Budget())
    assert decided.admit == (3, 1)


def test_online_takes_the_slot_of_the_youngest_batch_sequence() -> None:
    resident = [decoding(1, "batch"), decoding(2, "batch")]
    decided = plan(state(*resident, view(3, "online", place="waiting"), slots=2), Budget())
    assert decided.keep == (2,)
    assert decided.admit == (3,)
    assert 2 not in decided.decode
    assert [ticket for ticket, _ in decided.prefill] == [3]


def test_online_does_not_take_the_slot_of_online() -> None:
    decided = plan(state(decoding(1, "online"), view(2, "online", place="waiting"), slots=1), Budget())
    assert decided.keep == ()
    assert decided.admit == ()


def test_a_kept_batch_sequence_comes_back_before_a_younger_one_starts() -> None:
    kept = view(1, "batch", place="kept", generating=True, pending=1, position=50)
    decided = plan(state(view(2, "batch", place="waiting"), kept, slots=1), Budget())
    assert decided.admit == (1,)
    assert decided.decode == (1,)


def test_batch_decodes_beside_online_only_while_the_step_stays_inside_the_budget() -> None:
    model = LatencyModel((0.0, 0.010, 0.001, 0.0))
    sequences = [decoding(1, "online"), *(decoding(ticket, "batch") for ticket in range(2, 10))]
    decided = plan(state(*sequences, slots=16, model=model), Budget(step_seconds=0.045))
    assert decided.decode == (1, 2, 3, 4)
    assert decided.paused == (5, 6, 7, 8, 9)


def test_all_online_sequences_decode_even_past_the_budget() -> None:
    model = LatencyModel((0.0, 0.010, 0.001, 0.0))
    sequences = [decoding(ticket, "online") for ticket in range(8)]
    decided = plan(state(*sequences, slots=16, model=model), Budget(step_seconds=0.001))
    assert decided.decode == tuple(range(8))


def test_a_prompt_is_cut_at_chunk_boundaries_and_bounded_by_the_budget() -> None:
    model = LatencyModel((0.0, 0.0, 0.001, 0.0))
    decided = plan(state(view(1, "online", position=40, pending=300), model=model), Budget(step_seconds=0.06))
    assert decided.prefill == ((1, 24 + 32),)


def test_one_online_prompt_advances_even_past_the_budget() -> None:
    model = LatencyModel((1.0, 1.0, 1.0, 0.0))
    decided = plan(state(decoding(1, "online"), view(2, "online"), view(3, "online"), model=model), Budget())
    assert decided.prefill == ((2, CHUNK),)


def test_without_online_prompts_go_first_so_that_decode_steps_are_full() -> None:
    decided = plan(state(decoding(1, "batch"), view(2, "batch", pending=20)), Budget())
    assert decided.prefill == ((2, 20),)
    assert decided.decode == ()
    assert decided.paused == (1,)


def test_another_models_online_work_bounds_this_models_batch_step() -> None:
    model = LatencyModel((0.0, 0.010, 0.001, 0.0))
    sequences = [decoding(ticket, "batch") for ticket in range(8)]
    budget = Budget(step_seconds=0.025, idle_step_seconds=1.0)
    assert len(plan(state(*sequences, slots=8, model=model), budget).decode) == 8
    assert len(plan(state(*sequences, slots=8, model=model, online_elsewhere=True), budget).decode) == 2


def test_forced_tokens_of_a_decoding_sequence_are_planned_as_a_call_of_their_own() -> None:
    decided = plan(state(decoding(1, "online", pending=6), decoding(2, "online")), Budget())
    assert decided.prefill == ((1, 6),)
    assert decided.decode == (1, 2)


def test_the_latency_model_learns_the_cost_of_steps() -> None:
    model = LatencyModel()
    true = (0.004, 0.002, 0.0015, 0.0008)
    for round_number in range(400):
        shape = StepShape(round_number % 17, (round_number * 7) % 5 * 32, (round_number * 131) % 6000)
        seconds = true[0] + true[1] * shape.decodes + true[2] * shape.prefill_tokens
        seconds += true[3] * shape.context_tokens / 1000
        model = model.observe(shape, seconds)
    for shape in (StepShape(16, 0, 4000), StepShape(1, 64, 300), StepShape(8, 32, 1000)):
        expected = true[0] + true[1] * shape.decodes + true[2] * shape.prefill_tokens
        expected += true[3] * shape.context_tokens / 1000
        assert abs(model.predict(shape) - expected) < 0.05 * expected


def test_the_latency_model_follows_a_machine_that_becomes_slower() -> None:
    model = LatencyModel()
    shape = StepShape(8, 0, 1000)
    for _ in range(200):
        model = model.observe(shape, 0.03)
    for _ in range(600):
        model = model.observe(shape, 0.09)
    assert abs(model.predict(shape) - 0.09) < 0.005
    assert model.predict(StepShape(0, 0, 0)) == 0
