"""Responses of ``/admin``. Rooms' values are read by attribute, so that a room may grow fields of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Annotated, Any, TypeVar

import msgspec

from antiphon.batch.estimates import Estimate
from antiphon.batch.orders import Outlook
from antiphon.catalog.batch.jobs import BatchJob, JobRow
from antiphon.catalog.incidents import IncidentState
from antiphon.catalog.serving.receipt import STAND_IN_ROLES, UsageReceipt
from antiphon.catalog.serving.receipts import ReuseCount
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.scope import Scope
from antiphon.core.settings_costs import PriceSettings
from antiphon.durable.attempts import RunAttempt
from antiphon.durable.rollbacks import Rollback
from antiphon.durable.run import Run, StepUnderWay
from antiphon.engine.api.messages import EngineLoad, ModelDescription, StoppedEngine
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import NO_LIMITS, Limits
from antiphon.learning.outcomes.drift_runs import DriftWarning
from antiphon.operations.cost.receipts import price
from antiphon.operations.processes import ProcessStatus
from antiphon.orchestration.conductor.waiting import RunWait
from antiphon.orchestration.restarted_parts import BrokenPart
from antiphon.services.engines.remote_models import RemoteModelLine
from antiphon.services.features.view_status import ViewStatus
from antiphon.services.history import Percentiles
from antiphon.services.learning.gate_orders import GateCheck
from antiphon.services.runs import PeerProcess
from antiphon.serving.admission.engine_gate import GateStatus

T = TypeVar("T")

Quota = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000_000)] | None
Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class ListQuery(msgspec.Struct, frozen=True):
    """Bounds the number of items."""

    limit: Few = 50


class ApplicationQuery(msgspec.Struct, frozen=True):
    """Only this application's."""

    application: str | None = None


class ReasonRequest(msgspec.Struct, frozen=True):
    """The reason, for the record."""

    reason: Reason


class TimedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason, for the record, and after how long it ends by itself, such as ``1h``."""

    reason: Reason
    duration: str = "1h"


def read(value: Any, shape: type[T]) -> T:
    """A room's value as the shape of the same field names."""
    return msgspec.convert(value, shape, from_attributes=True, strict=False)


def read_all(values: Iterable[Any], shape: type[T]) -> tuple[T, ...]:
    return tuple(read(value, shape) for value in values)


class RunLine(msgspec.Struct, frozen=True):
    """One execution of a workflow.

    Attributes:
        schedule: the schedule that ordered it; ``cause`` says why it was due, ``deadline`` when it is to have ended,
            ``value`` what it is worth, where that is not 1.
        paused_by: who paused it; nobody works on it until it is resumed.
        wait: why it has not begun.
        failures: of a run that is read by itself, its attempts that failed or were lost; ``under_way`` are the steps
            that had begun in the last one.
        forked_from: the run whose records it began with; ``forked_to`` is the one that began last with its own.
        rollback: how it ends once its steps are undone, ``done`` when they are; of a run that is read by itself
            ``rolled_back`` says which.
    """

    id: str
    workflow: str
    status: str
    created_at: datetime
    done: int | None = None
    total: int | None = None
    note: str = ""
    error: str | None = None
    attempts: int | None = None
    worker: str | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    schedule: str | None = None
    cause: str | None = None
    deadline: datetime | None = None
    value: float | None = None
    paused_by: str | None = None
    wait: RunWait | None = None
    under_way: tuple[StepUnderWay, ...] = ()
    forked_from: str | None = None
    forked_to: str | None = None
    failures: tuple[RunAttempt, ...] = ()
    rollback: str | None = None
    rolled_back: Rollback | None = None


def run_lines(runs: Iterable[Run], waits: Mapping[str, RunWait]) -> tuple[RunLine, ...]:
    """Runs as they are shown, with the reasons why they wait."""
    return tuple(msgspec.structs.replace(read(run, RunLine), wait=waits.get(run.id)) for run in runs)


class RunList(msgspec.Struct, frozen=True):
    """Newest first."""

    runs: tuple[RunLine, ...]


