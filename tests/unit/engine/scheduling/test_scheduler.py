from antiphon.engine.scheduling.latency_model import CallModel, LatencyModel
from antiphon.engine.scheduling.scheduler import forecast, plan
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget

CHUNK = 32


def costs(*, call: float = 0.0, decode: float = 0.0, token: float = 0.0) -> LatencyModel:
    """Seconds of a decode call, of each of its sequences, and of a prompt's token; no margin."""
    feeding, decoding = CallModel((0.0, token, 0.0), excess=1.0), CallModel((call, decode, 0.0), excess=1.0)
    return LatencyModel(feeding, decoding)


def view(ticket: int, priority: str, **changes: object) -> SequenceView:
    fields: dict[str, object] = {
        "ticket": ticket,
        "priority": priority,
        "order": ticket,
        "position": 0,
        "pending": 100,
        "generating": False,
        "residency": "resident",
    }
    return SequenceView(**{**fields, **changes})  # type: ignore[arg-type]


def decoding(ticket: int, priority: str, *, position: int = 100, pending: int = 1, **changes: object) -> SequenceView:
    return view(ticket, priority, position=position, pending=pending, generating=True, **changes)


def state(*sequences: SequenceView, slots: int = 4, **changes: object) -> SchedulerState:
    return SchedulerState(tuple(sequences), slots, CHUNK, **changes)  # type: ignore[arg-type]


def test_an_empty_state_gives_an_empty_plan() -> None:
    decided = plan(state(), StepBudget())
    assert decided.decode == decided.prefill == decided.admit == decided.swap_out == ()
    assert decided.predicted_seconds == 0


def test_online_takes_the_free_slots_before_batch() -> None:
    waiting = [
        view(1, "batch", residency="waiting"),
        view(2, "batch", residency="waiting"),
        view(3, "online", residency="waiting"),
    ]
    decided = plan(state(*waiting, slots=2), StepBudget())
    assert decided.admit == (3, 1)


def test_online_takes_the_slot_of_the_batch_sequence_with_least_to_copy() -> None:
    resident = [decoding(1, "batch", position=90), decoding(2, "batch", position=200)]
    decided = plan(state(*resident, view(3, "online", residency="waiting"), slots=2), StepBudget())
    assert decided.swap_out == (1,)
    assert decided.admit == (3,)
    assert 1 not in decided.decode
    assert [ticket for ticket, _ in decided.prefill] == [3]
    alike = [decoding(1, "batch"), decoding(2, "batch")]
    assert plan(state(*alike, view(3, "online", residency="waiting"), slots=2), StepBudget()).swap_out == (2,)


def test_online_does_not_take_the_slot_of_online() -> None:
    decided = plan(state(decoding(1, "online"), view(2, "online", residency="waiting"), slots=1), StepBudget())
    assert decided.swap_out == ()
    assert decided.admit == ()


def test_a_kept_batch_sequence_comes_back_before_a_younger_one_starts() -> None:
    kept = view(1, "batch", residency="swapped", generating=True, pending=1, position=50)
    decided = plan(state(view(2, "batch", residency="waiting"), kept, slots=1), StepBudget())
    assert decided.admit == (1,)
    assert decided.decode == (1,)


def test_batch_decodes_beside_online_all_at_once_and_only_while_no_token_is_late() -> None:
    model = costs(call=0.010, decode=0.010)
    batch = [decoding(ticket, "batch") for ticket in range(2, 5)]
    for until, riding in ((0.055, (1, 2, 3, 4)), (0.045, (1,)), (0.009, (1,))):
        online = decoding(1, "online", due=0.060, batch_deadline=until)
        assert plan(state(online, *batch, slots=16, model=model), StepBudget()).decode == riding


def test_beside_online_batch_decodes_along_and_computes_a_prompt_only_when_none_is_left_that_could() -> None:
    online, prompt = decoding(1, "online"), view(3, "batch", pending=20)
    decided = plan(state(online, decoding(2, "batch"), prompt), StepBudget())
    assert (decided.decode, decided.prefill) == ((1, 2), ())
    assert plan(state(online, prompt), StepBudget()).prefill == ((3, 20),)
    # No decode call runs for online here: one of batch's own would delay the prompt and gain nothing.
    decided = plan(state(view(1, "online", pending=20), decoding(2, "batch"), prompt), StepBudget())
    assert (decided.decode, decided.prefill) == ((), ((1, 20),))


