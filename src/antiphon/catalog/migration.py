"""Schema migration with Alembic; the migrations ship inside the package."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from antiphon.catalog.schema import REVISION
from antiphon.core.errors import SetupError


def configuration(connection: Connection | None = None) -> Config:
    """Alembic's configuration; migrations run on ``connection``, inside its transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection) -> None:
    """Bring the schema to :data:`~antiphon.catalog.schema.REVISION` inside the connection's write transaction.

    Raises:
        SetupError: the file holds a revision this version does not know, or tables that are not Antiphon's.
    """
    config = configuration(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    inspector = sa.inspect(connection)
    if inspector.has_table("alembic_version"):
        found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        if found is not None and found not in known:
            raise SetupError(
                f"The catalog is at schema revision {found}, this version knows up to {REVISION}.",
                where="catalog",
                next_step="Use the newer version of Antiphon that wrote it, or restore a backup.",
            )
    elif inspector.get_table_names():
        raise SetupError(
            "The database holds tables, but no Antiphon catalog.", where="catalog", next_step="Name another file."
        )
    command.upgrade(config, REVISION)
