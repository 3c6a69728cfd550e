"""The services that the gateway calls, grouped by noun. ``app`` builds them, once a process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from antiphon.batch.files import FileStore
from antiphon.batch.request_batches import RequestBatches
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts, ReuseCount
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.core.settings import Settings
from antiphon.engine.api.port import Engine
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.quotas import Quotas
from antiphon.governance.policy.request import Resource
from antiphon.operations.processes import ProcessStatus
from antiphon.services.batches import ProjectTableJobs
from antiphon.services.budgets.project_budgets import ProjectBudgets
from antiphon.services.chaos.project_chaos import ProjectChaos
from antiphon.services.conducting.assets import ProjectAssets
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conversations import ProjectConversations
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.engines.drains import EngineDrains
from antiphon.services.engines.remote_models import RemoteModelLine
from antiphon.services.features.feature_services import FeatureServices
from antiphon.services.governance.audit_trail import AuditTrail
from antiphon.services.governance.identity import ProjectIdentity
from antiphon.services.governance.policy_versions import PolicyService
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.history import MetricHistory
from antiphon.services.incidents.project import ProjectIncidents
from antiphon.services.learning.learning_services import LearningServices
from antiphon.services.lineage.project import ProjectLineage
from antiphon.services.notifications.project_notifications import ProjectNotifications
from antiphon.services.objectives import ProjectObjectives
from antiphon.services.playbooks.project import ProjectPlaybooks
from antiphon.services.precomputed import ProjectPrecomputedModes
from antiphon.services.prediction_search import ProjectPredictionSearch
from antiphon.services.runs import ProjectRuns
from antiphon.services.watching.report import ProjectWatches
from antiphon.serving.admission.engine_gate import GateStatus
from antiphon.serving.answer_metrics import AnswerMetrics
from antiphon.serving.answerer import Answerer
from antiphon.serving.embedding import Embeddings
from antiphon.serving.records import Records


@dataclass(frozen=True)
class GenerationServices:
    """Answers and vectors, and the engines behind them.

    Attributes:
        models: names that a request may use as ``model``: applications first, then plain models.
        most_tokens: the longest text that an application or model may write when the request sets no limit.
        breakers: states of the engines' circuit breakers in this process.
        gate: state of the queue in front of the engine.
        metrics: of this process's answers.
        starting: seconds until the engine is expected up, while requests wait for its start; ``None`` where engines
            are not stopped.
    """

    answerer: Answerer
    embeddings: Embeddings
    engine: Engine
    models: Callable[[Scope], Sequence[str]]
    most_tokens: Callable[[Scope, str], int]
    breakers: Callable[[], Sequence[BreakerStatus]]
    gate: Callable[[], GateStatus]
    starting: Callable[[], float | None] | None = None
    metrics: AnswerMetrics | None = None


@dataclass(frozen=True)
class PredictionServices:
    """Stored answers.

    Attributes:
        texts: by content hash; ``NotFoundError`` once erased.
        explain: everything that a prediction was made from, with or without source rows.
        replay: generates a prediction's text again and compares it.
        reuse: how many of the last hour's online answers were reused.
    """

    receipts: Receipts
    search: ProjectPredictionSearch
    texts: Blobs
    explain: Callable[[Scope, str, bool], Mapping[str, Any]]
    replay: Callable[[Scope, str], Awaitable[Mapping[str, Any]]]
    reuse: Callable[[Scope], Sequence[ReuseCount]]
    conversations: ProjectConversations


@dataclass(frozen=True)
class AccessServices:
    """Identity, authorization and evidence.

    Attributes:
        authorize: raises ``ForbiddenError`` unless the principal may do the action to the resource (``kind/name``).
        records: rights to stored answers.
        audit: ``governance.audit.AuditLog.append``, for changes that are not recorded in their own transaction.
        trail: the audit log: evidence of refusals and readings, queries and proofs.
    """

    identity: ProjectIdentity
    tenants: ProjectTenants
    authorize: Callable[[Principal, str, str | Resource], object]
    records: Records
    audit: Callable[..., Any]
    trail: AuditTrail
    policies: PolicyService
    quotas: Quotas


@dataclass(frozen=True)
class WorkServices:
    """Durable runs with their lineage, the schedules, assets, objectives, watches, incidents, playbooks, applications
    that answer from store alone, costs, budgets and notifications of a scope, chaos experiments and drains of engines
    of the project, batch jobs over tables, and files and batches of OpenAI's API."""

    runs: ProjectRuns
    run_lineage: ProjectLineage
    schedules: Callable[[Scope], ProjectSchedules]
    assets: Callable[[Scope], ProjectAssets]
    objectives: Callable[[Scope], ProjectObjectives]
    watches: Callable[[Scope], ProjectWatches]
    incidents: Callable[[Scope], ProjectIncidents]
    playbooks: Callable[[Scope], ProjectPlaybooks]
    precomputed: Callable[[Scope], ProjectPrecomputedModes]
    costs: Callable[[Scope], ProjectCosts]
    budgets: Callable[[Scope], ProjectBudgets]
    notifications: Callable[[Scope], ProjectNotifications]
    chaos: ProjectChaos
    engines: EngineDrains
    tables: ProjectTableJobs
    files: FileStore
    batches: RequestBatches


@dataclass(frozen=True)
class HealthServices:
    """State of the project's processes.

    Attributes:
        processes: the children under supervision.
        ready: part to what is wrong with it; ``None`` when it works.
        notices: part to a defect that does not keep it from serving.
        remote_models: present versions of the models behind servers elsewhere, with a scope's live releases that were
            made live with others.
        connections: connections to the catalog that this process uses now, and may use at most.
    """

    processes: Callable[[], Sequence[ProcessStatus]]
    ready: Callable[[], Awaitable[Mapping[str, str | None]]]
    notices: Callable[[], Mapping[str, str]]
    remote_models: Callable[[Scope], Sequence[RemoteModelLine]]
    connections: Callable[[], tuple[int, int]]


@dataclass(frozen=True)
class GatewayServices:
    """The services of one gateway.

    Attributes:
        warning: shown on every page of the dashboard, such as that nothing is encrypted.
    """

    settings: Settings
    clock: Clock
    warning: str | None
    generation: GenerationServices
    predictions: PredictionServices
    access: AccessServices
    features: FeatureServices
    learning: LearningServices
    work: WorkServices
    health: HealthServices
    metric_history: MetricHistory

    @property
    def environment(self) -> str:
        """The environment of every request; the tenant is the principal's."""
        return self.settings.project.environment

    def scope(self, principal: Principal) -> Scope:
        """The scope that a principal works in."""
        return Scope(principal.tenant, self.environment)
