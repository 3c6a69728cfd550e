"""What the gateway needs to tell how served features came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from antiphon.core.scope import Scope
from antiphon.features.skew_report import SkewReport


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


@dataclass(frozen=True)
class FeatureWatch:
    """Everything about served features, beside their history."""

    skew: Skews
