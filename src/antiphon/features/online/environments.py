"""Open LMDB environments of this process. LMDB must not open one file twice in a process, so they are shared."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from antiphon.core.errors import Unavailable

_lock = threading.Lock()
_open: dict[str, tuple[Any, int]] = {}


def acquire(path: Path, **options: Any) -> Any:
    """The environment of a file, opened with these options unless it is open already; release it after use.

    Raises:
        Unavailable: it cannot be opened.
    """
    import lmdb

    name = str(path.resolve())
    with _lock:
        environment, users = _open.get(name, (None, 0))
        if environment is None:
            try:
                environment = lmdb.open(name, subdir=False, max_dbs=0, **options)
            except lmdb.Error as error:
                raise Unavailable(
                    f"The online file {path.name} cannot be opened: {error}.",
                    where="online store",
                    next_step="Check the folder's permissions and disk space.",
                ) from error
        _open[name] = (environment, users + 1)
        return environment


def release(path: Path) -> None:
    """Give an environment back; the last user closes it."""
    name = str(path.resolve())
    with _lock:
        environment, users = _open[name]
        if users > 1:
            _open[name] = (environment, users - 1)
            return
        del _open[name]
        environment.close()
