"""Ports of serving: values from several implementations, or from rooms above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Protocol

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Assignment
from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.engine.api.messages import GenerationRequest, TextEmbeddingRequest
from antiphon.features.online.remedies import SubstituteValue
from antiphon.features.values import FeatureVector
from antiphon.governance.policy.request import Decision

PolicyDecider = Callable[[Any, str, Any, Mapping[str, Any]], Decision]
"""One policy decision: principal, action, resource, context."""

RemedyFinder = Callable[
    [Scope, tuple[str, str], Sequence[Mapping[str, str]], datetime, Freshness, int],
    Sequence[Mapping[str, SubstituteValue]],
]
"""Substitutes for stale values of a view (name, definition version), of each entity by ``view.feature``: scope, view,
entities, moment, contract, publication."""


class EntityReader(Protocol):
    """Reads features of one scope: the online store, Feast, or a dataset."""

    def read(
        self,
        views: Mapping[str, str],
        keys: Mapping[str, str],
        as_of: datetime,
        minimum_publication: int | None = None,
    ) -> FeatureVector:
        """Values of the views (name to definition version) for an entity, all of one publication."""
        ...


class ReleaseAssignment(Protocol):
    """Assigns a release to a request: the live routing of ``releases``, or an evaluation's."""

    def live(self, scope: Scope, application: str) -> Release | None: ...
    def get(self, scope: Scope, release: str) -> Release: ...
    def staged(self, scope: Scope, release: str) -> Release:
        """One release with its present stage."""
        ...

    def applications(self, scope: Scope) -> Sequence[str]:
        """Names of the applications that have a live release."""
        ...

    def awaited(self, scope: Scope, application: str) -> bool:
        """True for an application that has releases, none of which was live yet."""
        ...

    def previous(self, scope: Scope, application: str) -> Release | None:
        """The release that was live before the one that is; ``None``: there was none."""
        ...

    def assign(self, scope: Scope, application: str, unit: str, request_id: str) -> Assignment | None:
        """The release that answers this unit, and its role; ``None``: the application has no live one."""
        ...


class SpendingReservation(Protocol):
    """One request's reservations of budgets (``services/budgets``)."""

    async def reserve(self, request: GenerationRequest | TextEmbeddingRequest, gpus: int | None = None) -> None:
        """Reserve the worst case of a request to an engine, which says that it has so many GPUs; ``None``: it does not
        say. Raises ``BudgetExhaustedError``."""
        ...

    def settle(self, receipt: Receipt) -> None:
        """Charge the answer instead, with the write transaction that is open in this thread."""
        ...

    def committing(self, committed: Future[Any]) -> None:
        """Release the reservation once this commit has ended, however it does."""
        ...

    def end(self) -> None:
        """Release what is reserved, unless the answer is being committed."""
        ...


class ReceiptWriter(Protocol):
    """Adds receipts: the catalog's repository, or the audited one of ``services``."""

    def add(self, receipt: Receipt, texts: Sequence[bytes] = (), *, within: Any = None) -> None: ...
