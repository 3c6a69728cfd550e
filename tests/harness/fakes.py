"""A gateway over a real catalog with an answerer that needs no model.

:class:`FakeAnswerer` says what it is told to, commits a real receipt for each answer, and counts what is running,
so that a test sees when a slot is freed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import msgspec
from tests.harness.fake_batches import FakeBatches
from tests.harness.stored_files import file_store, request_batches

from antiphon.batch.estimates import Estimates
from antiphon.catalog.batch.batch_work import BatchWork
from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.releases import Bundle, ModelPin, Release, Releases
from antiphon.catalog.serving.quotas import QuotaLevels
from antiphon.catalog.serving.receipt import (
    Attempt,
    CacheReceipt,
    FeatureReceipt,
    GuardReceipt,
    PolicyReceipt,
    Receipt,
    Role,
    Timing,
    UsageReceipt,
)
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, NotFoundError, UnavailableError, UnsupportedParameterError
from antiphon.core.ids import content_hash, new_id
from antiphon.core.paths import ProjectPaths
from antiphon.core.scope import Scope
from antiphon.core.settings import Settings
from antiphon.core.settings_governance import IdentitySettings
from antiphon.core.settings_sections import GatewaySettings, ProjectSettings
from antiphon.definitions.application import SLO, ApplicationSpec, Decoding, Reuse
from antiphon.definitions.learning import Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import Alternative, EngineDescription, EngineLoad, ModelDescription, TokenOut
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.gateway.services import (
    AccessServices,
    GatewayServices,
    GenerationServices,
    HealthServices,
    PredictionServices,
    WorkServices,
)
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.quotas import Quotas
from antiphon.governance.policy.engine import Decider
from antiphon.governance.secret import load_secret
from antiphon.operations.processes import ProcessStatus
from antiphon.releases.live import LiveReleases
from antiphon.releases.rollout import RolloutTransitions
from antiphon.services.budgets.project_budgets import ProjectBudgets
from antiphon.services.chaos.project_chaos import ProjectChaos
from antiphon.services.conducting.assets import ProjectAssets
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conducting.traffic import TrafficForecasts
from antiphon.services.conversations import ProjectConversations
from antiphon.services.cost.costs import ProjectCosts
from antiphon.services.engines.drains import EngineDrains
from antiphon.services.features.backfills import ProjectBackfills
from antiphon.services.features.feature_services import FeatureRollback, FeatureServices
from antiphon.services.features.lineage import FeatureLineage
from antiphon.services.features.lookup import Lookups
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.skew import ProjectSkew
from antiphon.services.features.view_status import ViewStatus
from antiphon.services.governance.identity import ProjectIdentity
from antiphon.services.governance.policy_versions import PolicyService, records
from antiphon.services.governance.tenants import ProjectTenants
from antiphon.services.history import MetricHistory
from antiphon.services.incidents.project import ProjectIncidents
from antiphon.services.learning.learning_services import LearningServices, learning_services
from antiphon.services.lineage.project import ProjectLineage
from antiphon.services.notifications.project_notifications import ProjectNotifications
from antiphon.services.objectives import ProjectObjectives
from antiphon.services.playbooks.project import project_playbooks
from antiphon.services.precomputed import ProjectPrecomputedModes
from antiphon.services.prediction_search import ProjectPredictionSearch
from antiphon.services.project.required_files import secret_file
from antiphon.services.project.store import Store
from antiphon.services.watching.report import ProjectWatches
from antiphon.serving.admission.engine_gate import GateStatus
from antiphon.serving.builtin import BUILTIN
from antiphon.serving.embedding import Embedding, EmbeddingRequest
from antiphon.serving.request import Answer, AnswerRequest, TextDelta

SECRET = bytes(range(32))
T = TypeVar("T")

APPLICATION = "desk"
MODEL = "tiny"


@dataclass
class FakeAnswerer:
    """Answers with ``words``.

    Attributes:
        hold: while set, an answer waits silently before its first word (a long prefill).
        failure: raised instead of, or ``fail_after`` so many words into, an answer.
        running: answers that hold a slot now; ``requests``: every request so far.
        origin: where the receipt says that the answer came from.
        role, rollout: in which capacity it says that the release answered.
    """

    receipts: Receipts
    clock: Clock
    words: Sequence[str] = ('{"outlook": ', '"on_time", ', '"notice": ', '"All is well."}')
    hold: asyncio.Event | None = None
    failure: AntiphonError | None = None
    fail_after: int = 0
    origin: str = "generated"
    role: Role = "live"
    rollout: str | None = None
    running: int = 0
    requests: list[AnswerRequest] = field(default_factory=list)

    async def probe_until_cancelled(self) -> None:
        """There is no engine to be probed."""

    async def answer(self, request: AnswerRequest) -> Answer:
        """The whole answer."""
        with self._slot(request):
            await self._begin(request)
            return self._finish(request)

    async def stream(self, request: AnswerRequest) -> AsyncIterator[TextDelta | Answer]:
        """The words one by one, then the answer."""
        with self._slot(request):
            await self._begin(request)
            for position, word in enumerate(self.words):
                if self.failure is not None and position == self.fail_after:
                    raise self.failure
                yield TextDelta(word, self._tokens(request)[position : position + 1])
                await asyncio.sleep(0)
            yield self._finish(request)

    @contextmanager
    def _slot(self, request: AnswerRequest) -> Any:
        self.requests.append(request)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    async def _begin(self, request: AnswerRequest) -> None:
        if request.application not in (APPLICATION, MODEL):
            raise NotFoundError(
                f"There is no application or model {request.application!r}.",
                where="model",
                next_step="GET /v1/models lists them.",
            )
        if request.application == APPLICATION and request.overrides.temperature is not None:
            raise UnsupportedParameterError("The release pins it.", where="temperature", next_step="Leave it out.")
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None and self.fail_after == 0:
            raise self.failure

    def _tokens(self, request: AnswerRequest) -> tuple[TokenOut, ...]:
        count = request.overrides.logprobs
        if count is None:
            return ()
        other = tuple(Alternative(f"alt{rank}", 900 + rank, -2.0 - rank) for rank in range(count))
        return tuple(TokenOut(number, word, -0.25, False, other) for number, word in enumerate(self.words))

    def _finish(self, request: AnswerRequest) -> Answer:
        text = "".join(self.words)
        receipt, texts = make_receipt(request, text, self.clock, self.origin)
        receipt = msgspec.structs.replace(receipt, role=self.role, rollout=self.rollout)
        self.receipts.add(receipt, texts)
        return Answer(
            prediction=receipt.prediction,
            request=receipt.request,
            text=text,
            finish_reason="stop",
            usage=receipt.usage,
            receipt=receipt,
            publication=receipt.publication,
            tokens=self._tokens(request),
        )


def make_receipt(
    request: AnswerRequest, text: str, clock: Clock, origin: str = "generated"
) -> tuple[Receipt, tuple[bytes, ...]]:
    """A whole receipt and the texts that it names."""
    now = clock.now()
    prompt = f"You are the desk.\n\n{request.question or request.prompt or ''}"
    texts = [text, prompt, request.question or "", msgspec.json.encode(request.entity).decode()]
    blobs = [content_hash(each.encode()) for each in texts]
    application = request.application == APPLICATION
    attempt = Attempt(
        prompt_blob=blobs[1],
        text_blob=blobs[0],
        seed=0,
        temperature=0.0,
        top_p=1.0,
        max_tokens=64,
        stop=(),
        json_schema_blob=None,
        model=MODEL,
        fingerprint="fp-5f2c",
        token_ids=(1, 2, 3),
        finish_reason="stop",
    )
    receipt = Receipt(
        prediction=request.prediction or new_id("pred"),
        request=request.request_id or new_id("req"),
        trace="0" * 32,
        scope=request.scope,
        application=request.application,
        release="rel_1" if application else f"{BUILTIN}{MODEL}",
        path=request.path,
        principal=request.principal.id,
        originating_user=request.originating_user,
        purpose="tests",
        subject="ab" * 16,
        entity_blob=blobs[3],
        exposure_unit=request.exposure_unit or "",
        assignment_probability=1.0,
        policy=PolicyReceipt("allow", "d" * 16, ("service-asks",)),
        publication=7 if application else None,
        as_of=request.as_of or now,
        created_at=now,
        features=_features(now) if application else (),
        feature_fingerprint="f" * 16,
        question_blob=blobs[2] if request.question else None,
        attempts=(attempt,) if origin == "generated" else (),
        text_blob=blobs[0],
        finish_reason="stop",
        classes={"outlook": {"on_time": 0.82, "delayed": 0.18}} if application else {},
        guards=(GuardReceipt("figures:notice", "pass"),) if application else (),
        cache=CacheReceipt("generated") if origin == "generated" else CacheReceipt("stored", "pred_first", "batch"),
        usage=UsageReceipt(180, 128, 41, 12, 0.42, 1) if origin == "generated" else UsageReceipt(),
        timing=Timing(0.001, 0.12, 0.48, 0.1, 0.36),
        turn_blob=content_hash(request.turn) if request.turn else None,
    )
    return receipt, (*(each.encode() for each in texts), *((request.turn,) if request.turn else ()))


def make_release(database: Database, scope: Scope) -> Release:
    """A live release of the application ``desk`` in the catalog."""
    specification = ApplicationSpec(
        name=APPLICATION,
        features={"congestion": "a1b2c3d4e5f60718"},
        entity_keys=("shop",),
        prompt=Prompt("{{ question }}"),
        model=MODEL,
        decoding=Decoding(),
        output_schema=None,
        classes=(),
        figures=(),
        guards=(),
        freshness={},
        reuse=Reuse(),
        slo=SLO(),
        rollout=Rollout(),
        purpose="tests",
        owner="",
    )
    releases = Releases(database)
    number = len(releases.list(scope, APPLICATION)) + 1
    bundle = Bundle(
        msgspec.structs.replace(specification, owner=f"owner {number}"), ModelPin(MODEL, None), f"policy {number}"
    )
    release = releases.add(bundle, scope, "tests", f"release {number}")
    releases.activate(scope, APPLICATION, release.id, "tests", "made for a test")
    return release


def gateway_services(database: Database, answerer: Any = None, **changes: Any) -> GatewayServices:
    """Returns services over this (migrated) catalog; ``changes`` replace parts of any group by their names.

    The answers come from ``answerer`` or a :class:`FakeAnswerer`; jobs are recorded and not run, and no view is
    published. ``environment``, ``max_body_bytes``, ``metrics`` and ``identity_settings`` change the settings.
    """
    clock = database.clock
    settings = Settings(
        project=ProjectSettings(environment=changes.pop("environment", "dev")),
        gateway=GatewaySettings(
            max_body_bytes=changes.pop("max_body_bytes", 100_000), metrics=changes.pop("metrics", "open")
        ),
        identity=changes.pop("identity_settings", IdentitySettings()),
    )
    store = _store(database, settings)
    platform = FeaturePlatform(store)
    answering = answerer or FakeAnswerer(store.receipts, clock)
    freshness = changes.get("freshness", lambda scope: _freshness(clock))

    async def replay(scope: Scope, prediction: str) -> Mapping[str, Any]:
        store.receipts.get(scope, prediction)
        return {"prediction": prediction, "identical": True}

    async def ready() -> Mapping[str, str | None]:
        return {"catalog": None, "engine": None}

    parts: dict[str, Any] = {
        "settings": settings,
        "clock": clock,
        "warning": None,
        "answerer": answering,
        "embeddings": NoEmbeddings(),
        "engine": FakeEngine(),
        "models": lambda scope: (APPLICATION, MODEL),
        "most_tokens": lambda scope, model: 256,
        "breakers": lambda: (),
        "gate": lambda: GateStatus(limit=16, inside=0, waiting=0, pace=0.0),
        "starting": None,
        "metrics": None,
        "receipts": store.receipts,
        "search": ProjectPredictionSearch(store, records(store)),
        "texts": store.blobs,
        "explain": lambda scope, prediction, source_rows: {
            "receipt": msgspec.to_builtins(store.receipts.get(scope, prediction))
        },
        "replay": replay,
        "reuse": lambda scope: (),
        "conversations": ProjectConversations(store, records(store)),
        "identity": ProjectIdentity(store),
        "tenants": ProjectTenants(store),
        "authorize": Decider().require,
        "records": records(store),
        "audit": store.audit.append,
        "trail": UnrecordedTrail(),
        "policies": PolicyService(store),
        "quotas": Quotas(QuotaLevels(database), clock),
        "publications": store.publications,
        "streams": _Streams(EventLog(database)),
        "freshness": freshness,
        "view_status": freshness,
        "history": platform.history,
        "lookups": Lookups(store, platform, LiveReleases(store.releases, clock, rollouts=store.rollouts)),
        "skew": ProjectSkew(store, platform),
        "rollback": FeatureRollback(store, platform),
        "neighbors": platform.neighbors,
        "documents": platform.project_documents,
        "lineage": FeatureLineage(store, platform),
        "backfills": ProjectBackfills(store, platform),
        "runs": NoRuns(),
        "schedules": partial(ProjectSchedules, store, traffic=TrafficForecasts(store)),
        "assets": partial(ProjectAssets, store),
        "notifications": partial(ProjectNotifications, store),
        "objectives": partial(ProjectObjectives, store),
        "watches": partial(ProjectWatches, store),
        "incidents": partial(ProjectIncidents, store),
        "playbooks": project_playbooks(store, platform),
        "precomputed": partial(ProjectPrecomputedModes, store),
        "costs": partial(ProjectCosts, store),
        "budgets": partial(ProjectBudgets, store),
        "chaos": ProjectChaos(store),
        "engines": EngineDrains(store),
        "run_lineage": ProjectLineage(store),
        "tables": FakeBatches(Jobs(database), Estimates(BatchWork(database), Scope(), clock)),
        "files": (files := file_store(database, SECRET)),
        "batches": request_batches(database, files, SECRET),
        "processes": lambda: [
            ProcessStatus("engine", 4711, True, 0, clock.now(), 310_000_000, 0),
            ProcessStatus("gateway", 4712, True, 0, clock.now(), 120_000_000, 0),
            ProcessStatus("worker", 4713, True, 1, clock.now(), 180_000_000, 15),
        ],
        "ready": ready,
        "notices": dict,
        "remote_models": lambda scope: (),
        "connections": database.connections,
        "metric_history": MetricHistory(store.measurements, clock, store.scope.tenant),
    }
    learning = learning_services(store, parts["engine"], GroupCommit(database), platform)
    parts |= {each.name: getattr(learning, each.name) for each in fields(learning)}
    parts["transitions"] = RolloutTransitions(
        database, store.releases, store.rollouts, audit=store.audit, feature_exists=lambda *_: True
    )
    if unknown := changes.keys() - parts.keys():
        raise TypeError(f"The gateway has no {', '.join(sorted(unknown))}.")
    parts |= changes

    def group(kind: type[T]) -> T:
        return kind(**{each.name: parts[each.name] for each in fields(kind)})  # type: ignore[arg-type]

    for name, kind in GROUPS.items():
        parts[name] = group(kind)
    return group(GatewayServices)


def replaced(services: GatewayServices, **changes: Any) -> GatewayServices:
    """Returns the services with parts of any group replaced by their names."""
    for name, kind in GROUPS.items():
        own = {each.name: changes.pop(each.name) for each in fields(kind) if each.name in changes}
        if own:
            services = replace(services, **{name: replace(getattr(services, name), **own)})
    return replace(services, **changes)


GROUPS: Mapping[str, type[Any]] = {
    "generation": GenerationServices,
    "predictions": PredictionServices,
    "access": AccessServices,
    "features": FeatureServices,
    "learning": LearningServices,
    "work": WorkServices,
    "health": HealthServices,
}


def _store(database: Database, settings: Settings) -> Store:
    """Returns a project's store over an open catalog, beside which its folder lies."""
    folder = database.path.parent
    # A folder of its own: a test's stores may lie beside the catalog, made under other secrets.
    paths = ProjectPaths(root=folder, directory=folder / ".antiphon")
    paths.directory.mkdir(exist_ok=True)
    # The catalog may hold receipts already, made by a repository alone and under no secret of a project.
    for name in ("subject", "online"):
        load_secret(secret_file(paths, name))
    store = Store(settings, paths)
    store.database = database
    store.keys = Keys(database, SECRET)
    store.audit = AuditLog(database, SECRET)
    return store


