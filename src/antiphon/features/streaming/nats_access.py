"""URL, credentials and TLS settings of a NATS server, and the format of credentials files.

Invariant: a password, token, seed or JWT is in no representation of a value here, and in no error.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec

from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError
from antiphon.core.outgoing import require_no_secret
from antiphon.core.tls import ClientTls

_JWT = re.compile(r"-+BEGIN NATS USER JWT-+\s+([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\s+-+END NATS USER JWT-+")
_SEED = re.compile(r"-+BEGIN USER NKEY SEED-+\s+(\S+)\s+-+END USER NKEY SEED-+")
_BARE = re.compile(r"SU[A-Z2-7]{56}\Z")
_LONGEST = 65_536
_SCHEMES = ("nats", "tls")
FILE, VARIABLE = "log_credentials", "log_credentials_variable"


class Key(msgspec.Struct, frozen=True):
    """Key of a NATS user: the seed of an Ed25519 key, and the JWT that an account signed for it; ``None`` for a bare
    nkey that the server knows."""

    seed: str
    jwt: str | None = None

    def __repr__(self) -> str:
        return f"Key(jwt={'…' if self.jwt else None})"

    def ended(self, now: datetime) -> datetime | None:
        """Expiry of an expired JWT, otherwise ``None``; its signature is not verified here."""
        if self.jwt is None:
            return None
        middle = self.jwt.split(".")[1]
        try:
            ends = msgspec.json.decode(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4))).get("exp")
            at = datetime.fromtimestamp(ends, UTC) if ends else None
        except (msgspec.DecodeError, binascii.Error, AttributeError, TypeError, ValueError, OverflowError, OSError):
            return None
        return at if at is not None and at <= now else None


class Access(msgspec.Struct, frozen=True):
    """Access to a server.

    Attributes:
        user: from the URL.
        password: the user's, or a token without user.
        file: a ``.creds`` file, or one with a user's nkey seed; read at every connection.
        text: the content of such a file, from an environment variable.
        tls: authority and client certificate for ``tls://``.
    """

    user: str | None = None
    password: str | None = None
    file: Path | None = None
    text: str | None = None
    tls: ClientTls | None = None

    def __repr__(self) -> str:
        return f"Access(user={self.user!r}, file={self.file!r}, tls={self.tls!r})"

    def require(self, scheme: str) -> None:
        """Refuse what contradicts itself, before anything is sent: two kinds of credentials, or files for TLS and a URL
        without it, are an ``InvalidInputError``."""
        kinds = [self.file is not None, self.text is not None, self.user is not None or self.password is not None]
        if sum(kinds) > 1:
            raise InvalidInputError(
                "The settings name more than one kind of credentials.",
                where="[features] log",
                next_step=f"Keep one of: {FILE}, {VARIABLE}, or log_password_variable with the user in the URL.",
            )
        if scheme != "tls" and self.tls is not None and self.tls != ClientTls():
            raise InvalidInputError(
                "Certificates are named and the URL does not ask for TLS.",
                where="[features] log",
                next_step="Write tls://HOST:PORT; over nats:// another host could answer for the server.",
            )

    def key(self) -> Key | None:
        """The key to sign with; ``None`` when there is a password, a token, or nothing. A file that cannot be read,
        or is none, is a ``SetupError``."""
        if self.text is not None:
            return read_key(self.text, f"[features] {VARIABLE}")
        if self.file is None:
            return None
        try:
            with self.file.open("rb") as stream:
                content = stream.read(_LONGEST + 1)
        except OSError as error:
            raise SetupError(
                f"The credentials cannot be read ({error.strerror or type(error).__name__}).",
                where=str(self.file),
                next_step=f"Set [features] {FILE} to a file that this process may read.",
            ) from None
        return read_key(content.decode("utf-8", "replace"), str(self.file))

    def ended(self, now: datetime) -> datetime | None:
        """The moment at which the credentials' JWT ended; ``None`` of one that has not, and without any."""
        try:
            key = self.key()
        except AntiphonError:
            return None
        return None if key is None else key.ended(now)

    def refused(self, name: str, said: str, now: datetime) -> SetupError:
        """The error for a server that refuses access, with the next step.

        Args:
            name: the server's address. ``said``: its message.
        """
        way = "Set the environment variable that [features] log_password_variable names, and the user in the URL"
        way += f"; or {FILE}."
        if self.file is not None or self.text is not None:
            field = FILE if self.file is not None else VARIABLE
            way = f"Set [features] {field} to a user that this server's account or configuration knows."
            if (ended := self.ended(now)) is not None:
                said = f"{said.rstrip('.')}; the JWT ended at {ended:%Y-%m-%d %H:%M:%S} UTC"
                way = "Have the account sign a new one; a file is read again at the next connection."
        return SetupError(f"{name} refuses access: {said[:300]}.", where="event log", next_step=way)


def read_key(text: str, where: str) -> Key:
    """The key in a ``.creds`` file (JWT and seed between their lines) or in a file with a seed alone; raises
    ``SetupError`` when it is neither, or the seed is no user's or was changed."""
    jwt, seed = _JWT.search(text), _SEED.search(text)
    found = seed.group(1) if seed is not None else text.strip()
    if len(text) > _LONGEST or not _BARE.match(found) or (seed is not None and jwt is None):
        raise SetupError(
            "The credentials are not those of a NATS user.",
            where=where,
            next_step="Use a .creds file with JWT and seed, as it was written, or a seed, which begins with SU.",
        )
    whole = base64.b32decode(found + "=" * (-len(found) % 8))
    # The library takes a seed whose checksum is wrong, which would be another user's.
    if binascii.crc_hqx(whole[:-2], 0) != int.from_bytes(whole[-2:], "little"):
        raise SetupError(
            "The seed does not fit its checksum: it was cut or changed.",
            where=where,
            next_step="Copy the credentials once more.",
        )
    return Key(found, None if jwt is None else jwt.group(1))


def require_url(url: str) -> int:
    """Refuse a URL that is none of a NATS server, or that holds a password, as ``InvalidInputError``; how many
    replicas it asks for."""
    where = "[features] log"
    require_no_secret(url, where=where, variable="log_password_variable")
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not all(_is_place(each) for each in addresses_of(url)):
        raise InvalidInputError(
            f"{url!r} is no URL of an event log.",
            where=where,
            next_step="Use nats://HOST:PORT or tls://HOST:PORT, with every HOST:PORT of a cluster, separated by "
            "commas; without the setting it is the catalog.",
        )
    options = parse_qs(parts.query)
    replicas = options.pop("replicas", ["1"])[-1]
    if options or replicas not in ("1", "3", "5"):
        raise InvalidInputError(
            f"{', '.join(options) or 'replicas'} in the URL is not understood.",
            where=where,
            next_step="Use ?replicas=1, 3 or 5.",
        )
    return int(replicas)


def addresses_of(url: str) -> tuple[str, ...]:
    """``SCHEME://HOST:PORT`` of each node that a URL names, without user and options."""
    parts = urlsplit(url)
    return tuple(f"{parts.scheme}://{place}" for place in parts.netloc.rpartition("@")[2].split(","))


def _is_place(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
