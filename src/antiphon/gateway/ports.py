"""What the gateway needs from other rooms, as one frozen value that ``app`` wires.

Where a port returns ``Any``, it returns a room's own frozen value; the gateway reads its attributes into the
typed shapes of its interface (``admin/shapes.py``), so that a room may grow fields without changing the API.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from antiphon.batch.estimates import Estimate
from antiphon.batch.orders import Outlook, TableOrder
from antiphon.catalog.events import Event
from antiphon.catalog.receipt_counts import ReuseCount
from antiphon.catalog.receipts import Path, Receipt, Role
from antiphon.catalog.releases import Release
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.core.clock import Clock
from antiphon.core.errors import UnavailableError
from antiphon.core.scope import Scope
from antiphon.core.settings import MetricsAccess, PriceSettings
from antiphon.engine.api.messages import EngineDescription, Tokenization, TokenizationRequest
from antiphon.features.offline.history import ViewHistory
from antiphon.gateway.audit_ports import Trail
from antiphon.gateway.batch_ports import FileStore, RequestBatches
from antiphon.gateway.feature_ports import Lookups
from antiphon.gateway.identity_ports import Identity
from antiphon.gateway.learning_ports import Datasets, Outcomes
from antiphon.gateway.policy_ports import Policies
from antiphon.gateway.release_ports import Transitions
from antiphon.governance.policy_request import Resource
from antiphon.governance.principal import Principal
from antiphon.governance.quotas import Quotas
from antiphon.operations.processes import ProcessStatus
from antiphon.services.features.streams import StreamStatus
from antiphon.services.features.view_status import ViewFreshness
from antiphon.services.features.watch import FeatureWatch
from antiphon.services.learning.models import LearningServices
from antiphon.serving.admission.engine_gate import GateStatus
from antiphon.serving.embedding import Embedding as Embedded
from antiphon.serving.embedding import EmbeddingRequest
from antiphon.serving.records import Records
from antiphon.serving.request import Answer, AnswerRequest, TextDelta

T = TypeVar("T")

BatchOrder = TableOrder
IncomingEvent = Event


class Answering(Protocol):
    """The one function behind both paths. Cancelling or closing frees the engine's slot."""

    async def answer(self, request: AnswerRequest) -> Answer: ...

    def stream(self, request: AnswerRequest) -> AsyncIterator[TextDelta | Answer]:
        """Text as it comes; the last item is the answer, after its receipt is committed."""
        ...


class Embedding(Protocol):
    """Vectors of texts (``serving.embedding.Embeddings``). Cancelling gives the texts up."""

    async def embed(self, request: EmbeddingRequest) -> Embedded: ...


class Tokenising(Protocol):
    """How models read texts (``engine.port.Tokenising``)."""

    async def tokenize(self, request: TokenizationRequest) -> Tokenization: ...


class Receipts(Protocol):
    """Receipts of a scope, newest first."""

    def get(self, scope: Scope, prediction: str) -> Receipt: ...

    def list(
        self,
        scope: Scope,
        application: str | None = None,
        path: Path | None = None,
        before: datetime | None = None,
        limit: int = 50,
        *,
        roles: Sequence[Role] | None = None,
    ) -> Sequence[Receipt]: ...


class Texts(Protocol):
    """Texts by their content hash; :class:`NotFoundError` once erased."""

    def get(self, scope: Scope, blob: str) -> bytes: ...


class Releases(Protocol):
    """Releases and the pointer to the live one, for reading."""

    def get(self, scope: Scope, release: str) -> Release: ...

    def list(self, scope: Scope, application: str | None = None) -> Sequence[Release]: ...

    def live(self, scope: Scope, application: str) -> Release | None: ...

    def history(self, scope: Scope, application: str) -> Sequence[Any]: ...


class Publications(Protocol):
    """Numbered publications (``catalog.publications.Publication``)."""

    def current(self, scope: Scope) -> Any: ...

    def list(self, scope: Scope, limit: int = 50) -> Sequence[Any]: ...

    def rollback(self, scope: Scope, to: int, *, reason: str, principal: str) -> Any: ...


class Streams(Protocol):
    """Source events in, and how far they have been consumed."""

    def append(self, scope: Scope, stream: str, events: Sequence[IncomingEvent]) -> int:
        """The last offset of the stream; an event id seen before is ignored. Raises ``OverloadedError`` past the lag
        that is let wait."""
        ...

    def status(self, scope: Scope) -> Sequence[StreamStatus]: ...

    def watched(self) -> Sequence[StreamStatus]:
        """The streams of the scope that this installation serves, for its metrics."""
        ...


class Runs(Protocol):
    """Executions of durable workflows (``durable`` values)."""

    def get(self, scope: Scope, run: str) -> Any: ...

    def list(self, scope: Scope, limit: int = 50) -> Sequence[Any]: ...

    def cancel(self, scope: Scope, run: str, by: Principal) -> Any:
        """Raises ``ForbiddenError`` for somebody who may not order what the run does."""
        ...

    def refresh(
        self, scope: Scope, views: Sequence[str], as_of: str | None, key: str | None = None, whole: bool = False
    ) -> Any:
        """Start a durable refresh of these views; of all when none is named."""
        ...


class Batches(Protocol):
    """Batch jobs (``catalog.jobs`` values)."""

    def create(self, scope: Scope, principal: Principal, order: BatchOrder) -> Any: ...

    def get(self, scope: Scope, job: str) -> Any: ...

    def list(self, scope: Scope, limit: int = 50) -> Sequence[Any]: ...

    def outlook(self, scope: Scope, principal: Principal, order: BatchOrder) -> Outlook:
        """What an order would be; nothing is recorded."""
        ...

    def estimates(self, scope: Scope, jobs: Sequence[str]) -> Mapping[str, Estimate]:
        """When jobs that have not ended end, as far as anything is known of them."""
        ...

    def rows(self, scope: Scope, job: str, after: int, limit: int) -> Sequence[Any]:
        """Finished rows in line order after a line."""
        ...


