"""A version of the package with a second migration, which stands for those that will come."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from antiphon.catalog import migration, schema

SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade():
    op.add_column("blobs", sa.Column("note", sa.Text()))
    op.execute("UPDATE blobs SET note = 'moved'")
"""


def with_second_migration(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have this process know a second revision; returns its file, below ``folder``."""
    migrations = folder / "migrations"
    shutil.copytree(migration.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    file = migrations / "versions" / "v2_note.py"
    file.write_text(SECOND)
    monkeypatch.setattr(migration, "MIGRATIONS", migrations)
    monkeypatch.setattr(schema, "REVISION", "2")
    return file
