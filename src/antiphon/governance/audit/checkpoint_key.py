"""The key that signs checkpoints, and how another one takes its place.

Invariants: a key hands over to the next by a statement that both sign, so that whoever keeps either knows the other;
the statement is on disk before the next key is in use. What an earlier key signed holds after its private part is gone:
its public part stays in the list.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from antiphon.core.errors import InvalidInputError, SetupError
from antiphon.core.scope import Scope
from antiphon.governance.audit.checkpoint import Checkpoint, key_hash, signed_by, verifier_key
from antiphon.governance.secret import LENGTH, load_secret, replace

_EARLIER = ".earlier"
"""Beside the private key: the public ones before it."""


class HandOver(msgspec.Struct, frozen=True):
    """A key's last word: which one follows. Both sign the statement of the two.

    Attributes:
        key, next: 32 public bytes each.
        signature, countersignature: by ``key``, and by ``next``.
    """

    key: bytes
    next: bytes
    signature: bytes
    countersignature: bytes


class EarlierKey(msgspec.Struct, frozen=True):
    """A hand-over as others check it: ``key`` is the earlier one's verifier key, and the one after it is the next."""

    key: str
    signature: str
    countersignature: str


class CheckpointKey:
    """Signs checkpoints of every scope of one installation.

    Args:
        seed: the 32 bytes of the private key.
        origin: first part of every checkpoint's origin line, such as ``example.com/antiphon``.
        earlier: the hand-overs that led to this key, oldest first.
    """

    def __init__(self, seed: bytes, origin: str = "antiphon", earlier: Sequence[HandOver] = ()) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9./:_-]{0,199}", origin):
            raise InvalidInputError(
                f"{origin!r} is no origin of checkpoints.",
                where="[audit].origin",
                next_step="Write a name such as example.com/antiphon: letters, digits and . / : _ -.",
            )
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._origin = origin
        self.public = _public(self._private)
        self.earlier = tuple(earlier)
        self._reload: Callable[[], CheckpointKey] = lambda: self

    @classmethod
    def load(cls, path: Path, origin: str = "antiphon") -> CheckpointKey:
        """The key in ``path``, made on first use; the earlier ones beside it.

        Raises:
            SetupError: a file cannot be read or written, has another form, or others may read it.
        """
        load_secret(path)
        stamp = _stamp(path)  # before the key is read: one that is replaced meanwhile is seen to be
        seed = load_secret(path)
        public, listed = _public(Ed25519PrivateKey.from_private_bytes(seed)), _read(path)
        # One to a key that never came into use leads nowhere and is left out.
        last = max((at for at, one in enumerate(listed) if one.next == public), default=-1)
        key = cls(seed, origin, listed[: last + 1])
        key._reload = lambda: key if _stamp(path) == stamp else cls.load(path, origin)
        return key

    def fresh(self) -> CheckpointKey:
        """This key, or the one that has taken its place in its file since."""
        return self._reload()

    def origin(self, scope: Scope) -> str:
        """The origin line of a scope's checkpoints."""
        return f"{self._origin}/{scope.tenant}/{scope.environment}"

    def verifier(self, scope: Scope) -> str:
        """The public key as others keep it: ``NAME+HASH+BASE64`` (signed-note's verifier key)."""
        return verifier_key(self.origin(scope), self.public)

    def earlier_keys(self, scope: Scope) -> tuple[EarlierKey, ...]:
        """The keys before this one, oldest first, for the stand-alone verifier."""
        return tuple(
            EarlierKey(verifier_key(self.origin(scope), one.key), _text(one.signature), _text(one.countersignature))
            for one in self.earlier
        )

    def signed(self, checkpoint: Checkpoint) -> bool:
        """Verify that this key or an earlier one signed the checkpoint."""
        return any(signed_by(checkpoint, public) for public in (self.public, *(one.key for one in self.earlier)))

    def sign(self, scope: Scope, size: int, root: bytes) -> Checkpoint:
        """The checkpoint of the scope's first ``size`` records."""
        origin = self.origin(scope)
        body = Checkpoint(origin, size, root).body
        signature = _text(key_hash(origin, self.public) + self._private.sign(body))
        return Checkpoint(origin, size, root, f"{body.decode()}\n— {origin} {signature}\n")

    def hand_over(self, seed: bytes) -> CheckpointKey:
        """The key with this seed, after this one."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        mine, other = self.public, _public(private)
        said = statement(mine, other)
        one = HandOver(mine, other, self._private.sign(said), private.sign(said))
        return CheckpointKey(seed, self._origin, (*self.earlier, one))


def rotate(path: Path, origin: str = "antiphon") -> CheckpointKey:
    """Put a new key in the place of the one in ``path``; nobody may sign meanwhile (``Witness.turn``).

    Raises:
        SetupError: a file cannot be read or written; the key is the one before.
    """
    seed = secrets.token_bytes(LENGTH)
    made = CheckpointKey.load(path, origin).hand_over(seed)
    # First the list: loading leaves a hand-over to a key that never came into use out.
    replace(_beside(path), b"".join(msgspec.json.encode(one) + b"\n" for one in made.earlier))
    replace(path, seed)
    return CheckpointKey.load(path, origin)


def statement(key: bytes, following: bytes) -> bytes:
    """Text that the old and the new key of a rotation sign."""
    return f"antiphon audit key 1\n{_text(key)}\n{_text(following)}\n".encode()


def _read(path: Path) -> tuple[HandOver, ...]:
    beside = _beside(path)
    try:
        lines = beside.read_bytes().splitlines()
        found = tuple(msgspec.json.decode(line, type=HandOver) for line in lines)
        for number, one in enumerate(found):
            said = statement(one.key, one.next)
            for signer, signature in ((one.key, one.signature), (one.next, one.countersignature)):
                Ed25519PublicKey.from_public_bytes(signer).verify(signature, said)
            if number and found[number - 1].next != one.key:
                raise ValueError
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise SetupError(
            f"The list of earlier keys cannot be read: {error.strerror}.", where=str(beside),
            next_step="Check the folder's owner and permissions.",
        ) from error  # fmt: skip
    except (msgspec.MsgspecError, ValueError, InvalidSignature) as error:
        raise SetupError(
            "The list of earlier keys is damaged.",
            where=str(beside),
            next_step="Restore it from a backup with the key beside it; without it, earlier signatures are unknown.",
        ) from error
    return found


def _beside(path: Path) -> Path:
    return path.with_suffix(_EARLIER)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _public(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