class BatchEstimate(Estimate, frozen=True, kw_only=True):
    """An estimate with its cost."""

    cost: float
    currency: str


class BatchOutlook(Outlook, frozen=True, kw_only=True):
    """Forecast of an order with what it would cost; ``estimate`` is ``None`` while too little batch work was seen."""

    estimate: BatchEstimate | None


class BatchLine(msgspec.Struct, frozen=True):
    """A batch job; ``rows_done`` counts written rows, failed ones included."""

    id: str
    application: str
    release: str | None
    status: str
    created_at: datetime
    kind: str = "table"
    input: str | None = None
    output: str | None = None
    total: int | None = None
    rows_done: int = 0
    rows_failed: int = 0
    error: str | None = None
    updated_at: datetime | None = None
    estimate: BatchEstimate | None = None


class BatchList(msgspec.Struct, frozen=True):
    """Newest first."""

    jobs: tuple[BatchLine, ...]


class BatchRows(msgspec.Struct, frozen=True):
    """In line order; ask again with ``after`` = ``next`` while it is not ``None``."""

    rows: tuple[JobRow, ...]
    next: int | None


class KeyAllowance(msgspec.Struct, frozen=True):
    """Quotas of a key; ``null`` is without bound. ``priority``: it may ask for that service tier."""

    requests_per_minute: Quota = None
    tokens_per_minute: Quota = None
    tokens_per_day: Quota = None
    priority: bool = False


class KeyLine(msgspec.Struct, frozen=True):
    """An API key as it is kept: never the key itself."""

    id: str
    name: str
    role: str
    created_at: datetime
    hint: str = ""
    kind: str = ""
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    limits: Limits = NO_LIMITS
    clearance: str = ""
    replaced_by: str | None = None
    last_used_on: date | None = None
    disabled: bool = False
    allowance: KeyAllowance = KeyAllowance()
    made_by: str | None = None
    approved_by: str | None = None
    waits: bool = False


class KeyUse(msgspec.Struct, frozen=True):
    """Quotas of a key and what counts as used now; what gateways have reserved counts as used."""

    allowance: KeyAllowance
    used: dict[str, int]


class KeyList(msgspec.Struct, frozen=True):
    """All keys of the tenant."""

    keys: tuple[KeyLine, ...]


class NewKey(msgspec.Struct, frozen=True):
    """``key`` is shown this once."""

    key: str
    record: KeyLine


class RotatedKey(msgspec.Struct, frozen=True):
    """``key`` is shown this once; ``replaced`` holds until its ``expires_at``."""

    key: str
    record: KeyLine
    replaced: KeyLine


class EngineInstanceLine(msgspec.Struct, frozen=True):
    """One of the engines that have joined: fingerprints of its models by name, its load as it was last told, and
    whether it is drained."""

    name: str
    address: str
    answers: bool
    models: dict[str, str]
    load: EngineLoad
    drained: bool = False


class EngineStatus(msgspec.Struct, frozen=True):
    """``reachable`` is false when it did not answer; ``reason`` says why. ``instances``: where engines have joined.
    ``stopped``: nobody needs it, and it is started when somebody does."""

    reachable: bool
    reason: str | None
    models: tuple[ModelDescription, ...]
    load: EngineLoad | None
    instances: tuple[EngineInstanceLine, ...] = ()
    stopped: StoppedEngine | None = None


class EngineElsewhere(msgspec.Struct, frozen=True):
    """An engine that is no process of this project: a remote one, or one that stands in. ``load``: as it was last
    told, where it tells one."""

    name: str
    answers: bool
    load: EngineLoad | None = None


