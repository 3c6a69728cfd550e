"""The services that answers are made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.releases.evidence import Exposures, ShadowPairs
from antiphon.catalog.serving.answers import Answers
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.conversations import Conversations
from antiphon.catalog.serving.precomputed_modes import PrecomputedMode
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.tool_journal import ToolJournal
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.engine.api.port import GenerationEngine
from antiphon.serving.admission.limits import AdmissionController
from antiphon.serving.answering.retrieval import Retrieve
from antiphon.serving.answering.tool_functions import ToolFunctions
from antiphon.serving.fallback.engines import FailoverPolicy
from antiphon.serving.ports import (
    EntityReader,
    PolicyDecider,
    ReceiptWriter,
    ReleaseAssignment,
    RemedyFinder,
    SpendingReservation,
)
from antiphon.serving.request import AnswerRequest
from antiphon.serving.shadow import ShadowLimits
from antiphon.serving.user_functions import UserFunctions


class Services(msgspec.Struct, frozen=True):
    """The services that answers are made with.

    Attributes:
        online_seconds, flex_seconds: limits on generating an online answer, and one of flex work; a batch row has none.
        checkpoint: newest signed checkpoint of the audit log, which receipts carry.
        plain: tells whether a served model may be requested by its name alone; a model tuned here belongs to a tenant.
        granted_purpose: the purpose that a model was trained for which another tenant grants to this one; ``None``: it
            is no such model.
        remedies: substitutes for stale values.
        features_far: reading features waits for another machine.
        standbys: engines that an application may name in its fallback, by name; ``plain_fallback`` is the fallback of
            plain models.
        guard_functions: Python functions that guards may name; ``tool_functions``: that tools may.
        retrieve: retrieves from documents.
        answered: is told of every answer whose receipt is committed.
        precomputed: the mode of an application that answers from store alone for a time.
        spending: opens the reservation of a request; ``None``: no budget concerns it.
        released: is told the tenant, application, release and events of an online request that a release was to answer.
    """

    engine: GenerationEngine
    features: Callable[[Scope], EntityReader]
    releases: ReleaseAssignment
    decide: PolicyDecider
    stored: Answers
    texts: Blobs
    conversations: Conversations
    tool_journal: ToolJournal
    receipts: ReceiptWriter
    exposures: Exposures
    pairs: ShadowPairs
    commit: GroupCommit
    clock: Clock
    admission: AdmissionController
    subject_key: bytes
    online_seconds: float | None = None
    flex_seconds: float | None = None
    shadow_limits: ShadowLimits = ShadowLimits()
    checkpoint: Callable[[Scope], str | None] = lambda scope: None
    plain: Callable[[str], bool] = lambda model: True
    granted_purpose: Callable[[Scope, str], str | None] = lambda scope, model: None
    features_far: bool = False
    standbys: Mapping[str, GenerationEngine] = {}
    plain_fallback: tuple[str, ...] = ()
    failover: FailoverPolicy = FailoverPolicy()
    remedies: RemedyFinder | None = None
    guard_functions: UserFunctions = UserFunctions()
    retrieve: Retrieve | None = None
    tool_functions: ToolFunctions = ToolFunctions()
    answered: Callable[[Receipt], object] = lambda receipt: None
    spending: Callable[[AnswerRequest], SpendingReservation | None] = lambda request: None
    precomputed: Callable[[Scope, str], PrecomputedMode | None] = lambda scope, application: None
    released: Callable[[str, str, str, Iterable[str]], object] = lambda tenant, application, release, events: None
