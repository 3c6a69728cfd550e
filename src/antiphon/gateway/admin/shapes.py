"""Responses of ``/admin``. Rooms' values are read by attribute, so that a room may grow fields of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, TypeVar

import msgspec

from antiphon.batch.estimates import Estimate
from antiphon.catalog.receipts import STAND_IN_ROLES, Receipt, ReuseCount, UsageReceipt
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.settings_sections import PriceSettings
from antiphon.engine.api.messages import EngineLoad, ModelDescription
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.gateway.measurements import Percentiles
from antiphon.operations.cost import price
from antiphon.operations.processes import ProcessStatus
from antiphon.services.features.view_status import ViewStatus
from antiphon.serving.admission.engine_gate import GateStatus

T = TypeVar("T")


def read(value: Any, shape: type[T]) -> T:
    """A room's value as the shape of the same field names."""
    return msgspec.convert(value, shape, from_attributes=True, strict=False)


def read_all(values: Iterable[Any], shape: type[T]) -> tuple[T, ...]:
    return tuple(read(value, shape) for value in values)


class PredictionLine(msgspec.Struct, frozen=True):
    """A prediction in a list; seconds are wall seconds."""

    prediction: str
    application: str
    release: str
    path: str
    origin: str
    created_at: datetime
    as_of: datetime
    publication: int | None
    finish_reason: str
    first_byte_seconds: float
    total_seconds: float
    prompt_tokens: int
    completion_tokens: int
    guards: tuple[str, ...]
    cost: float


class PredictionList(msgspec.Struct, frozen=True):
    """Newest first; ``before`` of the next page is the last one's ``created_at``."""

    predictions: tuple[PredictionLine, ...]


class PredictionDetail(msgspec.Struct, frozen=True):
    """A receipt with the texts it points to; a text is ``None`` once erased."""

    receipt: Receipt
    text: str | None
    question: str | None
    entity: str | None
    prompts: tuple[str | None, ...]
    cost: float
    currency: str


class ReleaseLine(msgspec.Struct, frozen=True):
    """A release; ``live`` marks the one that answers now."""

    id: str
    application: str
    number: int
    stage: str
    model: str
    content_hash: str
    author: str
    rationale: str
    created_at: datetime
    live: bool


class ReleaseList(msgspec.Struct, frozen=True):
    """Newest first."""

    releases: tuple[ReleaseLine, ...]


class PublicationLine(msgspec.Struct, frozen=True):
    """A publication: which snapshot of each ``view@definition_version`` is online with it."""

    number: int
    snapshots: dict[str, str]
    reason: str
    principal: str
    created_at: datetime
    base: int | None = None


class PublicationList(msgspec.Struct, frozen=True):
    """Newest first; the first is current."""

    publications: tuple[PublicationLine, ...]


class EventsResponse(msgspec.Struct, frozen=True):
    """``end`` is the stream's last offset; the features know the events once ``consumed`` reaches it."""

    stream: str
    end: int


class StreamList(msgspec.Struct, frozen=True):
    """Every stream of the scope."""

    streams: tuple[StreamStatus, ...]


class RunLine(msgspec.Struct, frozen=True):
    """One execution of a workflow."""

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


class RunList(msgspec.Struct, frozen=True):
    """Newest first."""

    runs: tuple[RunLine, ...]


class BatchEstimate(msgspec.Struct, frozen=True):
    """The rest of a job: tokens to compute (shared beginnings once) and to write, and their cost. It ends at about
    ``ends_at``, and four times of five between ``earliest`` and ``latest``; ``late`` is ``no``, ``likely`` or
    ``certain``."""

    rows: int
    prompt_tokens: int
    output_tokens: int
    engine_seconds: float
    ends_at: datetime
    earliest: datetime
    latest: datetime
    deadline: datetime | None
    late: str
    cost: float
    currency: str


class BatchOutlook(msgspec.Struct, frozen=True):
    """Size and estimate of an order; ``estimate`` is ``None`` while too little batch work was seen.

    ``prompt_tokens`` is by the length of the prompts alone, ``output_limit`` what may be written at most.
    """

    rows: int
    deadline: datetime | None
    estimate: BatchEstimate | None
    prompt_tokens: int
    output_limit: int


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


class BatchRow(msgspec.Struct, frozen=True):
    """One finished row of a job."""

    line: int
    payload: dict[str, Any]
    failed: bool = False


class BatchRows(msgspec.Struct, frozen=True):
    """In line order; ask again with ``after`` = ``next`` while it is not ``None``."""

    rows: tuple[BatchRow, ...]
    next: int | None


class KeyLimits(msgspec.Struct, frozen=True):
    """Uses of a key; an empty list confines it to nothing."""

    actions: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()


class KeyAllowance(msgspec.Struct, frozen=True):
    """Quotas of a key; ``null`` is without bound. ``priority``: it may ask for that service tier."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
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
    limits: KeyLimits = KeyLimits()
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


class EngineStatus(msgspec.Struct, frozen=True):
    """``reachable`` is false when it did not answer; ``reason`` says why."""

    reachable: bool
    reason: str | None
    models: tuple[ModelDescription, ...]
    load: EngineLoad | None


class EngineElsewhere(msgspec.Struct, frozen=True):
    """An engine that is no process of this project: a remote one, or one that stands in."""

    name: str
    answers: bool


class Status(msgspec.Struct, frozen=True):
    """Status of the platform, in one call. Latencies are of the last five minutes of this gateway."""

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
    return tuple(_reuse_line(name, found) for name, found in sorted(by_application.items()))


def _reuse_line(application: str, counts: Sequence[ReuseCount]) -> ReuseLine:
    own = [one for one in counts if one.role not in STAND_IN_ROLES]
    answers = sum(one.answers for one in counts)
    stored = sum(one.answers for one in own if one.origin == "stored")
    identical = sum(one.answers for one in own if one.origin == "identical-prompt")
    return ReuseLine(
        application=application,
        answers=answers,
        stored=stored,
        identical_prompts=identical,
        hit_rate=(stored + identical) / answers,
        saved_tokens=sum(one.saved_tokens for one in own),
        fallback=sum(one.answers for one in counts if one.role == "fallback"),
        degraded=sum(one.answers for one in counts if one.role == "degraded"),
    )


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


def batch_lines(jobs: Iterable[Any], estimates: Mapping[str, Estimate], prices: PriceSettings) -> tuple[BatchLine, ...]:
    """Jobs with their estimates."""
    return tuple(
        msgspec.structs.replace(line, estimate=batch_estimate(estimates.get(line.id), prices))
        for line in read_all(jobs, BatchLine)
    )


def prediction_line(receipt: Receipt, prices: PriceSettings) -> PredictionLine:
    return PredictionLine(
        prediction=receipt.prediction,
        application=receipt.application,
        release=receipt.release,
        path=receipt.path,
        origin=receipt.cache.origin,
        created_at=receipt.created_at,
        as_of=receipt.as_of,
        publication=receipt.publication,
        finish_reason=receipt.finish_reason,
        first_byte_seconds=receipt.timing.first_byte,
        total_seconds=receipt.timing.total,
        prompt_tokens=receipt.usage.prompt_tokens,
        completion_tokens=receipt.usage.completion_tokens,
        guards=tuple(guard.action for guard in receipt.guards),
        cost=cost(receipt, prices),
    )


def cost(receipt: Receipt, prices: PriceSettings) -> float:
    """As it was priced then, or by today's prices."""
    return receipt.cost if receipt.cost is not None else price(receipt.usage, prices)
