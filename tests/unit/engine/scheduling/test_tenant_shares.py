"""Shares of the engine among tenants: whose turn it is, who gets a slot, what is never saved up."""

from dataclasses import replace

import pytest

from antiphon.engine.scheduling.latency_model import CallModel, LatencyModel
from antiphon.engine.scheduling.scheduler import plan
from antiphon.engine.scheduling.state import SchedulerState, SequenceView, StepBudget
from antiphon.engine.scheduling.tenant_shares import (
    MAX_LAG_SECONDS,
    MAX_LEAD_SECONDS,
    RETURN_CREDIT_SECONDS,
    TenantShares,
)

FREE = LatencyModel(CallModel((0.0, 1e-6, 0.0)), CallModel((0.0, 1e-6, 0.0)))


def prompt(ticket: int, tenant: str, place: str = "resident", **changes: object) -> SequenceView:
    fields: dict[str, object] = {"position": 0, "pending": 320, "generating": False, **changes}
    return SequenceView(ticket, "online", ticket, residency=place, tenant=tenant, **fields)  # type: ignore[arg-type]


def writing(ticket: int, tenant: str) -> SequenceView:
    return prompt(ticket, tenant, position=100, pending=1, generating=True)


def state(*sequences: SequenceView, slots: int = 8, **service: float) -> SchedulerState:
    return SchedulerState(tuple(sequences), slots, 32, FREE, service=service)


def test_chunks_of_two_tenants_prompts_alternate_and_the_one_with_less_begins() -> None:
    decided = plan(state(prompt(1, "a"), prompt(2, "a"), prompt(3, "b"), a=0.1, b=0.0), StepBudget())
    assert decided.prefill == ((3, 128),), "b has had less, and its chunks take next to no time"
    slow = LatencyModel(CallModel((0.02, 0.0, 0.0)))
    even = SchedulerState((prompt(1, "a"), prompt(2, "a"), prompt(3, "b")), 8, 32, slow, service={"a": 0.0, "b": 0.0})
    assert dict(plan(even, StepBudget()).prefill) == {1: 64, 3: 64}


def test_one_tenants_prompts_are_computed_in_order_of_arrival() -> None:
    assert plan(state(prompt(1, "a"), prompt(2, "a")), StepBudget()).prefill == ((1, 128),)


def test_who_is_ahead_waits_while_the_other_writes() -> None:
    ahead = state(writing(1, "a"), writing(2, "a"), writing(3, "b"), a=2 * MAX_LEAD_SECONDS, b=0.0)
    assert plan(ahead, StepBudget()).decode == (3,)
    one_each = state(writing(1, "a"), writing(3, "b"), prompt(4, "a"), a=2 * MAX_LEAD_SECONDS, b=0.0)
    assert plan(one_each, StepBudget()) == replace(plan(one_each, StepBudget()), decode=(1, 3), prefill=())
    reading = state(writing(1, "a"), prompt(3, "b"), a=2 * MAX_LEAD_SECONDS, b=0.0)
    assert plan(reading, StepBudget()).decode == (1,)
    together = state(writing(1, "a"), writing(2, "a"), writing(3, "b"), a=MAX_LEAD_SECONDS, b=0.0)
    assert plan(together, StepBudget()).decode == (1, 2, 3)


def test_a_tenant_without_a_slot_gets_one_of_a_tenant_with_several() -> None:
    full = [writing(1, "a"), writing(2, "a")]
    decided = plan(
        state(*full, prompt(3, "a", "waiting"), prompt(4, "b", "waiting"), slots=2, a=0.0, b=0.0), StepBudget()
    )
    assert (decided.swap_out, decided.admit) == ((2,), (4,))
    # One slot each: there is nothing to take.
    shared = [writing(1, "a"), writing(2, "b")]
    decided = plan(state(*shared, prompt(4, "c", "waiting"), slots=2, a=0.0, b=0.0, c=0.0), StepBudget())
    assert (decided.swap_out, decided.admit) == ((), ())


def test_a_sequence_that_has_written_nothing_gives_its_slot_up_first() -> None:
    full = [prompt(1, "a"), writing(2, "a"), writing(3, "a")]
    decided = plan(state(*full, prompt(4, "b", "waiting"), slots=3, a=0.0, b=0.0), StepBudget())
    assert (decided.swap_out, decided.admit) == ((1,), (4,))


