"""The receipt of an answer: what it was made from, by whom, and what it took."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope

Path = Literal["online", "batch"]
ToolStatus = Literal["done", "failed", "late", "refused"]
"""The end of a tool's call: a result, an error, no answer in time, or beyond what one answer may call."""
Role = Literal["live", "canary", "control", "shadow", "evaluation", "fallback", "degraded"]
SEEN_ROLES: tuple[Role, ...] = ("live", "canary", "control")
"""The roles in which a release itself answered a user; its quality is measured on these answers."""
STAND_IN_ROLES: tuple[Role, ...] = ("fallback", "degraded")
"""The roles of answers that reached a user while the release could not answer: another engine's text, or a stored one
that its own rule of reuse would not have served."""


Verdict = Literal["none", "pass", "flag", "retry", "template"]
"""The gravest action of an answer's guards; ``none`` where it has no guards."""
_GRAVITY: tuple[Verdict, ...] = ("none", "pass", "flag", "retry", "template")


class ReceiptFacets(msgspec.Struct, frozen=True):
    """The few values of a receipt that predictions are searched and counted by; all are in the clear.

    Attributes:
        origin: of the answer, as :class:`CacheReceipt` has it.
        model: that generated it; empty where nothing was generated.
    """

    application: str
    release: str
    path: str
    origin: str
    role: str
    model: str
    verdict: str
    finish_reason: str

    @property
    def kind(self) -> int:
        """A number of 60 bits that all receipts of these values have, and others hardly ever."""
        return int(content_hash("\x1f".join(msgspec.structs.astuple(self)).encode())[:15], 16)


class FeatureReceipt(msgspec.Struct, frozen=True):
    """One feature as it was read.

    ``printed`` is what the prompt saw, ``age_seconds`` is ``as_of`` minus ``event_time``, ``contract`` is what
    the freshness contract did: fresh, flagged, defaulted, absent, previous (an earlier value stands in) or recomputed
    (a new one does, which is of no snapshot); ``masked`` when policy hid it. ``source_quality`` is
    the share of source rows behind the snapshot that were without a defect.
    """

    name: str
    value: float | int | str | bool | None
    printed: str | None
    definition_version: str
    snapshot: str | None
    event_time: datetime | None
    age_seconds: float | None
    contract: str
    stream_offset: int | None = None
    source_quality: float | None = None


class PolicyReceipt(msgspec.Struct, frozen=True):
    """The decision that let this prediction happen."""

    decision: Literal["allow", "deny"]
    digest: str
    policies: tuple[str, ...] = ()


