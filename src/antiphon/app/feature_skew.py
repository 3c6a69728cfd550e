"""Comparing batch and online over one project: which views, whose predictions, and what was found last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property

import msgspec

from antiphon.app.features import FeaturePlatform
from antiphon.app.store import Store
from antiphon.catalog.receipts import SEEN_ROLES, Receipt
from antiphon.core.errors import NotFound
from antiphon.core.scope import Scope
from antiphon.definitions.on_demand import InputValue, OnDemandSpec, checked_input
from antiphon.features.lookup import FeatureReader
from antiphon.features.skew.measure import SAMPLE, SECONDS, Progress, Skew
from antiphon.features.skew.report import SkewReport
from antiphon.features.skew.served import Served


class FeatureSkew:
    """Skew of one project's features. The last report is kept as long as the process lives."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform
        self._last: SkewReport | None = None

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
            store.scope,
            definitions=store.definitions,
            snapshots=store.snapshots,
            reader=reader,
            lake=platform.lake,
            log=store.events,
            clock=store.database.clock,
            overlay=platform.overlay,
        )

    def last(self, scope: Scope) -> SkewReport | None:
        """The last report of this process; ``None`` before the first, and of another scope."""
        return self._last if self._platform.serves(scope) else None

    def measure(
        self,
        scope: Scope,
        views: Sequence[str] = (),
        *,
        as_of: datetime | None = None,
        since: datetime | None = None,
        sample: int = SAMPLE,
        seconds: float = SECONDS,
        progress: Progress = lambda done, total, note: None,
    ) -> SkewReport:
        """Compare these views, by name, or all of them.

        Args:
            since: predictions that were made from then on, the latest ones first.
            sample: entities of each view, and predictions.

        Raises:
            NotFound: a view is not applied here. Conflict: a comparison is under way.
        """
        known = list(self._platform.views().values()) if self._platform.serves(scope) else []
        on_demand = self._on_demand(scope) if known else set()
        unknown = sorted(set(views) - {spec.name for spec in known} - on_demand)
        if unknown or not known:
            raise NotFound(
                f"No view named {', '.join(unknown)} is applied." if unknown else "No view is applied.",
                where=str(scope),
                next_step="`antiphon features list` shows the views.",
            )
        report = self._skew.measure(
            [spec for spec in known if not views or spec.name in views],
            self._served(scope, since, sample),
            on_demand=views or None,
            as_of=as_of,
            sample=sample,
            seconds=seconds,
            progress=progress,
        )
        self._last = report
        return report

    def _on_demand(self, scope: Scope) -> set[str]:
        applied = self._store.applied.current(scope)
        applications = applied.project.applications.values() if applied is not None else ()
        return {view.name for application in applications for view in application.on_demand}

    def _served(self, scope: Scope, since: datetime | None, sample: int) -> Iterator[Served]:
        receipts = self._store.receipts.list(scope, since=since, limit=sample, roles=SEEN_ROLES) if sample else ()
        pinned: dict[str, tuple[OnDemandSpec, ...]] = {}
        for receipt in receipts:
            if not receipt.features:
                continue
            if receipt.release not in pinned:
                pinned[receipt.release] = on_demand_of(self._store, receipt)
            yield served(self._store, receipt, pinned[receipt.release])


def served(store: Store, receipt: Receipt, on_demand: Sequence[OnDemandSpec]) -> Served:
    """What a receipt says about the features that it was made from."""
    entity = _text(store, receipt, receipt.entity_blob)
    keys: dict[str, str] | None = None if entity is None else msgspec.json.decode(entity)
    return Served(
        prediction=receipt.prediction,
        keys=keys,
        as_of=receipt.as_of,
        features=receipt.features,
        inputs=inputs_of(store, receipt, on_demand),
        on_demand=tuple(on_demand),
    )


def inputs_of(store: Store, receipt: Receipt, on_demand: Sequence[OnDemandSpec]) -> dict[str, InputValue] | None:
    """What the request said for on-demand features, typed as declared; ``None`` when it was erased."""
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
    except NotFound:
        return ()


def _text(store: Store, receipt: Receipt, blob: str) -> bytes | None:
    try:
        return store.blobs.get(receipt.scope, blob) if blob else None
    except NotFound:
        return None