class Status(msgspec.Struct, frozen=True):
    """Status of the platform, in one call. Latencies are of the last five minutes of all gateways.

    Attributes:
        broken: parts of the tenant's workers that failed and are begun again.
        peers: gateways, and workers of the tenant, that hold their lease and are no process of this project's folder.
        faults: those of chaos experiments that last, a line each.
    """

    environment: str
    tenant: str
    at: datetime
    ready: dict[str, str | None]
    processes: tuple[ProcessStatus, ...]
    engine: EngineStatus
    applications: tuple[str, ...]
    publication: int | None
    freshness: tuple[ViewStatus, ...]
    streams: tuple[StreamStatus, ...]
    jobs: tuple[BatchLine, ...]
    latency: Percentiles
    runs: tuple[RunLine, ...] = ()
    breakers: tuple[BreakerStatus, ...] = ()
    reuse: tuple[ReuseLine, ...] = ()
    gate: GateStatus | None = None
    elsewhere: tuple[EngineElsewhere, ...] = ()
    remote_models: tuple[RemoteModelLine, ...] = ()
    gates: tuple[GateCheck, ...] = ()
    drift: tuple[DriftWarning, ...] = ()
    broken: tuple[BrokenPart, ...] = ()
    peers: tuple[PeerProcess, ...] = ()
    incidents: tuple[IncidentLine, ...] = ()
    faults: tuple[str, ...] = ()


class IncidentLine(msgspec.Struct, frozen=True):
    """An incident that is not resolved."""

    id: str
    state: IncidentState
    severity: str
    class_: str
    title: str
    opened_at: datetime


class ReuseLine(msgspec.Struct, frozen=True):
    """Online answers of the last hour of one application.

    Attributes:
        hit_rate: the share that was served from store by the application's rule (``stored``) or because an identical
            prompt was answered before (``identical_prompts``).
        saved_tokens: prompt and completion tokens that these did not compute again.
        fallback, degraded: answers of another engine, and stored ones that were served because no engine answered.
    """

    application: str
    answers: int
    stored: int
    identical_prompts: int
    hit_rate: float
    saved_tokens: int
    fallback: int
    degraded: int


def reuse_lines(counts: Iterable[ReuseCount]) -> tuple[ReuseLine, ...]:
    """Counts by origin and role as one line per application."""
    by_application: dict[str, list[ReuseCount]] = {}
    for one in counts:
        by_application.setdefault(one.application, []).append(one)
    lines = []
    for application, found in sorted(by_application.items()):
        own = [one for one in found if one.role not in STAND_IN_ROLES]
        answers = sum(one.answers for one in found)
        stored = sum(one.answers for one in own if one.origin == "stored")
        identical = sum(one.answers for one in own if one.origin == "identical-prompt")
        saved = sum(one.saved_tokens for one in own)
        fallback, degraded = (
            sum(one.answers for one in found if one.role == role) for role in ("fallback", "degraded")
        )
        rate = (stored + identical) / answers
        lines.append(ReuseLine(application, answers, stored, identical, rate, saved, fallback, degraded))
    return tuple(lines)


def batch_estimate(estimate: Estimate | None, prices: PriceSettings) -> BatchEstimate | None:
    """An estimate with what it costs."""
    if estimate is None:
        return None
    usage = UsageReceipt(
        prompt_tokens=estimate.prompt_tokens,
        completion_tokens=estimate.output_tokens,
        engine_seconds=estimate.engine_seconds,
    )
    return BatchEstimate(
        **msgspec.structs.asdict(estimate), cost=round(price(usage, prices), 6), currency=prices.currency
    )


def batch_outlook(outlook: Outlook, prices: PriceSettings) -> BatchOutlook:
    """The outlook with its estimate priced."""
    estimate = batch_estimate(outlook.estimate, prices)
    return BatchOutlook(**msgspec.structs.asdict(outlook) | {"estimate": estimate})


def batch_lines(services: GatewayServices, scope: Scope, jobs: Sequence[BatchJob]) -> tuple[BatchLine, ...]:
    """Jobs with their estimates."""
    estimates, prices = services.work.tables.estimates(scope, [job.id for job in jobs]), services.settings.prices
    return tuple(
        msgspec.structs.replace(read(job, BatchLine), estimate=batch_estimate(estimates.get(job.id), prices))
        for job in jobs
    )
