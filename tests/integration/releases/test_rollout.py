"""Transitions over a real catalog: rollout, stages, pointer and audit agree after each; a refusal changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.catalog.examples import DEV, NOON, bundle, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.releases.rollouts import RolloutRecord, Rollouts
from antiphon.core.clock import ManualClock
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.application import Decoding
from antiphon.definitions.learning import Rollout
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.verification import verify
from antiphon.releases.changelog import Changelog
from antiphon.releases.live import LiveReleases
from antiphon.releases.rollout import RolloutTransitions

PLAN = Rollout(shadow=0.5, shadow_pairs=10, canary=(5, 20))


class Desk:
    """A catalog with a live release and validated ones."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock(NOON)
        self.database: Database = open_database(folder, self.clock)
        self.releases, self.rollouts = Releases(self.database), Rollouts(self.database)
        self.audit = AuditLog(self.database, b"s" * 32)
        self.gone: set[str] = set()
        self.transitions = RolloutTransitions(
            self.database, self.releases, self.rollouts, audit=self.audit, feature_exists=self._exists
        )
        self.control = self.made(1, validated=False)
        self.releases.activate(DEV, "desk", self.control, "me", "launch")

    def _exists(self, scope: Scope, view: str, version: str) -> bool:
        return f"{view}@{version}" not in self.gone

    def made(self, number: int, plan: Rollout = PLAN, validated: bool = True) -> str:
        made = self.releases.add(bundle(decoding=Decoding(max_tokens=number), rollout=plan), DEV, "me", f"try {number}")
        if validated:
            self.releases.set_stage(DEV, made.id, "validated", principal="gates", reason="every gate passed")
        return made.id

    def begin(self, release: str, **fields: bool) -> RolloutRecord:
        return self.transitions.begin(DEV, release, principal="me", reason="better", **fields)

    def advance(self, rollout: RolloutRecord) -> RolloutRecord:
        self.clock.advance(timedelta(minutes=1))
        return self.transitions.advance(DEV, rollout.id, principal="judge", reason="safe")

    def stage(self, release: str) -> str:
        return self.releases.get(DEV, release).stage

    def live(self) -> str:
        live = self.releases.live(DEV, "desk")
        assert live is not None
        return live.id

    def acts(self) -> list[str]:
        return [entry.action for entry in reversed(self.audit.query(DEV))]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    assert verify(desk.audit, DEV).sound
    desk.database.close()


def test_the_whole_way_to_live(desk: Desk) -> None:
    candidate = desk.made(2)
    rollout = desk.begin(candidate)
    seen = [(rollout.state, rollout.step, desk.stage(candidate), desk.live() == desk.control)]
    while rollout.ended_at is None:
        rollout = desk.advance(rollout)
        seen.append((rollout.state, rollout.step, desk.stage(candidate), desk.live() == desk.control))
    assert seen == [
        ("shadow", 0, "shadow", True),
        ("canary", 0, "canary", True),
        ("canary", 1, "canary", True),
        ("promoted", 1, "live", False),
    ]
    assert (desk.live(), desk.stage(desk.control)) == (candidate, "retired")
    assert desk.acts() == ["rollout.begin", "rollout.advance", "rollout.advance", "rollout.promote"]
    with pytest.raises(ConflictError, match="promoted"):
        desk.advance(rollout)
    back = desk.transitions.rollback(DEV, "desk", principal="me", reason="complaints")
    assert (back.release, back.left, back.rollout) == (desk.control, candidate, None)
    assert (desk.live(), desk.stage(candidate), desk.stage(desk.control)) == (desk.control, "rolled_back", "live")


@pytest.mark.parametrize(
    ("plan", "states"),
    [
        (Rollout(canary=(5,)), ["canary", "promoted"]),
        (Rollout(shadow=0.5, shadow_pairs=3), ["shadow", "promoted"]),
        (Rollout(shadow=0.5), ["promoted"]),
        (Rollout(), ["promoted"]),
    ],
)
def test_a_plan_may_leave_out_shadow_canary_or_both(desk: Desk, plan: Rollout, states: list[str]) -> None:
    candidate = desk.made(2, plan)
    rollout = desk.begin(candidate)
    seen = [rollout.state]
    while rollout.ended_at is None:
        rollout = desk.advance(rollout)
        seen.append(rollout.state)
    assert seen == states
    assert (desk.live(), desk.rollouts.active(DEV, "desk")) == (candidate, None)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_undoing_moves_no_pointer(desk: Desk, steps: int) -> None:
    candidate = desk.made(2)
    rollout = desk.begin(candidate)
    for _ in range(steps):
        rollout = desk.advance(rollout)
    back = desk.transitions.rollback(DEV, "desk", principal="me", reason="harm")
    assert back.rollout is not None
    assert (back.release, back.left, back.rollout.state, back.rollout.reason) == (
        desk.control, candidate, "rolled_back", "harm",
    )  # fmt: skip
    assert (desk.live(), desk.stage(candidate), desk.stage(desk.control)) == (desk.control, "rolled_back", "live")
    assert len(desk.releases.history(DEV, "desk")) == 1
    with pytest.raises(InvalidInputError, match="is rolled back: it has not passed its gates"):
        desk.begin(candidate)
    with pytest.raises(ConflictError, match="no earlier live release"):
        desk.transitions.rollback(DEV, "desk", principal="me", reason="again")


