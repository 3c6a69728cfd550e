from __future__ import annotations

import pytest

from antiphon.core.errors import ForbiddenError, InvalidInputError
from antiphon.governance.identity.principal import KEY_SCOPE, Limits, Principal, check_grant, check_name, originator
from antiphon.governance.policy.engine import Decider

SERVICE = Principal("bot", "default", "service")


@pytest.mark.parametrize(
    ("limits", "action", "resource", "allowed"),
    [
        (Limits(), "answer", "application/desk", True),
        (Limits(("answer",)), "answer", "application/desk", True),
        (Limits(("answer",)), "batch", "application/desk", False),
        (Limits((), ("application/desk",)), "answer", "application/desk", True),
        (Limits((), ("application/desk",)), "answer", "application/desk2", False),
        (Limits((), ("application/desk",)), "read", "release/desk", False),
        (Limits((), ("application/*",)), "answer", "application/other", True),
        (Limits((), ("application/*",)), "publish", "stream/flights", False),
        (Limits(("administer",)), "administer", "key/*", False),
    ],
)
def test_a_key_never_gives_more_than_its_limits_and_its_role(
    limits: Limits, action: str, resource: str, allowed: bool
) -> None:
    decision = Decider().decide(Principal("bot", "default", "service", limits=limits), action, resource)
    assert decision.allowed is allowed
    if limits.refusal(action, resource) is not None:
        assert decision.policies == (KEY_SCOPE,)


def test_without_the_check_of_limits_a_limited_key_would_be_its_whole_role(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Principal("bot", "default", "service", limits=Limits(("batch",)))
    assert not Decider().decide(limited, "answer", "application/desk").allowed
    monkeypatch.setattr(Limits, "refusal", lambda *asked: None)
    assert Decider().decide(limited, "answer", "application/desk").allowed


@pytest.mark.parametrize("name", ["user-7", "2013-04-10#012", "a@b.example", "auth0|123", "A=/+:_", "7"])
def test_whoever_may_speak_for_others_names_them(name: str) -> None:
    assert originator(SERVICE, name) == originator(SERVICE, name, name) == originator(SERVICE, None, name) == name
    assert originator(SERVICE) is originator(SERVICE, None) is None


@pytest.mark.parametrize("name", ["", " ", "a b", "a\nb", "a\x00", "-a", "<b>", "ü", "x" * 129, "a\u202eb"])
def test_a_malformed_user_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        originator(SERVICE, name)
    assert len(name) < 2 or name not in str(refused.value)


def test_two_users_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="two users"):
        originator(SERVICE, "a", "b")


@pytest.mark.parametrize(
    "who",
    [
        Principal("eve", "default", "viewer"),
        Principal("bot", "default", "service", limits=Limits(("answer",))),
        Principal("eve", "default", "viewer", limits=Limits(("originate",))),
    ],
)
def test_whoever_may_not_speak_for_others_is_refused(who: Principal) -> None:
    with pytest.raises(ForbiddenError):
        originator(who, "user-7")
    assert originator(who) is None


def test_a_limited_key_may_be_for_it() -> None:
    limited = Principal("bot", "default", "service", limits=Limits(("answer", "originate")))
    assert originator(limited, "user-7") == "user-7"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 129, "ü", "a\n", ".a"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


@pytest.mark.parametrize(
    ("granting", "granted", "covered"),
    [
        (Limits(), Limits(("answer",)), True),
        (Limits(), Limits(), True),
        (Limits(("administer",)), Limits(), False),
        (Limits(("administer", "answer")), Limits(("answer",)), True),
        (Limits(("administer",)), Limits(("answer",)), False),
        (Limits((), ("key/*",)), Limits(), False),
        (Limits((), ("application/*",)), Limits((), ("application/desk",)), True),
        (Limits((), ("application/desk",)), Limits((), ("application/*",)), False),
        (Limits((), ("application/desk",)), Limits(("answer",), ("stream/x",)), False),
    ],
)
def test_a_key_grants_no_more_than_it_is_for(granting: Limits, granted: Limits, covered: bool) -> None:
    assert granting.covers(granted) is covered
    if covered:
        check_grant(granting, granted)
    else:
        with pytest.raises(ForbiddenError):
            check_grant(granting, granted)
