"""The gateway's services over one project's stores, for the gateway process and for commands in process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from antiphon.app import engines
from antiphon.app.answering import gated, serving_services
from antiphon.app.batches import (
    askable,
    batch_estimates,
    embedding_models,
    file_contents,
    file_store,
    request_batches,
)
from antiphon.app.explaining import Explaining
from antiphon.app.feature_health import notices, snapshot_health
from antiphon.app.feature_lookup import Lookups
from antiphon.app.feature_watch import feature_watch
from antiphon.app.features import FeaturePlatform
from antiphon.app.identity import project_identity
from antiphon.app.learning_services import learning_services
from antiphon.app.outcomes import DatasetAdapter, OutcomeAdapter
from antiphon.app.policies import require_cancel
from antiphon.app.policy_service import PolicyService, records
from antiphon.app.rollouts import rollout_transitions
from antiphon.app.store import Store
from antiphon.app.streams import Streams
from antiphon.batch.estimates import Estimate
from antiphon.batch.inputs import Inputs
from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.batch.orders import Orders, Outlook
from antiphon.batch.request_batches import WORKFLOW as OPENAI_BATCH
from antiphon.catalog.batches import Batches
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.jobs import BatchJob, JobRow
from antiphon.catalog.quotas import QuotaLevels
from antiphon.catalog.receipt_counts import ReceiptCounts, ReuseCount
from antiphon.core import disk
from antiphon.core.clock import Clock, SystemClock
from antiphon.core.errors import AntiphonError, ConflictError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import EngineDescription
from antiphon.gateway.ports import BatchOrder, GatewayServices
from antiphon.governance.policy_request import Resource
from antiphon.governance.principal import Principal
from antiphon.governance.quotas import Quotas
from antiphon.operations.processes import statuses
from antiphon.releases.live import LiveReleases
from antiphon.serving.answerer import Answerer
from antiphon.serving.builtin import PLAIN_DECODING
from antiphon.serving.embedding import Embedding, EmbeddingRequest, Embeddings
from antiphon.serving.request import Answer, AnswerRequest


class Wired:
    """Services with the resources behind them; close it when done."""

    def __init__(self, store: Store, peer: str) -> None:
        self.store = store
        self.engine = engines.connect(store, peer)
        self.standbys = engines.standbys(store)
        self.commit = GroupCommit(store.database)
        self.live = LiveReleases(store.releases, store.database.clock, rollouts=store.rollouts, renewer=store.renewer)
        self.features = FeaturePlatform(store)
        self.contents = file_contents(store)
        self.files = file_store(store, self.contents)
        self.health = snapshot_health(store, self.features)
        self._missing_models: Mapping[str, str] = {}
        self.lookups = Lookups(store, self.features, self.live)
        self.gated = gated(store, self.engine)
        services = serving_services(store, self.gated, self.commit, self.live, self.features, standbys=self.standbys)
        self.admission = services.admission
        self.answerer = Answerer(services)
        self.embeddings = Embeddings(services, self.engine, lambda scope: embedding_models(store))
        self.quotas = Quotas(QuotaLevels(store.database), store.database.clock)

    def gateway_services(self, *, confined: bool = False) -> GatewayServices:
        """Everything the gateway calls; ``confined`` keeps batch files inside the project's folder."""
        store, explaining = self.store, Explaining(self.store)

        def authorise(principal: Principal, action: str, resource: str | Resource) -> None:
            store.decider.require(principal, action, resource, {"environment": store.settings.project.environment})

        async def replay(scope: Scope, prediction: str) -> Mapping[str, Any]:
            # A replay is an answer to the engine: it has a place among the answers, and waits at the gate.
            async with self.admission.enter("online"):
                return await explaining.replay(self.gated, scope, prediction, self.standbys)

        return GatewayServices(
            environment=store.settings.project.environment,
            clock=SystemClock(),
            answering=self.answerer,
            authorise=authorise,
            records=records(store),
            models=lambda scope: [*askable(store, scope), *embedding_models(store)],
            engine=self.engine.describe,
            receipts=store.receipts,
            texts=store.blobs,
            explain=explaining.explain,
            replay=replay,
            releases=store.releases,
            transitions=rollout_transitions(store),
            learning=learning_services(store, self.engine, self.commit, self.features),
            outcomes=OutcomeAdapter(store),
            datasets=DatasetAdapter(store),
            publications=PublicationAdapter(store, self.features),
            streams=Streams(store, self.features),
            freshness=self.features.freshness,
            runs=RunAdapter(store, self.features),
            batches=BatchAdapter(store, self.features, confined=confined),
            identity=project_identity(store),
            audit=store.audit.append,
            trail=store.trail,
            policies=PolicyService(store),
            warning=store.protection.warning,
            history=self.features.history,
            watch=feature_watch(store, self.features),
            lookups=self.lookups,
            files=self.files,
            request_batches=request_batches(store, self.files),
            breakers=lambda: self.answerer.breakers,
            reuse=RecentReuse(ReceiptCounts(store.database), SystemClock()).of,
            quotas=self.quotas,
            most_tokens=self._most_tokens,
            gate=lambda: self.gated.gate.status,
            embedding=self.embeddings,
            tokenising=self.engine,
            processes=lambda: statuses(store.paths.run),
            ready=self._ready,
            notices=self._notices,
            default_tenant=store.settings.project.tenant,
            prices=store.settings.prices,
            max_body_bytes=store.settings.gateway.max_body_bytes,
            metrics=store.settings.metrics,
        )

    async def answer_line(self, request: AnswerRequest | EmbeddingRequest) -> Answer | Embedding:
        """What a line of a batch asks for."""
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
        missing = len(self._missing_models)
        return notices(self.health, self.features.overlay) | (
            {"engine": f"degraded: {missing} models are not loaded."} if missing else {}
        )

    async def _ready(self) -> Mapping[str, str | None]:
        async def engine() -> EngineDescription:
            return await self.engine.describe()

        found: dict[str, str | None] = {}
        try:
            await asyncio.to_thread(self.store.database.revision)
            found["catalog"] = None
        except AntiphonError as error:
            found["catalog"] = str(error)
        found["disk"] = await asyncio.to_thread(disk.shortage, self.store.paths.directory)
        try:
            async with asyncio.timeout(3.0):
                self._missing_models = (await engine()).missing
            found["engine"] = None
        except TimeoutError:
            found["engine"] = "it does not answer within 3 s"
        except AntiphonError as error:
            found["engine"] = str(error)
        return found


