from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import ASKER, DESK, SCOPE
from tests.unit.serving.examples import release_of

from antiphon.catalog.releases.rollouts import Assignment
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, keyed_hash
from antiphon.core.scope import Scope
from antiphon.serving.answering.context import arrive, as_requested, cache_namespace
from antiphon.serving.request import AnswerRequest, MirroredAnswer

KEY = b"k" * 32
MIRRORS = MirroredAnswer("roll_1", "pred_1", "t", {"late": 0.5}, 1.0)


def asking(**fields: Any) -> AnswerRequest:
    request = AnswerRequest(SCOPE, ASKER, "desk", {"flight": "B6 1", "origin": "JFK"})
    return msgspec.structs.replace(request, **fields)


def test_the_subject_is_the_entity_whatever_the_order_of_its_keys() -> None:
    arrival = arrive(asking(), KEY, 0.0)
    text = canonical({"origin": "JFK", "flight": "B6 1"}).decode()
    assert arrival.subject == keyed_hash(KEY, f"{SCOPE}|{text}").hex()
    assert arrive(asking(entity={"origin": "JFK", "flight": "B6 1"}), KEY, 0.0).subject == arrival.subject
    assert arrive(asking(entity={"origin": "LGA", "flight": "B6 1"}), KEY, 0.0).subject != arrival.subject


def test_who_is_exposed() -> None:
    nobody = arrive(asking(), KEY, 0.0)
    user = arrive(asking(originating_user="user-7"), KEY, 0.0)
    named = arrive(asking(originating_user="user-7", exposure_unit="household-3"), KEY, 0.0)
    assert (nobody.exposure_unit, user.exposure_unit, named.exposure_unit) == (nobody.subject, "user-7", "household-3")
    assert len({nobody.unit, user.unit, named.unit}) == 3
    assert "user-7" not in user.unit
    # The same user elsewhere is the same unit, in another tenant or under another secret another one.
    elsewhere = arrive(asking(originating_user="user-7", entity={}), KEY, 0.0)
    assert elsewhere.unit == user.unit
    assert arrive(asking(originating_user="user-7", scope=Scope("other", "test")), KEY, 0.0).unit != user.unit
    assert arrive(asking(originating_user="user-7"), b"j" * 32, 0.0).unit != user.unit


@pytest.mark.parametrize(
    ("fields", "takes_part"),
    [({}, True), ({"path": "batch"}, False), ({"release": "rel_1"}, False)],
)
def test_a_rollout_assigns_users_who_leave_the_release_open(fields: dict[str, Any], takes_part: bool) -> None:
    assert arrive(asking(**fields), KEY, 0.0).takes_part is takes_part


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"role": "canary", "release": "rel_1"}, "given by a rollout"),
        ({"role": "control"}, "given by a rollout"),
        ({"role": "evaluation"}, "must name its release"),
        ({"role": "shadow", "mirrors": MIRRORS}, "must name its release"),
        ({"role": "shadow", "release": "rel_1"}, "mirrors one online answer"),
        ({"role": "evaluation", "release": "rel_1", "mirrors": MIRRORS}, "mirrors one online answer"),
        ({"mirrors": MIRRORS}, "mirrors one online answer"),
    ],
)
def test_roles_that_cannot_be_asked_for(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(InvalidInputError, match=what):
        arrive(asking(**fields), KEY, 0.0)


def test_where_stored_answers_live() -> None:
    live, other = release_of(DESK, "rel_1"), release_of(DESK, "rel_2")
    request = asking()
    assert cache_namespace(request, Assignment(live)) == "rel_1"
    assert cache_namespace(request, Assignment(live, "live", "roll_1", mirror=other)) == "rel_1"
    arms = [
        cache_namespace(request, Assignment(live, "control", "roll_1")),
        cache_namespace(request, Assignment(other, "canary", "roll_1")),
        cache_namespace(request, Assignment(live, "control", "roll_2")),
    ]
    assert len({"rel_1", "rel_2", *arms}) == 5, "each arm of each rollout begins empty"
    assert cache_namespace(asking(only=("outlook",)), Assignment(live)) is None


def test_a_role_that_was_asked_for_has_no_stored_answers() -> None:
    release = release_of(DESK, "rel_1")
    evaluation = asking(role="evaluation", release="rel_1")
    shadow = asking(role="shadow", release="rel_1", mirrors=MIRRORS)
    for request, rollout in ((evaluation, None), (shadow, "roll_1")):
        assigned = as_requested(request, release)
        assert (assigned.role, assigned.rollout, assigned.probability) == (request.role, rollout, 1.0)
        assert cache_namespace(request, assigned) is None
