from antiphon.engine.scheduling.latency_model import CallModel, LatencyModel
from antiphon.engine.scheduling.state import SequenceView, StepBudget
from antiphon.engine.scheduling.twin import Twin

MODEL = LatencyModel(CallModel((0.0, 0.002, 0.0), excess=1.0), CallModel((0.010, 0.005, 0.0), excess=1.0))
"""64 ms for a chunk of 32 tokens; a decode call of n sequences 10 ms and 5 ms each."""

BUDGET = StepBudget()


def arrival(ticket: int, *, pending: int, position: int = 0, order: int | None = None) -> SequenceView:
    return SequenceView(ticket, "online", ticket if order is None else order, position, pending, False, "waiting")


def test_one_request_alone() -> None:
    twin = Twin(slots=4, chunk_tokens=32)
    twin.add(arrival(1, pending=64), 100.0, 3)
    assert abs(twin.token_time(1, 0, MODEL, BUDGET) - 100.128) < 1e-9  # Expected: nothing has run yet.
    twin.advance(100.5, MODEL, BUDGET)
    assert [round(twin.token_time(1, token, MODEL, BUDGET), 6) for token in range(3)] == [100.128, 100.143, 100.158]


def test_who_arrives_in_the_middle_of_a_step_waits_for_its_end() -> None:
    twin = Twin(slots=4, chunk_tokens=32)
    twin.add(arrival(1, pending=32), 0.0, 100)
    twin.advance(0.070, MODEL, BUDGET)  # The chunk took until 64 ms; the step of the next token ends at 79 ms.
    twin.add(arrival(2, pending=32), 0.070, 100)
    twin.advance(0.300, MODEL, BUDGET)
    assert abs(twin.token_time(1, 1, MODEL, BUDGET) - 0.079) < 1e-9
    assert abs(twin.token_time(2, 0, MODEL, BUDGET) - 0.143) < 1e-9
    assert abs(twin.token_time(1, 2, MODEL, BUDGET) - 0.158) < 1e-9


def test_an_arrival_slows_the_others_down_as_it_would() -> None:
    alone, joined = Twin(slots=4, chunk_tokens=32), Twin(slots=4, chunk_tokens=32)
    for twin in (alone, joined):
        twin.add(arrival(1, pending=32), 0.0, 50)
    joined.add(arrival(2, pending=96), 0.2, 50)
    for twin in (alone, joined):
        twin.advance(2.0, MODEL, BUDGET)
    assert joined.token_time(1, 40, MODEL, BUDGET) > alone.token_time(1, 40, MODEL, BUDGET) + 0.19


def test_what_is_kept_of_a_prompt_is_not_computed() -> None:
    twin = Twin(slots=4, chunk_tokens=32)
    twin.add(arrival(1, pending=32, position=64), 0.0, 1)
    twin.advance(1.0, MODEL, BUDGET)
    assert abs(twin.token_time(1, 0, MODEL, BUDGET) - 0.064) < 1e-9


def test_who_writes_more_than_was_expected_goes_on_at_its_pace() -> None:
    twin = Twin(slots=4, chunk_tokens=32)
    twin.add(arrival(1, pending=32), 0.0, 3)
    twin.advance(1.0, MODEL, BUDGET)
    assert abs(twin.token_time(1, 4, MODEL, BUDGET) - (0.064 + 4 * 0.015)) < 1e-9


def test_who_has_left_makes_nobody_wait() -> None:
    twin = Twin(slots=1, chunk_tokens=32)
    twin.add(arrival(1, pending=32), 0.0, 1_000)
    twin.add(arrival(2, pending=32), 0.0, 10)
    twin.advance(0.5, MODEL, BUDGET)
    twin.remove(1)
    twin.advance(1.0, MODEL, BUDGET)
    assert twin.token_time(2, 0, MODEL, BUDGET) < 0.6


def test_who_goes_on_comes_back_with_what_it_would_have_written_meanwhile() -> None:
    twin = Twin(slots=4, chunk_tokens=32)
    twin.add(arrival(1, pending=32), 0.0, 3)
    twin.advance(0.5, MODEL, BUDGET)
    twin.add(arrival(2, pending=32), 0.5, 5)
    twin.advance(0.6, MODEL, BUDGET)
    twin.extend(1, 100)
    twin.advance(1.0, MODEL, BUDGET)
    assert abs(twin.token_time(1, 30, MODEL, BUDGET) - (0.064 + 30 * 0.015)) < 1e-9
    assert twin.token_time(2, 4, MODEL, BUDGET) - twin.token_time(2, 3, MODEL, BUDGET) > 0.019


def test_who_goes_ahead_does_so_here_as_well() -> None:
    twin = Twin(slots=1, chunk_tokens=32)
    twin.add(arrival(1, pending=32), 0.0, 100)
    twin.advance(0.1, MODEL, BUDGET)
    twin.add(arrival(2, pending=32), 0.1, 2)
    twin.add(arrival(3, pending=32, order=-1), 0.1, 2)
    twin.remove(1)
    twin.advance(2.0, MODEL, BUDGET)
    assert twin.token_time(3, 0, MODEL, BUDGET) < twin.token_time(2, 0, MODEL, BUDGET)
