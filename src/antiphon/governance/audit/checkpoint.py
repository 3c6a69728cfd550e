"""Signed checkpoints: the size and root of a scope's log under an Ed25519 key.

The form is C2SP's ``tlog-checkpoint`` in a ``signed-note``, so that other tools read it: origin, size, root in base64,
an empty line, and ``— NAME BASE64(key hash ‖ signature)``. The origin is also the key's name, so a checkpoint of one
scope is none of another.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from antiphon.core.errors import InvalidInputError

_ED25519 = b"\x01"
_SIGNATURE = re.compile(r"— (\S+) (\S+)\Z")
_LONGEST = 10_000


class Checkpoint(msgspec.Struct, frozen=True):
    """Content of a tree head. ``root`` is 32 bytes; ``note`` is the whole signed text, empty before it is signed."""

    origin: str
    size: int
    root: bytes
    note: str = ""

    @property
    def body(self) -> bytes:
        """The signed bytes."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def parse(note: str) -> Checkpoint:
    """Read a checkpoint; its signature is not looked at (:func:`signed_by`). Further signatures may follow.

    Raises:
        InvalidInputError: this is no checkpoint.
    """
    text, separator, signatures = note.partition("\n\n")
    lines = text.split("\n")
    try:
        if len(note) > _LONGEST or not separator or len(lines) != 3 or not lines[0] or not signatures.endswith("\n"):
            raise ValueError
        root = base64.b64decode(lines[2], validate=True)
        if (
            len(root) != 32
            or base64.b64encode(root).decode() != lines[2]
            or not re.fullmatch(r"0|[1-9][0-9]{0,18}", lines[1])
            or not all(_SIGNATURE.match(line) for line in signatures[:-1].split("\n"))
        ):
            raise ValueError
    except ValueError:
        raise InvalidInputError(
            "The text is no signed checkpoint.",
            where="checkpoint",
            next_step="Give the whole text, from the origin line to the end of the signature line.",
        ) from None
    return Checkpoint(lines[0], int(lines[1]), root, note)


def signed_by(checkpoint: Checkpoint, public: bytes) -> bool:
    """Verify the signature of the key with these 32 public bytes under the checkpoint's origin."""
    expected = key_hash(checkpoint.origin, public)
    key = Ed25519PublicKey.from_public_bytes(public)
    for line in checkpoint.note.partition("\n\n")[2].splitlines():
        found = _SIGNATURE.match(line)
        if found is None or found[1] != checkpoint.origin:
            continue
        try:
            content = base64.b64decode(found[2], validate=True)
            if content[:4] == expected and base64.b64encode(content).decode() == found[2]:
                key.verify(content[4:], checkpoint.body)
                return True
        except (InvalidSignature, binascii.Error):
            continue
    return False


def verifier_key(name: str, public: bytes) -> str:
    """A public key as others keep it: ``NAME+HASH+BASE64`` (signed-note)."""
    return f"{name}+{key_hash(name, public).hex()}+{base64.b64encode(_ED25519 + public).decode()}"


def key_hash(name: str, public: bytes) -> bytes:
    """Four bytes that tell keys apart (signed-note: SHA-256 of name, newline, algorithm and key)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]
