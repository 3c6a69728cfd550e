"""Outcomes and datasets of one project, wired: who joins, who builds, who watches."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from antiphon.catalog.datasets import Dataset, DatasetKind, Datasets
from antiphon.catalog.outcomes import Outcome, Outcomes, OutcomeStatus
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import ApplicationSpec
from antiphon.features.offline.compute import ComputeLimits
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.outcomes.intake import OutcomeJoiner, OutcomeResult
from antiphon.learning.outcomes.monitoring import DriftReport, Monitor, Performance
from antiphon.learning.outcomes.submission import OutcomeSubmission
from antiphon.services.governance.policies import withheld
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store


class DeclaredApplications:
    """Applications of the applied project."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, scope: Scope, name: str) -> ApplicationSpec:
        """One application as it is applied.

        Raises:
            NotFoundError: none of this name is.
        """
        current = self._store.applied.current(scope)
        found = current.project.applications.get(name) if current is not None else None
        if found is None:
            known = current.project.applications if current is not None else ()
            raise NotFoundError(
                f"There is no application {name!r}.",
                where="application",
                next_step=nearest(name, known, "`antiphon apply` applies those of definitions.py."),
            )
        return found


def outcome_joiner(store: Store) -> OutcomeJoiner:
    """Joins outcomes to this project's predictions."""
    return OutcomeJoiner(
        database=store.database,
        outcomes=Outcomes(store.database),
        receipts=store.receipts,
        texts=store.blobs,
        applications=DeclaredApplications(store),
        subject_key=subject_key(store),
    )


def subject_key(store: Store) -> bytes:
    """The key by which serving hashes entity keys (see ``services.answering``)."""
    return store.secret("subject")


def dataset_builder(store: Store, limits: ComputeLimits | None = None) -> DatasetBuilder:
    """Builds datasets of this project's scope."""
    stores = FeatureStores(store)
    return DatasetBuilder(
        store.scope,
        datasets=Datasets(store.database),
        outcomes=Outcomes(store.database),
        receipts=store.receipts,
        releases=store.releases,
        definitions=store.definitions,
        lake=stores.lake,
        clock=store.database.clock,
        log=store.events,
        limits=limits or stores.limits,
        withheld=withheld(store),
    )


def monitor(store: Store) -> Monitor:
    """Reads how this project's applications do."""
    return Monitor(
        outcomes=Outcomes(store.database),
        receipts=store.receipts,
        datasets=Datasets(store.database),
        applications=DeclaredApplications(store),
        lake=FeatureStores(store).lake,
        clock=store.database.clock,
    )


class OutcomeAdapter:
    """Outcomes as the gateway takes and reads them."""

    def __init__(self, store: Store) -> None:
        self._outcomes = Outcomes(store.database)
        self._joiner = outcome_joiner(store)
        self._monitor = monitor(store)

    def take(self, scope: Scope, principal: str, arriving: Sequence[OutcomeSubmission]) -> Sequence[OutcomeResult]:
        return self._joiner.take_many(scope, principal, arriving)

    def list(
        self, scope: Scope, application: str, status: OutcomeStatus | None, before: datetime | None, limit: int
    ) -> Sequence[Outcome]:
        return self._outcomes.list(scope, application, status=status, before=before, limit=limit)

    def performance(
        self, scope: Scope, application: str, since: datetime | None, until: datetime | None
    ) -> Performance:
        return self._monitor.performance(scope, application, since=since, until=until)

    def drift(self, scope: Scope, application: str) -> DriftReport:
        return self._monitor.drift(scope, application)


class DatasetAdapter:
    """Datasets as the gateway reads them."""

    def __init__(self, store: Store) -> None:
        self._datasets = Datasets(store.database)

    def list(self, scope: Scope, application: str | None, kind: DatasetKind | None, limit: int) -> Sequence[Dataset]:
        return self._datasets.list(scope, application, kind=kind, limit=limit)

    def get(self, scope: Scope, dataset: str) -> Dataset:
        return self._datasets.get(scope, dataset)
