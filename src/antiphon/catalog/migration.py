"""Schema migration with Alembic; the migrations ship inside the package."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from antiphon.catalog import copies
from antiphon.catalog.earlier_forms import settle
from antiphon.catalog.schema import REVISION
from antiphon.core.errors import SetupError

_log = logging.getLogger("antiphon.catalog")


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration; migrations run on ``connection``, inside its transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, catalog: Path) -> None:
    """Bring the schema to :data:`~antiphon.catalog.schema.REVISION` inside the connection's write transaction.

    Args:
        catalog: the file, of which a copy is made first when there is anything in it.

    Raises:
        SetupError: the file holds a revision this version does not know, or tables that are not Antiphon's, or there is
            no room for a copy.
    """
    config = configuration(connection)
    scripts = ScriptDirectory.from_config(config)
    found = _revision(connection, {script.revision for script in scripts.walk_revisions()})
    if found == REVISION:
        return  # Another process was faster.
    if found is not None:
        copy = copies.make(catalog, found)
        _log.warning("The catalog goes from schema revision %s to %s; %s is a copy of it.", found, REVISION, copy)
        settle(connection, scripts, found)
    command.upgrade(config, REVISION)


def _revision(connection: Connection, known: Collection[str]) -> str | None:
    inspector = sa.inspect(connection)
    if not inspector.has_table("alembic_version"):
        if inspector.get_table_names():
            raise SetupError(
                "The database holds tables, but no Antiphon catalog.", where="catalog", next_step="Name another file."
            )
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is not None and found not in known:
        raise SetupError(
            f"The catalog is at schema revision {found}, this version knows up to {REVISION}.",
            where="catalog",
            next_step="Use the newer version of Antiphon that wrote it, or put the copy that it made before back "
            "(docs/stores.md, Upgrades).",
        )
    return found
