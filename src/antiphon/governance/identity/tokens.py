"""JSON Web BearerTokens of one OpenID Connect issuer (RFC 7519, RFC 8725): read, checked, and mapped to a principal.

Invariants: the algorithm is one of :data:`ALGORITHMS`, which are all asymmetric, and fits the key; nothing of a token
is believed before its signature holds; the key is the issuer's, whatever the token's header says about where to find
keys. A token never gives more than the principal it names has here: one that is disabled, or has another role here, is
refused, and so is a tenant that does not exist.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import timedelta
from functools import cache
from typing import Any

import msgspec

from antiphon.core.clock import Clock, from_microseconds, microseconds, parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError, UnauthenticatedError
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import OidcSettings
from antiphon.governance.identity.issuer_keys import IssuerKey, IssuerKeys
from antiphon.governance.identity.keys import PREFIX, Keys
from antiphon.governance.identity.principal import Principal, Role, check_name, subject_of, token_principal
from antiphon.governance.identity.principals import Principals
from antiphon.governance.identity.revocation import REVOCATION_BOUND_SECONDS, CredentialLeases, NewestTime
from antiphon.governance.identity.tenants import require_served
from antiphon.governance.policy.request import LEVELS

ALGORITHMS = {
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "ES512": "EC",
    "EdDSA": "OKP",
    "Ed25519": "OKP",
}
"""Algorithms that may sign a token, and the kind of key each needs."""

MOST_CHARACTERS = 8_192
"""A longer token is refused unread."""

_STRENGTH: tuple[Role, ...] = ("viewer", "service", "engineer", "admin")
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
_FOREIGN_KEYS = ("jku", "jwk", "x5u", "x5c")
_LATEST = 253_402_300_799  # the end of the year 9999


class _VerifiedToken(msgspec.Struct, frozen=True):
    principal: Principal
    expires: int
    key: IssuerKey


class BearerTokens:
    """Authenticates bearers of tokens of the issuer in the settings.

    Args:
        principals: what is known here about whom tokens name.
        tenant: the project's own, which exists before it has a principal.
        newest: the time that expiry is judged by.
    """

    def __init__(
        self,
        settings: OidcSettings,
        keys: IssuerKeys,
        principals: Principals,
        clock: Clock,
        tenant: str,
        *,
        newest: NewestTime | None = None,
        revocation_bound: float = REVOCATION_BOUND_SECONDS,
    ) -> None:
        if not settings.issuer or not settings.audience:
            raise InvalidInputError(
                "Tokens need an issuer and an audience.", where="identity.oidc", next_step="Set both in antiphon.toml."
            )
        self._settings = settings
        self._keys = keys
        self._principals = principals
        self._tenant = tenant
        self._newest = newest or NewestTime(clock)
        self._leeway = int(parse_duration(settings.leeway) / timedelta(microseconds=1))
        self._leases: CredentialLeases[_VerifiedToken] = CredentialLeases(clock, revocation_bound)
        self._signed: dict[bytes, _VerifiedToken] = {}

    def authenticate(self, text: str) -> Principal:
        """Authenticate a token.

        Raises:
            UnauthenticatedError: says what is wrong with it; its content is not repeated.
            UnavailableError: the issuer's keys or the catalog are away.
        """
        if len(text) > MOST_CHARACTERS:
            raise _refused(f"It is longer than {MOST_CHARACTERS} characters", "Ask for a token with fewer claims.")
        digest = _digest(text)
        checked = self._leases.fresh(digest)
        if checked is None:
            signed = self._check(text, digest)
            checked = self._leases.look(
                digest, lambda: msgspec.structs.replace(signed, principal=self._with_local_record(signed.principal))
            )
        assert checked is not None
        self._in_time(checked.expires)
        return checked.principal

    def remembered(self, text: str) -> Principal | None:
        """The principal of a token if it is cached within the lease; reads nothing and raises nothing."""
        if len(text) > MOST_CHARACTERS:
            return None
        checked = self._leases.fresh(_digest(text))
        if checked is None or microseconds(self._newest.now()) >= checked.expires + self._leeway:
            return None
        return checked.principal

    def _check(self, text: str, digest: bytes) -> _VerifiedToken:
        # The signature of the same bytes under the same key stays as it is; whether the key and the principal
        # still stand is asked anew in each lease.
        checked = self._signed.get(digest)
        if checked is None or not self._keys.holds(checked.key):
            checked = self._read(*self._verified(text))
            if len(self._signed) >= 10_000:
                self._signed.clear()
            self._signed[digest] = checked
        return checked

    def _verified(self, text: str) -> tuple[IssuerKey, dict[str, Any]]:
        from joserfc import jwt
        from joserfc.errors import JoseError

        head = _head(text)
        algorithm = head.get("alg")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
            raise _refused("Its algorithm is not one that is accepted", f"Sign it with {', '.join(ALGORITHMS)}.")
        if any(name in head for name in _FOREIGN_KEYS) or "crit" in head:
            raise _refused("Its header names keys or extensions of its own", "Leave jku, jwk, x5u, x5c and crit out.")
        kind = head.get("typ", "JWT")
        if not isinstance(kind, str) or kind.lower() not in _TYPES:
            raise _refused("Its type is not that of an access token", "Send a token of the type JWT or at+jwt.")
        kid = head.get("kid")
        if not isinstance(kid, str):
            raise _refused("It does not name its key", "Have the issuer set `kid`.")
        key = self._keys.get(kid)
        if key is None:
            raise _refused("Its key is not one of the issuer's", "Ask the issuer for a new token.")
        if key.kind != ALGORITHMS[algorithm] or key.algorithm not in (None, algorithm):
            raise _refused("Its algorithm is not the one of its key", "Ask the issuer for a new token.")
        try:
            claims = dict(jwt.decode(text, key.key, registry=_registry(algorithm)).claims)
        except (JoseError, ValueError, TypeError, RecursionError):
            raise _refused("Its signature does not hold", "Ask the issuer for a new token.") from None
        return key, claims

    def _read(self, key: IssuerKey, claims: dict[str, Any]) -> _VerifiedToken:
        if claims.get("iss") != self._settings.issuer:
            raise _refused("It is of another issuer", "Ask the configured issuer for one.")
        audience = claims.get("aud")
        if self._settings.audience not in (audience if isinstance(audience, list) else [audience]):
            raise _refused("It is for another audience", f"Ask for one for {self._settings.audience!r}.")
        expires = _instant(claims, "exp", required=True)
        assert expires is not None
        now = microseconds(self._newest.now())
        for name in ("nbf", "iat"):
            begins = _instant(claims, name)
            if begins is not None and begins > now + self._leeway:
                raise _refused(
                    f"It is from the future: its {name} is {from_microseconds(begins).isoformat()}",
                    "Compare this machine's clock with the issuer's.",
                )
        self._in_time(expires)
        return _VerifiedToken(self._principal(claims), expires, key)

    def _principal(self, claims: dict[str, Any]) -> Principal:
        settings = self._settings
        tenant = claims.get(settings.tenant_claim) if settings.tenant_claim else self._tenant
        name = claims.get(settings.name_claim)
        named = claims.get(settings.role_claim)
        roles = [settings.roles[one] for one in (named if isinstance(named, list) else [named])
                 if isinstance(one, str) and one in settings.roles]  # fmt: skip
        if not isinstance(tenant, str) or not isinstance(name, str):
            raise _refused("It does not name a tenant and a principal", "Look at [identity.oidc] in antiphon.toml.")
        if not roles:
            raise _refused("It has no role here", "Look at `roles` under [identity.oidc] in antiphon.toml.")
        role = max(roles, key=_STRENGTH.index)
        try:
            Scope(tenant=tenant)
            check_name(name)
        except AntiphonError:
            raise _refused(
                "Its tenant or principal is not a name that is possible here", "Look at [identity.oidc]."
            ) from None
        identity = token_principal(settings.issuer or "", name)
        return Principal(identity, tenant, role, "service" if role == "service" else "person", credential="token")

    def _with_local_record(self, principal: Principal) -> Principal:
        """The principal with what is known of it here, if anything is.

        A record of the bare subject, which is a key's principal or was made before ids carried their issuer, takes away
        and gives nothing.
        """
        if principal.tenant != self._tenant and not self._principals.has_tenant(principal.tenant):
            raise _refused("Its tenant does not exist here", "Make a principal of that tenant first.")
        require_served(principal.tenant, self._principals.tenants.state(principal.tenant))
        there = self._principals.find(principal.tenant, principal.id)
        bare = there is None
        if there is None:
            there = self._principals.find(principal.tenant, subject_of(principal.id) or principal.id)
        if there is None:
            return principal
        if there.disabled_at is not None:
            raise _refused("Whom it names is disabled here", "Ask an administrator.")
        if there.role != principal.role:
            raise _refused(
                f"It says {principal.role}, and whom it names is {there.role} here",
                f"Change one of the two: `antiphon principals create '{principal.id}'`, or the role at the issuer.",
            )
        if bare:
            lowest = min(principal.clearance, there.clearance, key=LEVELS.__getitem__)
            return msgspec.structs.replace(principal, clearance=lowest)
        return msgspec.structs.replace(principal, kind=there.kind, clearance=there.clearance)

    def _in_time(self, expires: int) -> None:
        if microseconds(self._newest.now()) >= expires + self._leeway:
            raise _refused("It has expired", f"Ask the issuer for a new token.{self._newest.behind()}")


class Authenticator:
    """Authenticates the sender of ``Authorization: Bearer``; without ``tokens`` of an issuer by API keys only."""

    def __init__(self, keys: Keys, tokens: BearerTokens | None = None) -> None:
        self._keys = keys
        self._tokens = tokens

    def authenticate(self, text: str) -> Principal:
        """Authenticate a bearer's text. May read the catalog, and the issuer's keys over the network.

        Raises:
            UnauthenticatedError: it is neither a valid key nor a valid token.
            UnavailableError: what is needed to say so is away.
        """
        if text.startswith(PREFIX) or self._tokens is None:
            return self._keys.authenticate(text)
        if text.count(".") == 2:
            return self._tokens.authenticate(text)
        raise UnauthenticatedError(
            "What was sent is neither an API key nor a token.",
            where="Authorization",
            next_step="Send `Authorization: Bearer` and an API key (`ak_…`) or a JWT of the configured issuer.",
        )

    def remembered(self, text: str) -> Principal | None:
        """The principal of a bearer's text if it is cached; reads nothing."""
        if text.startswith(PREFIX):
            return self._keys.remembered(text)
        return None if self._tokens is None else self._tokens.remembered(text)


