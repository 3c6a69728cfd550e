"""The feature platform of one project, as its processes wire it: readers, streams, refreshes, and how fresh it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import Any, Literal

from antiphon.batch.table_files import read_files
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions import project as definitions
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.source import SourceSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.documents.passages import PassageSpaces
from antiphon.features.documents.retrieval import DocumentRetriever, RetrievalRequest, RetrievalResult
from antiphon.features.embedding.neighbors import NeighborLookup
from antiphon.features.embedding.space_cache import VectorSpaces
from antiphon.features.embedding.vector_reader import TextReader, VectorReader
from antiphon.features.feast.reader import FeastReader
from antiphon.features.feast.server import FeastServer
from antiphon.features.offline.backfill import WORKFLOW as BACKFILL
from antiphon.features.offline.backfill import Backfiller
from antiphon.features.offline.history import ViewHistory
from antiphon.features.offline.refresh import WORKFLOW, Refresher, made_by
from antiphon.features.online.granted import GrantedReader
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.ports import StreamedOverlay
from antiphon.features.publication.prune import Pruner, PruneResult
from antiphon.features.publication.publish import Publisher, included_offsets
from antiphon.features.selection import unknown_views
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.learning.datasets.partitions import joined_by
from antiphon.learning.registry.files import lake_path
from antiphon.learning.retraining.checkpoints import checkpoint_path
from antiphon.services.apply.compatibility import pins, views_in_use
from antiphon.services.apply.workflow import open_applies
from antiphon.services.features import feast
from antiphon.services.features.documents import ProjectDocuments
from antiphon.services.features.embedders import LocalEmbedders
from antiphon.services.features.followed_places import catch_up, followed_sources
from antiphon.services.features.neighbors import ProjectNeighbors
from antiphon.services.project.feature_stores import FeatureStores
from antiphon.services.project.store import Store
from antiphon.services.workflows import APPLY, DATASET

_OPEN: tuple[Literal["queued", "running"], ...] = ("queued", "running")
_ALL = 1_000_000


class FeaturePlatform(FeatureStores):
    """Lake, online store and overlay of a project, with what reads and writes them. Close it when done."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._lock = threading.Lock()
        self._readers: dict[Scope, FeastReader] = {}
        self._published: dict[Scope, FeatureReader] = {}
        self._overlays: dict[Scope, StreamedOverlay] = {}
        self._looked = float("-inf")

    @cached_property
    def catalog(self) -> FeatureCatalog:
        """Repositories and lake of the project's own scope."""
        return FeatureCatalog(self._store.database, self._store.scope, self.lake)

    @property
    def far(self) -> bool:
        """True if a lookup waits for another machine, so that it must not run on the event loop."""
        return super().far or self._store.settings.feast.url is not None

    @cached_property
    def overlay(self) -> StreamedOverlay:
        return self.open_overlay(self._store.scope)

    @cached_property
    def consumer(self) -> StreamConsumer:
        return StreamConsumer(
            self._store.scope,
            log=self._store.events,
            overlay=self.overlay,
            online=self.online,
            views=self.views().values(),
            included=partial(included_offsets, self.catalog),
        )

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(
            self.catalog, online=self.online, overlay=self.overlay, consumer=self.consumer, also_named=self._also_named
        )

    @cached_property
    def pruner(self) -> Pruner:
        store, scope = self._store, self._store.scope
        section, gateway = store.settings.features, store.settings.gateway
        # An answer that read the features before a publication was replaced is written as much later at most.
        longest = max(parse_duration(gateway.request_timeout), parse_duration(gateway.flex_timeout))
        return Pruner(
            self.catalog,
            publisher=self.publisher,
            releases=lambda: {key: [pin.release for pin in found] for key, found in pins(store).items()},
            receipts=lambda since, until: store.receipts.count(scope, since=since, until=until),
            datasets=partial(store.datasets.files, scope),
            kept=parse_duration(section.snapshots_kept) + longest,
            quarantine_kept=parse_duration(section.quarantine_kept),
        )

    def prune(self, principal: str = "worker", *, dry: bool = False) -> PruneResult:
        """Prune, and keep on record what was given up."""
        found = self.pruner.prune(dry=dry)
        for one in () if dry else found.snapshots:
            self._store.audit.append(self._store.scope, principal, "snapshot.prune", one.snapshot)
        for rows in () if dry else found.expired:
            self._store.audit.append(self._store.scope, principal, "quarantine.expire", rows.verdict)
        return found

    @cached_property
    def refresher(self) -> Refresher:
        return Refresher(
            self.catalog,
            publisher=self.publisher,
            log=self._store.events,
            functions=self._functions,
            embedders=self.embedders,
            keyed_hash=self.online.entity_hash,
            catch_up=lambda *reading: catch_up(self._store, self.followed(), *reading),
        )

    @cached_property
    def backfiller(self) -> Backfiller:
        return Backfiller(self.catalog, self.refresher)

    @cached_property
    def embedders(self) -> LocalEmbedders:
        return LocalEmbedders()

    @cached_property
    def spaces(self) -> VectorSpaces:
        return VectorSpaces(self.catalog, self.embedders)

    @cached_property
    def neighbors(self) -> ProjectNeighbors:
        lookup = NeighborLookup(self.catalog, online=self.online, spaces=self.spaces, embedders=self.embedders)
        return ProjectNeighbors(self._store, lookup)

    @cached_property
    def documents(self) -> DocumentRetriever:
        """Retrieves from the documents of the project's own scope."""
        return DocumentRetriever(self.catalog, self._passages, self.published(self._store.scope).publication)

    @cached_property
    def _passages(self) -> PassageSpaces:
        return PassageSpaces(self.catalog, self.spaces)

    @cached_property
    def project_documents(self) -> ProjectDocuments:
        """Documents for those whom policy lets read them."""
        return ProjectDocuments(self._store, self.documents, self._passages)

    def retrieve(self, scope: Scope, request: RetrievalRequest) -> RetrievalResult:
        """Retrieve from documents, which are this project's own scope's; raises as :meth:`DocumentRetriever.find`."""
        if not self.serves(scope):
            raise NotFoundError("There are no documents.", where=str(scope), next_step="Ask the project's own gateway.")
        return self.documents.find(request)

    @cached_property
    def history(self) -> ViewHistory:
        return ViewHistory(self.catalog)

    def _also_named(self, scope: Scope) -> Sequence[str]:
        """Files of datasets, rows that were kept aside, files of models, and what refreshes and trainings that have not
        ended have made so far: one that goes on after a long time finds it."""
        runs = self._store.runs
        steps = (
            step
            for workflow in (WORKFLOW, APPLY, BACKFILL, DATASET)
            for status in _OPEN
            for run in runs.list(scope, _ALL, workflow=workflow, status=status)
            for step in runs.steps(scope, run.id)
        )
        made = [
            path for step in steps for path in (*made_by(step.name, step.result), *joined_by(step.name, step.result))
        ]
        models = [
            lake_path(scope, file) for one in self._store.models.list(scope) for file in (one.adapter, one.weights)
        ]
        checkpoints = [
            checkpoint_path(one)
            for one in TrainingCheckpoints(self._store.database).list(scope)
            if runs.get(scope, one.run).status in _OPEN
        ]
        datasets, verdicts = self._store.datasets.files(scope), self._store.verdicts.files(scope)
        return [*datasets, *verdicts, *made, *models, *checkpoints]

    def _functions(self, view: str) -> Mapping[str, Any]:
        """Returns the functions of a view's Python rules, as the project's file declares them now."""
        store = self._store
        return definitions.functions(store.paths.root / store.settings.project.definitions).get(view, {})

    @cached_property
    def feast(self) -> FeastServer | None:
        """Feast's feature server, when the settings name one."""
        return feast.server(self._store)

    def reader(self, scope: Scope) -> FeatureReader | FeastReader:
        """The reader of a scope, Feast's views included."""
        own = self.published(scope)
        if self.feast is None:
            return own
        with self._lock:
            reader = self._readers.get(scope)
            if reader is None:
                reader = self._readers[scope] = feast.reader(self._store, scope, self.feast, own)
            return reader

    def published(self, scope: Scope) -> FeatureReader:
        """The reader of what is published here and granted to the scope, without views that Feast keeps."""
        with self._lock:
            reader = self._published.get(scope)
            if reader is None:
                reader = self._published[scope] = GrantedReader(
                    scope,
                    owner=lambda tenant: self._of_owner(Scope(tenant, scope.environment)),
                    publications=self._store.publications,
                    online=self.online,
                    clock=self._store.database.clock,
                    overlay=self._overlay_of(scope),
                )
            return reader

    def _of_owner(self, scope: Scope) -> FeatureReader:
        """The reader of a scope that grants views; made anew once the owner has streamed events."""
        if scope != self._store.scope and scope not in self._overlays and self.has_overlay(scope):
            with self._lock:
                self._published.pop(scope, None)
        return self.published(scope)

    def _overlay_of(self, scope: Scope) -> StreamedOverlay | None:
        """The streamed events of a scope, another tenant's too: a view that follows a stream is read with them."""
        if scope == self._store.scope:
            return self.overlay
        if not self.has_overlay(scope):
            return None
        overlay = self._overlays[scope] = self.open_overlay(scope)
        return overlay

    def vectors(self, scope: Scope) -> VectorReader:
        """The reader of embedded features, which are this project's own scope's; others raise ``NotFoundError``."""
        if not self.serves(scope):
            raise NotFoundError("There are no vectors.", where=str(scope), next_step="Ask the project's own gateway.")
        return self._vectors

    @cached_property
    def _vectors(self) -> VectorReader:
        texts = TextReader(
            self._store.scope,
            publications=self._store.publications,
            online=self.online,
            clock=self._store.database.clock,
            overlay=self.overlay,
        )
        return VectorReader(texts, self.spaces)

    def serves(self, scope: Scope) -> bool:
        """Tells whether the views, streams and publications of this platform belong to the scope."""
        return scope == self._store.scope

    def views(self) -> Mapping[str, FeatureViewSpec]:
        """Views of the applied project, and older definition versions that a release in use still pins, by key."""
        return views_in_use(self._store, self._store.scope)

    def followed(self) -> Mapping[str, SourceSpec]:
        """The streams of views that follow a place, by name, as the applied project declares them."""
        return followed_sources(self.views().values())  # Those of the applied project come first.

    def _coming(self) -> list[FeatureViewSpec]:
        """Definition versions that an apply under way publishes: their events are taken in before they are served."""
        keys = {key for run in open_applies(self._store) for key in run.arguments["views"]}
        return [self._store.definitions.of(self._store.scope, key) for key in sorted(keys)]

    def source_files(self) -> Mapping[str, Sequence[str]]:
        """Patterns of files that an applied view or outcome reads, by ``view/NAME`` or ``application/NAME``; a path may
        be a Delta table's folder."""
        applications = self._store.applied.project(self._store.scope).applications
        return read_files(self._store.paths.root, self.views().values(), applications.values())

    def consume(self, limit: int, *, believed: float = 0.0, owned: Mapping[str, Collection[int]] | None = None) -> int:
        """Take at most ``limit`` events of every stream, or of these partitions; a newly applied view is followed from
        its beginning, and looked for when ``believed`` seconds are over."""
        self._follow(believed)
        return self.consumer.poll(limit, owned)

    def streams(self, *, believed: float = 0.0) -> Collection[str]:
        """The streams that views follow, as :meth:`consume` knows them."""
        self._follow(believed)
        return self.consumer.streams

    def _follow(self, believed: float) -> None:
        now = time.monotonic()
        if now >= self._looked + believed:
            self._looked = now  # First: what changes while it is read is looked for again.
            try:
                self.consumer.follow([*self.views().values(), *self._coming()])
            except BaseException:
                self.views_changed()
                raise

    def views_changed(self) -> None:
        """Look for newly applied views before the next events are taken."""
        self._looked = float("-inf")

    def refresh(
        self,
        scope: Scope,
        *,
        views: Sequence[str] = (),
        as_of: datetime | None = None,
        reason: str = "refresh",
        principal: str = "worker",
        key: str | None = None,
        whole: bool = False,
        past: bool = False,
    ) -> str:
        """Start a durable refresh of these views, or of all of them; the run's id.

        Args:
            views: by name, or by ``view@definition_version`` where only that version is meant.
            whole: read all of each source, and take nothing over from the snapshot before.
            past: publish also values as of a moment of the past.

        Raises:
            NotFoundError: a view is not applied here.
            InvalidInputError: the moment is past, and ``past`` is not given; or Feast refreshes all of these views.
        """
        if as_of is not None and as_of < self._store.database.clock.now() and not past:
            raise InvalidInputError(
                f"A refresh as of {as_of:%Y-%m-%d %H:%M:%SZ} would publish values of the past.",
                where="as_of",
                next_step="`antiphon features backfill VIEW --from TIME` computes them and publishes nothing; "
                "--publish publishes them where nothing newer is served.",
            )
        known = self.views() if self.serves(scope) else {}
        unknown = [name for name in views if not any(name in (view.name, view.key) for view in known.values())]
        if unknown or not known:
            raise unknown_views(unknown, {view.name for view in known.values()}, str(scope))
        keys = [
            key
            for key, view in known.items()
            if (not views or view.name in views or key in views) and view.source.kind != "feast"
        ]
        if not keys:
            raise InvalidInputError(
                f"Feast refreshes {', '.join(views) or 'every view that is applied'}, not Antiphon.",
                where=str(scope),
                next_step="`feast materialize-incremental` does.",
            )
        arguments: dict[str, Any] = {"views": keys, "reason": reason, "principal": principal}
        if as_of is not None:
            arguments["as_of"] = as_of.isoformat()
        if whole:
            arguments["whole"] = True
        return self._store.runs.submit(scope, WORKFLOW, arguments, key=key)

    def close(self) -> None:
        """Close what was opened."""
        for part in ("feast", "overlay", "spaces", "embedders"):
            if (opened := self.__dict__.get(part)) is not None:
                opened.close()
        for overlay in self._overlays.values():
            overlay.close()
        super().close()
