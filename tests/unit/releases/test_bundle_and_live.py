from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, application, bundle

from antiphon.catalog.releases.releases import ModelPin, Release
from antiphon.catalog.releases.rollouts import RolloutRecord, RolloutState, RoutingState
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError, NotFoundError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.application import Decoding, Figure
from antiphon.definitions.learning import Rollout
from antiphon.releases.bundle import FieldChange, build, diff, summary
from antiphon.releases.live import BOUND_SECONDS, LEASE_SECONDS, LiveReleases


def test_everything_an_answer_is_made_from_is_in_the_hash() -> None:
    built = build(application(), ModelPin("smollm2-135m", "aa"), "p1")
    assert content_hash(built) == content_hash(build(application(), ModelPin("smollm2-135m", "aa"), "p1"))
    others = [
        build(application(), ModelPin("smollm2-135m", "bb"), "p1"),
        build(application(), ModelPin("smollm2-135m", "aa"), "p2"),
        build(application(decoding=Decoding(seed=1)), ModelPin("smollm2-135m", "aa"), "p1"),
        build(application(features={"congestion": "other"}), ModelPin("smollm2-135m", "aa"), "p1"),
    ]
    assert len({content_hash(b) for b in (built, *others)}) == 5


def test_a_bundle_pins_the_model_that_the_application_names() -> None:
    with pytest.raises(InvalidInputError, match="smollm2-135m"):
        build(application(), ModelPin("another", "aa"), "p")


def test_a_diff_names_each_field_that_differs() -> None:
    before = bundle(decoding=Decoding(max_tokens=10), figures=(Figure("a.b", 5),), output_schema={"x": 1})
    after = msgspec.structs.replace(
        bundle(decoding=Decoding(max_tokens=20), figures=(Figure("a.b", 10), Figure("a.c")), output_schema={"y": 1}),
        policy_digest="q",
    )
    assert diff(before, before) == ()
    changes = {change.field: change for change in diff(before, after)}
    assert changes["application.decoding.max_tokens"] == FieldChange("application.decoding.max_tokens", 10, 20)
    assert changes["application.figures[0].step"].after == 10
    assert changes["application.figures[1]"].before is None
    assert changes["application.output_schema.x"] == FieldChange("application.output_schema.x", 1, None)
    assert changes["application.output_schema.y"] == FieldChange("application.output_schema.y", None, 1)
    assert changes["policy_digest"] == FieldChange("policy_digest", "p", "q")
    assert len(changes) == 6


def release(name: str) -> Release:
    return Release(name, DEV, 1, bundle(), "h", "live", "me", "r", NOON)


class Catalog:
    """Counts what is asked, and can be away."""

    def __init__(self) -> None:
        self.pointer: Release | None = release("rel_1")
        self.away = False
        self.asked = 0

    def live(self, scope: Scope, application: str) -> Release | None:
        self.asked += 1
        if self.away:
            raise UnavailableError("The catalog is away.")
        return self.pointer if scope == DEV else None

    def get(self, scope: Scope, name: str) -> Release:
        self.asked += 1
        if name != "rel_1":
            raise NotFoundError("There is none.")
        return release(name)


def test_the_pointer_is_read_once_a_lease() -> None:
    catalog, clock = Catalog(), ManualClock(NOON)
    live = LiveReleases(catalog, clock)
    for _ in range(3):
        assert live.live(DEV, "desk") == release("rel_1")
    assert catalog.asked == 1
    catalog.pointer = release("rel_2")
    assert live.live(DEV, "desk") == release("rel_1")
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.001))
    assert live.live(DEV, "desk") == release("rel_2")
    assert live.live(Scope("other"), "desk") is None
    catalog.pointer = None
    live.forget()
    assert live.live(DEV, "desk") is None


