"""Annotations: what people of the house say about predictions, apart from the outcomes that arrive from outside.

Invariant: an annotator has one say about a prediction, kind and criterion: the last. What several say is kept apart.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import delete
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts, upsert
from antiphon.catalog.rows import SealedRows
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope

AnnotationKind = Literal["label", "thumbs", "correction", "rubric", "preference"]


class Annotation(msgspec.Struct, frozen=True):
    """One annotator's say about a prediction.

    Attributes:
        value: the label, ``up`` or ``down``, the corrected text, a score from 1 to 5, or of a preference ``this``,
            ``other`` or ``tie``.
        criterion: of a rubric its criterion, of a label the property.
        other: of a preference, the prediction that this one was shown beside.
        note: in the annotator's words.
    """

    id: str
    scope: Scope
    prediction: str
    application: str
    annotator: str
    kind: AnnotationKind
    value: str
    created_at: datetime
    criterion: str = ""
    other: str | None = None
    note: str = ""


def annotation_id(prediction: str, annotator: str, kind: str, criterion: str = "", other: str | None = None) -> str:
    """The id under which an annotator's say stands."""
    return f"note_{content_hash([prediction, annotator, kind, criterion, other])[:26]}"


_table = schema.prediction_annotations


class Annotations:
    """Repository of annotations."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "prediction_annotations.payload", Annotation)

    def put(self, annotation: Annotation, *, within: Connection | None = None) -> Annotation:
        """Record an annotation in the place of what its annotator had said before."""
        row = self._documents.row(annotation)
        statement = upsert(_table).values(row)
        replaced = statement.on_conflict_replace("payload", "created_at", "kind", "application")
        self._database.write(replaced, within)
        return annotation

    def remove(self, scope: Scope, annotation: str, *, within: Connection | None = None) -> bool:
        """Delete an annotation; tells whether there was one."""
        return self._database.write(delete(_table).where(schema.owned(_table, scope, id=annotation)), within) == 1

    def remove_all(self, scope: Scope, predictions: Iterable[str], *, within: Connection | None = None) -> int:
        """Delete what was said of some predictions; how much it was."""
        owned = schema.owned(_table, scope)
        chosen = in_parts(_table.c.prediction, predictions)
        return sum(self._database.write(delete(_table).where(owned, some), within) for some in chosen)

    def of_predictions(self, scope: Scope, predictions: Iterable[str]) -> builtins.list[Annotation]:
        """All annotations of some predictions, oldest first."""
        found, order = list[Annotation](), (_table.c.created_at, _table.c.id)
        for some in in_parts(_table.c.prediction, predictions):
            found += self._documents.find(scope, some, order=order)
        return found

    def list(self, scope: Scope, application: str | None = None, limit: int = 1_000) -> builtins.list[Annotation]:
        """Annotations, latest first."""
        order = (_table.c.created_at.desc(), _table.c.id.desc())
        return self._documents.find(scope, *schema.given(_table, application=application), order=order, limit=limit)
