"""Files without which a project's data is lost or unknown: the catalog and the secrets.

Invariant: none of them is made where something was made under it before. An empty catalog beside a full lake, or a new
secret beside entities that were hashed under the old one, would look like a project that has forgotten everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from antiphon.catalog import schema
from antiphon.catalog.database import Backend, Database
from antiphon.core.errors import SetupError
from antiphon.core.paths import ProjectPaths

_BACKUP = "Restore it from a backup"


@dataclass(frozen=True)
class RequiredFiles:
    """The catalog and the secrets of one project, and the checks that none of them was lost.

    Attributes:
        online: URL of the online store's server; ``None`` when the store is embedded.
        place: where the catalog is, or is to be made.
        database: opens the catalog on first use.
    """

    paths: ProjectPaths
    online: str | None
    place: Backend
    database: Callable[[], Database]

    def require_catalog(self) -> None:
        """Refuse a project whose catalog is gone or empty while its other data is there.

        Raises:
            SetupError: it is.
        """
        if self.place.exists() and self.database().revision() is not None:
            return
        found = _data(self.paths)
        if found is None:
            return
        raise SetupError(
            f"The project has data ({found.name}/), and its catalog is gone or empty.",
            where=self.place.place,
            next_step=f"{_BACKUP} (docs/stores.md, Backups), or set catalog.url to where it is. To begin with an empty "
            f"project instead, move {self.paths.directory} away.",
        )

    def require_secrets(self) -> None:
        """Refuse a project that has lost a secret.

        Raises:
            SetupError: it has.
        """
        for name in _MADE_UNDER:
            if not secret_file(self.paths, name).exists():
                self.require_makeable(name)

    def require_makeable(self, name: str) -> None:
        """Refuse to make a secret under which something was made.

        Raises:
            SetupError: something was.
        """
        check = _MADE_UNDER.get(name)
        if check is None or not check(self):
            return
        raise SetupError(
            f"The secret {name!r} is gone, and {_LOST[name]}.",
            where=str(secret_file(self.paths, name)),
            next_step=f"{_BACKUP}. {_WITHOUT_BACKUP[name]}",
        )


def secret_file(paths: ProjectPaths, name: str) -> Path:
    """The file of a secret."""
    return paths.keys / f"{name}.secret"


def _data(paths: ProjectPaths) -> Path | None:
    """The first folder with data that only a catalog explains."""
    # A secret alone is no data: nothing was made under it, and a new catalog is as good as any.
    folders = (paths.lake, paths.online, paths.files)
    return next((folder for folder in folders if any(folder.glob("[!.]*/*/*"))), None)


def _has(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> Callable[[RequiredFiles], bool]:
    def check(files: RequiredFiles) -> bool:
        with files.database().read() as connection:
            return (
                connection.execute(sa.select(sa.literal(1)).select_from(table).where(*conditions).limit(1)).first()
                is not None
            )

    return check


def _online(files: RequiredFiles) -> bool:
    """Tell whether anything lies in the online store; once removed, it is built anew from lake and log."""
    if files.online is None:
        return any(files.paths.online.rglob("*.mdb"))
    return _has(schema.publications)(files)


_MADE_UNDER: Mapping[str, Callable[[RequiredFiles], bool]] = {
    "server": _has(schema.api_keys),
    "subject": _has(schema.receipts),
    "online": _online,
    "audit": _has(schema.audit_heads, sa.func.length(schema.audit_heads.c.checkpoint) > 0),
}
"""Secret to whether something was made under it. A new ``session`` secret only ends sessions."""

_LOST = {
    "server": "every API key is known by a hash under it",
    "subject": "every subject in receipts and answers is known by a hash under it",
    "online": "every entity in the online store is known by a hash under it",
    "audit": "it signed this project's checkpoints of the audit log",
}
_NEW = "`head -c 32 /dev/urandom > FILE && chmod 600 FILE` makes a new one"
_WITHOUT_BACKUP = {
    "server": f"Without one, {_NEW}; every API key has to be made anew.",
    "subject": f"Without one, {_NEW}; answers of a subject are not found under it any more.",
    "online": f"Without one, stop `antiphon up`, remove the online store (the folder `online`; on Redis the keys "
    f"TENANT:ENVIRONMENT:*), and start: it is built again from lake and log. On Redis also: {_NEW}.",
    "audit": f"Without one, {_NEW}; checkpoints from before do not verify under it.",
}
