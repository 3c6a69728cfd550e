"""The public keys of a token issuer, from a file or a URL.

Invariants: only the configured place is read, never one that a token names; a URL is https or of this machine, is not
redirected, and is bounded in bytes and seconds. Whatever tokens arrive, it is read at most once in
:data:`LEAST_SECONDS`, by one thread at a time. Symmetric keys are no issuer keys: one that lies in the set is left out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, InvalidInputError, UnavailableError
from antiphon.core.http_client import HttpClient, ResponseError

LEAST_SECONDS = 10.0
"""Between two readings, whatever the reason."""

FRESH_SECONDS = 300.0
"""After this long the set is read again."""

BELIEVED_SECONDS = 3_600.0
"""For this long the last set is believed while the issuer does not answer."""

SECONDS = 5.0
"""For one reading, from the first byte to the last."""

MOST_BYTES = 262_144
MOST_KEYS = 64
LEAST_RSA_BITS = 2_048

_PATIENCE = 1.0
_MOST_WAITING = 4
_KINDS = frozenset({"RSA", "EC", "OKP"})
_WHERE = "identity.oidc.jwks"
_PUBLIC = ("kty", "n", "e", "crv", "x", "y", "kid")
_log = logging.getLogger(__name__)


class IssuerKey(msgspec.Struct, frozen=True):
    """A key that signs tokens. ``key`` is joserfc's; ``algorithm`` is the only one it is for, if the set says."""

    kid: str
    kind: str
    algorithm: str | None
    thumbprint: str
    key: Any


class _SigningKey(msgspec.Struct, frozen=True):
    """The members of a JSON Web Key by which it may sign tokens."""

    kty: str
    kid: str
    use: Literal["sig"] = "sig"
    key_ops: tuple[Any, ...] = ("verify",)
    alg: str = ""
    n: str = ""


class IssuerKeys:
    """Keys by ``kid`` in a file or at a URL, read again when they are old or a ``kid`` is unknown.

    Raises:
        InvalidInputError: the URL is not one that may be read.
    """

    def __init__(self, place: str | Path, clock: Clock) -> None:
        self.place = str(place)
        """Path or URL that the keys are read from."""
        self._client: HttpClient | None = None
        if "://" in self.place:
            # Whoever can change the answer on its way could make keys of their own: so it is as safe as a secret.
            self._client = HttpClient(self.place, where=_WHERE, secret=True, timeout=SECONDS, most_bytes=MOST_BYTES)
        self._clock = clock
        self._keys: Mapping[str, IssuerKey] = {}
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self.readings = 0
        """Number of reads of the issuer's keys, successful or not."""

    def get(self, kid: str) -> IssuerKey | None:
        """The key of this id, ``None`` when the issuer has none such.

        Raises:
            UnavailableError: the issuer's keys cannot be read, or another request is reading them.
        """
        found, age = self._keys.get(kid), self._age()
        if found is not None and age is not None and age <= FRESH_SECONDS:
            return found
        if not self._may_read() and not self._reading.locked():
            return self._believed(kid, age)
        if found is None:
            self._wait()
        elif not self._reading.acquire(blocking=False):
            return self._believed(kid, age)
        try:
            if self._may_read():
                self._read()
        finally:
            self._reading.release()
        return self._believed(kid, self._age())

    def _wait(self) -> None:
        """Acquire the right to read. Few threads may wait for it, so that unknown keys do not use up the threads."""
        if self._waiting.acquire(blocking=False):
            try:
                if self._reading.acquire(timeout=_PATIENCE):
                    return
            finally:
                self._waiting.release()
        raise UnavailableError(
            "The issuer's keys are being read.", where="Authorization", next_step="Try again in a moment."
        )

    def holds(self, key: IssuerKey) -> bool:
        """Tell whether the last set read is fresh and holds this very key; reads nothing."""
        age, found = self._age(), self._keys.get(key.kid)
        return age is not None and age <= FRESH_SECONDS and found is not None and found.thumbprint == key.thumbprint

    def _believed(self, kid: str, age: float | None) -> IssuerKey | None:
        if age is None or age > BELIEVED_SECONDS:
            raise UnavailableError(
                "The token issuer's keys cannot be read now, so no token can be checked.",
                where="Authorization",
                next_step="Try again later, or use an API key.",
            )
        return self._keys.get(kid)

    def _age(self) -> float | None:
        return None if self._read_at is None else self._clock.monotonic() - self._read_at

    def _may_read(self) -> bool:
        return self._tried_at is None or self._clock.monotonic() - self._tried_at >= LEAST_SECONDS

    def _read(self) -> None:
        self._tried_at = self._clock.monotonic()
        self.readings += 1
        try:
            self._keys = parse_key_set(self._content())
        except (AntiphonError, OSError) as error:
            said = error.what if isinstance(error, AntiphonError) else type(error).__name__
            _log.warning("the keys of the token issuer at %s could not be read: %s", self.place, said)
            return
        self._read_at = self._clock.monotonic()

    def _content(self) -> bytes:
        if self._client is not None:
            try:
                response = self._client.get()
            except ResponseError as error:
                raise InvalidInputError(f"The answer of the issuer's key server {error}.", where=self.place) from error
            if response.status != 200:
                raise InvalidInputError(
                    f"The issuer's key server answered with status {response.status}.", where=self.place
                )
            return response.body
        with Path(self.place).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise InvalidInputError(f"The key set is larger than {MOST_BYTES} bytes.", where=self.place)
        return content


def parse_key_set(content: bytes) -> Mapping[str, IssuerKey]:
    """The keys of a JSON Web Key Set (RFC 7517) that may sign tokens; others are left out.

    Raises:
        InvalidInputError: it is not a key set, or has more than :data:`MOST_KEYS` keys.
    """
    from joserfc import jwk
    from joserfc.errors import JoseError

    try:
        listed = msgspec.json.decode(content, type=dict[str, Any])["keys"]
    except (msgspec.DecodeError, KeyError, RecursionError):
        raise InvalidInputError("The issuer's keys are not a JSON Web Key Set.", where="jwks") from None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise InvalidInputError(f"A key set is a list of at most {MOST_KEYS} keys.", where="jwks")
    found: dict[str, IssuerKey] = {}
    for one in listed:
        try:
            said = msgspec.convert(one, _SigningKey)
            # Six bits a character. The library only warns of short ones.
            weak = said.kty == "RSA" and len(said.n) * 6 < LEAST_RSA_BITS
            if weak or said.kty not in _KINDS or "verify" not in said.key_ops or said.kid in found:
                continue
            key = jwk.import_key({name: value for name, value in one.items() if name in _PUBLIC})
            found[said.kid] = IssuerKey(said.kid, said.kty, one.get("alg"), key.thumbprint(), key)
        except (msgspec.ValidationError, JoseError, ValueError, TypeError, KeyError):
            continue
    return found