def test_a_known_pointer_outlives_the_catalog_until_the_bound() -> None:
    catalog, clock = Catalog(), ManualClock(NOON)
    live = LiveReleases(catalog, clock)
    live.live(DEV, "desk")
    catalog.away = True
    clock.advance(timedelta(seconds=BOUND_SECONDS - 1))
    assert live.live(DEV, "desk") == release("rel_1")
    with pytest.raises(UnavailableError):
        live.live(DEV, "another")
    clock.advance(timedelta(seconds=2))
    with pytest.raises(UnavailableError):
        live.live(DEV, "desk")


def test_a_release_is_read_once_and_a_missing_one_never_remembered() -> None:
    catalog = Catalog()
    live = LiveReleases(catalog, ManualClock(NOON))
    assert live.get(DEV, "rel_1") == live.get(DEV, "rel_1")
    assert catalog.asked == 1
    for _ in range(2):
        with pytest.raises(NotFoundError):
            live.get(DEV, "rel_9")
    assert catalog.asked == 3


class Standings:
    """A catalog whose pointer and rollout can be set, and that counts what is asked."""

    def __init__(self) -> None:
        self.standing_now = RoutingState("rel_1")
        self.away = False
        self.asked = 0

    def routing_state(self, scope: Scope, application: str) -> RoutingState:
        self.asked += 1
        if self.away:
            raise UnavailableError("The catalog is away.")
        return self.standing_now if scope == DEV else RoutingState(None)

    def live(self, scope: Scope, application: str) -> Release | None:
        raise AssertionError("the pointer and the rollout were read apart")

    def get(self, scope: Scope, name: str) -> Release:
        return release(name)


def rollout(state: RolloutState) -> RolloutRecord:
    plan = Rollout(canary=(50,), shadow=1.0)
    return RolloutRecord("roll_1", DEV, "desk", "rel_2", "rel_1", plan, state, 0, False, "r", "me", NOON, NOON, None)


def test_an_assignment_follows_pointer_and_rollout_within_a_lease() -> None:
    catalog, clock = Standings(), ManualClock(NOON)
    live = LiveReleases(catalog, clock, rollouts=catalog)

    def roles() -> set[str]:
        assigned = [live.assign(DEV, "desk", f"user-{n}", f"req-{n}") for n in range(100)]
        return {f"{one.role}:{one.release.id}:{one.mirror.id if one.mirror else ''}" for one in assigned if one}

    assert roles() == {"live:rel_1:"}
    catalog.standing_now = RoutingState("rel_1", rollout("shadow"))
    assert roles() == {"live:rel_1:"}
    assert catalog.asked == 1
    clock.advance(timedelta(seconds=LEASE_SECONDS + 0.001))
    assert roles() == {"live:rel_1:rel_2"}
    catalog.standing_now = RoutingState("rel_1", rollout("canary"))
    live.forget()
    assert roles() == {"canary:rel_2:", "control:rel_1:rel_2"}
    catalog.away = True
    clock.advance(timedelta(seconds=BOUND_SECONDS - 1))
    assert roles() == {"canary:rel_2:", "control:rel_1:rel_2"}
    clock.advance(timedelta(seconds=2))
    with pytest.raises(UnavailableError):
        roles()
    catalog.away, catalog.standing_now = False, RoutingState("rel_2")
    assert roles() == {"live:rel_2:"}
    assert live.live(DEV, "desk") == release("rel_2")
    assert live.assign(Scope("other"), "desk", "u", "r") is None


def test_changes_are_summed_up_in_words() -> None:
    before, after = bundle(decoding=Decoding(max_tokens=10)), bundle(decoding=Decoding(max_tokens=20), purpose="sell")
    assert summary(diff(before, before)) == "nothing"
    words = summary(diff(before, after))
    assert words == "application.decoding.max_tokens (10 → 20), application.purpose (inform → sell)"
    assert summary(diff(before, after), most=1) == "application.decoding.max_tokens (10 → 20) and 1 more"
    longer = FieldChange("application.prompt.template", "a" * 100, "b" * 100)
    assert summary((longer, FieldChange("x", None, 1))) == "application.prompt.template, x added"
