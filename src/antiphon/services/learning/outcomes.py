"""Outcomes and datasets of one project, wired: who joins, who builds, who watches."""

from __future__ import annotations

from antiphon.catalog.datasets import Datasets
from antiphon.catalog.outcomes import Outcomes
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.application import ApplicationSpec
from antiphon.features.offline.compute import ComputeLimits
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.outcomes.intake import OutcomeJoiner
from antiphon.learning.outcomes.monitoring import Monitor
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
        applications=DeclaredApplications(store).get,
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
        applications=DeclaredApplications(store).get,
        lake=FeatureStores(store).lake,
        clock=store.database.clock,
    )
