"""A request on its way through the pipeline: as it arrived, and with everything known before a token is generated."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.releases.releases import Release
from antiphon.catalog.releases.rollouts import Assignment
from antiphon.catalog.serving.receipt import STAND_IN_ROLES, ToolStatus
from antiphon.core.errors import InvalidInputError
from antiphon.core.ids import canonical, keyed_hash, new_id
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import InputValue
from antiphon.engine.api.messages import ChatTurn, GenerationRequest, GenerationResult, TokenOut
from antiphon.governance.policy.request import Decision
from antiphon.serving.answering import prompts
from antiphon.serving.answering.guards.evidence import EarlierEvidence, Evidence
from antiphon.serving.answering.retrieval import RetrievedDocuments
from antiphon.serving.features.reading import RequestFeatures
from antiphon.serving.history import NO_HISTORY, History
from antiphon.serving.ports import SpendingReservation
from antiphon.serving.request import AnswerRequest


class Arrival(msgspec.Struct, frozen=True):
    """A request before any decision about it.

    Attributes:
        subject: keyed hash (hex) of the entity's keys.
        exposure_unit: unit of a rollout, as the caller named it: a unit of its own, a user, or else the subject.
        unit: its keyed hash (hex), by which a rollout assigns without knowing the unit.
        arrived: the process's performance counter. ``queued``: seconds until admission.
    """

    request: AnswerRequest
    request_id: str
    subject: str
    exposure_unit: str
    unit: str
    arrived: float
    queued: float

    @property
    def seconds(self) -> float:
        """Wall seconds since it arrived."""
        return time.perf_counter() - self.arrived

    @property
    def takes_part(self) -> bool:
        """Tells whether a rollout may assign it: an online request that leaves the release open. The latency of flex
        work says nothing about a release."""
        request = self.request
        return request.path == "online" and request.release is None and request.tier != "flex"


def arrive(request: AnswerRequest, key: bytes, arrived: float) -> Arrival:
    """The request with its keyed hashes; raises ``InvalidInputError`` for a role that cannot be asked for, or that
    lacks what it needs."""
    _check_role(request)
    subject = subject_of(key, request.scope, request.entity)
    exposure_unit = request.exposure_unit or request.originating_user or subject
    return Arrival(
        request=request,
        request_id=request.request_id or new_id("req"),
        subject=subject,
        exposure_unit=exposure_unit,
        unit=keyed_hash(key, f"{request.scope}|unit|{exposure_unit}").hex(),
        arrived=arrived,
        queued=time.perf_counter() - arrived,
    )


def subject_of(key: bytes, scope: Scope, entity: Mapping[str, str]) -> str:
    """The keyed hash by which receipts name a subject."""
    return keyed_hash(key, f"{scope}|{canonical(dict(sorted(entity.items()))).decode()}").hex()


def as_requested(request: AnswerRequest, release: Release) -> Assignment:
    """The assignment of a request outside of any rollout."""
    rollout = request.mirrors.rollout if request.mirrors is not None else None
    return Assignment(release=release, role=request.role, rollout=rollout)


def cache_namespace(request: AnswerRequest, assigned: Assignment, history: History = NO_HISTORY) -> str | None:
    """Namespace of the answer cache for this request; ``None``: no stored answer is read or written.

    What was said before, and what tools say, decides an answer as much as its question: with earlier turns or tools
    nothing stored is served, and nothing is left for others.

    Both arms of a rollout begin with an empty cache: if the control were served from the cache of the live release,
    the candidate would be compared with a warm cache. Answers of evaluations and shadows must come from the model and
    are not served to others; a part of an output is not a whole answer.
    """
    if assigned.role in ("shadow", "evaluation") or request.only or history.turns:
        return None
    if assigned.release.bundle.application.tools:
        return None
    if assigned.role in ("canary", "control"):
        return f"{assigned.release.id}~{assigned.rollout}"
    return assigned.release.id


class Generation(msgspec.Struct, frozen=True):
    """One attempt: the engine's request and its result; ``prompt`` are the prompt's own tokens, if requested."""

    sent: GenerationRequest
    finished: GenerationResult
    tokens: tuple[TokenOut, ...]
    prompt: tuple[TokenOut, ...] = ()


class ToolCallRecord(msgspec.Struct, frozen=True):
    """A call of a tool, with arguments as JSON, and what the model was told of it."""

    name: str
    arguments: str
    result: str
    status: ToolStatus
    seconds: float


class AnswerContext(msgspec.Struct, frozen=True):
    """A request after assignment, policy and features.

    Attributes:
        application: the release's, narrowed to the requested properties.
        inputs: of on-demand features, checked.
        retrieved: chunks of documents.
        cache_namespace: of stored answers; ``None``: no stored answer is read or written.
        history: earlier turns of its conversation.
        summaries: of earlier turns, generated for this request.
        calls: of tools; ``exchanged``: the turns that say so in the prompt; ``decisions``: the generations that chose.
        chose: the model has chosen its tools.
        reservation: of budgets; ``None``: none concerns the request.
    """

    arrival: Arrival
    assigned: Assignment
    application: ApplicationSpec
    decision: Decision
    as_of: datetime
    reading: RequestFeatures
    question_hash: str
    cache_namespace: str | None
    inputs: dict[str, InputValue] = {}
    retrieved: RetrievedDocuments = RetrievedDocuments()
    history: History = NO_HISTORY
    summaries: tuple[Generation, ...] = ()
    calls: tuple[ToolCallRecord, ...] = ()
    exchanged: tuple[ChatTurn, ...] = ()
    decisions: tuple[Generation, ...] = ()
    chose: bool = False
    reservation: SpendingReservation | None = None

    @property
    def request(self) -> AnswerRequest:
        """The request as it came."""
        return self.arrival.request

    @property
    def release(self) -> Release:
        """The release that answers from beginning to end."""
        return self.assigned.release

    @property
    def plain(self) -> bool:
        """Tells whether a plain model answers, which has an implicit release."""
        return self.release.number == 0

    @property
    def streams_tokens(self) -> bool:
        """Tells whether text is shown as it is generated; guarded and structured text is shown as its parts pass."""
        return self.plain or not (self.application.guards or self.application.output_schema)

    @property
    def continues(self) -> bool:
        """Tells whether a later prompt may begin with this one: a turn that is kept may be gone on from."""
        return bool(self.history.conversation)

    @property
    def interactive(self) -> bool:
        """Tells whether a user waits for the whole answer of a live release. Only such requests have fallbacks."""
        request = self.request
        return request.path == "online" and request.role == "live" and not request.only

    @property
    def reports_tokens(self) -> bool:
        """Tells whether log-probabilities are requested: a stored text has none."""
        return self.request.overrides.logprobs is not None

    @property
    def prompt_namespace(self) -> str:
        """Namespace that separates identical prompts of a rollout's arm from others; empty outside of a rollout."""
        namespace = self.cache_namespace
        return "" if namespace is None or namespace == self.release.id else namespace

    @property
    def evidence(self) -> Evidence:
        """The request as guards see it beside a text."""
        request = self.request
        earlier = tuple(EarlierEvidence(turn.question, turn.prints) for turn in self.history.turns)
        results = tuple(one.result for one in self.calls if one.status == "done")
        return Evidence(
            prints=self.reading.prints,
            entity=request.entity,
            question=request.question or "",
            inputs=self.inputs,
            retrieved=self.retrieved.texts,
            earlier=earlier,
            results=results,
        )

    @property
    def template_names(self) -> dict[str, Any]:
        """The variables of prompt and fallback templates."""
        prints, chunks = self.reading.prints, self.retrieved.chunks
        return prompts.variables(self.application, prints, self.request.entity, self.request.question, chunks)


def entity_of(request: AnswerRequest, expected: tuple[str, ...]) -> dict[str, str]:
    """The entity's keys in a fixed order; raises ``InvalidInputError`` for a missing or unknown one."""
    missing = [key for key in expected if key not in request.entity]
    unknown = [key for key in request.entity if key not in expected]
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise InvalidInputError(
            f"The entity {' and '.join(said)}.",
            where="entity",
            next_step=f"Send exactly these keys: {', '.join(expected) or '(none)'}.",
        )
    return dict(sorted(request.entity.items()))


def _check_role(request: AnswerRequest) -> None:
    if request.role in ("canary", "control", *STAND_IN_ROLES):
        raise InvalidInputError(
            f"The role {request.role!r} is given by a rollout or by a fallback, and cannot be requested.",
            where="role",
            next_step="Leave the role out, and name a release to ask that one.",
        )
    if request.role != "live" and request.release is None:
        raise InvalidInputError(
            f"A request in the role {request.role!r} must name its release.",
            where="release",
            next_step="Name the release that is to answer.",
        )
    if (request.role == "shadow") != (request.mirrors is not None):
        raise InvalidInputError("A shadow mirrors one online answer, and nothing else does.", where="role")
