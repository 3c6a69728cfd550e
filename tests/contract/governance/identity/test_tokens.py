"""Tokens of an issuer that serves its key set over HTTP: good ones, every bad one, key roll-over, a bad issuer."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.harness.local_issuer import LocalIssuer, encoded, make_key, signed

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError, UnauthenticatedError, UnavailableError
from antiphon.core.settings_governance import OidcSettings
from antiphon.governance.identity import issuer_keys
from antiphon.governance.identity.issuer_keys import BELIEVED_SECONDS, FRESH_SECONDS, LEAST_SECONDS, IssuerKeys
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tokens import Authenticator, BearerTokens

SECRET = bytes(range(32))
ROLES: dict[str, Any] = {"builders": "engineer", "readers": "viewer", "robots": "service", "owners": "admin"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def issuer() -> Iterator[LocalIssuer]:
    started = LocalIssuer()
    started.add("k1", "ES256")
    yield started
    started.close()


def settings(issuer: LocalIssuer, **changes: Any) -> OidcSettings:
    return OidcSettings(**{"issuer": issuer.url, "jwks": issuer.jwks, "roles": ROLES, **changes})


def tokens(database: Database, issuer: LocalIssuer, **changes: Any) -> BearerTokens:
    wanted = settings(issuer, **changes)
    keys = Keys(database, SECRET)
    place = wanted.jwks or ""
    return BearerTokens(
        wanted, IssuerKeys(place, database.clock), keys.principals, database.clock, "default", newest=keys.newest
    )


def at(clock: ManualClock) -> float:
    return clock.now().timestamp()


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "EdDSA"])
def test_a_good_token_speaks_for_whom_it_names(
    database: Database, clock: ManualClock, issuer: LocalIssuer, algorithm: str
) -> None:
    issuer.add("k2", algorithm)
    checking = tokens(database, issuer)
    text = issuer.token("k2", now=at(clock))
    assert checking.remembered(text) is None
    found = checking.authenticate(text)
    assert found == Principal(named(issuer), "default", "engineer", "person", credential="token")
    assert checking.remembered(text) == found
    assert issuer.requests == 1


def named(issuer: LocalIssuer, subject: str = "ann") -> str:
    """The id of whom the issuer's token names."""
    return f"token:{issuer.url.removeprefix('http://')}#{subject}"


