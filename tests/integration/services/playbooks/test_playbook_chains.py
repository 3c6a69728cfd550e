"""A playbook that comes after another one begins once that has ended as it takes, and at no other time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.mended_desk import MendedDesk

from antiphon.core.errors import ConflictError
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.services.playbooks.orders import PlaybookOrders

FIRST = PlaybookSpec("first", "Freeze", (PlaybookStep("freeze", ("no-freeze",)),), classes=("overload",))
FAILED = PlaybookSpec("second", "Page", (PlaybookStep("page"),), classes=("overload",), mode="alone", after="first")
MENDED = PlaybookSpec(
    "third", "Tell", (PlaybookStep("page", ()),), classes=("overload",), mode="alone", after="first", once="mended"
)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    desk.declare(FIRST, FAILED, MENDED)
    desk.incident("application/desk", "traffic", "overload")
    desk.look()
    yield desk
    desk.store.close()


def states(desk: MendedDesk) -> dict[str, str]:
    return {one.playbook: one.state for one in desk.store.playbook_runs.list(desk.scope) if one.playbook in
            ("first", "second", "third")}  # fmt: skip


async def test_it_begins_once_the_other_has_failed(desk: MendedDesk) -> None:
    assert states(desk) == {"first": "waiting"}
    with pytest.raises(ConflictError, match="after first, once it has failed; it is waiting"):
        desk.playbooks.run("second", "inc_1", "ben", "now")
    assert "it is waiting" in desk.playbooks.rehearse("second", "inc_1").waits
    freeze = desk.actions._schedules.freeze("ben", "an audit", desk.clock.now().replace(hour=23))
    desk.playbooks.approve("inc_1.first", "ben", "try it")
    desk.orders.look()
    assert states(desk) == {"first": "ordered"}
    await desk.work()
    assert states(desk) == {"first": "ordered"}, "the worker was killed before it settled the run"
    PlaybookOrders(desk.store).look()
    PlaybookOrders(desk.store).look()
    assert states(desk) == {"first": "failed", "second": "ordered"}
    assert desk.playbooks.rehearse("second", "inc_1").waits == ""
    assert desk.run("second").cause.endswith("It is after first, once it has failed.")
    await desk.work()
    desk.look()
    assert states(desk) == {"first": "failed", "second": "done"}
    assert desk.actions._schedules.holds() == (freeze,)


async def test_it_begins_once_the_other_is_done_though_no_symptom_lasts(desk: MendedDesk) -> None:
    desk.playbooks.approve("inc_1.first", "ben", "users wait")
    await desk.work()
    desk.mitigate()
    desk.look()
    assert states(desk) == {"first": "done", "third": "ordered"}
    await desk.work()
    desk.look()
    assert states(desk) == {"first": "done", "third": "done"}


async def test_what_was_rejected_is_followed_by_nothing(desk: MendedDesk) -> None:
    desk.playbooks.reject("inc_1.first", "ben", "a load test")
    desk.look()
    assert states(desk) == {"first": "rejected"}
    incident = desk.store.incidents.get(desk.scope, "inc_1")
    assert not {"second", "third"} & {one.name for one in desk.playbooks.fitting(incident)}


async def test_its_backtest_tells_how_often_its_turn_came(desk: MendedDesk) -> None:
    desk.playbooks.approve("inc_1.first", "ben", "users wait")
    await desk.work()
    desk.look()
    desk.resolve()
    assert desk.playbooks.test("third").turn == "after first, once it has done its steps"
    assert "which was so in 0 of these cases" in desk.playbooks.test("second").sentence
