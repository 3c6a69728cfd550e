"""The server's secrets: random bytes in files that only the owner may read."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from antiphon.core.errors import SetupError

LENGTH = 32


def load_secret(path: Path) -> bytes:
    """The 32 bytes in ``path``; made on first use. Processes that race agree on one secret.

    Raises:
        SetupError: the file cannot be read or written, has another length, or others may read it.
    """
    try:
        if not path.exists():
            _create(path)
        content = path.read_bytes()
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise SetupError(
            f"The secret cannot be read or made: {error.strerror}.",
            where=str(path),
            next_step="Check the folder's owner and permissions.",
        ) from error
    if mode & 0o077:
        raise SetupError(
            f"Others may read this secret (mode {mode:03o}).", where=str(path), next_step=f"chmod 600 {path}"
        )
    if len(content) != LENGTH:
        raise SetupError(
            f"The secret has {len(content)} bytes instead of {LENGTH}.",
            where=str(path),
            next_step="Restore it from a backup; a new one makes every API key and subject hash unknown.",
        )
    return content


def replace(path: Path, content: bytes) -> None:
    """Put other bytes in a private file's place: the old ones or the new ones, whatever happens in between.

    Raises:
        SetupError: it cannot be written.
    """
    try:
        draft = _draft(path, content)
        try:
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise SetupError(
            f"The file cannot be written: {error.strerror}.",
            where=str(path),
            next_step="Check the folder's owner, permissions and space.",
        ) from error


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = _draft(path, secrets.token_bytes(LENGTH))
    try:
        # A link fails when the name exists, so the first process wins and the file is never seen half-written.
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    _sync_folder(path.parent)


def _draft(path: Path, content: bytes) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return draft


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
