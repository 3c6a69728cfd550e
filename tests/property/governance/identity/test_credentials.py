"""No mutation of a valid key, token, session or form token is let in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.harness.local_issuer import LocalIssuer
from tests.unit.catalog.examples import open_database

from antiphon.core.errors import ForbiddenError, UnauthenticatedError, UnavailableError
from antiphon.core.settings_governance import OidcSettings
from antiphon.governance.identity.issuer_keys import IssuerKeys
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.last_use import LastUse
from antiphon.governance.identity.sessions import Sessions
from antiphon.governance.identity.tokens import Authenticator, BearerTokens

SECRET = bytes(range(32))
EXAMPLES = 150


class World:
    """One valid credential of each kind."""

    def __init__(self, folder: Path) -> None:
        self.database = open_database(folder)
        self.issuer = LocalIssuer()
        self.issuer.add("k1", "ES256")
        keys = Keys(self.database, SECRET, last_use=LastUse(self.database, background=False))
        oidc = OidcSettings(issuer=self.issuer.url, jwks=self.issuer.jwks, roles={"builders": "engineer"})
        tokens = BearerTokens(
            oidc, IssuerKeys(self.issuer.jwks, self.database.clock), keys.principals, self.database.clock, "default"
        )
        self.bearer = Authenticator(keys, tokens)
        self.sessions = Sessions(self.database, keys, SECRET)
        self.key, _ = keys.create("default", "ann", "engineer", kind="person")
        self.token = self.issuer.token("k1", exp=int(time.time()) + 3_000)
        self.session = self.sessions.begin(self.key)
        self.names = {"key": "ann", "token": self.bearer.authenticate(self.token).id}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("credentials"))
    yield made
    made.issuer.close()
    made.database.close()


@st.composite
def mutation(draw: st.DrawFn) -> tuple[str, int, str]:
    """How to change a text: what to do, where (a share of its length in 10,000ths), and with what."""
    letters = st.characters(codec="utf-8", exclude_categories=["Cs"])
    return (
        draw(st.sampled_from(["replace", "insert", "drop", "cut", "double", "case", "swap"])),
        draw(st.integers(0, 9_999)),
        draw(st.one_of(st.sampled_from("AQgw-_=.0z \n\x00"), letters)),
    )


def mutated(text: str, change: tuple[str, int, str]) -> str:
    kind, share, letter = change
    at = share * len(text) // 10_000
    match kind:
        case "replace":
            return text[:at] + letter + text[at + 1 :]
        case "insert":
            return text[:at] + letter + text[at:]
        case "drop":
            return text[:at] + text[at + 1 :]
        case "cut":
            return text[:at]
        case "double":
            return text + text[at:]
        case "case":
            return text[:at] + text[at].swapcase() + text[at + 1 :]
        case _:
            return text[:at] + text[at:][1:2] + text[at:][:1] + text[at + 2 :]


quick = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(changes=st.lists(mutation(), min_size=1, max_size=3), which=st.sampled_from(["key", "token"]))
def test_no_mutation_of_a_bearer_is_let_in(world: World, changes: list[tuple[str, int, str]], which: str) -> None:
    valid = getattr(world, which)
    text = valid
    for change in changes:
        text = mutated(text, change) if text else text
    assume(text != valid)
    assert world.bearer.remembered(text) is None
    with pytest.raises((UnauthenticatedError, UnavailableError)):
        world.bearer.authenticate(text)
    assert world.bearer.authenticate(valid).id == world.names[which]


@quick
@given(changes=st.lists(mutation(), min_size=1, max_size=3))
def test_no_mutation_of_a_session_or_its_form_token_is_let_in(
    world: World, changes: list[tuple[str, int, str]]
) -> None:
    held = world.sessions.find(world.session)
    text, form = world.session, held.form_token
    for change in changes:
        text = mutated(text, change) if text else text
        form = mutated(form, change) if form else form
    if text != world.session:
        with pytest.raises(UnauthenticatedError):
            world.sessions.find(text)
    if form != held.form_token:
        with pytest.raises(ForbiddenError):
            world.sessions.check_form(held, form)


@quick
@given(text=st.text(max_size=400))
def test_no_text_is_let_in_and_none_fails_otherwise(world: World, text: str) -> None:
    for bearer in (text, f"ak_{text}", f"{text}.{text}.{text}"):
        with pytest.raises((UnauthenticatedError, UnavailableError)):
            world.bearer.authenticate(bearer)
    with pytest.raises(UnauthenticatedError):
        world.sessions.find(text)
