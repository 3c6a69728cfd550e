"""The one answerer, as the gateway and the worker both wire it; an evaluation gives it other features to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from time import monotonic
from typing import Any

import msgspec

from antiphon.catalog.group_commit import GroupCommit
from antiphon.core.clock import SystemClock, parse_duration
from antiphon.core.scope import Scope
from antiphon.engine.api.address import is_engine_url
from antiphon.engine.api.port import GenerationEngine
from antiphon.governance.identity.principal import REVOKED, Principal
from antiphon.governance.policy.engine import Decision, Resource
from antiphon.services.cost.metered_receipts import MeteredReceipts
from antiphon.services.engines.sections import patience_of
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.remedies import find_remedies
from antiphon.services.governance.audit_trail import AuditedReceipts, batch_denial
from antiphon.services.precomputed import precomputed_modes
from antiphon.services.project.store import Store
from antiphon.serving.admission.engine_gate import EngineGate, GatedEngine
from antiphon.serving.admission.limits import AdmissionController
from antiphon.serving.answering.retrieval import Retrieve
from antiphon.serving.answering.tool_functions import ToolFunctions
from antiphon.serving.fallback.engines import Engines, FailoverPolicy
from antiphon.serving.ports import EntityReader, PolicyDecider, ReleaseAssignment
from antiphon.serving.services import Services
from antiphon.serving.user_functions import UserFunctions

_VERSION = re.compile(r"\.v\d+\Z")
"""Suffix of a model version's name."""


def is_plain(model: str, configured: Collection[str]) -> bool:
    """Tells whether requests may name a served model: it is configured, or it is no model version."""
    return model in configured or _VERSION.search(model) is None


def deciding(store: Store) -> PolicyDecider:
    """Makes one policy decision about an answer or a reading of features, by the owners' policies too where granted
    views are read or granted models asked; a key that was revoked meanwhile is refused."""

    def decide(principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any]) -> Decision:
        environment = store.settings.project.environment
        if isinstance(resource, Resource):
            scope = Scope(principal.tenant, environment)
            store.recent_requests.remember(scope, principal, action, resource, context)
        decision = store.decider.decide(principal, action, resource, {"environment": environment, **context})
        if isinstance(resource, Resource):
            decision = store.granted.narrow(decision, principal, action, resource, context)
        if store.keys.stop_reason(principal) is not None:
            # Also for work that was ordered before: a job does not outlive the key that it was ordered with.
            decision = msgspec.structs.replace(decision, allowed=False, policies=(REVOKED,))
        if not decision.allowed and context.get("path") == "batch":
            # Nobody waits for a batch row's answer whose refusal the gateway would see.
            batch_denial(store.trail, Scope(principal.tenant, environment), principal, action, resource, decision)
        return decision

    return decide


def gated(store: Store, engine: GenerationEngine) -> GatedEngine:
    """The engine behind a gate that lets as many online requests in as it can use."""
    settings = store.settings
    # Whoever waits here must not look to the breaker as if the engine were late.
    queued = min(parse_duration(settings.gateway.queue_timeout).total_seconds(), _first_token(store) / 2)
    # Another's engine says nothing of its size, nor of how long a request waited in it: it is asked as much as is
    # allowed until the time that answers take says otherwise.
    remote = settings.engine.kind == "remote" and not is_engine_url(settings.engine.url or "")
    most = settings.gateway.max_in_flight
    start, share = most if remote else settings.engine.slots, store.tenants.share
    gate = EngineGate(start, most, queued, monotonic, share=share)
    return GatedEngine(engine, gate, monotonic, tells_queue=not remote)


def serving_services(
    store: Store,
    engine: GenerationEngine,
    commit: GroupCommit,
    releases: ReleaseAssignment,
    features: FeaturePlatform,
    *,
    reader: Callable[[Scope], EntityReader] | None = None,
    standbys: Mapping[str, GenerationEngine] | None = None,
    retrieve: Retrieve | None = None,
) -> Services:
    """Builds the services behind answers and vectors with this project's stores.

    Args:
        reader: reads features from somewhere else than the online store (a dataset's rows, in an evaluation).
        standbys: engines that may stand in for this one, by name.
        retrieve: retrieves otherwise than from what is published here.
    """
    gateway = store.settings.gateway
    folder = (store.paths.root / store.settings.project.definitions).parent
    return Services(
        engine=engine,
        features=reader or features.reader,
        features_far=reader is None and features.far,
        remedies=find_remedies(store, features) if reader is None else None,
        releases=releases,
        decide=deciding(store),
        stored=store.answers,
        texts=store.blobs,
        conversations=store.conversations,
        tool_journal=store.tool_journal,
        receipts=MeteredReceipts(AuditedReceipts(store.receipts, store.audit), store.database),
        exposures=store.exposures,
        pairs=store.pairs,
        commit=commit,
        clock=SystemClock(),
        admission=AdmissionController(online=gateway.max_in_flight, batch=gateway.max_in_flight, flex=gateway.max_flex),
        checkpoint=store.trail.newest,
        plain=lambda model: is_plain(model, store.settings.engine.models),
        granted_purpose=partial(_granted_purpose, store),
        subject_key=store.secret("subject"),
        online_seconds=parse_duration(gateway.request_timeout).total_seconds(),
        flex_seconds=parse_duration(gateway.flex_timeout).total_seconds(),
        standbys=standbys or {},
        plain_fallback=store.settings.engine.fallback,
        guard_functions=user_functions(store),
        retrieve=retrieve or features.retrieve,
        tool_functions=ToolFunctions(store.settings.project.tool_modules, folder, store.settings.project.tool_urls),
        failover=_failover(store),
        answered=store.answer_metrics.answered,
        spending=store.budget_gate.open,
        precomputed=precomputed_modes(store),
        released=store.answer_metrics.released,
    )


def judge_engines(store: Store, engine: GenerationEngine, standbys: Mapping[str, GenerationEngine]) -> Engines:
    """The engines whose models may judge answers."""
    return Engines(engine, standbys, _failover(store), store.database.clock)


def _failover(store: Store) -> FailoverPolicy:
    first_token = _first_token(store)
    return FailoverPolicy(first_token=first_token, start=patience_of(store.settings), describe=min(5.0, first_token))


def user_functions(store: Store) -> UserFunctions:
    """Functions of the project's own modules, which guards and metrics name."""
    settings = store.settings.project
    return UserFunctions(settings.guard_modules, (store.paths.root / settings.definitions).parent)


def _granted_purpose(store: Store, scope: Scope, model: str) -> str | None:
    granted = store.granted.model(scope, model)
    return None if granted is None else granted.purpose


def _first_token(store: Store) -> float:
    """Seconds that an online request waits for an engine's first token."""
    settings = store.settings
    whole = parse_duration(settings.gateway.request_timeout).total_seconds()
    return min(parse_duration(settings.engine.first_token).total_seconds(), whole / 2)
