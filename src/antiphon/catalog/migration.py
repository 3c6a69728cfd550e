"""Schema migration with Alembic; the migrations ship inside the package."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.core.errors import SetupError

MIGRATIONS = Path(__file__).parent / "migrations"

_UNRELEASED = re.compile(r"00\d\d")
"""Revisions of catalogs that were written before the first release."""

_log = logging.getLogger("antiphon.catalog")


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration; migrations run on ``connection``, inside its transaction."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, back_up: Callable[[str], str]) -> None:
    """Bring the schema to :data:`~antiphon.catalog.schema.REVISION` inside the connection's write transaction.

    Args:
        back_up: called with the revision that is there, before it is left; says what the way back is.

    Raises:
        SetupError: the file is of an unreleased or a newer version, or holds tables that are not Antiphon's, or there
            is no room for a copy.
    """
    config = configuration(connection)
    scripts = ScriptDirectory.from_config(config)
    found = _revision(connection, {script.revision for script in scripts.walk_revisions()})
    if found == schema.REVISION:
        return  # Another process was faster.
    if found is not None:
        way_back = back_up(found)
        _log.warning("The catalog goes from schema revision %s to %s; %s.", found, schema.REVISION, way_back)
    command.upgrade(config, schema.REVISION)


def _revision(connection: Connection, known: Collection[str]) -> str | None:
    inspector = sa.inspect(connection)
    if not inspector.has_table("alembic_version"):
        if inspector.get_table_names():
            raise SetupError(
                "The database holds tables, but no Antiphon catalog.", where="catalog", next_step="Name another file."
            )
        return None
    found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    if found is None or found in known:
        return found
    if _UNRELEASED.fullmatch(found):
        raise SetupError(
            f"The catalog is at schema revision {found}, of a version before the first release; none upgrades it.",
            where="catalog",
            next_step="Move the project's `.antiphon` folder away, run `antiphon up` and then `antiphon apply`.",
        )
    raise SetupError(
        f"The catalog is at schema revision {found}, this version knows up to {schema.REVISION}.",
        where="catalog",
        next_step="Use the newer version of Antiphon that wrote it, or put the copy that it made before back "
        "(docs/stores.md, Upgrades).",
    )
