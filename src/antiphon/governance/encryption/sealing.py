"""Sealing payloads: AES-256-GCM under a tenant's data key, bound to the place where a payload lives.

Invariants:
- A payload opens only under its own schema, tenant, environment and subject: they are the associated data.
- A key never meets a nonce twice, up to the odds NIST SP 800-38D (section 8.3) accepts for random 96-bit nonces. Every
  process derives a subkey of its own from the data key and a random salt (RFC 5869), counts its uses, and takes a new
  salt long before 2³² of them: no process has to know what another has sealed.

A sealed envelope's content is ``salt (16) ‖ nonce (12) ‖ ciphertext and tag``; its ``key_id`` names the data key.
"""

from __future__ import annotations

import hmac
import os
import threading
from collections import OrderedDict

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon.core.codec import Envelope, PayloadContext, PlainCodec, require_schema
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.held_keys import HeldKeys

MOST_USES = 2**31
"""Uses of one subkey: half the bound, so that even a copy of the process made by fork stays below it."""

_SALT, _NONCE = 16, 12
_SUBKEYS = 4_096
_INFO = b"antiphon payload 1\x01"


class _Sealer:
    __slots__ = ("cipher", "key_id", "left", "salt")

    def __init__(self, key_id: str, key: bytes, uses: int) -> None:
        self.key_id = key_id
        self.salt = os.urandom(_SALT)
        self.cipher = _cipher(key, self.salt)
        self.left = uses


class AesGcmCodec:
    """Implements ``core.codec.Codec``. Safe to share between threads.

    Args:
        keys: the data keys.
        accept_plain: also open payloads that were stored in plaintext; only while a project is being migrated,
            because whoever can write to the disk could else put a clear payload in the place of a sealed one.
        uses: how often one subkey is used.
    """

    name = "aesgcm"
    sealing = True

    def __init__(self, keys: HeldKeys, *, accept_plain: bool = False, uses: int = MOST_USES) -> None:
        self._keys = keys
        self._plain = PlainCodec() if accept_plain else None
        self._uses = uses
        self._lock = threading.Lock()
        self._sealers: dict[Scope, _Sealer] = {}
        self._subkeys: OrderedDict[tuple[Scope, str, bytes], AESGCM] = OrderedDict()

    @property
    def accepts_plain(self) -> bool:
        """True while the project is migrated, when payloads in plaintext are read too."""
        return self._plain is not None

    def current_key(self, scope: Scope) -> str | None:
        return self._keys.sealing_key(scope)[0]

    def index(self, text: str, scope: Scope, purpose: str) -> str:
        key = self._keys.index_key(scope)
        return hmac.digest(key, f"{purpose}\0{text}".encode(), "sha256").hex()[:40]

    def seal(self, content: bytes, context: PayloadContext) -> Envelope:
        key_id, key = self._keys.sealing_key(context.scope)
        with self._lock:
            sealer = self._sealers.get(context.scope)
            if sealer is None or sealer.key_id != key_id or sealer.left <= 0:
                sealer = self._sealers[context.scope] = _Sealer(key_id, key, self._uses)
            sealer.left -= 1
        nonce = os.urandom(_NONCE)
        sealed = sealer.cipher.encrypt(nonce, content, _associated(context, key_id))
        return Envelope(context.schema, self.name, key_id, sealer.salt + nonce + sealed)

    def open(self, envelope: Envelope, context: PayloadContext) -> bytes:
        if self._plain is not None and envelope.codec == self._plain.name:
            return self._plain.open(envelope, context)
        if envelope.codec != self.name or envelope.key_id is None:
            raise CorruptionError(
                f"The payload was stored by codec {envelope.codec!r}; this project is encrypted and reads only "
                f"{self.name!r}.",
                where=f"{context.scope} {context.schema} {context.subject}",
                next_step="It was put there by something else, or the migration was cut off: "
                "`antiphon encryption enable` finishes one, `antiphon encryption check` lists such payloads.",
            )
        require_schema(envelope, context)
        content = envelope.content
        cipher = self._subkey(context.scope, envelope.key_id, content[:_SALT])
        nonce, sealed = content[_SALT : _SALT + _NONCE], content[_SALT + _NONCE :]
        try:
            return cipher.decrypt(nonce, sealed, _associated(context, envelope.key_id))
        except (InvalidTag, ValueError) as error:
            raise CorruptionError(
                f"A payload does not open with the key {envelope.key_id}: its bytes were changed, it was moved from "
                "another place, or the key is another one of the same name.",
                where=f"{context.scope} {context.schema} {context.subject}",
                next_step="Restore this one from a backup; others are not affected. `antiphon encryption check` lists "
                "all.",
            ) from error

    def _subkey(self, scope: Scope, key_id: str, salt: bytes) -> AESGCM:
        place = (scope, key_id, salt)
        found = self._subkeys.get(place)
        if found is None:
            found = _cipher(self._keys.opening_key(scope, key_id), salt)
            with self._lock:
                self._subkeys[place] = found
                while len(self._subkeys) > _SUBKEYS:
                    self._subkeys.popitem(last=False)
        return found


class UnsealingCodec(PlainCodec):
    """Stores in plaintext and reads both: for taking a project out of encryption."""

    def __init__(self, sealed: AesGcmCodec) -> None:
        self._sealed = sealed

    def open(self, envelope: Envelope, context: PayloadContext) -> bytes:
        if envelope.codec == self.name:
            return super().open(envelope, context)
        return self._sealed.open(envelope, context)


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    # HKDF-SHA-256 with one block of output.
    return AESGCM(hmac.digest(hmac.digest(salt, key, "sha256"), _INFO, "sha256"))


def _associated(context: PayloadContext, key_id: str) -> bytes:
    # None but the last part can hold a zero byte, so that no two contexts give the same bytes.
    scope = context.scope
    return f"{key_id}\0{context.schema}\0{scope.tenant}\0{scope.environment}\0{context.subject}".encode()
