"""The gateway's services over one project's stores, for the gateway process and for commands in process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antiphon.batch.batch_job import BatchJobs, LineAnswer
from antiphon.batch.files import FileStore
from antiphon.batch.lines import RequestFileLimits
from antiphon.batch.request_batches import WORKFLOW, RequestBatches
from antiphon.batch.row_runner import BatchContext
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.quotas import QuotaLevels
from antiphon.core import disk
from antiphon.core.clock import SystemClock, parse_duration
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.engine.api.messages import StoppedEngine
from antiphon.gateway.openai.batch_lines import EMBEDDINGS, ENDPOINTS, BatchLines
from antiphon.gateway.openai.responses.stored import StoredResponses
from antiphon.gateway.services import (
    AccessServices,
    GatewayServices,
    GenerationServices,
    HealthServices,
    PredictionServices,
    WorkServices,
)
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.quotas import Quotas
from antiphon.governance.policy.request import Resource
from antiphon.operations.processes import statuses
from antiphon.releases.live import LiveReleases
from antiphon.services.answering import gated, serving_services
from antiphon.services.batches import ProjectTableJobs, askable, embedding_models, file_contents, file_store
from antiphon.services.budgets.project_budgets import ProjectBudgets
from antiphon.services.chaos.project_chaos import ProjectChaos
from antiphon.services.conducting.assets import ProjectAssets
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conducting.traffic import TrafficForecasts
from antiphon.services.conversations import ProjectConversations
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.engines import clients
from antiphon.services.engines.drains import EngineDrains
from antiphon.services.engines.remote_models import remote_model_lines
from antiphon.services.engines.sections import is_scaled
from antiphon.services.features.feature_services import feature_services
from antiphon.services.features.health import notices, snapshot_health
from antiphon.services.features.lookup import Lookups
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.identity import ProjectIdentity
from antiphon.services.governance.policy_versions import PolicyService, records
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.history import MetricHistory
from antiphon.services.incidents.project import ProjectIncidents
from antiphon.services.learning.learning_services import learning_services
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.lineage.project import ProjectLineage
from antiphon.services.notifications.project_notifications import ProjectNotifications
from antiphon.services.objectives import ProjectObjectives
from antiphon.services.playbooks.project import project_playbooks
from antiphon.services.precomputed import ProjectPrecomputedModes
from antiphon.services.prediction_search import ProjectPredictionSearch
from antiphon.services.predictions import ProjectPredictions, RecentReuse
from antiphon.services.project.store import Store
from antiphon.services.runs import ProjectRuns
from antiphon.services.watching.report import ProjectWatches
from antiphon.services.workflows import POLICIES
from antiphon.serving.answerer import Answerer
from antiphon.serving.builtin import PLAIN_DECODING
from antiphon.serving.embedding import Embedding, EmbeddingRequest, Embeddings
from antiphon.serving.request import Answer, AnswerRequest

if TYPE_CHECKING:
    from antiphon.durable.run_metrics import RunMetrics


class ProcessServices:
    """The services of one process and the resources behind them."""

    def __init__(self, store: Store, peer: str) -> None:
        self.store = store
        self.engine = clients.connect(store, peer)
        self.standbys = clients.standbys(store, peer)
        self.commit = GroupCommit(store.database)
        self.live = LiveReleases(store.releases, store.database.clock, rollouts=store.rollouts, renewer=store.renewer)
        self.features = FeaturePlatform(store)
        self.contents = file_contents(store)
        self.files = file_store(store, self.contents)
        self.health = snapshot_health(self.features)
        self._missing_models: Mapping[str, str] = {}
        self._stopped: StoppedEngine | None = None
        self.lookups = Lookups(store, self.features, self.live)
        self.gated = gated(store, self.engine)
        services = serving_services(store, self.gated, self.commit, self.live, self.features, standbys=self.standbys)
        self.admission = services.admission
        self.answerer = Answerer(services)
        self.embeddings = Embeddings(services, self.engine, lambda scope: embedding_models(store))
        self.quotas = Quotas(QuotaLevels(store.database), store.database.clock, store.tenants.allowance)

    def gateway_services(self, *, confined: bool = False) -> GatewayServices:
        """Builds the gateway's services; ``confined`` keeps batch files inside the project's folder."""
        store, predictions = self.store, ProjectPredictions(self.store)

        def authorize(principal: Principal, action: str, resource: str | Resource) -> None:
            store.decider.require(principal, action, resource, {"environment": store.settings.project.environment})

        async def replay(scope: Scope, prediction: str) -> Mapping[str, Any]:
            # A replay is an answer to the engine: it has a place among the answers, and waits at the gate.
            async with self.admission.enter("online"):
                return await predictions.replay(self.gated, scope, prediction, self.standbys)

        settings = store.settings
        return GatewayServices(
            settings=settings,
            clock=SystemClock(),
            warning=store.protection.warning,
            generation=GenerationServices(
                answerer=self.answerer,
                embeddings=self.embeddings,
                engine=self.engine,
                models=lambda scope: [*askable(store, scope), *embedding_models(store)],
                most_tokens=self._most_tokens,
                breakers=lambda: self.answerer.breakers,
                gate=lambda: self.gated.gate.status,
                starting=(lambda: self.answerer.starting) if is_scaled(settings) else None,
                metrics=store.answer_metrics,
            ),
            predictions=PredictionServices(
                receipts=store.receipts,
                search=ProjectPredictionSearch(store, records(store)),
                texts=store.blobs,
                explain=predictions.explain,
                replay=replay,
                reuse=RecentReuse(store.receipts, SystemClock()).of,
                conversations=ProjectConversations(store, records(store)),
            ),
            access=AccessServices(
                identity=ProjectIdentity(store),
                tenants=ProjectTenants(store),
                authorize=authorize,
                records=records(store),
                audit=store.audit.append,
                trail=store.trail,
                policies=PolicyService(store),
                quotas=self.quotas,
            ),
            features=feature_services(store, self.features, self.lookups),
            learning=learning_services(store, self.engine, self.commit, self.features),
            work=WorkServices(
                runs=ProjectRuns(store, self.features),
                schedules=partial(ProjectSchedules, store, traffic=TrafficForecasts(store)),
                assets=partial(ProjectAssets, store),
                objectives=partial(ProjectObjectives, store),
                watches=partial(ProjectWatches, store),
                incidents=partial(ProjectIncidents, store),
                playbooks=project_playbooks(store, self.features),
                precomputed=partial(ProjectPrecomputedModes, store),
                costs=partial(ProjectCosts, store),
                budgets=partial(ProjectBudgets, store),
                notifications=partial(ProjectNotifications, store),
                chaos=ProjectChaos(store),
                engines=EngineDrains(store),
                run_lineage=ProjectLineage(store),
                tables=ProjectTableJobs(store, self.features, confined=confined),
                files=self.files,
                batches=request_batches(store, self.files),
            ),
            health=HealthServices(
                processes=lambda: statuses(store.paths.run),
                ready=self._ready,
                notices=self._notices,
                remote_models=partial(remote_model_lines, store),
                connections=store.database.connections,
            ),
            metric_history=MetricHistory(store.measurements, SystemClock(), store.scope.tenant),
        )

    async def answer_line(self, request: AnswerRequest | EmbeddingRequest) -> Answer | Embedding:
        """Answers one line of a batch."""
        if isinstance(request, EmbeddingRequest):
            return await self.embeddings.embed(request)
        return await self.answerer.answer(request)

    async def close(self) -> None:
        """Finish what is being committed and let go of the stores."""
        await self.answerer.close()
        for engine in (self.engine, *self.standbys.values()):
            await engine.close()
        await asyncio.to_thread(self.quotas.close)
        await asyncio.to_thread(self.commit.close)
        self.features.close()
        self.contents.close()
        self.store.close()

    def _most_tokens(self, scope: Scope, name: str) -> int:
        release = self.live.live(scope, name)
        return PLAIN_DECODING.max_tokens if release is None else release.bundle.application.decoding.max_tokens

    def _notices(self) -> Mapping[str, str]:
        # Read without a key: the names are in the engine's log and in each answer to who asks for one.
        missing, stopped = len(self._missing_models), self._stopped
        said = [
            *([f"degraded: {missing} models are not loaded."] if missing else []),
            *([] if stopped is None else [f"{stopped.sentence}."]),
        ]
        return notices(self.health, self.features.overlay) | ({"engine": " ".join(said)} if said else {})

    async def _ready(self) -> Mapping[str, str | None]:
        found: dict[str, str | None] = {}
        try:
            await asyncio.to_thread(self.store.database.revision)
            await asyncio.to_thread(self.store.database.require_writable)
            found["catalog"] = None
        except AntiphonError as error:
            found["catalog"] = str(error)
        found["disk"] = await asyncio.to_thread(disk.shortage, self.store.paths.directory)
        self._stopped = None
        try:
            async with asyncio.timeout(3.0):
                described = await self.engine.describe()
            self._missing_models, self._stopped = described.missing, described.stopped
            found["engine"] = None
        except TimeoutError:
            found["engine"] = "it does not answer within 3 s"
        except AntiphonError as error:
            found["engine"] = str(error)
        return found


def open_project(root: Path) -> ProcessServices:
    """A project with its services wired in this process. ``await wired.close()`` at the end.

    Raises:
        As :func:`open_store`; and ``InvalidInputError`` for a remote engine that is not configured.
    """
    return ProcessServices(Store.open(root), "cli")


@asynccontextmanager
async def open_learning(root: Path) -> AsyncIterator[tuple[LearningPlatform, Store]]:
    """A project with what learns in it, for a command; the engine is reached through its socket.

    Raises:
        As :func:`open_project`.
    """
    wired = open_project(root)
    try:
        learning = LearningPlatform(wired.store, wired.engine, wired.commit, wired.features, standbys=wired.standbys)
        yield learning, wired.store
    finally:
        await wired.close()


def request_batches(store: Store, files: FileStore) -> RequestBatches:
    """The project's batches, as they are ordered."""
    return RequestBatches(
        Batches(store.database), files, store.runs, store.database, store.audit, store.database.clock, ENDPOINTS
    )


