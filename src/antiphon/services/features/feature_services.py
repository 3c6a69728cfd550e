"""Features of one project, as the gateway and the commands use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from antiphon.catalog.features.publications import Hold, Publication, Publications
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.features.offline.history import ViewHistory
from antiphon.features.publication.rollback import SnapshotRollback, ViewRollback
from antiphon.features.selection import unknown_views
from antiphon.services.features.backfills import ProjectBackfills
from antiphon.services.features.documents import ProjectDocuments
from antiphon.services.features.lineage import FeatureLineage
from antiphon.services.features.lookup import Lookups
from antiphon.services.features.neighbors import ProjectNeighbors
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.skew import ProjectSkew
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.features.view_status import ViewStatus, read_view_statuses
from antiphon.services.project.store import Store


class FeatureRollback:
    """Rollback and holds of one project's views; of another scope there are none."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform

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
        """Take one view back, or without one every view to publication ``to``; raises as ``SnapshotRollback.view``."""
        rollback = self._of(scope, view)
        return rollback.view(view, to, reason=reason, principal=principal, hold=hold, dry_run=dry_run, seen=seen)

    def publication(self, scope: Scope, to: int, *, reason: str, principal: str) -> Publication:
        """Publish the snapshots of publication ``to`` again, with the files and streamed events that they need; raises
        ``NotFoundError`` when this scope has no such publication here."""
        if not self._platform.serves(scope):
            raise NotFoundError(
                f"There is no publication {to}.", where=str(scope), next_step="See `antiphon features list`."
            )
        published = self._platform.publisher.rollback(to, reason=reason, principal=principal)
        detail = {"to": to, "reason": reason}
        self._store.audit.append(scope, principal, "publication.rollback", str(published.number), detail)
        return published

    def hold(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        """Let nothing replace what is published of a view."""
        self._of(scope, view).hold(view, reason=reason, principal=principal)

    def resume(self, scope: Scope, view: str, *, reason: str, principal: str) -> None:
        """Let a held view go on."""
        self._of(scope, view).resume(view, reason=reason, principal=principal)

    def held(self, scope: Scope) -> Mapping[str, Hold]:
        """Held views by name."""
        return self._store.holds.of(scope) if self._platform.serves(scope) else {}

    def _of(self, scope: Scope, view: str | None) -> SnapshotRollback:
        if not self._platform.serves(scope):
            raise unknown_views([view or ""], (), str(scope))
        store = self._store
        return SnapshotRollback(
            self._platform.catalog,
            publisher=self._platform.publisher,
            transaction=store.database.transaction,
            audit=store.audit.append,
            declared=self._platform.views,
        )


@dataclass(frozen=True)
class FeatureServices:
    """Publishing, reading and watching features.

    Attributes:
        view_status: status of every view; ``freshness``: the same from the catalog alone.
        history: versions of views, verdicts and differences.
        skew: comparisons of batch and online values.
    """

    publications: Publications
    streams: ProjectStreams
    view_status: Callable[[Scope], Sequence[ViewStatus]]
    freshness: Callable[[Scope], Sequence[ViewStatus]]
    history: ViewHistory
    lookups: Lookups
    skew: ProjectSkew
    rollback: FeatureRollback
    neighbors: ProjectNeighbors
    documents: ProjectDocuments
    lineage: FeatureLineage
    backfills: ProjectBackfills


def feature_services(store: Store, platform: FeaturePlatform, lookups: Lookups) -> FeatureServices:
    """Builds the services over the stores of this process."""
    return FeatureServices(
        publications=store.publications,
        streams=ProjectStreams(store, platform),
        view_status=partial(read_view_statuses, store, platform),
        freshness=partial(read_view_statuses, store, platform, streams=False),
        history=platform.history,
        lookups=lookups,
        skew=ProjectSkew(store, platform),
        rollback=FeatureRollback(store, platform),
        neighbors=platform.neighbors,
        documents=platform.project_documents,
        lineage=FeatureLineage(store, platform),
        backfills=ProjectBackfills(store, platform),
    )