def test_an_aborted_candidate_is_what_it_was(desk: Desk) -> None:
    validated, draft = desk.made(2), desk.made(3, validated=False)
    for release, stage, force in ((validated, "validated", False), (draft, "draft", True)):
        rollout = desk.advance(desk.begin(release, force=force))
        ended = desk.transitions.abort(DEV, rollout.id, principal="me", reason="not now")
        assert (ended.state, desk.stage(release), desk.live()) == ("aborted", stage, desk.control)
    again = desk.begin(validated)
    assert again.state == "shadow"


def test_held_nothing_moves_until_resumed(desk: Desk) -> None:
    rollout = desk.begin(desk.made(2))
    held = desk.transitions.hold(DEV, rollout.id, principal="me", reason="lunch")
    assert held.held
    assert desk.transitions.hold(DEV, rollout.id, principal="you", reason="too") == held
    with pytest.raises(ConflictError, match="held: lunch"):
        desk.advance(rollout)
    assert not desk.transitions.resume(DEV, rollout.id, principal="me", reason="back").held
    assert desk.advance(rollout).state == "canary"
    desk.transitions.hold(DEV, rollout.id, principal="me", reason="doubts")
    assert desk.transitions.rollback(DEV, "desk", principal="me", reason="sure").left == rollout.candidate
    assert desk.acts() == [f"rollout.{act}" for act in ("begin", "hold", "resume", "advance", "hold", "undo")]


def test_who_decided_about_an_earlier_step_is_told(desk: Desk) -> None:
    rollout = desk.begin(desk.made(2))
    desk.advance(rollout)
    for act in (desk.transitions.advance, desk.transitions.undo):
        with pytest.raises(ConflictError, match=r"in the canary at 5 %.*judge: safe"):
            act(DEV, rollout.id, principal="late", reason="shadow was fine", expected=("shadow", 0))


def test_a_refused_candidate_leaves_everything_as_it_was(desk: Desk) -> None:
    draft, other = desk.made(2, validated=False), desk.made(3)
    foreign = desk.releases.add(bundle("other"), DEV, "me", "r").id

    def refused(error: type[AntiphonError], message: str, release: str, **fields: bool) -> None:
        with pytest.raises(error, match=message) as raised:
            desk.begin(release, **fields)
        assert raised.value.next_step

    refused(InvalidInputError, "is draft: it has not passed its gates", draft)
    refused(ConflictError, "is live already", desk.control)
    refused(ConflictError, "Nothing is live in 'other'", foreign)
    refused(NotFoundError, "rel_none", "rel_none")
    desk.gone = {"congestion@0123456789abcdef"}
    for force in (False, True):
        refused(InvalidInputError, "that are not published: congestion@0123456789abcdef", other, force=force)
    with pytest.raises(InvalidInputError, match="needs a reason"):
        desk.transitions.begin(DEV, draft, principal="me", reason=" ", force=True)
    assert (desk.live(), desk.rollouts.list(DEV), desk.acts()) == (desk.control, [], [])
    assert (desk.stage(draft), desk.stage(other)) == ("draft", "validated")


def test_forcing_is_written_down(desk: Desk) -> None:
    rollout = desk.begin(desk.made(2, validated=False), force=True)
    assert rollout.reason == "gates passed over: better"
    assert desk.audit.query(DEV)[0].detail["forced"] is True


def test_a_second_candidate_waits(desk: Desk) -> None:
    first, second = desk.made(2), desk.made(3)
    desk.begin(first)
    with pytest.raises(ConflictError, match=f"{first} is in shadow"):
        desk.begin(second)
    with pytest.raises(ConflictError, match="under way"):
        desk.transitions.activate(DEV, "desk", second, principal="me", reason="now")
    assert (desk.live(), desk.stage(second)) == (desk.control, "validated")


def test_a_rollout_whose_control_was_replaced_is_not_promoted(desk: Desk) -> None:
    rollout = desk.begin(desk.made(2, Rollout(canary=(5,))))
    desk.releases.activate(DEV, "desk", desk.made(3), "somebody", "past the transitions")
    with pytest.raises(ConflictError, match="no longer live"):
        desk.advance(rollout)