class FakeEngine:
    """An engine that serves one model and has 16 slots."""

    async def describe(self) -> EngineDescription:
        model = ModelDescription(MODEL, "fp-5f2c", 1024, "", (), "", "")
        return EngineDescription("d", (model,), EngineLoad(running_online=1, running_batch=3, slots=16))


class NoEmbeddings:
    """Embeds no text."""

    async def embed(self, request: EmbeddingRequest) -> Embedding:
        raise UnavailableError("Nothing is embedded here.", where="gateway", next_step="Pass embeddings.")


class UnrecordedTrail:
    """An audit log that records nothing: for tests of other parts."""

    def enqueue(self, *record: Any, **more: Any) -> None:
        pass

    def record(self, *record: Any, **more: Any) -> None:
        pass

    def query(self, scope: Scope, query: Any) -> Sequence[Any]:
        return ()

    def checkpoint(self, scope: Scope) -> None:
        return None


class NoRuns:
    """A place where no workflow has run."""

    def get(self, scope: Scope, run: str) -> Any:
        raise NotFoundError(f"There is no run {run!r}.", where=str(scope), next_step="See `antiphon runs list`.")

    def list(self, scope: Scope, limit: int = 50, status: str | None = None) -> Sequence[Any]:
        return ()

    def waits(self, scope: Scope, runs: Sequence[Any]) -> Mapping[str, Any]:
        return {}

    def attempts(self, scope: Scope, run: str) -> Sequence[Any]:
        return ()

    def steps(self, scope: Scope, run: str, limit: int) -> Any:
        return (), 0

    def rollback(self, scope: Scope, run: str) -> None:
        return None

    def peers(self, scope: Scope, here: Sequence[int]) -> Sequence[Any]:
        return ()

    def broken(self, scope: Scope) -> Sequence[Any]:
        return ()

    def moves(self, scope: Scope, runs: Sequence[Any], by: Principal) -> Mapping[str, str]:
        return {}

    def of_jobs(self, scope: Scope, jobs: Sequence[Any]) -> Mapping[str, Any]:
        return {}

    def may_move(self, run: Any, by: Principal) -> bool:
        return False

    def cancel(self, scope: Scope, run: str, by: Principal, reason: str = "") -> Any:
        return self.get(scope, run)

    def retry(self, scope: Scope, run: str, by: Principal, reason: str = "", from_step: str = "") -> Any:
        return self.get(scope, run)

    def skip(self, scope: Scope, run: str, step: str, result: Any, by: Principal, reason: str) -> Any:
        return self.get(scope, run)

    def refresh(
        self,
        scope: Scope,
        views: Sequence[str],
        as_of: str | None,
        key: str | None = None,
        whole: bool = False,
        past: bool = False,
    ) -> Any:
        raise UnavailableError("There is no worker.", where="worker", next_step="Start one.")


