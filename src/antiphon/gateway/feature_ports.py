"""What the gateway needs to hand features out, and to tell how served ones came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from antiphon.core.scope import Scope
from antiphon.features.skew_report import SkewReport
from antiphon.serving.feature_lookup import Lookup, LookupPlan, LookupRequest


class Skews(Protocol):
    """Batch against online."""

    def last(self, scope: Scope) -> SkewReport | None:
        """The last report of this process."""
        ...

    def measure(
        self,
        scope: Scope,
        views: Sequence[str] = (),
        *,
        as_of: datetime | None = None,
        since: datetime | None = None,
        sample: int = ...,
        seconds: float = ...,
    ) -> SkewReport:
        """Compare views, or all of them; raises ``NotFound`` and, while another comparison goes on, ``Conflict``."""
        ...


class Lookups(Protocol):
    """Feature values of entities."""

    def plan(
        self, scope: Scope, features: Sequence[str] = (), application: str | None = None, purpose: str = ""
    ) -> LookupPlan:
        """What is read, by these names; raises ``NotFound`` with every name that is not there."""
        ...

    async def look_up(self, request: LookupRequest) -> Lookup:
        """Decide, read, hold against the contracts."""
        ...


@dataclass(frozen=True)
class FeatureWatch:
    """Everything about served features, beside their history."""

    skew: Skews
