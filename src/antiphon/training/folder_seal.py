"""Sealing what lies in a training's folder: examples and checkpoints, under a key of the folder's own.

Invariant: the key stands in the folder sealed by the project's codec. The worker opens it and hands it to the training
process through a pipe, so that this process, which reads and writes files only, holds no other key and no passphrase.
The model that comes out (adapter and weights) is not sealed: the engine maps it from disk.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from antiphon.core.codec import Codec, PayloadContext, pack, unpack
from antiphon.core.disk import replace_file
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope

KEY = "folder.key"
_SCHEMA, _MAGIC, _NONCE = "training/1", b"ANTPHTF1", 12


class FolderSeal:
    """Seals the files of one folder, each bound to its name; without a key it leaves them as they are."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    @property
    def key(self) -> bytes | None:
        """The folder's key; ``None`` in a project in plaintext."""
        return self._key

    def seal(self, name: str, content: bytes) -> bytes:
        """Seals the content of a file."""
        if self._key is None:
            return content
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        return _MAGIC + nonce + AESGCM(self._key).encrypt(nonce, content, name.encode())

    def open(self, name: str, stored: bytes) -> bytes:
        """A file's content; raises ``CorruptionError`` when it was changed, is of another folder or name, or is not
        sealed though it should be."""
        if self._key is None:
            return stored
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            if not stored.startswith(_MAGIC):
                raise ValueError("not sealed")
            start = len(_MAGIC)
            nonce, sealed = stored[start : start + _NONCE], stored[start + _NONCE :]
            return AESGCM(self._key).decrypt(nonce, sealed, name.encode())
        except (InvalidTag, ValueError) as error:
            raise CorruptionError(
                "The file does not open with the key of its folder.",
                where=name,
                next_step="Order the training again: it is made anew.",
            ) from error


PLAIN = FolderSeal()
"""Leaves files as they are."""


def folder_seal(folder: Path, codec: Codec, scope: Scope) -> FolderSeal:
    """The seal of a folder, with the key that lies there; made on first use. Raises ``CorruptionError`` when the key
    does not open: it was changed, or is of another folder."""
    if not codec.sealing:
        return PLAIN
    context = PayloadContext(_SCHEMA, scope, folder.name)
    path = folder / KEY
    if path.exists():
        return FolderSeal(codec.open(unpack(path.read_bytes()), context))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = os.urandom(32)
    replace_file(path, pack(codec.seal(key, context)))
    return FolderSeal(key)


def folders(root: Path) -> Iterator[Path]:
    """The folders of runs that hold examples or their key."""
    for folder in sorted(root.glob("*")):
        if (folder / KEY).exists() or any(folder.glob("*.jsonl")):
            yield folder


def reseal(folder: Path, codec: Codec, scope: Scope) -> int:
    """Bring a folder under the codec's present key; how many files changed.

    A folder that is sealed already keeps its own key, which a training under way holds, and that key is sealed anew. A
    folder that changes between clear and sealed has its examples written anew and its checkpoints removed: its training
    begins again.
    """
    path, changed = folder / KEY, 0
    context = PayloadContext(_SCHEMA, scope, folder.name)
    before = FolderSeal(codec.open(unpack(path.read_bytes()), context)) if path.exists() else PLAIN
    after = folder_seal(folder, codec, scope)
    for file in folder.glob("*.jsonl"):
        stored = file.read_bytes()
        if stored.startswith(_MAGIC) == codec.sealing:
            continue
        for checkpoint in folder.glob("training/checkpoints/*"):
            checkpoint.unlink()
        content = stored if codec.sealing else before.open(file.name, stored)
        replace_file(file, after.seal(file.name, content))
        changed += 1
    if not codec.sealing:
        path.unlink(missing_ok=True)
    elif unpack(path.read_bytes()).key_id != codec.current_key(scope) and after.key is not None:
        replace_file(path, pack(codec.seal(after.key, context)))
        changed += 1
    return changed


def given_seal() -> FolderSeal:
    """The seal whose key the worker wrote into this process's standard input, in hex; nothing there means no key."""
    text = sys.stdin.readline().strip() if not sys.stdin.isatty() else ""
    return FolderSeal(bytes.fromhex(text) if text else None)
