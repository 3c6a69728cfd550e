"""What the gateway needs to hand features out, and to tell how served ones came about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from antiphon.catalog.holds import Hold
from antiphon.catalog.skew_reports import SkewReport, ViewSkew
from antiphon.core.scope import Scope
from antiphon.features.embedding.neighbours import Neighbours, Question
from antiphon.features.offline.lineage import Lineage
from antiphon.features.publication.rollback import ViewRollback
from antiphon.governance.principal import Principal
from antiphon.serving.features.lookup_values import Lookup, LookupPlan, LookupRequest

if TYPE_CHECKING:
    from antiphon.gateway.ports import ViewGlance


class Skews(Protocol):
    """Batch against online."""

    def last(self, scope: Scope, view: str | None = None) -> SkewReport | None:
        """What was found last, or last of one view."""
        ...

    def history(self, scope: Scope, view: str | None = None, limit: int = ...) -> Sequence[ViewSkew]:
        """What was found of each view in numbers, latest first."""
        ...

    def standing(self, scope: Scope) -> Mapping[str, ViewSkew]:
        """Of each view what was found last."""
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
        seed: int | None = ...,
        trigger: str = ...,
    ) -> SkewReport:
        """Compare views, or all of them, and keep what was found; raises ``NotFoundError`` and, while another
        comparison goes on, ``ConflictError``."""
        ...


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


class Rollbacks(Protocol):
    """A hand on what is published."""

    def view(
        self,
        scope: Scope,
        view: str | None,
        to: str | int | None,
        *,
        reason: str,
        principal: str,
        hold: bool = False,
        dry_run: bool = False,
        seen: int | None = None,
    ) -> ViewRollback:
        """Publish an earlier snapshot of a view again, or with ``None`` those of publication ``to``."""
        ...

    def hold(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        """Let nothing replace what is published of a view."""
        ...

    def resume(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        """Let a held view go on; raises ``ConflictError`` when it is not held."""
        ...

    def held(self, scope: Scope) -> Mapping[str, Hold]:
        """Held views by name."""
        ...


class NearestNeighbours(Protocol):
    """Entities whose texts are near."""

    def find(
        self, scope: Scope, principal: Principal, view: str, question: Question, *, purpose: str, see_keys: bool
    ) -> Neighbours:
        """The nearest ones; raises ``NotFoundError``, ``ForbiddenError``, ``InvalidInputError``,
        ``FeatureUnavailableError`` and ``SetupError``."""
        ...


class Lineages(Protocol):
    """From a value to its source rows."""

    def of_prediction(
        self, scope: Scope, prediction: str, feature: str | None = None, limit: int = ...
    ) -> tuple[Lineage, ...]:
        """One feature of a prediction, or all; raises ``NotFoundError``."""
        ...

    def of_entity(
        self, scope: Scope, feature: str, keys: Mapping[str, str], as_of: datetime | None = None, limit: int = ...
    ) -> Lineage:
        """What is read of an entity as of a moment; raises ``NotFoundError``, ``InvalidInputError``,
        ``FeatureUnavailableError``."""
        ...


@dataclass(frozen=True)
class FeatureWatch:
    """Everything about served features, beside their history."""

    skew: Skews
    rollback: Rollbacks
    neighbours: NearestNeighbours
    lineage: Lineages
    glance: Callable[[Scope], Sequence[ViewGlance]]