def test_a_sequence_that_gave_its_slot_up_goes_on_before_another_begins() -> None:
    kept = prompt(3, "a", "swapped", position=64)
    waiting = state(writing(1, "a"), writing(2, "b"), kept, prompt(4, "b", "waiting"), slots=3, a=0.1, b=0.0)
    assert plan(waiting, StepBudget()).admit == (3,)


def test_a_tenant_without_a_slot_gets_one_behind_a_tenant_whose_request_goes_ahead() -> None:
    ahead = SequenceView(9, "online", -5, 0, 32, False, "waiting", tenant="a")
    full = [writing(1, "a"), writing(2, "a"), ahead]
    decided = plan(state(*full, prompt(4, "b", "waiting"), slots=2, a=0.0, b=0.0), StepBudget())
    assert (decided.swap_out, decided.admit) == ((2,), (4,))


def test_slots_go_to_the_tenant_with_fewest_and_to_what_goes_ahead_first() -> None:
    waiting = [prompt(number, "a", "waiting") for number in (1, 2, 3)] + [prompt(4, "b", "waiting")]
    assert plan(state(*waiting, slots=3, a=0.0, b=0.0), StepBudget()).admit == (1, 4, 2)
    ahead = SequenceView(9, "online", -5, 0, 32, False, "waiting", tenant="a")
    assert plan(state(*waiting, ahead, slots=2, a=0.0, b=0.0), StepBudget()).admit == (9, 4)


def test_time_without_work_is_not_saved_up_and_waiting_only_so_far() -> None:
    shares = TenantShares()
    shares.arrived("a")
    assert shares.service == {}, "alone there is nothing to share"
    shares.charge("a", 100.0)
    shares.arrived("b")
    assert shares.service["a"] - shares.service["b"] == pytest.approx(MAX_LEAD_SECONDS + RETURN_CREDIT_SECONDS)
    shares.charge("b", 1.0)
    shares.charge("a", 100.0)
    assert shares.service["a"] - shares.service["b"] == MAX_LAG_SECONDS
    shares.left("b")
    shares.arrived("b")
    assert shares.service["a"] - shares.service["b"] == pytest.approx(MAX_LEAD_SECONDS + RETURN_CREDIT_SECONDS)


def test_coming_back_does_not_forget_what_was_had() -> None:
    shares = TenantShares()
    for tenant in ("a", "b"):
        shares.arrived(tenant)
    shares.charge("b", 5.0)
    had = shares.service["b"] - shares.service["a"]
    shares.left("b")
    shares.arrived("b")
    assert shares.service["b"] - shares.service["a"] == pytest.approx(had - RETURN_CREDIT_SECONDS)


def test_whoever_comes_again_and_again_moves_on_all_the_same() -> None:
    """What is taken off for the step in flight is less than what was had, so that nobody is kept out by it."""
    shares = TenantShares()
    for tenant in ("a", "b", "c"):
        shares.arrived(tenant)
    begun = shares.service
    for _ in range(100):
        for tenant in ("b", "c"):
            shares.charge(tenant, 0.02)
            shares.left(tenant)
            shares.arrived(tenant)
    assert all(shares.service[tenant] >= begun[tenant] + MAX_LEAD_SECONDS for tenant in ("b", "c"))


def test_tenants_that_arrive_one_after_another_begin_alike() -> None:
    shares = TenantShares()
    shares.arrived("a")
    shares.charge("a", 10.0)
    for tenant in "bcdef":
        shares.arrived(tenant)
    behind = {round(shares.service["a"] - shares.service[tenant], 9) for tenant in "bcdef"}
    assert behind == {MAX_LEAD_SECONDS + RETURN_CREDIT_SECONDS}


def test_a_tenant_that_waits_for_a_slot_is_next_while_others_keep_coming() -> None:
    shares = TenantShares()
    for tenant in ("running", "waits"):
        shares.arrived(tenant)
    for number in range(5):
        shares.charge("running", 0.01)
        shares.arrived(f"new-{number}")
    waiting = [prompt(10 + number, f"new-{number}", "waiting") for number in range(5)]
    sequences = (writing(1, "running"), prompt(2, "waits", "waiting"), *waiting)
    assert plan(SchedulerState(sequences, 2, 32, FREE, service=shares.service), StepBudget()).admit == (2,)
