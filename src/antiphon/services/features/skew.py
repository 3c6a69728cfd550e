"""Comparing batch and online over one project: which views, whose predictions, when, and what was found and when.

Invariant: what a comparison found is on record before anybody is told, and a difference stands in the audit log by the
same transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.features.skew_reports import SCHEDULE, SkewReport, ViewSkew
from antiphon.catalog.serving.receipt import SEEN_ROLES, Receipt
from antiphon.core.clock import parse_duration
from antiphon.core.errors import NotFoundError
from antiphon.core.ids import content_hash, new_id
from antiphon.core.scope import Scope
from antiphon.definitions.on_demand import InputValue, OnDemandSpec, checked_input
from antiphon.durable.context import RunContext
from antiphon.features.monitoring.skew.measure import SAMPLE, SECONDS, Progress, Skew
from antiphon.features.monitoring.skew.predictions import PredictionFeatures
from antiphon.features.monitoring.skew.vectors import SkewVectors
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.selection import unknown_views
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store

_log = logging.getLogger("antiphon.features")


class ProjectSkew:
    """Skew of one project's features."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform

    @cached_property
    def _skew(self) -> Skew:
        store, platform = self._store, self._platform
        reader = FeatureReader(
            store.scope,
            publications=store.publications,
            online=platform.online,
            clock=store.database.clock,
            overlay=platform.overlay,
        )
        return Skew(
            platform.catalog,
            reader=reader,
            log=store.events,
            overlay=platform.overlay,
            vectors=SkewVectors(platform.vectors(store.scope), platform.spaces, platform.embedders),
            limits=platform.limits,
        )

    def last(self, scope: Scope, view: str | None = None) -> SkewReport | None:
        """Returns the last comparison of any process, or the last of one view; ``None`` before the first."""
        lines = self._store.skew_reports.last(scope, view)
        return self._store.skew_reports.get(scope, lines[0].report, view) if lines else None

    def history(self, scope: Scope, view: str | None = None, limit: int = 100) -> Sequence[ViewSkew]:
        """Returns the comparisons of each view in numbers, latest first."""
        return self._store.skew_reports.list(scope, view, limit=limit)

    def latest_by_view(self, scope: Scope) -> Mapping[str, ViewSkew]:
        """Of each view that there still is what was found last, in numbers."""
        there = self._there(scope)
        found = self._store.skew_reports.latest_by_view(scope)
        return {view: one for view, one in found.items() if view in there}

    def measure(
        self,
        scope: Scope,
        views: Sequence[str] = (),
        *,
        as_of: datetime | None = None,
        since: datetime | None = None,
        sample: int = SAMPLE,
        seconds: float = SECONDS,
        seed: int | None = None,
        trigger: str = "admin",
        report: str | None = None,
        progress: Progress = lambda done, total, note: None,
    ) -> SkewReport:
        """Compare these views, by name, or all of them, and keep what was found.

        Args:
            seed: which entities are drawn; others every time by default.
            trigger: who asks, or ``schedule``. report: the id of what is kept; one that is known keeps what it has.
            since: predictions that were made from then on, the latest ones first.
            sample: entities of each view, and predictions.

        Raises:
            NotFoundError: a view is not applied here. ConflictError: a comparison is under way.
        """
        known = list(self._platform.views().values()) if self._platform.serves(scope) else []
        there = self._there(scope) if known else set()
        unknown = sorted(set(views) - there)
        if unknown or not known:
            raise unknown_views(unknown, there, str(scope))
        report = report or new_id("skew")
        found = self._skew.measure(
            [spec for spec in known if not views or spec.name in views],
            self._served(scope, since, sample),
            on_demand=views or None,
            as_of=as_of,
            sample=sample,
            seed=int(content_hash(report)[:8], 16) if seed is None else seed,
            seconds=seconds,
            progress=progress,
        )
        self._keep(scope, report, found, trigger)
        return found

    def _keep(self, scope: Scope, report: str, found: SkewReport, trigger: str) -> None:
        wrong = [found.of_views([name]) for name in found.views]
        wrong = [of_view for of_view in wrong if of_view.different]

        def on_record(connection: Connection) -> None:
            for of_view in wrong:
                detail = {
                    "name": report, "count": of_view.compared, "errors": of_view.different,
                    "publication": of_view.publication,
                }  # fmt: skip
                subject = f"view/{of_view.features[0].view}"
                self._store.audit.append(scope, trigger, "features.differ", subject, detail, within=connection)

        if self._store.skew_reports.add(scope, report, found, trigger, also=on_record):
            for of_view in wrong:
                _log.error(
                    "%s: %d of %d values that are read online are not what batch computes; `antiphon features skew "
                    "--history` shows since when, the page Skew which",
                    of_view.features[0].view, of_view.different, of_view.compared,
                )  # fmt: skip

    async def compare(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The workflow: a comparison of every view, and of the predictions since the one before."""

        def measured() -> dict[str, Any]:
            store = self._store
            found = self.measure(
                store.scope,
                since=store.skew_reports.scheduled_at(store.scope),
                trigger=SCHEDULE,
                # A step that is done again keeps what the first one found.
                report=f"skew_{content_hash(run.id)[:26]}",
                progress=run.progress,
            )
            return {"compared": found.compared, "different": found.different, "complete": found.complete}

        result: dict[str, Any] = await run.step("compare", measured)
        return result

    def expire(self) -> int:
        """Remove reports that are older than they are kept; how many lines it were."""
        store = self._store
        before = store.database.clock.now() - parse_duration(store.settings.features.skew_kept)
        return store.skew_reports.expire(store.scope, before, self._there(store.scope))

    def _there(self, scope: Scope) -> set[str]:
        if not self._platform.serves(scope):
            return set()
        on_demand = self._store.applied.project(scope).on_demand
        return {spec.name for spec in self._platform.views().values()} | on_demand.keys()

    def _served(self, scope: Scope, since: datetime | None, sample: int) -> Iterator[PredictionFeatures]:
        receipts = self._store.receipts.list(scope, since=since, limit=sample, roles=SEEN_ROLES) if sample else ()
        pinned: dict[str, tuple[OnDemandSpec, ...]] = {}
        for receipt in receipts:
            if not receipt.features:
                continue
            if receipt.release not in pinned:
                pinned[receipt.release] = on_demand_of(self._store, receipt)
            yield served(self._store, receipt, pinned[receipt.release])


def served(store: Store, receipt: Receipt, on_demand: Sequence[OnDemandSpec]) -> PredictionFeatures:
    """Returns the features of a receipt as they were served."""
    entity = _text(store, receipt, receipt.entity_blob)
    keys: dict[str, str] | None = None if entity is None else msgspec.json.decode(entity)
    return PredictionFeatures(
        prediction=receipt.prediction,
        keys=keys,
        as_of=receipt.as_of,
        features=receipt.features,
        inputs=inputs_of(store, receipt, on_demand),
        on_demand=tuple(on_demand),
    )


def inputs_of(store: Store, receipt: Receipt, on_demand: Sequence[OnDemandSpec]) -> dict[str, InputValue] | None:
    """Returns the request's inputs for on-demand features, typed as declared; ``None`` when they were erased."""
    if receipt.inputs_blob is None:
        return {}
    said = _text(store, receipt, receipt.inputs_blob)
    if said is None:
        return None
    types = {name: declared for view in on_demand for name, declared in view.inputs.items()}
    return {
        name: checked_input(name, types[name], value)
        for name, value in msgspec.json.decode(said).items()
        if name in types
    }


def on_demand_of(store: Store, receipt: Receipt) -> tuple[OnDemandSpec, ...]:
    """Views computed from requests, as the receipt's release pins them; none of a plain model."""
    try:
        return store.releases.get(receipt.scope, receipt.release).bundle.application.on_demand
    except NotFoundError:
        return ()


def _text(store: Store, receipt: Receipt, blob: str) -> bytes | None:
    try:
        return store.blobs.get(receipt.scope, blob) if blob else None
    except NotFoundError:
        return None