@dataclass(frozen=True)
class GatewayServices:
    """Everything the gateway calls.

    Attributes:
        environment: of every request; the tenant is the principal's.
        authorise: raises ``ForbiddenError`` unless the principal may do the action to the resource (``kind/name``).
        records: rights to what was kept of answers.
        audit: ``governance.audit.AuditLog.append``, for the changes that a port does not record itself in the
            transaction of the change.
        models: names a request may use as ``model``: applications first, then plain models.
        explain, replay: everything a prediction was made from, with or without source rows; its text made again and
            compared.
        freshness: of each served view.
        processes: the children under supervision.
        ready: part to what is wrong with it, ``None`` when it is fine. ``notices``: part to what ought to be seen to
            although it serves.
        learning: models, evaluations and rollouts; ``None`` where none of these is wired.
        policies: versions of policies; ``None`` like the trail.
        trail: the audit log; without one, refusals and readings leave no evidence (tests of other parts).
        history: of views: versions, verdicts, differences; ``None`` like the trail.
        watch: over features: skew; ``None`` like the trail.
        lookups: of features; ``None`` like the trail.
        embedding, tokenising: vectors of texts, and tokens; ``None`` like the trail.
        files, request_batches: of OpenAI's API; ``None`` like the trail.
        breakers: of the engines, as this process sees them. ``reuse``: what of the last hour's online answers was not
            generated.
        quotas: of keys; ``None`` like the trail. ``most_tokens``: the longest text that an application or model may
            write, when the request does not say.
        gate: how the gate in front of the engine stands; ``None`` like the trail.
        metrics: access to ``/metrics``.
        warning: what everybody who looks at the dashboard must know, such as that nothing is encrypted.
    """

    environment: str
    clock: Clock
    answering: Answering
    authorise: Callable[[Principal, str, str | Resource], object]
    records: Records
    models: Callable[[Scope], Sequence[str]]
    engine: Callable[[], Awaitable[EngineDescription]]
    receipts: Receipts
    texts: Texts
    explain: Callable[[Scope, str, bool], Mapping[str, Any]]
    replay: Callable[[Scope, str], Awaitable[Mapping[str, Any]]]
    releases: Releases
    transitions: Transitions
    publications: Publications
    outcomes: Outcomes
    datasets: Datasets
    streams: Streams
    freshness: Callable[[Scope], Sequence[ViewFreshness]]
    runs: Runs
    batches: Batches
    identity: Identity
    processes: Callable[[], Sequence[ProcessStatus]]
    ready: Callable[[], Awaitable[Mapping[str, str | None]]]
    notices: Callable[[], Mapping[str, str]] = dict
    default_tenant: str = "default"
    prices: PriceSettings = field(default_factory=PriceSettings)
    max_body_bytes: int = 4_000_000
    metrics: MetricsAccess = "open"
    audit: Callable[..., Any] | None = None
    learning: LearningServices | None = None
    trail: Trail | None = None
    policies: Policies | None = None
    warning: str | None = None
    history: ViewHistory | None = None
    watch: FeatureWatch | None = None
    lookups: Lookups | None = None
    files: FileStore | None = None
    request_batches: RequestBatches | None = None
    breakers: Callable[[], Sequence[BreakerStatus]] = lambda: ()
    reuse: Callable[[Scope], Sequence[ReuseCount]] = lambda scope: ()
    quotas: Quotas | None = None
    most_tokens: Callable[[Scope, str], int] = lambda scope, model: 256
    gate: Callable[[], GateStatus] | None = None
    embedding: Embedding | None = None
    tokenising: Tokenising | None = None

    def scope(self, principal: Principal) -> Scope:
        """The scope this principal works in."""
        return Scope(principal.tenant, self.environment)

    def policed(self) -> Policies:
        """Versions of policies.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.policies, "Policies are not served here.")

    def remembered(self) -> ViewHistory:
        """The history of views.

        Raises:
            UnavailableError: this gateway was wired without it.
        """
        return _wired(self.history, "The history of views is not served here.")

    def watched(self) -> FeatureWatch:
        """What is told about served features.

        Raises:
            UnavailableError: this gateway was wired without it.
        """
        return _wired(self.watch, "Features are not watched here.")

    def looked_up(self) -> Lookups:
        """Lookups of features.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.lookups, "Features are not looked up here.")

    def filed(self) -> FileStore:
        """Files of OpenAI's API.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.files, "Files are not kept here.")

    def batched(self) -> RequestBatches:
        """Batches of OpenAI's API.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.request_batches, "Batches are not taken here.")

    def limited(self) -> Quotas:
        """Quotas of keys.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.quotas, "Quotas are not kept here.")

    def embedded(self) -> Embedding:
        """Vectors of texts.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.embedding, "Nothing is embedded here.")

    def tokenised(self) -> Tokenising:
        """How models read texts.

        Raises:
            UnavailableError: this gateway was wired without it.
        """
        return _wired(self.tokenising, "No tokens are told here.")

    def trailed(self) -> Trail:
        """The audit log.

        Raises:
            UnavailableError: this gateway was wired without it.
        """
        return _wired(self.trail, "The audit log is not served here.")

    def learned(self) -> LearningServices:
        """Models and rollouts.

        Raises:
            UnavailableError: this gateway was wired without them.
        """
        return _wired(self.learning, "Models and rollouts are not served here.")


def _wired(part: T | None, missing: str) -> T:
    if part is None:
        raise UnavailableError(missing, where="gateway", next_step="Ask the project's own gateway.")
    return part
