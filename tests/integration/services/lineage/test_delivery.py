"""Events reach a receiver over HTTP: once, in order, after it was away, and again the same after a crash."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.integration.services.lineage.lineage_bakery import LineageBakery
from tests.integration.services.lineage.receiver import Receiver

from antiphon.catalog.lineage_acknowledgments import LineageAcknowledgments
from antiphon.core.clock import ManualClock
from antiphon.core.errors import SetupError, UnavailableError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.services.lineage.delivery import SETTLED, LineageDelivery, require_delivered
from antiphon.services.lineage.project import ProjectLineage

KEY = "the-receivers-key"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
async def bakery(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LineageBakery]:
    monkeypatch.setenv("RECEIVER_KEY", KEY)
    made = LineageBakery(tmp_path, f'[lineage]\nurl = "{receiver.url}"\napi_key_variable = "RECEIVER_KEY"\n')
    made.store.lineage_acknowledgments.begin(made.scope, receiver.url)
    yield made
    await made.close()


@pytest.fixture
def later(bakery: LineageBakery, monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], datetime]:
    """Lets time pass for the delivery alone."""
    clock = ManualClock(bakery.store.database.clock.now())

    def move(by: timedelta) -> datetime:
        clock.advance(by)
        monkeypatch.setattr(bakery.store.database, "clock", clock)
        return clock.now()

    return move


async def test_runs_are_told_once_in_order_with_the_receivers_key(bakery: LineageBakery, receiver: Receiver) -> None:
    await bakery.open_shop()
    delivery = LineageDelivery(bakery.store)
    assert delivery.send_due() == 4
    assert delivery.send_due() == 0
    assert LineageDelivery(bakery.store).send_due() == 0, "another worker sends nothing twice"
    assert receiver.jobs("START") == receiver.jobs("COMPLETE") == ["refresh.today", "gates.replies"]
    assert {headers["authorization"] for headers in receiver.headers} == {f"Bearer {KEY}"}
    assert {headers["content-type"] for headers in receiver.headers} == {"application/json"}
    assert delivery.status().state == "well"


async def test_a_receiver_that_was_away_gets_all_that_it_missed(
    bakery: LineageBakery, receiver: Receiver, later: Callable[[timedelta], datetime]
) -> None:
    receiver.stop()
    await bakery.open_shop()
    await bakery.refresh()
    delivery = LineageDelivery(bakery.store)
    assert delivery.send_due() == 0
    status = delivery.status()
    assert (status.state, status.backlog.runs) == ("failing", 3)
    assert "did not take it" in status.sentence
    with pytest.raises(SetupError, match="took nothing in 1 attempts"):
        require_delivered(bakery.folder)
    receiver.start()
    assert delivery.send_due() == 0, "the pause after the failure is not over"
    later(timedelta(days=1))
    assert delivery.send_due() == 6
    assert receiver.jobs("COMPLETE") == ["refresh.today", "gates.replies", "refresh.today"]
    assert delivery.status().state == "well"
    assert "everything is sent" in require_delivered(bakery.folder)


@pytest.mark.parametrize("status", [500, 503, 401, 404, 429])
async def test_an_answer_that_is_no_refusal_of_the_event_is_a_failure_of_the_receiver(
    bakery: LineageBakery, receiver: Receiver, later: Callable[[timedelta], datetime], status: int
) -> None:
    await bakery.open_shop()
    delivery = LineageDelivery(bakery.store)
    receiver.status = status
    assert delivery.send_due() == 0
    assert f"answered {status}" in delivery.status().sentence
    receiver.status = 201
    later(timedelta(minutes=5))
    assert delivery.send_due() == 4


async def test_an_event_that_is_refused_is_said_and_does_not_hold_up_the_others(
    bakery: LineageBakery, receiver: Receiver
) -> None:
    await bakery.open_shop()
    receiver.refused = {"refresh.today"}
    delivery = LineageDelivery(bakery.store)
    assert delivery.send_due() == 2
    assert receiver.jobs("COMPLETE") == ["gates.replies"]
    (refused,) = delivery.status().refused
    assert (refused.run, refused.refused) == (
        bakery.latest("refresh").id, "The receiver of lineage refused it: 422.",
    )  # fmt: skip
    with pytest.raises(SetupError, match="1 of the last hour were refused"):
        require_delivered(bakery.folder)
    receiver.refused = set()
    assert delivery.send_due() == 0, "it is not sent again by itself"
    assert delivery.send(ProjectLineage(bakery.store).events(bakery.scope, refused.run)) == 2


async def test_a_worker_that_died_between_sending_and_its_record_sends_the_same_bytes_again(
    bakery: LineageBakery, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bakery.open_shop()

    class Killed(BaseException):
        pass

    acknowledge, times = LineageAcknowledgments.acknowledge, 0

    def dies(repository: LineageAcknowledgments, *given: object, **more: object) -> None:
        nonlocal times
        times += 1
        if times == 2:
            raise Killed
        acknowledge(repository, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(LineageAcknowledgments, "acknowledge", dies)
    with pytest.raises(Killed):
        LineageDelivery(bakery.store).send_due()
    assert len(receiver.bodies) == 2
    monkeypatch.undo()
    monkeypatch.setenv("RECEIVER_KEY", KEY)
    assert LineageDelivery(bakery.store).send_due() == 3
    assert receiver.bodies[1] == receiver.bodies[2]
    assert len(set(receiver.bodies)) == 4


async def test_a_run_whose_end_was_committed_late_is_told_all_the_same(
    bakery: LineageBakery, receiver: Receiver
) -> None:
    store, scope = bakery.store, bakery.scope
    await bakery.open_shop()
    store.runs.submit(scope, "drift", {})
    run = store.runs.claim("slow", ServedRuns(scope.environment, ("drift",)), timedelta(hours=1))
    assert run is not None
    ended_at = store.database.clock.now()
    await bakery.refresh()
    delivery = LineageDelivery(store)
    delivery.send_due()
    assert receiver.jobs("COMPLETE")[-1] == "refresh.today", "it ended later, and was sent before"
    # As of a host that was slow between reading the clock and committing.
    Runs(store.database, clock=ManualClock(ended_at)).end(run, {"reports": {}})
    assert delivery.send_due() == 1
    assert receiver.jobs("COMPLETE")[-1] == "drift.outcomes"


async def test_records_go_once_nothing_before_them_can_be_missing(
    bakery: LineageBakery, later: Callable[[timedelta], datetime]
) -> None:
    await bakery.open_shop()
    delivery, acknowledgments = LineageDelivery(bakery.store), bakery.store.lineage_acknowledgments
    delivery.send_due()
    now = later(SETTLED + timedelta(minutes=1))
    assert delivery.send_due() == 0
    progress = acknowledgments.progress(bakery.scope)
    assert progress is not None
    assert progress.complete_until == now - SETTLED
    assert delivery.send_due() == 0, "what has no record any more is not due either"


async def test_what_ended_before_a_receiver_was_named_is_sent_on_request(tmp_path: Path, receiver: Receiver) -> None:
    bakery = LineageBakery(tmp_path, f'[lineage]\nurl = "{receiver.url}"\n')
    await bakery.open_shop()
    delivery = LineageDelivery(bakery.store)
    assert delivery.send_due() == 0
    assert delivery.send(ProjectLineage(bakery.store).events(bakery.scope)) == 4
    assert "authorization" not in receiver.headers[0]
    receiver.stop()
    with pytest.raises(UnavailableError):
        delivery.send(ProjectLineage(bakery.store).events(bakery.scope))
    await bakery.close()


async def test_without_a_receiver_nothing_is_sent(tmp_path: Path) -> None:
    bakery = LineageBakery(tmp_path)
    await bakery.open_shop()
    delivery = LineageDelivery(bakery.store)
    assert (delivery.send_due(), delivery.status().state) == (0, "off")
    with pytest.raises(SetupError, match="name no receiver"):
        delivery.send(ProjectLineage(bakery.store).events(bakery.scope))
    await bakery.close()


async def test_a_key_that_is_not_set_stops_the_delivery_and_loses_nothing(
    bakery: LineageBakery, later: Callable[[timedelta], datetime], monkeypatch: pytest.MonkeyPatch
) -> None:
    await bakery.open_shop()
    monkeypatch.delenv("RECEIVER_KEY")
    delivery = LineageDelivery(bakery.store)
    with pytest.raises(SetupError, match="RECEIVER_KEY is not set"):
        delivery.send_due()
    assert "RECEIVER_KEY is not set" in delivery.status().sentence
    monkeypatch.setenv("RECEIVER_KEY", KEY)
    later(timedelta(minutes=5))
    assert delivery.send_due() == 4


async def test_a_run_that_cannot_be_told_of_holds_up_no_other_and_its_reason_is_not_kept(
    bakery: LineageBakery, receiver: Receiver
) -> None:
    await bakery.open_shop()
    bakery.store.runs.submit(bakery.scope, "refresh", {"views": 7, "of": "Wilhelmina Featherstone"})
    run = bakery.store.runs.claim("worker", ServedRuns("dev", ("refresh",)), timedelta(minutes=1))
    assert run is not None
    bakery.store.runs.fail(run, "the arguments do not fit")
    delivery = LineageDelivery(bakery.store)
    assert delivery.send_due() == 4
    (refused,) = delivery.status().refused
    assert (refused.run, refused.refused) == (
        run.id, "The run cannot be told of: TypeError; the worker's log says more.",
    )  # fmt: skip
    assert receiver.jobs("COMPLETE") == ["refresh.today", "gates.replies"]