def test_nobody_is_delayed_where_riding_along_saves_next_to_nothing() -> None:
    sequences = [decoding(1, "online"), *(decoding(ticket, "batch") for ticket in range(2, 10))]
    dear = costs(call=0.005, decode=0.005, token=0.003)

    def decided(model: LatencyModel, **changes: object) -> tuple[int, ...]:
        return plan(state(*sequences, slots=16, model=model, **changes), StepBudget()).decode

    # An eighth of the call's 5 ms, of 17.6 ms that a token costs with four prompt tokens.
    assert decided(dear, batch_prompt_ratio=4.0) == (1,)
    everybody = tuple(range(1, 10))
    assert decided(dear, batch_prompt_ratio=0.0) == everybody
    assert decided(costs(call=0.008, decode=0.0003, token=0.0005), batch_prompt_ratio=4.0) == everybody
    # There are hardly any gaps to wait for.
    assert decided(dear, batch_prompt_ratio=4.0, leaves_gaps=False) == everybody


def test_who_is_not_to_be_delayed_sees_no_prompt_of_batch_either() -> None:
    model = costs(call=0.005, decode=0.005, token=0.003)
    decided = plan(state(decoding(1, "online"), view(2, "batch"), model=model, batch_prompt_ratio=90.0), StepBudget())
    assert (decided.decode, decided.prefill) == ((1,), ())


def test_batch_whose_deadline_is_near_takes_what_online_leaves_whether_that_saves_time_or_not() -> None:
    sequences = [decoding(1, "online"), decoding(2, "batch"), decoding(3, "batch", urgent=True), view(4, "batch")]
    assert plan(state(*sequences, model=costs(decode=0.005)), StepBudget()).decode == (1, 3)
    late = [decoding(1, "online", batch_deadline=0.004), *sequences[1:]]
    assert plan(state(*late, model=costs(decode=0.005)), StepBudget()).decode == (1,)


def test_the_learnt_margin_is_kept_free() -> None:
    for excess, riding in ((1.0, (1, 2, 3)), (1.5, (1,))):
        model = LatencyModel(CallModel((0.0, 0.0, 0.0), excess=1.0), CallModel((0.010, 0.010, 0.0), excess=excess))
        sequences = [decoding(1, "online", batch_deadline=0.045), decoding(2, "batch"), decoding(3, "batch")]
        assert plan(state(*sequences, slots=16, model=model), StepBudget()).decode == riding


def test_a_prompt_that_waits_for_a_slot_is_in_the_time_that_batch_may_take() -> None:
    model = costs(call=0.005, decode=0.010, token=0.001)
    waiting = view(2, "online", residency="waiting", pending=32, batch_deadline=0.065)
    for others, riding in (((3,), (1, 3)), ((3, 4, 5), (1, 3, 4, 5)), ((3, 4, 5, 6), (1,))):
        sequences = [decoding(1, "online"), waiting, *(decoding(ticket, "batch") for ticket in others)]
        decided = plan(state(*sequences, slots=16, model=model), StepBudget())
        # The prompt's chunk takes 32 ms: 33 ms are left.
        assert decided.decode == riding


def test_who_arrives_waits_no_longer_than_is_allowed_for_a_step_with_batch() -> None:
    model = costs(call=0.005, decode=0.010)
    for others, riding in (((2, 3), (1, 2, 3)), ((2, 3, 4), (1,))):
        sequences = [decoding(1, "online"), *(decoding(ticket, "batch") for ticket in others)]
        assert plan(state(*sequences, slots=16, model=model), StepBudget(arrival_seconds=0.040)).decode == riding


def test_batch_alone_is_as_long_as_it_likes_where_it_gives_way() -> None:
    model = costs(decode=0.010)
    batch = [decoding(ticket, "batch") for ticket in range(8)]
    budget = StepBudget(arrival_seconds=0.025)
    assert len(plan(state(*batch, slots=8, model=model), budget).decode) == 2
    assert len(plan(state(*batch, slots=8, model=model, interruptible=True), budget).decode) == 8