class _Streams:
    """The catalog's event log, consumed at once."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def append(self, scope: Scope, stream: str, events: Sequence[Event]) -> int:
        return self._log.append(scope, stream, events)

    def status(self, scope: Scope) -> Sequence[StreamStatus]:
        return [StreamStatus(end.stream, end.end, end.end, 0) for end in self._log.streams(scope)]


def _features(now: Any) -> tuple[FeatureReceipt, ...]:
    return (
        FeatureReceipt(
            "congestion.delay_2h",
            27.4,
            "25",
            "a1b2c3d4e5f60718",
            "snap_9x",
            now - timedelta(minutes=4),
            240.0,
            "fresh",
            18,
        ),
        FeatureReceipt(
            "weather.wind", 11.5, "10", "0918aabbccdd2233", "snap_7q", now - timedelta(hours=3), 10_800.0, "flagged"
        ),
    )


def _freshness(clock: Clock) -> tuple[ViewStatus, ...]:
    now = clock.now()
    return tuple(
        ViewStatus(view, version, "snap_1", now - timedelta(seconds=age), now - timedelta(seconds=age), age, rows)
        for view, version, age, rows in (
            ("congestion", "a1b2c3d4e5f60718", 1.8, 3),
            ("weather", "0918aabbccdd2233", 610.0, 3),
        )
    )