class UsageReceipt(msgspec.Struct, frozen=True):
    """Tokens and engine seconds of all attempts together, with those of summaries, decisions about tools and guards'
    judges; zero for a reused answer. ``gpu_seconds`` are engine seconds, each times the GPUs that its engine is
    declared to have."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    completion_tokens: int = 0
    forced_tokens: int = 0
    engine_seconds: float = 0.0
    attempts: int = 0
    gpu_seconds: float = 0.0


class Attempt(msgspec.Struct, frozen=True):
    """One generation, enough to replay it: prompt and text are blobs, decoding as it ran.

    ``prompt_form`` says what the prompt's blob is: text, the JSON of token ids or of turns; ``None`` of texts that were
    embedded. ``tools_blob`` is what an engine with a chat template of its own was told, ``parameters_blob``
    the JSON of request fields beyond OpenAI's.
    """

    prompt_blob: str
    text_blob: str
    seed: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...]
    json_schema_blob: str | None
    model: str
    fingerprint: str
    token_ids: tuple[int, ...]
    finish_reason: str
    prompt_form: Literal["text", "turns", "tokens"] | None = None
    prompt_logprobs: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    tools_blob: str | None = None
    grammar_blob: str | None = None
    ignore_end: bool = False
    parameters_blob: str | None = None


class PassageReceipt(msgspec.Struct, frozen=True):
    """A chunk that was retrieved: its id, the SHA-256 of its text, and its similarity to the query."""

    id: str
    sha256: str
    similarity: float


class RetrievalReceipt(msgspec.Struct, frozen=True):
    """One retrieval from documents, enough to say what was retrieved of which version.

    Attributes:
        publication, snapshot: that the chunks are of; ``as_of`` is the moment of the snapshot.
        age_seconds: of the snapshot at the request's moment.
        contract: what the freshness contract did: ``fresh``, ``flagged``, or ``masked`` where policy hides the texts.
        search: ``index`` or ``exact``. ``chunks``: number of those that were searched.
    """

    name: str
    view: str
    definition_version: str
    publication: int
    snapshot: str
    as_of: datetime
    age_seconds: float
    contract: str
    search: str
    chunks: int
    passages: tuple[PassageReceipt, ...]


class GuardReceipt(msgspec.Struct, frozen=True):
    """Action of a guard: ``pass``, ``retry``, ``template`` or ``flag``, with its reason.

    Attributes:
        attempt: of a template, the attempt whose text it stands in, counted from 0.
        shown: of a template, the number of that text's characters that had been shown and stayed.
    """

    guard: str
    action: Literal["pass", "retry", "template", "flag"]
    reason: str = ""
    attempt: int = 0
    shown: int = 0


class CacheReceipt(msgspec.Struct, frozen=True):
    """Origin of the answer: ``generated``, ``identical-prompt`` (the same prompt was generated before)
    or ``stored`` (a precomputed or earlier answer); ``prediction`` is the one it was first made as."""

    origin: Literal["generated", "identical-prompt", "stored"]
    prediction: str | None = None
    origin_path: Path | None = None
    saved: UsageReceipt | None = None
    """The cost of the reused answer at the time it was made."""
    origin_seconds: float | None = None
    """Time it had taken until then."""

    @property
    def saved_tokens(self) -> int:
        """Prompt and completion tokens that were not computed again."""
        return 0 if self.saved is None else self.saved.prompt_tokens + self.saved.completion_tokens


class SkippedEngine(msgspec.Struct, frozen=True):
    """An engine and model that were to answer and did not; ``reason`` is an error's code, ``open`` when the engine was
    not asked because it had just failed, ``late`` when its first token did not come in time, ``starting`` when it was
    stopped and would not be up in time."""

    engine: str
    model: str
    reason: str


class Degradation(msgspec.Struct, frozen=True):
    """A stored answer that was served because no engine could answer, or none was to.

    Attributes:
        policy: the application's rule that let it be served.
        release: the one that had made it; ``age_seconds`` before the request's moment.
    """

    policy: Literal["precomputed", "previous_release"]
    release: str
    age_seconds: float


class TurnReceipt(msgspec.Struct, frozen=True):
    """An earlier turn of the conversation and its form in the prompt; without a ``prediction`` the caller gave it."""

    number: int
    prediction: str | None
    form: Literal["whole", "summarized", "dropped"]


class ConversationReceipt(msgspec.Struct, frozen=True):
    """The place of an answer in a conversation, and what of it the prompt showed.

    Attributes:
        id: ``None`` where the turn was not kept: of a shadow, say.
        turn: the number of this turn, from 1.
        previous: the prediction of the turn before, if one answered it.
        turns: the earlier ones.
        summary_blob: the summary that the prompt showed.
        summaries: generations of it that were made for this answer.
    """

    id: str | None
    turn: int
    previous: str | None
    turns: tuple[TurnReceipt, ...] = ()
    summary_blob: str | None = None
    summaries: tuple[Attempt, ...] = ()


class ToolCallReceipt(msgspec.Struct, frozen=True):
    """A call of a tool that the application declares: what the model asked, and what it was told."""

    name: str
    arguments_blob: str
    result_blob: str
    status: ToolStatus
    seconds: float


class Timing(msgspec.Struct, frozen=True):
    """Wall seconds from arrival: admission wait, first byte, whole answer; the engine's own parts; and of them all the
    ``start``, for which the answer waited because the engine was stopped."""

    queue: float = 0.0
    first_byte: float = 0.0
    total: float = 0.0
    prefill: float = 0.0
    decode: float = 0.0
    start: float = 0.0


class Receipt(msgspec.Struct, frozen=True):
    """Exactly what one prediction was made from. Texts are blobs, so that they can be erased by themselves."""

    prediction: str
    request: str
    trace: str
    scope: Scope
    application: str
    release: str
    path: Path
    principal: str
    originating_user: str | None
    purpose: str
    subject: str
    """Keyed hash (hex) of the entity keys."""
    entity_blob: str
    exposure_unit: str
    assignment_probability: float
    policy: PolicyReceipt
    publication: int | None
    as_of: datetime
    created_at: datetime
    features: tuple[FeatureReceipt, ...]
    feature_fingerprint: str
    question_blob: str | None
    attempts: tuple[Attempt, ...]
    text_blob: str
    finish_reason: str
    classes: dict[str, dict[str, float]]
    """Enum property to label to probability, from the unmasked branch."""
    guards: tuple[GuardReceipt, ...]
    cache: CacheReceipt
    usage: UsageReceipt
    timing: Timing
    audit_checkpoint: str | None = None
    cost: float | None = None
    role: Role = "live"
    """In which capacity its release answered; what stood in for it says so. Shadows and evaluations reach no user."""
    rollout: str | None = None
    inputs_blob: str | None = None
    """The request's inputs of on-demand features, as JSON."""
    engine: str | None = None
    """Engine that wrote it; ``None`` for an answer from store."""
    fallback: tuple[SkippedEngine, ...] = ()
    """The engines that should have answered before this one, in the order in which they were asked."""
    degraded: Degradation | None = None
    hints_blob: str | None = None
    """The caller's hints about the request, as JSON: they change no answer."""
    turn_blob: str | None = None
    """The request as a turn of a conversation, in its API's own form; its bytes are of no other receipt."""
    retrievals: tuple[RetrievalReceipt, ...] = ()
    retrieved_blob: str | None = None
    """The chunks as the prompt saw them, as JSON."""
    tools: tuple[ToolCallReceipt, ...] = ()
    """Calls of tools that the application declares, in their order."""
    decisions: tuple[Attempt, ...] = ()
    """The generations in which the model chose them; the last chose none, or no more were permitted."""
    conversation: ConversationReceipt | None = None
    """Set for an application that sees earlier turns."""
    judging: UsageReceipt | None = None
    """The part of ``usage`` that the judge models of guards used; ``attempts`` counts their calls."""

    @property
    def user(self) -> str:
        """The user whom the caller named, or the unit of exposure of its own; empty where nobody was, so that the
        entity stood in."""
        return "" if self.exposure_unit == self.subject else self.exposure_unit

    @property
    def model(self) -> str:
        """The model whose tokens the answer is made of; empty where nothing was generated."""
        return self.attempts[-1].model if self.attempts else ""

    @property
    def facets(self) -> ReceiptFacets:
        """The values that it is searched by."""
        acted = max((_GRAVITY.index(guard.action) for guard in self.guards), default=0)
        return ReceiptFacets(
            self.application, self.release, self.path, self.cache.origin, self.role, self.model, _GRAVITY[acted],
            self.finish_reason,
        )  # fmt: skip
