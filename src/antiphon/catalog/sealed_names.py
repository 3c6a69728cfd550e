"""A text that rows are found by: in an encrypted project its column holds a keyed hash, and the text lies sealed by it.

Invariant: the sealed text belongs to its row, and the index to the text: one that was changed, moved or taken away does
not open. What was stored before a project was encrypted is read as it is, until it is sealed anew.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, or_

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import SealedColumn
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope


class SealedName:
    """Writes, reads and looks up one such column.

    Args:
        column: of the sealed text; it says which one holds the index (``named``).
    """

    def __init__(self, column: SealedColumn) -> None:
        if column.named is None:
            raise ValueError(f"{column.name} is no name")
        self._column = column
        self._index, self._purpose = column.named

    def stored(self, database: Database, scope: Scope, subject: str, text: str) -> tuple[str, bytes | None]:
        """Returns the values of the two columns: index and envelope, or in plaintext the text and nothing."""
        if not database.codec.sealing:
            return text, None
        sealed = database.seal(scope, self._column.schema, subject, text.encode())
        return database.codec.index(text, scope, self._purpose), sealed

    def opened(self, database: Database, scope: Scope, subject: str, index: str | None, sealed: Any) -> str | None:
        """The text of a row.

        Raises:
            CorruptionError: it does not open, or stands under another index.
        """
        if sealed is None:
            return index
        text = b""
        if database.codec.sealing and isinstance(sealed, bytes):  # in plaintext, what stands there was put there
            text = database.unseal(scope, self._column.schema, subject, sealed)
        name = text.decode(errors="replace")
        if index is None or index != database.codec.index(name, scope, self._purpose):
            raise CorruptionError(
                f"A name in {self._column.table} stands under another index.",
                where=f"{scope} {subject}",
                next_step="`antiphon encryption check` lists what does not open; restore this one from a backup.",
            )
        return name

    def is_(self, database: Database, scope: Scope, text: str) -> ColumnElement[bool]:
        """The condition that a row's text is this one."""
        columns = schema.metadata.tables[self._column.table].c
        index, sealed = columns[self._index], columns[self._column.column]
        if not database.codec.sealing:
            return index == text
        return or_(
            and_(index == database.codec.index(text, scope, self._purpose), sealed.is_not(None)),
            and_(index == text, sealed.is_(None)),
        )
