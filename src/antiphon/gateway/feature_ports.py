"""The lookups of features, as the gateway needs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from antiphon.core.scope import Scope
from antiphon.serving.features.lookup_values import Lookup, LookupPlan, LookupRequest


class Lookups(Protocol):
    """Feature values of entities."""

    def plan(
        self,
        scope: Scope,
        features: Sequence[str] = (),
        application: str | None = None,
        purpose: str = "",
        *,
        computed: bool = False,
    ) -> LookupPlan:
        """What is read, by these names; raises ``NotFoundError`` with every name that is not there."""
        ...

    async def look_up(self, request: LookupRequest) -> Lookup:
        """Decide, read, hold against the contracts."""
        ...