def batch_executor(
    store: Store,
    files: FileStore,
    answer: LineAnswer,
    worker: str,
    context: BatchContext,
    metrics: RunMetrics | None = None,
) -> Executor:
    """Works on batches, apart from everything else that is durable: a batch may take a day."""
    limits, registry = store.settings.batch, WorkflowRegistry()
    jobs = BatchJobs(
        batches=Batches(store.database),
        jobs=store.jobs,
        files=files,
        database=store.database,
        endpoints=BatchLines(store.database.clock, StoredResponses(store.receipts, store.blobs, records(store))),
        answer=answer,
        models=lambda scope, endpoint: (
            list(embedding_models(store)) if endpoint == EMBEDDINGS else askable(store, scope)
        ),
        context=context,
        audit=store.audit,
        limits=RequestFileLimits(limits.max_requests, store.settings.gateway.max_body_bytes),
        waiting=lambda: store.runs.queued(registry.served(store.scope)),
    )
    registry.add(WORKFLOW, jobs.run, POLICIES[WORKFLOW], shared=True)
    lease = parse_duration(store.settings.worker.lease)
    return Executor(
        store.database,
        registry,
        f"{worker}/batches",
        store.scope,
        lease=lease,
        concurrency=limits.batches,
        fair=True,
        poll=parse_duration(store.settings.worker.poll).total_seconds(),
        metrics=metrics,
    )