def test_all_online_sequences_decode_even_when_they_are_late() -> None:
    model = costs(decode=0.010)
    sequences = [decoding(ticket, "online", due=0.0, batch_deadline=0.0) for ticket in range(8)]
    decided = plan(state(*sequences, slots=16, model=model), StepBudget(step_seconds=0.001))
    assert decided.decode == tuple(range(8))


def test_a_prompt_in_a_hurry_goes_before_tokens_that_can_wait() -> None:
    model = costs(decode=0.010, token=0.001)
    prompt = view(1, "online", pending=320, due=0.350, batch_deadline=0.350)
    patient = decoding(2, "online", due=0.200, batch_deadline=0.200)
    assert plan(state(prompt, patient, model=model), StepBudget()).decode == ()
    # Two chunks from now its token would be late.
    waiting = decoding(2, "online", due=0.070, batch_deadline=0.070)
    assert plan(state(prompt, waiting, model=model), StepBudget()).decode == (2,)
    nobody_hurries = view(1, "online", pending=320, due=9.0, batch_deadline=9.0)
    assert plan(state(nobody_hurries, patient, model=model), StepBudget()).decode == (2,)


def test_a_prompt_is_cut_at_chunk_boundaries_and_bounded_by_the_budget() -> None:
    sequences = view(1, "online", position=40, pending=300)
    assert plan(state(sequences, model=costs(token=0.001)), StepBudget(step_seconds=0.06)).prefill == ((1, 24 + 32),)


def test_one_online_prompt_advances_even_past_the_budget() -> None:
    model = costs(call=1.0, decode=1.0, token=1.0)
    decided = plan(state(decoding(1, "online"), view(2, "online"), view(3, "online"), model=model), StepBudget())
    assert decided.prefill == ((2, CHUNK),)


def test_without_online_prompts_go_first_so_that_decode_steps_are_full() -> None:
    decided = plan(state(decoding(1, "batch"), view(2, "batch", pending=20)), StepBudget())
    assert decided.prefill == ((2, 20),)
    assert decided.decode == ()


def test_another_models_online_work_bounds_this_models_batch_step() -> None:
    model = costs(decode=0.010)
    batch = [decoding(ticket, "batch") for ticket in range(8)]

    def decided(slack: float, **changes: object) -> tuple[int, ...]:
        return plan(state(*batch, slots=8, model=model, slack_elsewhere=slack, **changes), StepBudget()).decode

    assert decided(9.0) == (), "no call of theirs can be shared, and the next gap is as good"
    assert len(decided(0.025, leaves_gaps=False)) == 2
    # Somebody elsewhere is late already: nothing, not even one sequence.
    assert decided(-0.1, leaves_gaps=False) == ()


def test_forced_tokens_of_a_decoding_sequence_are_planned_as_a_call_of_their_own() -> None:
    decided = plan(state(decoding(1, "online", pending=6), decoding(2, "online")), StepBudget())
    assert decided.prefill == ((1, 6),)
    assert decided.decode == (1, 2)


def test_the_forecast_is_what_the_plans_without_batch_do() -> None:
    model = costs(call=0.005, decode=0.003, token=0.002)
    budget = StepBudget(step_seconds=0.1, online_prefill_tokens=64)
    sequences = [
        decoding(1, "online", position=50), decoding(2, "online", position=60),
        view(3, "online", pending=100), view(4, "online", pending=30),
    ]  # fmt: skip
    expected = forecast(sequences, model, CHUNK, budget)
    clock, out = 0.0, {}
    left = {sequence.ticket: sequence for sequence in sequences}
    while len(out) < len(sequences):
        decided = plan(state(*left.values(), slots=8, model=model), budget)
        for ticket, tokens in decided.prefill:
            one = left[ticket]
            clock += model.feed(tokens, one.position)
            left[ticket] = view(
                ticket, "online", position=one.position + tokens, pending=one.pending - tokens, order=ticket
            )
            if left[ticket].pending == 0:
                out[ticket] = clock
                del left[ticket]
        if decided.decode:
            clock += model.decode(len(decided.decode), 0)
        for ticket in decided.decode:
            out.setdefault(ticket, clock)
    assert all(abs(out[ticket] - expected[ticket]) < 1e-9 for ticket in out)
