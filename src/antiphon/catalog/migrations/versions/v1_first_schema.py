"""Creates the tables of the first release, as ``catalog/schema`` states them.

Until the first release the schema changes there alone. From the first release on it changes only by a new migration,
and the first of these also freezes this one, which would otherwise create the changed tables: it replaces
``create_all`` here by the operations that make the released tables (``alembic.autogenerate.render_python_code`` writes
them), and then changes these. ``test_migration.py`` compares a migrated database with the metadata.
"""

from __future__ import annotations

from alembic import op

from antiphon.catalog.schema import metadata

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    metadata.create_all(op.get_bind(), checkfirst=False)
