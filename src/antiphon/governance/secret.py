"""The server's secrets: random bytes in files that only the owner may read."""

from __future__ import annotations

import secrets
import stat
from contextlib import suppress
from pathlib import Path

from antiphon.core.disk import put_private
from antiphon.core.errors import SetupError

LENGTH = 32


def load_secret(path: Path) -> bytes:
    """The 32 bytes in ``path``; made on first use. Processes that race agree on one secret.

    Raises:
        SetupError: the file cannot be read or written, has another length, or others may read it.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with suppress(FileExistsError):
                put_private(path, secrets.token_bytes(LENGTH), replace=False)
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
        put_private(path, content)
    except OSError as error:
        raise SetupError(
            f"The file cannot be written: {error.strerror}.",
            where=str(path),
            next_step="Check the folder's owner, permissions and space.",
        ) from error
