"""NATS users without a tool: operators, accounts and users as JWTs signed by nkeys (NATS's own claims, version 2)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import nkeys

_UNLIMITED = dict.fromkeys(
    ("subs", "data", "payload", "imports", "exports", "conn", "leaf", "mem_storage", "disk_storage", "streams",
     "consumer"), -1,
)  # fmt: skip
_PREFIX = {"O": nkeys.PREFIX_BYTE_OPERATOR, "A": nkeys.PREFIX_BYTE_ACCOUNT, "U": nkeys.PREFIX_BYTE_USER}


class Signer:
    """A key pair; ``kind`` is the letter its public key begins with: O, A or U."""

    def __init__(self, kind: str) -> None:
        self.seed: str = nkeys.encode_seed(os.urandom(32), _PREFIX[kind]).decode()

    @property
    def public(self) -> str:
        return str(nkeys.from_seed(bytearray(self.seed.encode())).public_key.decode())

    def sign(self, subject: str, name: str, claims: dict[str, Any], expires: float | None = None) -> str:
        """A JWT about ``subject``; ``expires`` in seconds from now."""
        now = int(time.time())
        body: dict[str, Any] = {"iat": now, "iss": self.public, "name": name, "sub": subject, "nats": claims}
        if expires is not None:
            body["exp"] = now + int(expires)
        body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
        signed = ".".join(_coded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        return f"{signed}.{_coded(pair.sign(signed.encode()))}"


class Accounts:
    """An operator with one account that may use JetStream, and the account of the server itself."""

    def __init__(self) -> None:
        self.operator, self.account, self.system = Signer("O"), Signer("A"), Signer("A")

    def configuration(self, folder: Path) -> Path:
        """A server's configuration that trusts them."""
        operator = self.operator.sign(self.operator.public, "operator", {"type": "operator", "version": 2})
        file = folder / "accounts.conf"
        accounts = (
            f'{self.account.public}: "{self._claims("events")}"\n{self.system.public}: "{self._claims("system")}"'
        )
        file.write_text(
            f'operator: "{operator}"\nsystem_account: {self.system.public}\nresolver: MEMORY\n'
            f"resolver_preload: {{\n{accounts}\n}}\n"
        )
        return file

    def _claims(self, name: str) -> str:
        of = self.account if name == "events" else self.system
        stored = _UNLIMITED if name == "events" else {**_UNLIMITED, "mem_storage": 0, "disk_storage": 0}
        claims = {"limits": {**stored, "wildcards": True}, "type": "account", "version": 2}
        return self.operator.sign(of.public, name, claims)

    def credentials(self, expires: float | None = None, *, by: Signer | None = None) -> str:
        """A ``.creds`` file's content for a new user."""
        user = Signer("U")
        claims = {"pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2}
        return creds((by or self.account).sign(user.public, "writer", claims, expires), user.seed)


def creds(jwt: str, seed: str) -> str:
    """As NATS's tools write it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\nNKEY Seed printed below.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n*****\n"
    )


def _coded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
