"""Reads features from a dataset instead of the online store, as of each row's own moment.

Invariant: a row's features are exactly those that the dataset has for its entity and moment; nothing is computed,
and nothing that the dataset does not have is made up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.learning.datasets import Dataset
from antiphon.catalog.releases.releases import Release
from antiphon.core.clock import microseconds
from antiphon.core.errors import CorruptionError, FeatureUnavailableError, InvalidInputError
from antiphon.core.ids import canonical, content_hash
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.features.lake.content import Lake
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.learning.datasets.table import FURTHER, PROMPT, USER

if TYPE_CHECKING:
    import pyarrow


FEW_ENTITIES = 10
"""Fewer entities than these are all there are, and not drawn from others, if no user is known."""


class DatasetRow(msgspec.Struct, frozen=True):
    """One example: entity, moment, features and what came true.

    Attributes:
        label: the value of the first outcome, whatever its form; ``further`` those of others by name, where known.
        question: what the user asked.
        prediction: of a row that was a request, its receipt's.
        user: of the dataset's rows the first that the same user asked; empty where no user is known.
        prompt_blob: SHA-256 of the prompt that it was served with, in a dataset that pins one.
    """

    example: str
    entity: dict[str, str]
    moment: datetime
    label: str
    features: FeatureVector
    question: str | None = None
    further: dict[str, str] = {}
    prediction: str | None = None
    user: str = ""
    prompt_blob: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def content(self) -> str:
        """A hash of what a release is asked and is held against. Equal in every dataset that has the row."""
        # The user depends on the other rows, and what was served is not what a release is asked with.
        alone = msgspec.structs.replace(self, user="", prompt_blob=msgspec.UNSET)
        return content_hash(msgspec.json.encode(alone, order="deterministic"))


class DatasetFeatureReader:
    """Implements serving's ``EntityReader`` over rows."""

    def __init__(self, dataset: Dataset, rows: Iterable[DatasetRow]) -> None:
        self._dataset = dataset
        self._vectors: dict[tuple[bytes, int], FeatureVector] = {}
        self._ambiguous: set[tuple[bytes, int]] = set()
        for row in rows:
            self.put(row.entity, row.moment, row.features)

    def put(self, entity: Mapping[str, str], moment: datetime, features: FeatureVector) -> None:
        """Let these features be read for an entity and moment."""
        place = _place(entity, moment)
        if self._vectors.setdefault(place, features) != features:
            self._ambiguous.add(place)

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """The row's features of some views; raises ``FeatureUnavailableError`` when the dataset has no such row, or two
        that differ, or lacks a view in this definition version."""
        place = _place(keys, as_of)
        vector = self._vectors.get(place)
        if vector is None or place in self._ambiguous:
            raise FeatureUnavailableError(
                "The dataset has no features of this entity at this moment."
                if vector is None
                else "The dataset has two rows of this entity and moment, with different features.",
                where=self._dataset.id,
                next_step="Ask as of a moment that one of its rows has.",
            )
        for view, version in views.items():
            if self._dataset.spec.views.get(view) != version:
                raise FeatureUnavailableError(
                    f"The dataset does not have the view {view!r} in definition version {version}.",
                    where=self._dataset.id,
                    next_step="Build the dataset again for this release: `antiphon datasets build`.",
                )
        names = {*views, *(view.name for view in self._dataset.spec.on_demand)}
        chosen = {name: value for name, value in vector.values.items() if name.partition(".")[0] in names}
        return FeatureVector(None, chosen)


def read_table(dataset: Dataset, files: Lake) -> pyarrow.Table:
    """A dataset as it was built, with the columns that :class:`~antiphon.catalog.learning.datasets.Dataset` tells.

    Raises:
        CorruptionError: its file is gone or is another one.
    """
    import pyarrow.parquet

    files.verify(dataset.path, dataset.sha256)
    with files.open(dataset.path) as file:
        return pyarrow.parquet.read_table(file)