def test_activating_at_once_is_audited(desk: Desk) -> None:
    other = desk.made(2)
    desk.transitions.activate(DEV, "desk", other, principal="me", reason="now")
    assert (desk.live(), desk.acts()) == (other, ["release.activate"])


def test_the_change_log_tells_who_did_what_and_why(desk: Desk) -> None:
    candidate, bad = desk.made(2), desk.made(3)
    desk.clock.advance(timedelta(minutes=1))
    rollout = desk.begin(candidate)
    while rollout.ended_at is None:
        rollout = desk.advance(rollout)
    desk.clock.advance(timedelta(minutes=1))
    undone = desk.advance(desk.begin(bad))
    desk.transitions.undo(DEV, undone.id, principal="judge", reason="8 of 40 failed")
    log = Changelog(desk.releases, desk.rollouts)
    one, two, three = (f"release {n} ({release})" for n, release in enumerate((desk.control, candidate, bad), 1))
    change = "application.decoding.max_tokens (1 → 2)"
    expected = [
        f"me made {one}: try 1.",
        f"me made {two}: try 2. It differs from {one} in {change}.",
        f"me made {three}: try 3.",
        f"gates validated {two}: every gate passed.",
        f"gates validated {three}: every gate passed.",
        f"me made {one} the first live release: launch.",
        f"me let {two} answer in shadow of {one}: better.",
        f"judge let {two} answer 5 % of users, beside as many on {one}: safe.",
        f"judge let {two} answer 20 % of users",
        f"judge promoted {two} over {one}: safe.",
        f"judge made {two} live in place of {one}, which changes {change}",
        f"me let {three} answer in shadow of {two}: better.",
        f"judge let {three} answer 5 % of users, beside as many on {two}: safe.",
        f"judge rolled back {three}; {two} answers all users: 8 of 40 failed.",
    ]
    told = [entry.sentence for entry in log.of(DEV, "desk")]
    assert len(told) == len(expected), told
    for sentence, beginning in zip(told, expected, strict=True):
        assert sentence.startswith(beginning), (sentence, beginning)
    assert log.of(DEV, "nothing") == []


def test_what_was_live_at_any_time_is_answerable(desk: Desk) -> None:
    candidate = desk.made(2)
    desk.clock.advance(timedelta(minutes=1))
    rollout = desk.begin(candidate)
    while rollout.ended_at is None:
        rollout = desk.advance(rollout)
    log = Changelog(desk.releases, desk.rollouts)

    def at(minutes: float) -> tuple[str | None, str | None, str | None, float]:
        found = log.at(DEV, "desk", NOON + timedelta(minutes=minutes))
        live, beside = (release.id if release else None for release in (found.release, found.candidate))
        return live, beside, found.state, found.weight

    assert [at(minutes) for minutes in (-1, 0.5, 1.5, 2.5, 3.5, 4.5)] == [
        (None, None, None, 0.0),
        (desk.control, None, None, 0.0),
        (desk.control, candidate, "shadow", 0.0),
        (desk.control, candidate, "canary", 0.05),
        (desk.control, candidate, "canary", 0.2),
        (candidate, None, None, 0.0),
    ]


def test_a_gateway_follows_within_its_lease(desk: Desk) -> None:
    live = LiveReleases(desk.releases, desk.clock, rollouts=desk.rollouts)
    users = [f"user-{number}" for number in range(200)]

    def roles() -> dict[str, int]:
        desk.clock.advance(timedelta(seconds=0.3))
        found: dict[str, int] = {}
        for user in users:
            assigned = live.assign(DEV, "desk", user, f"req-{user}")
            assert assigned is not None
            role = assigned.role + ("+mirror" if assigned.mirror is not None else "")
            found[f"{role}@{assigned.release.bundle.application.decoding.max_tokens}"] = (
                found.get(f"{role}@{assigned.release.bundle.application.decoding.max_tokens}", 0) + 1
            )
        return found

    assert roles() == {"live@1": 200}
    rollout = desk.begin(desk.made(2))
    assert set(roles()) == {"live@1", "live+mirror@1"}
    for _ in range(2):
        rollout = desk.advance(rollout)
    in_canary = roles()
    assert set(in_canary) == {"live@1", "live+mirror@1", "control@1", "control+mirror@1", "canary@2"}
    assert 15 <= in_canary["canary@2"] <= 70
    desk.advance(rollout)
    assert roles() == {"live@2": 200}
    desk.transitions.rollback(DEV, "desk", principal="me", reason="r")
    assert roles() == {"live@1": 200}
    assert live.assign(DEV, "nothing", "u", "r") is None
