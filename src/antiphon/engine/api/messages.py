"""Messages between an engine process and its clients (gateways, workers): typed msgspec frames.

Every frame is a 4-byte big-endian length and a msgpack array-like struct; a connection begins with a
:class:`Hello` from each side. A client may have many requests in flight on one connection.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.errors import AntiphonError, EngineError, InvalidDefinitionsError
from antiphon.engine.scheduling.service_level import ServiceLevel

PROTOCOL = 3
"""Version of the protocol, raised when a frame changes meaning; both sides refuse another number."""

Priority = Literal["online", "batch"]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First frame of each side."""

    protocol: int
    peer: str


class ToolCall(msgspec.Struct, frozen=True, array_like=True):
    """A function that an assistant's turn called; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


class ChatTurn(msgspec.Struct, frozen=True, array_like=True):
    """One turn of a conversation; ``tool_call_id`` says which call a turn of the role ``tool`` is the result of."""

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class Penalties(msgspec.Struct, frozen=True):
    """Additions to logits before a token is chosen, as OpenAI defines them.

    A token that the completion has ``c`` times already loses ``c * frequency + (c > 0) * presence``; ``bias`` is pairs
    of a token and what it gains.
    """

    frequency: float = 0.0
    presence: float = 0.0
    bias: tuple[tuple[int, float], ...] = ()


class GenerationRequest(msgspec.Struct, frozen=True, tag="generate"):
    """One generation.

    Attributes:
        id: unique per connection.
        prompt: already rendered; special tokens in it are parsed as such.
        max_tokens: at least 1, or 0 with ``prompt_logprobs``.
        json_schema: JSON schema text that the output must meet, masked before sampling.
        grammar: the same in the Lark syntax of llguidance; one of both.
        logprobs: how many alternatives per token to report (of the unmasked distribution), ``None`` for none.
        branches: report the options at constrained branch points with few alternatives (class probabilities).
        priority: online goes before batch.
        level: bounds that batch work must leave this request; ``None`` for the engine's default.
        seed: seeds this request's own generator; unused with temperature 0.
        traceparent: W3C trace context of the caller.
        messages: turns instead of ``prompt``, for an engine whose description has an empty ``chat_template``.
        cache_salt: a cached prefix is shared with prompts of the same salt alone, for times tell what was cached.
        ahead: it goes before waiting requests of its priority, and as batch work beside online requests within the
            bounds of their levels.
        ignore_end: an end token ends nothing; the generation goes on to ``max_tokens`` or a stop sequence.
        prompt_ids: the prompt as tokens, instead of ``prompt``; nothing is added to them.
        prompt_logprobs: report the prompt's own tokens, each with so many alternatives; the prompt is then computed in
            full. Neither the completion's text nor its bits change.
        tools: JSON of OpenAI's ``tools``, ``tool_choice`` and ``parallel_tool_calls``, beside ``messages`` only.
        parameters: JSON object of request fields beyond OpenAI's, by vLLM's names; other engines refuse them.
        share: its tenant's share of the engine beside others; 1 is as much as another.
        continues: a later prompt will begin with this one, which is therefore cached at once.
        spare: work that nobody needs by itself, which neither has a stopped engine started nor keeps one from being
            stopped.
    """

    id: str
    model: str
    prompt: str
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    json_schema: str | None = None
    logprobs: int | None = None
    branches: bool = False
    priority: Priority = "online"
    traceparent: str | None = None
    messages: tuple[ChatTurn, ...] = ()
    level: ServiceLevel | None = None
    ignore_end: bool = False
    cache_salt: str = ""
    prompt_ids: tuple[int, ...] = ()
    prompt_logprobs: int | None = None
    penalties: Penalties = Penalties()
    tools: str | None = None
    grammar: str | None = None
    ahead: bool = False
    parameters: str = ""
    share: float = 1.0
    continues: bool = False
    spare: bool = False

    @property
    def tenant(self) -> str:
        """The tenant whose share of the engine it takes: prompts of one salt are one tenant's."""
        return self.cache_salt


class TextEmbeddingRequest(msgspec.Struct, frozen=True, tag="embed"):
    """Texts to embed.

    Attributes:
        id: unique per connection.
        texts: one or more, none of them empty.
        dimensions: of the requested vectors; ``None`` for the model's own, the only ones that a local model makes.
        priority: texts of ``batch`` are embedded in time that online work leaves.
        traceparent: W3C trace context of the caller.
        tenant: tenants take turns, text by text.
    """

    id: str
    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None
    priority: Priority = "online"
    traceparent: str | None = None
    tenant: str = ""


class TokenizationRequest(msgspec.Struct, frozen=True, tag="tokenize"):
    """Asks for the tokens of a text, in which names of special tokens are those tokens; or, when ``text`` is ``None``,
    for the text of tokens. Tenants take turns."""

    id: str
    model: str
    text: str | None = None
    tokens: tuple[int, ...] = ()
    tenant: str = ""


