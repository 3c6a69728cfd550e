"""Datasets: point-in-time training and evaluation sets, what they were made from, and where they lie.

Invariant: a dataset is immutable and named by its content: building it again from its own specification gives the
same logical hash, or its sources have changed.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import and_, insert, or_, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import SealedRows
from antiphon.catalog.serving.receipt import Role
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import FineTune
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.definitions.prompt import Prompt
from antiphon.definitions.source import SourceSpec

DatasetKind = Literal["training", "evaluation"]


class PromptPin(msgspec.Struct, frozen=True):
    """The prompt, output schema and base model that a prediction must have been served with for a model to learn from
    the prompt that it was served."""

    prompt: Prompt
    schema: dict[str, Any] | None
    base: str

    @classmethod
    def of(cls, application: ApplicationSpec, tune: FineTune) -> PromptPin:
        """Pins what the fine-tuned model will be served with."""
        return cls(tune.prompt or application.prompt, application.schema, tune.base)


class DatasetSpec(msgspec.Struct, frozen=True):
    """Parameters that determine a dataset, so that it can be built again.

    Attributes:
        cutoff: nothing known later than this is in it. ``first`` < moment <= ``last`` bound the examples' moments.
        origins: ``history`` (the outcome's table, features joined point in time), ``receipts`` (predictions that met
            an outcome, features as they were served).
        examples: at most so many rows, by a hash of ``seed`` and the example.
        views: view name to definition version. ``offsets``: stream to the last log offset that was read.
        outcomes_until: of receipts: only outcomes joined up to this instant of wall time.
        property, positive, labels: of the first outcome: the labels there are; a row with another one is left out.
        outcomes: every outcome, the first of which each row has.
        question: whether rows keep what the user asked, as the prompt reads it.
        history: the table of outcomes that ``history`` reads.
        on_demand: views computed from the outcome table's columns as serving computes them from requests.
        served: rows are predictions alone that were served with this, and name the prompt that they were served with.
            Unset for none, so that other specifications have the hash that they had before there were any.
    """

    application: str
    kind: DatasetKind
    property: str | None
    positive: str | None
    cutoff: datetime
    first: datetime
    last: datetime
    maturity_seconds: float
    origins: tuple[str, ...]
    examples: int
    seed: int
    views: dict[str, str]
    entity_keys: tuple[str, ...]
    offsets: dict[str, int] = {}
    outcomes_until: datetime | None = None
    roles: tuple[Role, ...] = ("live", "canary", "control")
    labels: tuple[str, ...] = ()
    history: SourceSpec | None = None
    on_demand: tuple[OnDemandSpec, ...] = ()
    outcomes: tuple[OutcomeShape, ...] = ()
    question: bool = False
    served: PromptPin | msgspec.UnsetType = msgspec.UNSET

    @builtins.property
    def shape(self) -> OutcomeShape:
        """The first outcome."""
        named = str(self.property)
        return self.outcomes[0] if self.outcomes else OutcomeShape(named, "label", named, self.positive, self.labels)

    @builtins.property
    def further(self) -> tuple[OutcomeShape, ...]:
        """The outcomes that a row may have beside the first."""
        return self.outcomes[1:]

    def versions(self) -> dict[str, str]:
        """Every view's definition version, stored and on-demand ones."""
        return self.views | {view.name: view.definition_version for view in self.on_demand}


class DatasetSource(msgspec.Struct, frozen=True):
    """One thing a dataset was read from: files by their SHA-256, objects of a store by their versions, a database by
    its snapshot, a log by its offset, receipts by their count; policies that left rows out by their digest and how
    many."""

    name: str
    kind: Literal["file", "database", "log", "receipts", "policy"]
    version: str
    rows: int | None = None


