"""The one answerer, as the gateway and the worker both wire it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from antiphon.app.features import FeaturePlatform
from antiphon.app.store import Store
from antiphon.catalog.group_commit import GroupCommit
from antiphon.core.clock import SystemClock, parse_duration
from antiphon.engine.port import Engine
from antiphon.governance.identity import Principal
from antiphon.governance.policy import Decision
from antiphon.releases.live import LiveReleases
from antiphon.serving.admission import Admission
from antiphon.serving.answerer import Answerer, Services


def answerer(
    store: Store, engine: Engine, commit: GroupCommit, releases: LiveReleases, features: FeaturePlatform
) -> Answerer:
    """Wire serving's answer() with this project's stores."""

    def decide(principal: Principal, action: str, resource: str, context: Mapping[str, Any]) -> Decision:
        return store.decider.decide(
            principal, action, resource, {"environment": store.settings.project.environment, **context}
        )

    gateway = store.settings.gateway
    return Answerer(
        Services(
            engine=engine,
            features=features.reader,
            releases=releases,
            decide=decide,
            stored=store.answers,
            texts=store.blobs,
            receipts=store.receipts,
            commit=commit,
            clock=SystemClock(),
            admission=Admission(online=gateway.max_in_flight, batch=gateway.max_in_flight),
            subject_key=store.secret("subject"),
            online_seconds=parse_duration(gateway.request_timeout).total_seconds(),
        )
    )