class RunAdapter:
    """Durable runs, and starting a refresh."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features

    def get(self, scope: Scope, run: str) -> Any:
        return self._store.runs.get(scope, run)

    def list(self, scope: Scope, limit: int = 50) -> Any:
        return self._store.runs.list(scope, limit=limit)

    def cancel(self, scope: Scope, run: str, by: Principal) -> Any:
        require_cancel(self._store, by, self._store.runs.get(scope, run))
        with self._store.database.transaction() as connection:
            found = self._store.runs.get(scope, run, within=connection)
            if found.workflow == OPENAI_BATCH:
                # Its worker ends it, with the files of what was done.
                Batches(self._store.database).cancel(scope, str(found.arguments["batch"]), within=connection)
                return found
            cancelled = self._store.runs.cancel(scope, run, within=connection)
            job = cancelled.arguments.get("job") if cancelled.workflow == TABLE_JOB else None
            if job is not None:
                with contextlib.suppress(ConflictError):  # it ended before
                    self._store.jobs.set_status(scope, str(job), "cancelled", within=connection)
        return cancelled

    def refresh(
        self, scope: Scope, views: Sequence[str], as_of: str | None, key: str | None = None, whole: bool = False
    ) -> Any:
        moment = datetime.fromisoformat(as_of) if as_of is not None else None
        run = self._features.refresh(
            scope, views=views, as_of=moment, reason="requested", principal="admin", key=key, whole=whole
        )
        return self._store.runs.get(scope, run)


class RecentReuse:
    """What of the last hour's online answers was reused; counted at most every quarter of a minute."""

    def __init__(self, receipts: ReceiptCounts, clock: Clock) -> None:
        self._receipts = receipts
        self._clock = clock
        self._counted: dict[Scope, tuple[float, Sequence[ReuseCount]]] = {}

    def of(self, scope: Scope) -> Sequence[ReuseCount]:
        now = self._clock.monotonic()
        known = self._counted.get(scope)
        if known is None or now - known[0] > 15.0:
            since = self._clock.now() - timedelta(hours=1)
            known = self._counted[scope] = (now, self._receipts.reuse(scope, since))
        return known[1]


class PublicationAdapter:
    """Publications; a rollback restores the files and streamed events that the old snapshots need."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features

    def current(self, scope: Scope) -> Any:
        return self._store.publications.current(scope)

    def list(self, scope: Scope, limit: int = 50) -> Any:
        return self._store.publications.list(scope, limit)

    def rollback(self, scope: Scope, to: int, reason: str, principal: str) -> Any:
        published = self._features.rollback(scope, to, reason=reason, principal=principal)
        self._store.audit.append(
            scope, principal, "publication.rollback", str(published.number), {"to": to, "reason": reason}
        )
        return published


class BatchAdapter:
    """Batch jobs as the admin interface orders and reads them."""

    def __init__(self, store: Store, features: FeaturePlatform, *, confined: bool) -> None:
        self._store = store
        self._estimates = batch_estimates(store)
        self._orders = Orders(
            store.jobs, store.releases, store.blobs, store.runs, store.database, store.paths.root,
            self._estimates, store.database.clock, confined=confined,
            owner=store.scope, private=(store.paths.directory,), sources=features.source_files,
            inputs=Inputs(store.jobs, records(store), features.source_files),
        )  # fmt: skip

    def create(self, scope: Scope, principal: Principal, order: BatchOrder) -> BatchJob:
        """Place the order for this principal, on whose behalf its rows will be answered."""
        with self._told_within():
            return self._shown(self._orders.place(scope, principal, order))

    def outlook(self, scope: Scope, principal: Principal, order: BatchOrder) -> Outlook:
        """What an order would be."""
        with self._told_within():
            return self._orders.outlook(scope, principal, order)

    @contextlib.contextmanager
    def _told_within(self) -> Iterator[None]:
        """What is wrong with a file is told by its place in the project: where that lies is nothing to a caller."""
        try:
            yield
        except AntiphonError as error:
            error.where = None if error.where is None else self._within(error.where)
            raise

    def _shown(self, job: BatchJob) -> BatchJob:
        return msgspec.structs.replace(job, input=self._within(job.input), output=self._within(job.output))

    def _within(self, path: str) -> str:
        root = self._store.paths.root
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    def estimates(self, scope: Scope, jobs: Sequence[str]) -> Mapping[str, Estimate]:
        """When jobs that have not ended end, as far as anything is known of them."""
        return self._estimates.of(scope.tenant, jobs)

    def get(self, scope: Scope, job: str) -> BatchJob:
        return self._shown(self._store.jobs.get(scope, job))

    def list(self, scope: Scope, limit: int = 50) -> Sequence[BatchJob]:
        return [self._shown(job) for job in self._store.jobs.list(scope, limit=limit)]

    def rows(self, scope: Scope, job: str, after: int, limit: int) -> Sequence[JobRow]:
        return self._store.jobs.page(scope, job, after, limit)
