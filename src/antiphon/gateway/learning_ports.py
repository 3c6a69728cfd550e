"""What the gateway needs of what learns: outcomes in, and datasets and performance to read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from antiphon.catalog.datasets import Dataset, DatasetKind
from antiphon.catalog.outcomes import Outcome, OutcomeStatus
from antiphon.core.scope import Scope
from antiphon.learning.outcomes.intake import OutcomeResult
from antiphon.learning.outcomes.monitoring import DriftReport, Performance
from antiphon.learning.outcomes.submission import OutcomeSubmission


class Outcomes(Protocol):
    """Outcomes in, and what is known from them."""

    def take(self, scope: Scope, principal: str, arriving: Sequence[OutcomeSubmission]) -> Sequence[OutcomeResult]:
        """Take outcomes in order; one that is refused carries its error."""
        ...

    def list(
        self, scope: Scope, application: str, status: OutcomeStatus | None, before: datetime | None, limit: int
    ) -> Sequence[Outcome]:
        """Outcomes, latest first."""
        ...

    def performance(
        self, scope: Scope, application: str, since: datetime | None, until: datetime | None
    ) -> Performance:
        """How the predictions of an application came true."""
        ...

    def drift(self, scope: Scope, application: str) -> DriftReport:
        """Printed features and the forecast, then and now."""
        ...


class Datasets(Protocol):
    """Datasets, for reading."""

    def list(self, scope: Scope, application: str | None, kind: DatasetKind | None, limit: int) -> Sequence[Dataset]:
        """Datasets, latest first."""
        ...

    def get(self, scope: Scope, dataset: str) -> Dataset:
        """One dataset; raises ``NotFoundError``."""
        ...