class Dataset(msgspec.Struct, frozen=True):
    """A built dataset.

    The file is Parquet with the columns ``example`` (text, unique), ``moment`` (UTC), the entity's keys (text), a
    column ``view.feature`` for each feature (raw value) and ``view.feature.event_time``, ``question`` (text or null)
    where the prompt reads one, ``prompt:sha256`` (text: the hash of the prompt that was served, which is among the
    texts until it is erased) where the specification pins one, ``label`` (text: the value of the first outcome,
    whatever its form), a column ``outcome:NAME`` (text or null) for each other one, ``label_at`` (UTC, when it was
    known), ``drawn_from`` (``history`` or ``receipts``) and ``prediction`` (text or null), ordered by ``example``.

    Attributes:
        path, sha256: of the file in the lake. ``logical_hash``: of its values in order.
        labels: label to the number of its rows; empty where the first outcome is a number or a text.
        dropped: why rows were left out to how many: ``unreadable``, ``outside-window``, ``immature`` (the cutoff
            came before the label had its time), ``after-cutoff`` (a label from the future), ``before-moment`` (an
            outcome before its question), ``unknown-label``, ``duplicate``, ``other-definition`` (served with
            features of another meaning), ``receipt-gone``, ``sampled-out``. Of a specification that pins the prompt
            also ``no-served-prompt`` (a row of a history table), ``other-prompt`` and ``other-model`` (served with
            others than are pinned), ``not-text`` (an engine wrote the prompt by a template of its own), ``stand-in``
            (another engine, or a stored answer in need, stood in), ``text-erased``.
    """

    id: str
    scope: Scope
    spec: DatasetSpec
    sources: tuple[DatasetSource, ...]
    rows: int
    labels: dict[str, int]
    dropped: dict[str, int]
    columns: tuple[str, ...]
    path: str
    sha256: str
    logical_hash: str
    created_at: datetime


class Datasets:
    """Repository of datasets."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._documents = SealedRows(database, "datasets.document", Dataset)

    def add(self, dataset: Dataset) -> Dataset:
        """Record a dataset; one that is recorded already stays as it is and is returned."""
        with self._database.transaction() as connection:
            known = self._documents.get(dataset.scope, dataset.id, within=connection)
            if known is None:
                connection.execute(insert(schema.datasets).values(self._row(dataset)))
        return known or dataset

    def get(self, scope: Scope, dataset: str, *, within: Connection | None = None) -> Dataset:
        """One dataset.

        Raises:
            NotFoundError: there is none here.
        """
        return self._documents.require(scope, dataset, "dataset", "See `antiphon datasets list`.", within=within)

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        kind: DatasetKind | None = None,
        limit: int | None = None,
        before: tuple[datetime, str] | None = None,
    ) -> list[Dataset]:
        """Datasets, latest first; from behind one on, which is named by its moment and id."""
        table = schema.datasets
        conditions = schema.given(table, application=application, kind=kind)
        if before is not None:
            at, dataset = before
            conditions.append(or_(table.c.created_at < at, and_(table.c.created_at == at, table.c.id > dataset)))
        return self._documents.find(scope, *conditions, order=(table.c.created_at.desc(), table.c.id), limit=limit)

    def move(self, scope: Scope, dataset: str, path: str, sha256: str) -> Dataset:
        """Say where the file of a dataset lies now: the same values in other bytes.

        Raises:
            NotFoundError: there is no such dataset.
        """
        table = schema.datasets
        with self._database.transaction() as connection:
            moved = msgspec.structs.replace(self.get(scope, dataset, within=connection), path=path, sha256=sha256)
            row = self._row(moved, scope)
            connection.execute(update(table).where(schema.owned(table, scope, id=dataset)).values(row))
        return moved

    def files(self, scope: Scope) -> builtins.list[str]:
        """Every file of the lake that a dataset names: none of them is garbage."""
        return [dataset.path for dataset in self.list(scope)]

    def _row(self, dataset: Dataset, scope: Scope | None = None) -> dict[str, Any]:
        return self._documents.row(dataset, scope, application=dataset.spec.application, kind=dataset.spec.kind)