class Cancellation(msgspec.Struct, frozen=True, tag="cancel"):
    """Cancels a request, whose slot is free before the next step."""

    id: str


class DescriptionRequest(msgspec.Struct, frozen=True, tag="describe"):
    """Asks for the served models and the load of the engine: now, or as soon as an online request is in it, and at the
    latest after ``online_within`` seconds. ``hold_batch``: before, batch generations are held for so many seconds from
    now, 0 ends that; ``None`` leaves it as it is."""

    id: str
    online_within: float = 0.0
    hold_batch: float | None = None


class ServedModel(msgspec.Struct, frozen=True, array_like=True):
    """One model to be served: ``name`` to callers, absolute ``path`` of its GGUF file, SHA-256 hex of its bytes."""

    name: str
    path: str
    sha256: str


class ModelDeclaration(msgspec.Struct, frozen=True, tag="serve"):
    """Declares the whole set of models to be served beyond those that the process was started with."""

    id: str
    models: tuple[ServedModel, ...]


class Alternative(msgspec.Struct, frozen=True, array_like=True):
    """One candidate token and its natural log-probability in the unmasked distribution."""

    text: str
    token: int
    logprob: float


class TokenOut(msgspec.Struct, frozen=True, array_like=True):
    """One token; ``forced`` when the grammar left no choice and no step was spent on it.

    ``logprob`` is ``None`` for a forced token, for a prompt's first one, and where none was requested.
    """

    token: int
    text: str
    logprob: float | None
    forced: bool
    alternatives: tuple[Alternative, ...] = ()


class Branch(msgspec.Struct, frozen=True, array_like=True):
    """A constrained position with at most 32 permitted tokens: where in the text, and their log-probabilities."""

    offset: int
    options: tuple[Alternative, ...]


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """Text that may be shown now (a stop sequence is never half shown), and the tokens behind it.

    ``prompt`` are the prompt's own tokens, all in the first delta, for a request with ``prompt_logprobs``. Before the
    first token there may be deltas without any: the engine is ``starting``, and is expected in so many seconds.
    """

    id: str
    text: str
    tokens: tuple[TokenOut, ...] = ()
    prompt: tuple[TokenOut, ...] = ()
    starting: float | None = None


class GenerationUsage(msgspec.Struct, frozen=True):
    """Cost of one generation.

    Seconds are wall seconds; ``engine_seconds`` is this request's share of the steps it took part in, and for
    ``start_seconds`` it waited, before the others, for the engine to be started. ``gpus`` are those that the engine is
    declared to have.
    """

    prompt_tokens: int
    cached_prompt_tokens: int
    completion_tokens: int
    forced_tokens: int
    steps: int
    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    engine_seconds: float
    start_seconds: float = 0.0
    gpus: int = 0


class GenerationResult(msgspec.Struct, frozen=True, tag="finished"):
    """The end of a generation. ``token_ids`` are the completion's; ``fingerprint`` names weights, binary,
    instruction set and layout (replay is byte-identical inside one fingerprint)."""

    id: str
    reason: Literal["stop", "length", "cancelled"]
    text: str
    usage: GenerationUsage
    fingerprint: str
    token_ids: tuple[int, ...] = ()
    branches: tuple[Branch, ...] = ()


class TextEmbeddings(msgspec.Struct, frozen=True, tag="embedded"):
    """The vectors of all the texts of one request.

    Attributes:
        vectors: float32, little-endian, one row of ``dimensions`` numbers a text in the order of the texts; each of
            length 1.
        tokens: of each text, with those that the model adds; of all of them together from a server that says no more.
        fingerprint: names weights, binary and instruction set: the same text has the same bytes inside one.
        queue_seconds, engine_seconds: wall seconds until the first text was begun, and in the model.
        gpus: that the engine is declared to have.
    """

    id: str
    vectors: bytes
    dimensions: int
    tokens: tuple[int, ...]
    fingerprint: str
    queue_seconds: float = 0.0
    engine_seconds: float = 0.0
    gpus: int = 0


class Tokenization(msgspec.Struct, frozen=True, tag="tokenized"):
    """A text and its tokens, of which nothing is computed. Tokens that are no UTF-8 leave replacement characters."""

    id: str
    text: str
    tokens: tuple[int, ...]


class RequestFailure(msgspec.Struct, frozen=True, tag="failed"):
    """End of a request that could not be served; the fields are those of an error class in ``core.errors``."""

    id: str
    code: str
    message: str
    where: str | None = None
    next_step: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(cls, request: str, error: AntiphonError) -> RequestFailure:
        """The frame that tells the caller of a request about an error."""
        return cls(request, error.code, error.what, error.where, error.next_step, error.retry_after)

    @property
    def error(self) -> AntiphonError:
        """The error that it tells about; an unknown code means an engine newer than this side."""
        kinds: list[type[AntiphonError]] = [AntiphonError]
        for kind in kinds:
            kinds += (subclass for subclass in kind.__subclasses__() if subclass is not InvalidDefinitionsError)
        found = next((kind for kind in kinds if kind.code == self.code), EngineError)
        error = found(self.message, where=self.where, next_step=self.next_step)
        if self.retry_after is not None:
            error.retry_after = self.retry_after
        return error


