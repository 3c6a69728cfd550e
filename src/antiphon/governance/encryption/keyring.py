"""A local keyring: wrapping keys in one file, sealed under a passphrase.

Invariants: the file is replaced whole (temporary name, fsync, rename), readable by its owner alone, and a changed one
is read again, so that a key another process made is found here. Two processes that rotate at once wait for each other:
neither's key is lost.

The passphrase becomes a key by scrypt (RFC 7914), once a process and salt; N = 2¹⁶ costs 64 MiB and some 150 ms.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from antiphon.core.disk import file_lock, put_private
from antiphon.core.errors import ConflictError, CorruptionError, SetupError
from antiphon.governance.encryption.key_provider import (
    KEY_BYTES,
    WrappedKey,
    key_id,
    unknown_wrapping_key,
    unwrap_with,
    wrap_with,
)

N, R, P = 2**16, 8, 1
SHORTEST = 12
"""Characters of a new passphrase: a disk image can be tried against for years."""


class KeptKey(msgspec.Struct, frozen=True):
    """A wrapping key, sealed under the passphrase."""

    id: str
    sealed: bytes


class KeyringFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file; ``salt``, ``n``, ``r`` and ``p`` are scrypt's."""

    version: int
    salt: bytes
    n: int
    r: int
    p: int
    current: str
    keys: tuple[KeptKey, ...]


def create(path: Path, passphrase: str) -> str:
    """Make a keyring with one key; returns the key's id.

    Raises:
        ConflictError: there is one already: without it nothing it protects can be read, so it is never replaced.
        SetupError: the passphrase is too short, or the folder cannot be written.
    """
    if len(passphrase) < SHORTEST:
        raise SetupError(
            f"The passphrase has {len(passphrase)} characters; at least {SHORTEST} are needed.",
            where="passphrase",
            next_step="Take several random words.",
        )
    salt = secrets.token_bytes(16)
    cipher = AESGCM(_stretched(passphrase, salt, N, R, P))
    kept = _made(cipher)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, KeyringFile(1, salt, N, R, P, kept.id, (kept,)), replace=False)
    except FileExistsError:
        raise ConflictError(
            "There is a keyring already.", where=str(path), next_step="`antiphon encryption rotate` adds a key to it."
        ) from None
    except OSError as error:
        raise SetupError(
            f"The keyring cannot be written: {error.strerror}.", where=str(path), next_step="Check the folder."
        ) from error
    return kept.id


class FileKeyring:
    """Wrapping keys in a keyring file. The passphrase is stretched on first use."""

    name = "file"

    def __init__(self, path: Path, passphrase: str) -> None:
        self._path = path
        self._passphrase = passphrase
        self._lock = threading.RLock()
        self._stretched: dict[bytes, AESGCM] = {}
        self._read: tuple[int, int, int] | None = None
        self._file: KeyringFile | None = None
        self._ciphers: dict[str, AESGCM] = {}

    def current(self) -> str:
        return self._loaded().current

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        with self._lock:
            current = self._loaded().current
            return WrappedKey(current, wrap_with(self._ciphers[current], key, context))

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        with self._lock:
            self._loaded()
            cipher = self._ciphers.get(wrapped.wrapping_key)
        if cipher is None:
            raise unknown_wrapping_key(
                wrapped.wrapping_key, str(self._path), "Restore the keyring that has it from a backup."
            )
        return unwrap_with(cipher, wrapped, context)

    def rotate(self) -> str:
        with self._lock, self._alone():
            file = self._loaded()
            kept = _made(self._passphrase_cipher(file))
            self._replace(msgspec.structs.replace(file, current=kept.id, keys=(*file.keys, kept)))
            return kept.id

    def retire(self, wrapping_key: str) -> None:
        with self._lock, self._alone():
            file = self._loaded()
            if wrapping_key != file.current:
                keys = tuple(kept for kept in file.keys if kept.id != wrapping_key)
                self._replace(msgspec.structs.replace(file, keys=keys))

    def _replace(self, file: KeyringFile) -> None:
        try:
            _write(self._path, file, replace=True)
        except OSError as error:
            raise SetupError(
                f"The keyring cannot be written: {error.strerror}.", where=str(self._path),
                next_step="Make room or correct the permissions; the keyring is as it was.",
            ) from error  # fmt: skip
        self._read = None
        self._loaded()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._state()  # a missing keyring is not made by locking it
        with file_lock(self._path.with_name(f".{self._path.name}.lock")):
            yield

    def _state(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise SetupError(
                f"The keyring cannot be read: {error.strerror}.",
                where=str(self._path),
                next_step="Restore it from a backup. For a new project make one: `antiphon encryption init`.",
            ) from error
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise SetupError("Others may read the keyring.", where=str(self._path), next_step=f"chmod 600 {self._path}")
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _loaded(self) -> KeyringFile:
        with self._lock:
            state = self._state()
            if self._file is None or state != self._read:
                try:
                    file = msgspec.json.decode(self._path.read_bytes(), type=KeyringFile)
                    # A file that asks for absurd memory is damaged, not strict.
                    if (
                        file.version != 1
                        or not 2**10 <= file.n <= 2**20
                        or not (1 <= file.r <= 32 and 1 <= file.p <= 16)
                    ):
                        raise msgspec.ValidationError("its parameters are out of range")
                except (OSError, msgspec.DecodeError) as error:
                    raise self._damaged(f"The keyring is damaged: {error}.") from error
                cipher = self._passphrase_cipher(file)
                self._ciphers = {kept.id: AESGCM(_opened(cipher, kept, self._path)) for kept in file.keys}
                if file.current not in self._ciphers:
                    raise self._damaged(f"The keyring lacks its current key {file.current}.")
                self._file, self._read = file, state
            return self._file

    def _damaged(self, what: str) -> SetupError:
        return SetupError(what, where=str(self._path), next_step="Restore it from a backup.")

    def _passphrase_cipher(self, file: KeyringFile) -> AESGCM:
        cipher = self._stretched.get(file.salt)
        if cipher is None:
            cipher = AESGCM(_stretched(self._passphrase, file.salt, file.n, file.r, file.p))
            self._stretched = {file.salt: cipher}
        return cipher


def _made(cipher: AESGCM) -> KeptKey:
    key = secrets.token_bytes(KEY_BYTES)
    name = key_id(key)
    return KeptKey(name, wrap_with(cipher, key, name.encode()))


def _opened(cipher: AESGCM, kept: KeptKey, path: Path) -> bytes:
    try:
        return unwrap_with(cipher, WrappedKey(kept.id, kept.sealed), kept.id.encode())
    except CorruptionError as error:
        raise SetupError(
            f"The passphrase does not open the keyring's key {kept.id}.",
            where=str(path),
            next_step="Set the passphrase the keyring was made with; if it is the right one, the file is damaged: "
            "restore it from a backup. A lost passphrase cannot be recovered, nor can what it protects.",
        ) from error


def _stretched(passphrase: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        passphrase.encode(), salt=salt, n=n, r=r, p=p, maxmem=256 * n * r * p + 2**20, dklen=KEY_BYTES
    )


def _write(path: Path, file: KeyringFile, *, replace: bool) -> None:
    put_private(path, msgspec.json.format(msgspec.json.encode(file)) + b"\n", replace=replace)