def read_rows(dataset: Dataset, files: Lake) -> tuple[DatasetRow, ...]:
    """A dataset's rows, by example.

    Raises:
        CorruptionError: the file is gone, is another one, or lacks a column that every dataset has.
    """
    table = read_table(dataset, files)
    spec = dataset.spec
    needed = ("example", "moment", "label", *spec.entity_keys)
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise CorruptionError(
            f"The dataset's file has no column {', '.join(missing)}.",
            where=dataset.id,
            next_step=f"Run `antiphon datasets rebuild {dataset.id}`.",
        )
    views = spec.versions()
    columns = [name for name in table.column_names if name.count(".") == 1 and name.partition(".")[0] in views]
    return tuple(_row(row, dataset, columns) for row in table.to_pylist())


def check_fits(release: Release, dataset: Dataset) -> None:
    """Raises ``InvalidInputError`` unless the application has an outcome and the dataset was built for it, its entity
    and its definition versions."""
    application, spec = release.bundle.application, dataset.spec
    outcome = application.outcome
    if outcome is None:
        raise InvalidInputError(
            f"The application {application.name} declares no outcome, so nothing says what is true.",
            where=f"application {application.name}",
            next_step="Declare outcome=Outcome(…) in definitions.py and apply it, or try what needs none: "
            "`antiphon evaluations safety RELEASE`.",
        )
    wrong = [
        f"{name} {theirs!r} instead of {ours!r}"
        for name, ours, theirs in (
            ("application", application.name, spec.application),
            ("outcome", outcome.property, spec.property),
            ("positive label", outcome.positive, spec.positive),
            ("outcomes", _said(application.shapes), _said(spec.outcomes or application.shapes)),
            ("entity keys", sorted(application.entity_keys), sorted(spec.entity_keys)),
        )
        if ours != theirs
    ]
    wrong += [
        f"the view {view!r} in version {spec.views.get(view, '(none)')} instead of {version}"
        for view, version in application.features.items()
        if spec.views.get(view) != version
    ]
    if wrong:
        raise InvalidInputError(
            f"The dataset {dataset.id} was built for something else: {'; '.join(wrong)}.",
            where=dataset.id,
            next_step=f"Build one for this release: `antiphon datasets build {application.name} --kind evaluation`.",
        )


def drawing_order(rows: Sequence[DatasetRow]) -> list[DatasetRow]:
    """Rows in the order in which some of them are drawn: by a hash, so that fewer are a part of more."""
    return sorted(rows, key=lambda row: content_hash(row.example.encode()))


def users_of(rows: Sequence[DatasetRow]) -> dict[str, str]:
    """Example to the first example of the same user, or of the same entity where no user is known; nothing where each
    row counts by itself. Rows without a user do where they are of fewer entities than :data:`FEW_ENTITIES`."""
    entities = {row.example: canonical(row.entity).decode() for row in rows if not row.user}
    if len(set(entities.values())) < FEW_ENTITIES:
        entities = {example: example for example in entities}
    names = {row.example: row.user or entities[row.example] for row in rows}
    if len(set(names.values())) == len(names):
        return {}
    first: dict[str, str] = {}
    return {example: first.setdefault(names[example], example) for example in sorted(names)}


def _row(row: Mapping[str, Any], dataset: Dataset, columns: Sequence[str]) -> DatasetRow:
    spec = dataset.spec
    versions = spec.versions()
    values = {
        name: FeatureValue(
            value=row[name],
            event_time=_utc(row.get(f"{name}.event_time")),
            definition_version=versions[name.partition(".")[0]],
        )
        for name in columns
    }
    moment = _utc(row["moment"])
    if moment is None:
        raise CorruptionError(
            f"The row {row['example']!r} has no moment.", where=dataset.id, next_step="Build it again."
        )
    return DatasetRow(
        example=str(row["example"]),
        entity={key: str(row[key]) for key in spec.entity_keys},
        moment=moment,
        label=str(row["label"]),
        features=FeatureVector(None, values),
        question=row.get("question"),
        further={
            shape.name: str(value) for shape in spec.further if (value := row.get(f"{FURTHER}{shape.name}")) is not None
        },
        prediction=row.get("prediction"),
        user=row.get(USER) or "",
        prompt_blob=row.get(PROMPT, msgspec.UNSET),
    )


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _place(keys: Mapping[str, str], moment: datetime) -> tuple[bytes, int]:
    return canonical({key: str(value) for key, value in keys.items()}), microseconds(moment)


def _said(shapes: Sequence[OutcomeShape]) -> str:
    return ", ".join(f"{shape.name} ({shape.form})" for shape in shapes)