class ModelDescription(msgspec.Struct, frozen=True):
    """One served model, with the values that rendering and bounding a prompt need."""

    name: str
    fingerprint: str
    context_tokens: int
    chat_template: str
    special_tokens: tuple[str, ...]
    bos: str
    eos: str


class EmbedderDescription(msgspec.Struct, frozen=True):
    """One served embedding model; ``tokens`` is its longest text, with those that the model adds."""

    name: str
    fingerprint: str
    tokens: int
    dimensions: int


class EngineLoad(msgspec.Struct, frozen=True):
    """Present load of the engine, and counts since it started.

    ``interrupted_calls`` computed batch sequences alone and were aborted, or not begun, because an online request
    arrived; their ``interrupted_seconds`` are computed again. ``kept_on_disk`` sequences have neither a slot nor
    host memory. Of ``busy_seconds`` the model computed in ``call_seconds``; ``resting`` models have no weights there.
    Batch generations are held for ``batch_held_seconds`` more, because other work has the machine's idle time. Of the
    requests that are not ``spare``, ``needing`` are in the engine, and ``taken`` came since it started, which is
    ``up_seconds`` ago; 0 of a server elsewhere. Its process has ``resident_bytes`` of memory, weights that are mapped
    included. It is declared to use ``gpus``; of several engines each uses so many at most.
    """

    running_online: int = 0
    running_batch: int = 0
    waiting_online: int = 0
    waiting_batch: int = 0
    slots: int = 0
    resting: int = 0
    steps: int = 0
    generated_tokens_online: int = 0
    generated_tokens_batch: int = 0
    prefilled_tokens: int = 0
    reused_prefix_tokens: int = 0
    interrupted_calls: int = 0
    interrupted_seconds: float = 0.0
    kept_on_disk: int = 0
    call_seconds: float = 0.0
    busy_seconds: float = 0.0
    embedded_texts: int = 0
    embedded_tokens: int = 0
    batch_held_seconds: float = 0.0
    needing: int = 0
    taken: int = 0
    up_seconds: float = 0.0
    resident_bytes: int = 0
    gpus: int = 0


class EngineInstance(msgspec.Struct, frozen=True):
    """One of several engines that serve a project, as it describes itself in the catalog.

    Attributes:
        process: names the process among all of all machines and times.
        socket: its path, which processes on ``host`` use; ``address``: HOST:PORT for all others, empty without one.
        models, embedders: fingerprints by the name callers use.
        answers: whether it could be asked last.
        drained: it is given no request, and finishes those that it has.
    """

    name: str
    process: str
    host: str
    socket: str
    address: str
    models: dict[str, str]
    embedders: dict[str, str]
    load: EngineLoad
    answers: bool = True
    drained: bool = False


class StoppedEngine(msgspec.Struct, frozen=True):
    """An engine that was stopped because nobody needed it, and is started when somebody does.

    Attributes:
        since: when it was stopped.
        start_seconds: how long it takes to start, by earlier starts.
        starting: whether it is being started now.
    """

    since: datetime
    start_seconds: float
    starting: bool = False

    @property
    def sentence(self) -> str:
        """Its state in words."""
        if self.starting:
            return f"being started, which takes about {self.start_seconds:.0f} s"
        return f"stopped: nobody needs it, starts in about {self.start_seconds:.0f} s"


class EngineDescription(msgspec.Struct, frozen=True, tag="described"):
    """Answer to :class:`DescriptionRequest` and :class:`ModelDeclaration`. ``missing``: configured models that could
    not be loaded, and why. ``instances``: the engines behind one that routes. ``host``: its machine, where known.
    ``process``: names it among all of all times, where it is one whose counts are its own.
    ``stopped``: nothing serves these models now; they are what it served, and will."""

    id: str
    models: tuple[ModelDescription, ...]
    load: EngineLoad
    embedders: tuple[EmbedderDescription, ...] = ()
    missing: dict[str, str] = {}
    instances: tuple[EngineInstance, ...] = ()
    host: str = ""
    stopped: StoppedEngine | None = None
    process: str = ""


ToEngine = (
    Hello
    | GenerationRequest
    | TextEmbeddingRequest
    | TokenizationRequest
    | Cancellation
    | DescriptionRequest
    | ModelDeclaration
)
FromEngine = Hello | Delta | GenerationResult | TextEmbeddings | Tokenization | RequestFailure | EngineDescription
