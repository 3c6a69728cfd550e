"""The one answerer, as the gateway and the worker both wire it; an evaluation gives it other features to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from antiphon.app.features import FeaturePlatform
from antiphon.app.store import Store
from antiphon.catalog.evidence import Exposures, ShadowPairs
from antiphon.catalog.group_commit import GroupCommit
from antiphon.core.clock import SystemClock, parse_duration
from antiphon.core.scope import Scope
from antiphon.engine.port import Engine
from antiphon.governance.identity import Principal
from antiphon.governance.policy import Decision
from antiphon.serving.admission import Admission
from antiphon.serving.answerer import Answerer
from antiphon.serving.ports import FeatureReader, LiveReleases
from antiphon.serving.services import Services


def answerer(
    store: Store,
    engine: Engine,
    commit: GroupCommit,
    releases: LiveReleases,
    features: FeaturePlatform,
    *,
    reader: Callable[[Scope], FeatureReader] | None = None,
) -> Answerer:
    """Wire serving's answer() with this project's stores. Close it before the engine and the commit.

    Args:
        reader: reads features from somewhere else than the online store (a dataset's rows, in an evaluation).
    """

    def decide(principal: Principal, action: str, resource: str, context: Mapping[str, Any]) -> Decision:
        return store.decider.decide(
            principal, action, resource, {"environment": store.settings.project.environment, **context}
        )

    gateway = store.settings.gateway
    return Answerer(
        Services(
            engine=engine,
            features=reader or features.reader,
            releases=releases,
            decide=decide,
            stored=store.answers,
            texts=store.blobs,
            receipts=store.receipts,
            exposures=Exposures(store.database),
            pairs=ShadowPairs(store.database),
            commit=commit,
            clock=SystemClock(),
            admission=Admission(online=gateway.max_in_flight, batch=gateway.max_in_flight),
            subject_key=store.secret("subject"),
            online_seconds=parse_duration(gateway.request_timeout).total_seconds(),
        )
    )
