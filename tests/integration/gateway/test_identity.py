"""Who is asking, over HTTP: sessions and their forms, tokens, users on whose behalf, keys through the API."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.harness.local_issuer import LocalIssuer

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import IdentitySettings, OidcSettings
from antiphon.gateway.application import create_app
from antiphon.gateway.dashboard import session
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Limits

SCOPE = Scope("default", "dev")
BODY = {"model": "desk", "messages": [{"role": "user", "content": "Late?"}]}


class Recorded:
    """A trail that remembers what was enqueued (the real one is tested with the audit log)."""

    def __init__(self) -> None:
        self.acts: list[tuple[Any, ...]] = []

    def enqueue(self, *act: Any, originator: str | None = None, outcome: str = "done") -> int:
        self.acts.append((*act, originator, outcome))
        return len(self.acts)

    def record(self, *act: Any, originator: str | None = None, outcome: str = "done") -> None:
        self.enqueue(*act, originator=originator, outcome=outcome)


@pytest.fixture
def trail() -> Recorded:
    return Recorded()


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    started = LocalIssuer()
    started.add("k1")
    yield started
    started.close()


@pytest.fixture
async def browser(database: Database, trail: Recorded, issuer: LocalIssuer) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(database, trail, issuer) as opened:
        yield opened


def client(database: Database, trail: Recorded, issuer: LocalIssuer, scheme: str = "http") -> httpx2.AsyncClient:
    settings = IdentitySettings(
        oidc=OidcSettings(issuer=issuer.url, jwks=issuer.jwks, roles={"builders": "engineer", "readers": "viewer"})
    )
    app = create_app(fakes.gateway_services(database, identity_settings=settings, trail=trail))
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url=f"{scheme}://desk.example")


async def form_token(browser: httpx2.AsyncClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', (await browser.get("/requests")).text)
    assert found is not None
    return found[1]


def denied(trail: Recorded) -> list[tuple[str, str, str]]:
    """Who was refused what, and why."""
    return [(act[1], act[3], act[4]["reason"]) for act in trail.acts if act[2] == "denied"]


# ------------------------------------------------------------------ cookies and forms


async def test_the_cookie_is_for_this_host_and_for_http_alone(browser, keys) -> None:
    cookie = (await sign_in(browser, keys["viewer"])).headers["set-cookie"]
    assert cookie.startswith("antiphon_session=")
    for part in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert part in cookie
    assert "Domain" not in cookie
    assert "Secure" not in cookie
    assert keys["viewer"] not in cookie


async def test_over_https_it_is_secure_and_the_plain_one_does_not_count(database, trail, issuer, keys) -> None:
    async with client(database, trail, issuer) as plain:
        await sign_in(plain, keys["viewer"])
        value = plain.cookies[session.COOKIE]
    async with client(database, trail, issuer, "https") as secure:
        cookie = (await sign_in(secure, keys["viewer"])).headers["set-cookie"]
        assert cookie.startswith("__Host-antiphon_session=")
        assert "Secure" in cookie
        assert (await secure.get("/")).status_code == 200
        secure.cookies.clear()
        answer = await secure.get("/", headers={"cookie": f"{session.COOKIE}={value}"})
        assert answer.status_code == 303


async def test_every_form_carries_the_token_and_htmx_sends_it(browser, keys) -> None:
    await sign_in(browser, keys["engineer"])
    token = await form_token(browser)
    for path in ("/", "/requests", "/releases", "/models", "/runs"):
        page = (await browser.get(path)).text
        forms = re.findall(r'<form[^>]*method="post".*?</form>', page, re.DOTALL)
        assert forms
        assert all(f'name="csrf" value="{token}"' in form for form in forms)
        assert f'"X-CSRF-Token": "{token}"' in page


@pytest.mark.parametrize("path", ["/releases", "/logout"])
@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"csrf": ""}, {}),
        ({"csrf": "guess"}, {}),
        ({"csrf": "GOOD"}, {"origin": "https://evil.example"}),
        ({"csrf": "GOOD"}, {"origin": "null"}),
        ({"csrf": "GOOD"}, {"sec-fetch-site": "cross-site"}),
        ({"csrf": "GOOD"}, {"sec-fetch-site": "same-site"}),
        ({"csrf": "GOOD"}, {"x-csrf-token": "guess"}),
    ],
)
async def test_a_form_that_is_not_of_this_session_changes_nothing(browser, keys, trail, path, fields, headers) -> None:
    await sign_in(browser, keys["engineer"])
    token = await form_token(browser)
    sent = {name: token if value == "GOOD" else value for name, value in fields.items()}
    answer = await browser.post(path, data={"act": "rollback", "reason": "r", **sent}, headers=headers)
    assert answer.status_code == 403
    assert (await browser.get("/requests")).status_code == 200
    assert denied(trail)[-1][1] == path


async def test_without_the_check_of_forms_it_would(browser, keys, monkeypatch) -> None:
    await sign_in(browser, keys["engineer"])
    assert (await browser.post("/logout")).status_code == 403
    sessions = browser._transport.app.state.services.access.identity.sessions  # type: ignore[attr-defined]
    monkeypatch.setattr(sessions, "check_form", lambda session, sent: None)
    assert (await browser.post("/logout")).status_code == 303
    assert (await browser.get("/requests")).status_code == 303


async def test_a_form_token_of_another_session_does_not_do(browser, keys, database, trail, issuer) -> None:
    async with client(database, trail, issuer) as other:
        await sign_in(other, keys["engineer"])
        token = await form_token(other)
    await sign_in(browser, keys["engineer"])
    assert (await browser.post("/logout", data={"csrf": token})).status_code == 403


async def test_a_session_cannot_be_used_after_the_logout(browser, keys) -> None:
    await sign_in(browser, keys["viewer"])
    value = browser.cookies[session.COOKIE]
    answer = await browser.post("/logout", data={"csrf": await form_token(browser)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert (await browser.get("/", headers={"cookie": f"{session.COOKIE}={value}"})).status_code == 303
    assert (await browser.post("/logout")).status_code == 303  # nothing to end: nothing to forge


async def test_a_login_ends_the_session_before_and_takes_no_id_from_outside(browser, keys) -> None:
    planted = "x" * 43
    browser.cookies.set(session.COOKIE, planted, domain="desk.example")
    await sign_in(browser, keys["viewer"])
    first = browser.cookies[session.COOKIE]
    assert first != planted
    await sign_in(browser, keys["viewer"])
    assert (await browser.get("/", headers={"cookie": f"{session.COOKIE}={first}"})).status_code == 303


async def test_a_login_from_another_site_is_refused(browser, keys, trail) -> None:
    answer = await sign_in(browser, keys["viewer"], origin="https://evil.example")
    assert answer.status_code == 403
    assert session.COOKIE not in browser.cookies
    assert denied(trail) == [("anonymous", "/login", "The form came from another site.")]


async def test_a_login_form_belongs_to_its_browser(browser, keys, trail, database, issuer) -> None:
    page = await browser.get("/login")
    assert page.headers["set-cookie"].startswith(f"{session.DOOR}=")
    for part in ("HttpOnly", "SameSite=strict", "Path=/"):
        assert part in page.headers["set-cookie"]
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token is not None
    async with client(database, trail, issuer) as other:
        elsewhere = re.search(r'name="csrf" value="([^"]+)"', (await other.get("/login")).text)
    assert elsewhere is not None
    assert elsewhere[1] != token[1]
    for sent in ({}, {"csrf": ""}, {"csrf": "x"}, {"csrf": elsewhere[1]}):
        answer = await browser.post("/login", data={"key": keys["viewer"], **sent})
        assert answer.status_code == 403, sent
        assert session.COOKIE not in browser.cookies
    assert {reason for _, _, reason in denied(trail)} == {"The form was not made for this browser."}
    # A login that failed shows a form that can be sent.
    assert f'value="{token[1]}"' in answer.text
    assert (await browser.post("/login", data={"key": keys["viewer"], "csrf": token[1]})).status_code == 303
    assert session.COOKIE in browser.cookies
    assert session.DOOR not in browser.cookies
    # Without the cookie the token alone is not enough.
    async with client(database, trail, issuer) as stranger:
        answer = await stranger.post("/login", data={"key": keys["viewer"], "csrf": token[1]})
        assert answer.status_code == 403


async def test_over_https_the_login_form_is_kept_to_this_host(keys, trail, database, issuer) -> None:
    async with client(database, trail, issuer, "https") as browser:
        cookie = (await browser.get("/login")).headers["set-cookie"]
        assert cookie.startswith(f"{session.SECURE}{session.DOOR}=")
        assert "Secure" in cookie
        assert (await sign_in(browser, keys["viewer"])).status_code == 303


@pytest.mark.parametrize(
    "value", ["", "x", "x" * 43, "%00", "a=b; c", '"quoted"', "x" * 4_000, "eyJhbGciOiJub25lIn0.e30."]
)
async def test_malformed_cookies_are_no_session(browser, keys, trail, value) -> None:
    answer = await browser.get("/", headers={"cookie": f"{session.COOKIE}={value}"})
    assert answer.status_code == 303
    part = await browser.get("/dashboard/figures", headers={"cookie": f"{session.COOKIE}={value}"})
    assert part.status_code == 401
    assert value == "" or denied(trail)


async def test_sessions_are_on_record(browser, keys, database) -> None:
    await sign_in(browser, keys["viewer"])
    await browser.post("/logout", data={"csrf": await form_token(browser)})
    found = AuditLog(database, fakes.SECRET).query(SCOPE)
    assert [(entry.principal, entry.action) for entry in found][:2] == [
        ("the-viewer", "session.end"),
        ("the-viewer", "session.begin"),
    ]


# ------------------------------------------------------------------ tokens and users


async def test_a_token_is_as_good_as_a_key_and_only_for_what_it_says(browser, issuer) -> None:
    builder, reader = (
        {"authorization": f"Bearer {issuer.token('k1', role=role, sub=role)}"} for role in ("builders", "readers")
    )
    for headers in (builder, reader):
        assert (await browser.get("/v1/models", headers=headers)).status_code == 200
        assert (await browser.get("/admin/status", headers=headers)).status_code == 200
        assert (await browser.get("/admin/keys", headers=headers)).status_code == 403
    asked = [await browser.post("/v1/chat/completions", json=BODY, headers=headers) for headers in (builder, reader)]
    assert asked[0].status_code == 200
    events = {"events": []}
    pushed = [await browser.post("/admin/events/x", json=events, headers=headers) for headers in (builder, reader)]
    assert (pushed[0].status_code == 403, pushed[1].status_code) == (False, 403)


@pytest.mark.parametrize(
    "spoil",
    [
        {"aud": "others"},
        {"iss": "https://evil.example"},
        {"exp": 1},
        {"tenant": "elsewhere"},
        {"header": {"kid": "k9"}},
        {"header": {"alg": "none"}},
        {"pad": "x" * 9_000},
    ],
)
async def test_a_bad_token_is_answered_with_401_its_reason_and_a_record(browser, issuer, trail, spoil) -> None:
    text = issuer.token("k1", **spoil)
    answer = await browser.get("/v1/models", headers={"authorization": f"Bearer {text}"})
    assert answer.status_code == 401, answer.text
    error = answer.json()["error"]
    assert error["message"].startswith("The token is refused.")
    assert text not in answer.text
    ((who, route, reason),) = denied(trail)
    assert (who, route) == ("anonymous", "/v1/models")
    assert "refused" in reason
    assert text not in str(trail.acts)


async def test_an_issuer_that_is_away_is_503(browser, issuer) -> None:
    issuer.answer = (500, {}, b"", 0.0)
    answer = await browser.get("/v1/models", headers={"authorization": f"Bearer {issuer.token('k1')}"})
    assert answer.status_code == 503


async def test_refusals_beyond_a_bound_are_counted(browser, trail) -> None:
    for _ in range(100):
        assert (await browser.get("/v1/models", headers={"authorization": "Bearer ak_wrong"})).status_code == 401
    assert 20 <= len(denied(trail)) < 100


@pytest.mark.parametrize("way", ["header", "body", "both"])
async def test_a_service_names_the_user_it_asks_for(http, answerer, way) -> None:
    body = {**BODY, **({"user": "user-7"} if way != "header" else {})}
    headers = {"x-antiphon-user": "user-7"} if way != "body" else {}
    answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert answerer.requests[-1].originating_user == "user-7"


@pytest.mark.parametrize(
    ("header", "user", "status"),
    [("a", "b", 400), ("a b", None, 400), ("<script>", None, 400), (None, "x" * 129, 400), (None, "a\nb", 400)],
)
async def test_a_bad_user_is_refused(http, answerer, header, user, status) -> None:
    headers = {"x-antiphon-user": header} if header else {}
    answer = await http.post("/v1/chat/completions", json={**BODY, **({"user": user} if user else {})}, headers=headers)
    assert answer.status_code == status
    assert not answerer.requests


async def test_a_key_that_is_not_for_it_names_nobody(running, answerer, database, trail) -> None:
    text, _ = Keys(database, fakes.SECRET).create("default", "bot", "service", limits=Limits(("answer",)))
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {text}"}) as http:
        assert (await http.post("/v1/chat/completions", json=BODY)).status_code == 200
        for extra in ({"json": {**BODY, "user": "u"}}, {"json": BODY, "headers": {"x-antiphon-user": "u"}}):
            answer = await http.post("/v1/chat/completions", **extra)
            assert answer.status_code == 403
            assert "on behalf" in answer.json()["error"]["message"]
        answer = await http.get("/admin/status", headers={"x-antiphon-user": "u"})
        assert answer.status_code == 403
    assert len(answerer.requests) == 1


# ------------------------------------------------------------------ keys through the API


async def test_keys_are_made_for_something_rotated_shown_and_revoked(running, keys) -> None:
    headers = {"authorization": f"Bearer {keys['admin']}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers) as http:
        wanted = {"name": "bot", "role": "service", "actions": ["answer"], "resources": ["application/desk"]}
        made = (await http.post("/admin/keys", json=wanted)).json()
        assert made["record"]["limits"] == {"actions": ["answer"], "resources": ["application/desk"]}
        rotated = await http.post("/admin/keys/bot/rotate", json={"overlap": "10m"})
        assert rotated.status_code == 201
        fresh, old = rotated.json(), made["record"]["id"]
        assert fresh["replaced"]["id"] == old
        assert fresh["replaced"]["replaced_by"] == fresh["record"]["id"]
        assert fresh["record"]["limits"] == made["record"]["limits"]
        shown = (await http.get(f"/admin/keys/{old}")).json()
        assert shown["expires_at"] is not None
        both = [made["key"], fresh["key"]]
        for text in both:
            asked = await http.post("/v1/chat/completions", json=BODY, headers={"authorization": f"Bearer {text}"})
            assert asked.status_code == 200
            refused = await http.get("/admin/status", headers={"authorization": f"Bearer {text}"})
            assert refused.status_code == 403
        assert (await http.post("/admin/keys", json={**wanted, "actions": ["dance"]})).status_code == 400
        assert (await http.post("/admin/keys/nobody/rotate", json={})).status_code == 404
        assert (await http.delete(f"/admin/keys/{old}")).json()["revoked_at"] is not None
        asked = await http.post("/v1/chat/completions", json=BODY, headers={"authorization": f"Bearer {both[0]}"})
        assert asked.status_code == 401
        assert both[0] not in asked.text


async def test_a_confined_administrator_makes_no_key_that_is_for_more(running, database) -> None:
    issued = Keys(database, fakes.SECRET)
    confined, _ = issued.create("default", "clerk", "admin", limits=Limits(("administer",)))
    _, whole = issued.create("default", "boss", "admin")
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {confined}"}) as http:
        wanted = {"name": "eve", "role": "admin"}
        assert (await http.post("/admin/keys", json=wanted)).status_code == 403
        assert (await http.post("/admin/keys", json={**wanted, "actions": ["answer"]})).status_code == 403
        assert (await http.post(f"/admin/keys/{whole.id}/rotate", json={})).status_code == 403
        assert (await http.post("/admin/keys", json={**wanted, "actions": ["administer"]})).status_code == 201
        assert (await http.post("/admin/keys/clerk/rotate", json={})).status_code == 201


# ------------------------------------------------------------------ tenants


async def test_a_tenant_is_made_suspended_resumed_and_deleted_over_http(browser, keys, database) -> None:
    admin = {"authorization": f"Bearer {keys['admin']}"}
    assert (await browser.post("/admin/tenants", json={"name": "acme"}, headers=admin)).status_code == 201
    text, _ = Keys(database, fakes.SECRET).create("acme", "root", "admin", kind="person")
    theirs = {"authorization": f"Bearer {text}"}
    listed = await browser.get("/admin/tenants", headers=admin)
    assert [(one["id"], one["state"]) for one in listed.json()["tenants"]] == [
        ("acme", "active"),
        ("default", "active"),
    ]
    foreign = await browser.get("/admin/tenants", headers=theirs)
    assert foreign.status_code == 403
    assert "the tenant that runs this installation" in foreign.text
    own = await browser.post("/admin/tenants/default/suspend", json={"reason": "r"}, headers=admin)
    assert own.status_code == 422
    for move, state in (("suspend", "suspended"), ("resume", "active"), ("delete", "deleted")):
        moved = await browser.post(f"/admin/tenants/acme/{move}", json={"reason": "unpaid"}, headers=admin)
        assert (moved.status_code, moved.json()["state"]) == (200, state)
        answer = await browser.post("/v1/chat/completions", json=BODY, headers=theirs)
        refused = answer.status_code == 403
        assert (f"'acme' is {state}" in answer.text) == refused == (state != "active"), answer.text
    assert (await browser.post("/admin/tenants/globex/suspend", json={"reason": "r"}, headers=admin)).status_code == 404