@cache
def _registry(algorithm: str) -> Any:
    """Admits this one algorithm. The library's own registry warns of names that RFC 9864 has replaced."""
    from joserfc.errors import UnsupportedAlgorithmError
    from joserfc.jws import JWSRegistry

    class OneAlgorithmRegistry(JWSRegistry):
        def get_alg(self, name: str) -> Any:
            if name != algorithm or name not in self.algorithms:
                raise UnsupportedAlgorithmError(name)
            return self.algorithms[name]

    return OneAlgorithmRegistry(algorithms=[algorithm])


def _head(text: str) -> dict[str, Any]:
    parts = text.split(".")
    if len(parts) != 3 or not all(parts):
        # An empty last part is the form of an unsigned token.
        raise _refused("It is not a signed token", "Send a JWT in its compact form.")
    try:
        decoded = [_canonical(part) for part in parts]
        return msgspec.json.decode(decoded[0], type=dict[str, Any])
    except (ValueError, RecursionError):
        raise _refused("It cannot be read", "Send a JWT in its compact form.") from None


def _canonical(part: str) -> bytes:
    """Bytes of base64url. The one spelling only: with another, a token changed in transit would still hold.

    Raises:
        ValueError: it is not base64url, or not as an encoder writes it.
    """
    decoded = base64.b64decode(part.encode("ascii") + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    if base64.urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
        raise ValueError(part)
    return decoded


def _instant(claims: dict[str, Any], name: str, *, required: bool = False) -> int | None:
    """A NumericDate in microseconds."""
    value = claims.get(name)
    if value is None and not required:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LATEST:
        raise _refused(f"Its {name} is missing or no time", "Have the issuer set it in seconds since 1970.")
    return int(value * 1_000_000)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _refused(why: str, next_step: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"The token is refused. {why}.", where="Authorization", next_step=next_step)
