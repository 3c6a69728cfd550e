"""When texts are embedded: online ones at once, others' in the time that is left."""

from math import inf

import numpy
import pytest

from antiphon.core.errors import InvalidInputError, PromptTooLongError
from antiphon.engine.api.messages import RequestFailure, TextEmbeddingRequest, TextEmbeddings
from antiphon.engine.backends.simulated.encoder import SimulatedEncoder
from antiphon.engine.execution.embedding_executor import MOST_TEXTS, EmbeddingExecutor
from antiphon.engine.scheduling.state import StepBudget

BUDGET = StepBudget(arrival_seconds=0.25)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class World:
    def __init__(self, token_seconds: float = 0.01) -> None:
        self.clock = Clock()
        self.online_waiting = False
        encoder = SimulatedEncoder(
            "vectors", tokens=8, dimensions=16, token_seconds=token_seconds, sleep=self.clock.sleep
        )
        self.executor = EmbeddingExecutor(encoder, self.clock, lambda: self.online_waiting)
        self.tickets = 0

    def ask(self, *texts: str, priority: str = "online", tenant: str = "") -> int:
        self.tickets += 1
        request = TextEmbeddingRequest(f"r{self.tickets}", "vectors", texts, priority=priority, tenant=tenant)  # type: ignore[arg-type]
        self.executor.add(self.executor.prepare(self.tickets, request))
        return self.tickets


def numbers(embedded: TextEmbeddings) -> numpy.ndarray:
    return numpy.frombuffer(embedded.vectors, dtype="<f4").reshape(-1, embedded.dimensions)


def test_one_text_a_turn_and_all_vectors_at_the_end() -> None:
    world = World()
    ticket = world.ask("one flight", "two flights", "three")
    assert world.executor.step(BUDGET) == []
    assert world.executor.step(BUDGET) == []
    ((told, embedded),) = world.executor.step(BUDGET)
    assert told == ticket
    assert isinstance(embedded, TextEmbeddings)
    assert embedded.tokens == (2, 2, 1)
    rows = numbers(embedded)
    assert rows.shape == (3, 16)
    assert numpy.allclose((rows * rows).sum(axis=1), 1.0)
    assert embedded.engine_seconds == pytest.approx(0.05)
    assert world.executor.idle
    assert (world.executor.counters.embedded_texts, world.executor.counters.embedded_tokens) == (3, 5)


def test_a_vector_is_the_same_whatever_else_is_embedded() -> None:
    world = World()
    world.ask("a late flight")
    ((_, alone),) = world.executor.step(BUDGET)
    world.ask("something else", "a late flight")
    world.executor.step(BUDGET)
    ((_, beside),) = world.executor.step(BUDGET)
    assert isinstance(alone, TextEmbeddings)
    assert isinstance(beside, TextEmbeddings)
    assert numbers(beside)[1].tobytes() == alone.vectors


def test_online_goes_before_batch_that_came_first() -> None:
    world = World()
    batch = world.ask("old", priority="batch")
    online = world.ask("new")
    assert [ticket for ticket, _ in world.executor.step(BUDGET)] == [online]
    assert [ticket for ticket, _ in world.executor.step(BUDGET)] == [batch]


def test_batch_waits_for_time_that_online_work_leaves() -> None:
    world = World()
    ticket = world.ask("a text of five words", priority="batch")
    assert world.executor.step(BUDGET, slack_elsewhere=0.0, leaves_gaps=False) == []
    assert world.executor.step(BUDGET, slack_elsewhere=9.0) == [], "the next gap is as good"
    world.online_waiting = True
    assert world.executor.step(BUDGET, slack_elsewhere=inf) == []
    assert world.executor.counters.embedded_texts == 0
    world.online_waiting = False
    assert [told for told, _ in world.executor.step(BUDGET, slack_elsewhere=inf)] == [ticket]


def test_what_a_text_takes_is_learnt() -> None:
    world = World(token_seconds=0.02)
    for _ in range(30):
        world.ask("one two three four", priority="batch")
        world.executor.step(BUDGET)
    world.ask("one two three four", priority="batch")
    assert world.executor.step(BUDGET, slack_elsewhere=0.06, leaves_gaps=False) == []
    assert world.executor.step(BUDGET, slack_elsewhere=0.2, leaves_gaps=False) != []


def test_the_first_online_text_is_embedded_at_once_and_the_rest_give_way_for_a_bounded_time() -> None:
    world = World()
    world.ask("first", "second")
    world.executor.step(BUDGET, slack_elsewhere=0.0)
    assert world.executor.counters.embedded_texts == 1
    assert world.executor.step(BUDGET, slack_elsewhere=0.0) == []
    assert world.executor.counters.embedded_texts == 1
    world.clock.sleep(BUDGET.arrival_seconds)
    assert world.executor.step(BUDGET, slack_elsewhere=0.0) != []


def test_others_may_hold_online_texts_up_only_as_long_as_who_arrives_may_wait() -> None:
    world = World()
    assert world.executor.slack(BUDGET) == inf
    world.ask("batch", priority="batch")
    assert world.executor.slack(BUDGET) == inf
    world.ask("online")
    assert world.executor.slack(BUDGET) == pytest.approx(0.25)
    world.clock.sleep(0.2)
    assert world.executor.slack(BUDGET) == pytest.approx(0.05)


def test_a_cancelled_request_is_gone_and_an_unknown_one_is_ignored() -> None:
    world = World()
    ticket = world.ask("never", priority="batch")
    ((told, failed),) = world.executor.cancel(ticket)
    assert told == ticket
    assert isinstance(failed, RequestFailure)
    assert world.executor.idle
    assert world.executor.cancel(ticket) == []


@pytest.mark.parametrize(
    ("changes", "kind", "where"),
    [
        ({"texts": ()}, InvalidInputError, "input"),
        ({"texts": ("a",) * (MOST_TEXTS + 1)}, InvalidInputError, "input"),
        ({"texts": ("a", " \n")}, InvalidInputError, "input[1]"),
        ({"texts": ("a " * 9,)}, PromptTooLongError, "input"),
        ({"texts": ("a", "b", "a " * 9)}, PromptTooLongError, "input[2]"),
        ({"dimensions": 8}, InvalidInputError, "dimensions"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(
    changes: dict[str, object], kind: type[InvalidInputError], where: str
) -> None:
    executor = World().executor
    asked: dict[str, object] = {"id": "r", "model": "vectors", "texts": ("a",)}
    with pytest.raises(kind) as refused:
        executor.prepare(1, TextEmbeddingRequest(**{**asked, **changes}))  # type: ignore[arg-type]
    assert refused.value.where == where
    assert refused.value.next_step
    assert executor.prepare(1, TextEmbeddingRequest("r", "vectors", ("a",), dimensions=16)).texts


def test_tenants_take_turns_text_by_text() -> None:
    world = World()
    many = world.ask(*["a text"] * 40, tenant="a")
    world.executor.step(BUDGET)
    few = world.ask("one", "two", tenant="b")
    ended = [ticket for _ in range(4) for ticket, _ in world.executor.step(BUDGET)]
    assert ended == [few], "b's second text comes after one of a's"
    again = world.ask("three", tenant="a")
    assert [ticket for _ in range(60) for ticket, _ in world.executor.step(BUDGET)] == [many, again]
    assert world.executor.idle
