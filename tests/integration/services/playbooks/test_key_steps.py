"""Playbooks rotate the key that most denials name: once, with nobody's secret, never an administrator's, and back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.mended_desk import MendedDesk
from tests.integration.services.playbooks.test_playbook_runs import Crash

from antiphon.core.errors import ConflictError, ForbiddenError, UnauthenticatedError
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.governance.identity.key_records import KeyRecord
from antiphon.governance.identity.keys import Keys
from antiphon.services.governance.identity import at_terminal
from antiphon.services.playbooks import key_actions

FAILS = PlaybookSpec(
    "fails", "Rotate a key, then fail", (PlaybookStep("rotate-key"), PlaybookStep("rotate-key", key="nobody")),
    classes=("security",),
)  # fmt: skip
NAMED = PlaybookSpec(
    "named", "Rotate one key at once", (PlaybookStep("rotate-key", key="shop", duration="0s"),), classes=("security",)
)
RUN = "rotate-key"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    desk.store.__dict__["keys"] = Keys(desk.store.database, b"s" * 32)
    desk.declare(FAILS, NAMED)
    yield desk
    desk.store.close()


def make(desk: MendedDesk, name: str = "shop", role: str = "service") -> tuple[str, KeyRecord]:
    return desk.store.keys.create("default", name, role, by=at_terminal(desk.store))


def deny(desk: MendedDesk, key: str | None, count: int) -> None:
    """Write the denials of a key as the gateway does: a record, and the count of a minute."""
    for number in (1, count - 1):
        detail = {"code": "forbidden", "key": key, "count": number}
        desk.store.audit.append(desk.scope, "shop", "denied", "/v1/chat/completions", detail, outcome="denied")


def denials(desk: MendedDesk, key: str | None, count: int = 40, **fields: Any) -> None:
    deny(desk, key, count)
    desk.incident("gateway", "denied", "security", applications=(), **fields)
    desk.look()


def of(desk: MendedDesk, key: KeyRecord) -> KeyRecord:
    return desk.store.keys.get("default", key.id)


async def approve(desk: MendedDesk, playbook: str = RUN) -> None:
    desk.playbooks.approve(f"inc_1.{playbook}", "ben", "it was in a public file")
    await desk.work()
    desk.look()


async def test_it_takes_the_place_of_the_key_and_an_administrator_fetches_the_secret(desk: MendedDesk) -> None:
    text, key = make(desk)
    denials(desk, key.id)
    waiting = desk.run(RUN)
    assert waiting.state == "waiting"
    assert waiting.plan[0].label == f"1 rotate-key {key.id}"
    assert f"40 of 40 denied requests were sent with {key.id}." in waiting.cause
    assert desk.playbooks.keys(f"inc_1.{RUN}") == (f"key/{key.id}",)
    assert desk.playbooks.rehearse(RUN, "inc_1").hindrances == ("",)
    await approve(desk)
    assert desk.run(RUN).state == "done", desk.run(RUN).problem
    replaced = of(desk, key)
    new = desk.store.keys.get("default", str(replaced.replaced_by))
    assert (new.name, new.limits, new.made_by, new.waits) == ("shop", key.limits, "playbook:rotate-key", False)
    assert replaced.expires_at == desk.clock.now() + timedelta(hours=1)
    assert desk.store.keys.authenticate(text).id == "shop"
    desk.clock.advance(timedelta(hours=1, seconds=1))
    with pytest.raises(UnauthenticatedError, match="expired"):
        desk.store.keys.authenticate(text)
    handed = desk.store.keys.rotate("default", new.id, timedelta(), by=at_terminal(desk.store))
    assert desk.store.keys.authenticate(handed.key).id == "shop"


async def test_no_record_has_a_secret(desk: MendedDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    insert = Keys._insert

    def seen(self: Any, *given: Any) -> Any:
        found = insert(self, *given)
        made.append(found[0])
        return found

    monkeypatch.setattr(Keys, "_insert", seen)
    _, key = make(desk)
    denials(desk, key.id)
    await approve(desk)
    store, scope = desk.store, desk.scope
    run = desk.run(RUN)
    page = [one.notification for one in store.notifications.page(scope, 0, 50)]
    told = [one for one in page if one.kind == "incident.key"]
    assert [one.title for one in told] == [f"The key {key.id} of shop was rotated"]
    assert f"`antiphon keys rotate {of(desk, key).replaced_by}`" in told[0].text
    written = msgspec.json.encode(
        [
            run,
            store.incidents.get(scope, "inc_1"),
            page,
            store.audit.query(scope),
            store.runs.steps(scope, str(run.run)),
        ]
    ).decode()
    assert len(made) == 2
    assert not any(one in written for one in made)
    assert re.search(r"ak_[A-Za-z0-9_-]{20}", written) is None


@pytest.mark.parametrize("place", range(4))
async def test_a_crash_at_any_record_rotates_it_once(desk: MendedDesk, place: int) -> None:
    _, key = make(desk)
    denials(desk, key.id)
    desk.playbooks.approve(f"inc_1.{RUN}", "ben", "it leaked")
    crash = Crash(place)
    await desk.work(crash.of)
    desk.look()
    assert crash.crashed
    assert desk.run(RUN).state == "done", desk.run(RUN).problem
    assert len(desk.store.keys.list("default")) == 2
    assert [one.action for one in desk.store.audit.query(desk.scope)].count("key.rotate") == 1


async def test_a_later_step_that_fails_lets_the_key_hold_as_it_did(desk: MendedDesk) -> None:
    text, key = make(desk)
    denials(desk, key.id)
    await approve(desk, "fails")
    run = desk.run("fails")
    assert run.state == "failed"
    assert "There is no valid key 'nobody'" in run.problem
    assert f"Undone: 1 rotate-key {key.id}" in run.problem
    back = of(desk, key)
    assert (back.expires_at, back.replaced_by) == (None, None)
    assert [one.revoked_at is None for one in desk.store.keys.list("default") if one.id != key.id] == [False]
    desk.clock.advance(timedelta(days=1))
    assert desk.store.keys.authenticate(text).id == "shop"
    assert "key.restore" in [one.action for one in desk.store.audit.query(desk.scope)]


async def test_what_people_did_since_stays(desk: MendedDesk) -> None:
    _, key = make(desk)
    denials(desk, key.id)
    await approve(desk)
    desk.store.keys.revoke("default", key.id)
    done = {"key": key.id, "successor": of(desk, key).replaced_by, "expires_at": None}
    undone = key_actions.KeyActions(desk.store, desk.scope).undo("playbook:x", "a drill", done)
    assert undone == {"sentence": f"{key.id} stays as people left it since."}
    assert of(desk, key).revoked_at is not None
    assert desk.store.keys.get("default", str(done["successor"])).revoked_at is None


async def test_a_key_that_the_step_names_ends_at_once(desk: MendedDesk) -> None:
    text, key = make(desk)
    denials(desk, None)
    assert [one.playbook for one in desk.store.playbook_runs.list(desk.scope)] == ["named"]
    assert desk.run("named").plan[0].target == key.id
    await approve(desk, "named")
    assert desk.run("named").state == "done", desk.run("named").problem
    with pytest.raises(UnauthenticatedError, match="expired"):
        desk.store.keys.authenticate(text)


@pytest.mark.parametrize(("own", "others"), [(9, 0), (40, 40)])
def test_without_a_key_that_most_denials_name_it_does_not_begin(desk: MendedDesk, own: int, others: int) -> None:
    _, key = make(desk)
    if others:
        deny(desk, None, others)
    denials(desk, key.id, own)
    assert [one.playbook for one in desk.store.playbook_runs.list(desk.scope)] == ["named"]
    with pytest.raises(ConflictError, match="name no single key"):
        desk.playbooks.rehearse(RUN, "inc_1")


@pytest.mark.parametrize(("name", "value"), [("LEAST_DENIALS", 0), ("MOST_SHARE", 0.4)])
def test_without_its_bounds_it_would_begin(
    desk: MendedDesk, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    monkeypatch.setattr(key_actions, name, value)
    _, key = make(desk)
    if name == "MOST_SHARE":
        deny(desk, None, 40)
    denials(desk, key.id, 9 if name == "LEAST_DENIALS" else 40)
    assert desk.run(RUN).plan[0].target == key.id


def test_denials_of_long_before_name_no_key(desk: MendedDesk) -> None:
    _, key = make(desk)
    deny(desk, key.id, 40)
    desk.clock.advance(timedelta(hours=1))
    desk.incident("gateway", "denied", "security", applications=())
    desk.look()
    assert [one.playbook for one in desk.store.playbook_runs.list(desk.scope)] == ["named"]


async def test_later_denials_move_it_to_no_other_key(desk: MendedDesk) -> None:
    (_, key), (_, other) = make(desk), make(desk, "till")
    denials(desk, key.id)
    deny(desk, other.id, 4_000)
    await approve(desk)
    assert of(desk, key).replaced_by is not None
    assert of(desk, other).replaced_by is None


async def test_the_key_of_an_administrator_is_a_persons(desk: MendedDesk) -> None:
    _, key = make(desk, "ada", "admin")
    denials(desk, key.id)
    assert "is the key of ada, an administrator" in desk.playbooks.rehearse(RUN, "inc_1").hindrances[0]
    await approve(desk)
    assert desk.run(RUN).state == "failed"
    assert of(desk, key).replaced_by is None


async def test_a_key_that_was_rotated_meanwhile_is_left_alone(desk: MendedDesk) -> None:
    _, key = make(desk)
    denials(desk, key.id)
    rotated = desk.store.keys.rotate("default", key.id, timedelta(minutes=5))
    await approve(desk)
    assert desk.run(RUN).state == "failed"
    assert "was not rotated yet" in desk.run(RUN).problem
    assert of(desk, key) == rotated.replaced


async def test_a_policy_may_forbid_it(desk: MendedDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(principal: Any, action: str, resource: str, context: Any) -> None:
        assert (principal.id, action, resource) == ("playbook:rotate-key", "administer", f"key/{key.id}")
        raise ForbiddenError("A policy forbids it.")

    _, key = make(desk)
    denials(desk, key.id)
    monkeypatch.setattr(desk.store.decider, "require", refuse)
    await approve(desk)
    assert desk.run(RUN).state == "failed"
    assert of(desk, key).replaced_by is None