def test_claims_are_mapped_as_configured(database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
    checking = tokens(database, issuer, role_claim="groups", name_claim="email", tenant_claim="")
    text = issuer.token("k1", now=at(clock), groups=["x", "readers", "robots", 7], email="bob@corp.example")
    found = checking.authenticate(text)
    assert (found.id, found.role, found.kind, found.tenant) == (
        named(issuer, "bob@corp.example"),
        "service",
        "service",
        "default",
    )


def test_what_is_known_of_a_principal_here_counts(database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
    checking, principals = tokens(database, issuer), Keys(database, SECRET).principals
    text, ann = issuer.token("k1", now=at(clock)), named(issuer)
    principals.create("default", ann, "engineer", kind="person", clearance="restricted")
    assert checking.authenticate(text).clearance == "restricted"
    principals.change("default", ann, role="viewer")
    clock.advance(timedelta(seconds=1))
    with pytest.raises(UnauthenticatedError, match="says engineer"):
        checking.authenticate(text)
    principals.change("default", ann, role="engineer", disabled=True)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(UnauthenticatedError, match="disabled"):
        checking.authenticate(text)


def test_a_keys_principal_of_the_same_name_is_another_and_takes_away_alone(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    checking, keys = tokens(database, issuer), Keys(database, SECRET)
    text = issuer.token("k1", now=at(clock))
    of_key = keys.authenticate(keys.create("default", "ann", "engineer", kind="person")[0])
    keys.principals.change("default", "ann", clearance="restricted")
    found = checking.authenticate(text)
    assert (found.id == of_key.id, found.clearance) == (False, "internal")
    keys.principals.change("default", "ann", clearance="public")
    clock.advance(timedelta(seconds=1))
    assert checking.authenticate(text).clearance == "public"
    keys.principals.change("default", "ann", disabled=True)
    clock.advance(timedelta(seconds=1))
    with pytest.raises(UnauthenticatedError, match="disabled"):
        checking.authenticate(text)


@pytest.mark.parametrize("name", ["token:issuer.example#ann", "token:x", "root@terminal"])
def test_no_key_is_made_for_a_name_of_another_kind_of_identity(database: Database, name: str) -> None:
    with pytest.raises(InvalidInputError, match="is kept for"):
        Keys(database, SECRET).create("default", name, "admin")


Forge = Callable[[LocalIssuer, float], str]


def _unsigned(issuer: LocalIssuer, now: float, name: str) -> str:
    _, claims, _ = issuer.token("k1", now=now).split(".")
    return f"{encoded(json.dumps({'alg': name, 'kid': 'k1'}).encode())}.{claims}."


def _with_public_key_as_secret(issuer: LocalIssuer, now: float) -> str:
    """The classic confusion: a symmetric signature under bytes that everybody knows."""
    claims = json.loads(_claims(issuer.token("k1", now=now)))
    secret = json.dumps(issuer.published[0]).encode()
    return signed({"alg": "HS256", "kid": "k1"}, claims, lambda text: hmac.digest(secret, text, hashlib.sha256))


def _with_a_symmetric_key_in_the_set(issuer: LocalIssuer, now: float) -> str:
    issuer.published.append({"kty": "oct", "kid": "shared", "alg": "HS256", "k": encoded(SECRET)})
    claims = json.loads(_claims(issuer.token("k1", now=now)))
    return signed({"alg": "HS256", "kid": "shared"}, claims, lambda text: hmac.digest(SECRET, text, hashlib.sha256))


def _with_its_own_key(issuer: LocalIssuer, now: float, **header: Any) -> str:
    own = make_key("k1", "ES256")
    claims = json.loads(_claims(issuer.token("k1", now=now)))
    given = {name: own.public if value == "own" else value for name, value in header.items()}
    return signed({"alg": "ES256", "kid": "k1", **given}, claims, own.sign)


def _claims(text: str) -> bytes:
    import base64

    part = text.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _swapped_claims(issuer: LocalIssuer, now: float) -> str:
    good, better = issuer.token("k1", now=now), issuer.token("k1", now=now, role="owners")
    return ".".join((good.split(".")[0], better.split(".")[1], good.split(".")[2]))


FORGED: dict[str, tuple[Forge, str]] = {
    "alg none": (lambda issuer, now: _unsigned(issuer, now, "none"), "not a signed token"),
    "alg None": (lambda issuer, now: _unsigned(issuer, now, "NONE") + "AA", "algorithm"),
    "none with a signature": (
        lambda issuer, now: signed({"alg": "none", "kid": "k1"}, {}, lambda text: b"x"),
        "algorithm",
    ),
    "public key as secret": (_with_public_key_as_secret, "algorithm"),
    "oct in the set": (_with_a_symmetric_key_in_the_set, "algorithm"),
    "another key of the same kid": (lambda issuer, now: _with_its_own_key(issuer, now), "signature"),
    "key in the header": (lambda issuer, now: _with_its_own_key(issuer, now, jwk="own"), "keys or extensions"),
    "jku": (lambda issuer, now: _with_its_own_key(issuer, now, jku="https://evil.example"), "keys or extensions"),
    "x5u": (lambda issuer, now: _with_its_own_key(issuer, now, x5u="https://evil.example"), "keys or extensions"),
    "crit": (lambda issuer, now: issuer.token("k1", now=now, header={"crit": ["b64"], "b64": False}), "extensions"),
    "unknown kid": (lambda issuer, now: issuer.token("k1", now=now, header={"kid": "k9"}), "not one of the issuer's"),
    "no kid": (lambda issuer, now: issuer.token("k1", now=now, header={"kid": None}), "does not name its key"),
    "kid of a path": (lambda issuer, now: issuer.token("k1", now=now, header={"kid": "../../k1"}), "not one of"),
    "kid is no text": (lambda issuer, now: issuer.token("k1", now=now, header={"kid": 1}), "does not name its key"),
    "algorithm of another kind": (lambda issuer, now: issuer.token("k1", now=now, header={"alg": "RS256"}), "one of"),
    "algorithm of another curve": (lambda issuer, now: issuer.token("k1", now=now, header={"alg": "ES384"}), "one of"),
    "a logout token": (lambda issuer, now: issuer.token("k1", now=now, header={"typ": "logout+jwt"}), "type"),
    "another issuer": (lambda issuer, now: issuer.token("k1", now=now, iss="https://evil.example"), "another issuer"),
    "no issuer": (lambda issuer, now: issuer.token("k1", now=now, iss=None), "another issuer"),
    "another audience": (lambda issuer, now: issuer.token("k1", now=now, aud="others"), "another audience"),
    "audiences without ours": (lambda issuer, now: issuer.token("k1", now=now, aud=["a", "b"]), "another audience"),
    "audience inside a text": (lambda issuer, now: issuer.token("k1", now=now, aud="xantiphonx"), "another audience"),
    "expired": (lambda issuer, now: issuer.token("k1", now=now - 400), "expired"),
    "no expiry": (lambda issuer, now: issuer.token("k1", now=now, exp=None), "exp is missing"),
    "expiry as text": (lambda issuer, now: issuer.token("k1", now=now, exp=str(int(now) + 99)), "exp is missing"),
    "expiry without end": (lambda issuer, now: issuer.token("k1", now=now, exp=1e300), "exp is missing"),
    "expiry true": (lambda issuer, now: issuer.token("k1", now=now, exp=True), "exp is missing"),
    "not yet valid": (lambda issuer, now: issuer.token("k1", now=now, nbf=int(now) + 60), "from the future"),
    "issued in the future": (lambda issuer, now: issuer.token("k1", now=now, iat=int(now) + 60), "from the future"),
    "tenant that is not here": (lambda issuer, now: issuer.token("k1", now=now, tenant="elsewhere"), "does not exist"),
    "tenant that is no name": (lambda issuer, now: issuer.token("k1", now=now, tenant="../x"), "not a name"),
    "tenant is no text": (lambda issuer, now: issuer.token("k1", now=now, tenant={"a": 1}), "does not name a tenant"),
    "no tenant": (lambda issuer, now: issuer.token("k1", now=now, tenant=None), "does not name a tenant"),
    "role that is not listed": (lambda issuer, now: issuer.token("k1", now=now, role="admin"), "no role"),
    "no role": (lambda issuer, now: issuer.token("k1", now=now, role=None), "no role"),
    "principal that is no name": (lambda issuer, now: issuer.token("k1", now=now, sub="a b\n"), "not a name"),
    "claims of another token": (_swapped_claims, "signature"),
    "claims are a list": (
        lambda issuer, now: signed({"alg": "ES256", "kid": "k1"}, [1], issuer.keys["k1"].sign),
        "signature",
    ),
    "header is a list": (lambda issuer, now: signed([], {}, issuer.keys["k1"].sign), "cannot be read"),  # type: ignore[arg-type]
    "header is deep": (lambda issuer, now: f"{encoded(b'[' * 5000)}.e30.AA", "cannot be read"),
    "an encrypted token": (lambda issuer, now: "a.b.c.d.e", "not a signed token"),
    "oversized": (lambda issuer, now: issuer.token("k1", now=now, pad="x" * 9000), "longer than"),
    "padded": (lambda issuer, now: issuer.token("k1", now=now) + "=", "cannot be read"),
    "white space": (lambda issuer, now: issuer.token("k1", now=now).replace(".", ".\n", 1), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_bad_token_is_refused_and_said(
    database: Database, clock: ManualClock, issuer: LocalIssuer, name: str
) -> None:
    forge, said = FORGED[name]
    text = forge(issuer, at(clock))
    checking = tokens(database, issuer)
    with pytest.raises(UnauthenticatedError, match=said) as refused:
        checking.authenticate(text)
    assert text not in str(refused.value)
    assert checking.remembered(text) is None
    assert issuer.requests <= 1


def test_without_the_check_of_algorithms_a_symmetric_key_in_the_set_still_opens_nothing(
    database: Database, clock: ManualClock, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two defences, each enough by itself; with both away the forgery holds, so the test can fail."""
    text = _with_a_symmetric_key_in_the_set(issuer, at(clock))
    from antiphon.governance.identity import tokens as checked

    monkeypatch.setattr(checked, "ALGORITHMS", {**checked.ALGORITHMS, "HS256": "oct"})
    with pytest.raises(UnauthenticatedError, match="not one of the issuer's"):
        tokens(database, issuer).authenticate(text)
    monkeypatch.setattr(issuer_keys, "_KINDS", frozenset({"oct", "EC"}))
    monkeypatch.setattr(issuer_keys, "_PUBLIC", (*issuer_keys._PUBLIC, "k"))
    assert tokens(database, issuer).authenticate(text).id == named(issuer)


def test_a_token_within_the_leeway_holds_and_one_beyond_does_not(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    checking = tokens(database, issuer, leeway="30s")
    early = issuer.token("k1", now=at(clock) + 29)
    assert checking.authenticate(early).id == named(issuer)
    clock.advance(timedelta(seconds=29 + 300 + 29))
    assert checking.authenticate(early).id == named(issuer)
    clock.advance(timedelta(seconds=1))
    assert checking.remembered(early) is None
    with pytest.raises(UnauthenticatedError, match="expired"):
        checking.authenticate(early)


def test_a_token_of_a_tenant_that_exists_is_in_that_tenant(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    Keys(database, SECRET).principals.create("elsewhere", "first", "admin", kind="person")
    found = tokens(database, issuer).authenticate(issuer.token("k1", now=at(clock), tenant="elsewhere"))
    assert found.tenant == "elsewhere"


# ------------------------------------------------------------------ the issuer's keys


def test_keys_roll_over(database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
    checking = tokens(database, issuer)
    old = issuer.token("k1", now=at(clock))
    checking.authenticate(old)
    issuer.add("k2", "RS256")
    with pytest.raises(UnauthenticatedError, match="not one of"):
        checking.authenticate(issuer.token("k2", now=at(clock)))  # asked too soon after the last reading
    clock.advance(timedelta(seconds=LEAST_SECONDS))
    checking.authenticate(issuer.token("k2", now=at(clock)))
    checking.authenticate(old)
    assert issuer.requests == 2
    del issuer.published[0]  # a key that is withdrawn takes its tokens along
    clock.advance(timedelta(seconds=FRESH_SECONDS + 1))
    with pytest.raises(UnauthenticatedError):
        checking.authenticate(issuer.token("k1", now=at(clock)))
    checking.authenticate(issuer.token("k2", now=at(clock)))
    assert issuer.requests == 3


def test_a_token_ends_with_its_key_although_it_was_remembered(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    checking = tokens(database, issuer)
    text = issuer.token("k1", now=at(clock), exp=int(at(clock)) + 9_000)
    checking.authenticate(text)
    issuer.published[0] = make_key("k1", "ES256").public  # the same name, another key
    clock.advance(timedelta(seconds=FRESH_SECONDS + 1))
    with pytest.raises(UnauthenticatedError, match="signature"):
        checking.authenticate(text)


def test_unknown_keys_make_no_storm_of_readings(database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
    checking = tokens(database, issuer)
    for number in range(200):
        with pytest.raises(UnauthenticatedError):
            checking.authenticate(issuer.token("k1", now=at(clock), header={"kid": f"k{number + 7}"}))
    assert issuer.requests == 1
    checking.authenticate(issuer.token("k1", now=at(clock)))


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"location": "http://127.0.0.1:1/"}, b"", 0.0),
        (500, {}, b"{}", 0.0),
        (200, {}, b"x" * 300_000, 0.0),
        (200, {}, b"not json", 0.0),
        (200, {}, b'{"keys": 7}', 0.0),
        (200, {}, b"[" * 50_000, 0.0),
        (200, {}, json.dumps({"keys": [{}] * 65}).encode(), 0.0),
        (200, {"content-encoding": "gzip"}, b"\x1f\x8b", 0.0),
    ],
)
def test_an_issuer_that_answers_otherwise_is_not_believed(
    database: Database, clock: ManualClock, issuer: LocalIssuer, answer: Any
) -> None:
    issuer.answer = answer
    checking = tokens(database, issuer)
    text = issuer.token("k1", now=at(clock))
    for _ in range(3):
        with pytest.raises(UnavailableError, match="cannot be read now"):
            checking.authenticate(text)
    assert issuer.requests == 1
    issuer.answer = None
    clock.advance(timedelta(seconds=LEAST_SECONDS))
    assert checking.authenticate(text).id == named(issuer)


def test_a_slow_issuer_is_not_waited_for(
    database: Database, clock: ManualClock, issuer: LocalIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer_keys, "SECONDS", 0.3)
    issuer.answer = (200, {}, b" " * 1_000, 0.05)  # a byte well within each socket timeout
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        tokens(database, issuer).authenticate(issuer.token("k1", now=at(clock)))
    assert time.monotonic() - began < 3


def test_the_last_keys_are_believed_while_the_issuer_is_away_and_not_for_ever(
    database: Database, clock: ManualClock, issuer: LocalIssuer
) -> None:
    checking = tokens(database, issuer)
    text = issuer.token("k1", now=at(clock), exp=int(at(clock) + 2 * BELIEVED_SECONDS))
    checking.authenticate(text)
    issuer.answer = (503, {}, b"", 0.0)
    clock.advance(timedelta(seconds=BELIEVED_SECONDS - 1))
    checking.authenticate(text)
    clock.advance(timedelta(seconds=LEAST_SECONDS + 1))
    with pytest.raises(UnavailableError):
        checking.authenticate(text)


def test_a_key_set_may_be_a_file(database: Database, clock: ManualClock, issuer: LocalIssuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    text = issuer.token("k1", now=at(clock))
    checking = tokens(database, issuer, jwks=str(file))
    with pytest.raises(UnavailableError):
        checking.authenticate(text)
    file.write_text(json.dumps({"keys": issuer.published}))
    clock.advance(timedelta(seconds=LEAST_SECONDS))
    assert checking.authenticate(text).id == named(issuer)
    assert issuer.requests == 0


def test_weak_and_foreign_keys_of_a_set_are_left_out() -> None:
    weak, good = make_key("weak", "RS256", 1024).public, make_key("good", "EdDSA").public
    listed = [
        weak,
        {**good, "kid": "sealing", "use": "enc"},
        {**good, "kid": "wrapping", "key_ops": ["wrapKey"]},
        {name: value for name, value in good.items() if name != "kid"},
        {**good, "kid": "broken", "x": "AA"},
        {**good, "kid": "odd", "kty": ["OKP"]},
        {"kty": "oct", "kid": "shared", "k": "AAAA"},
        "text",
        good,
        {**make_key("good", "EdDSA").public},
    ]
    found = issuer_keys.parse_key_set(json.dumps({"keys": listed}).encode())
    assert list(found) == ["good"]
    assert found["good"].key.as_dict(private=False)["x"] == good["x"]


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example/jwks.json",
        "http://169.254.169.254/latest",
        "https://169.254.169.254/latest",
        "https://[::ffff:169.254.169.254]/",
        "https://2852039166/",
        "http://localhost.evil.example/jwks",
        "http://127.0.0.1@evil.example/jwks",
        "https://user:word@issuer.example/jwks",
        "https:///jwks",
        "ftp://issuer.example/jwks",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_x",
        "https://issuer.example:99999/jwks",
    ],
)
def test_only_safe_places_are_read(clock: ManualClock, url: str) -> None:
    with pytest.raises(InvalidInputError):
        IssuerKeys(url, clock)


# ------------------------------------------------------------------ beside API keys


def test_keys_and_tokens_are_told_apart(database: Database, clock: ManualClock, issuer: LocalIssuer) -> None:
    keys = Keys(database, SECRET)
    both = Authenticator(keys, tokens(database, issuer))
    key, record = keys.create("default", "bot", "service")
    token = issuer.token("k1", now=at(clock))
    assert both.remembered(key) is both.remembered(token) is None
    assert both.authenticate(key).credential == record.id
    assert both.authenticate(token).credential == "token"
    assert both.remembered(key) is not None
    assert both.remembered(token) is not None
    with pytest.raises(UnauthenticatedError, match="neither"):
        both.authenticate("something")
    with pytest.raises(UnauthenticatedError):
        Authenticator(keys).authenticate(token)
