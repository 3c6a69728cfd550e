"""The port that every engine implements, whatever computes behind it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol

from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    RequestFailure,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
)

Event = Delta | GenerationResult | TextEmbeddings | RequestFailure
Sink = Callable[[Event], None]


class GenerationEngine(Protocol):
    """Turns prompts into text and texts into vectors: any engine, or a wrapper of one."""

    async def describe(self) -> EngineDescription:
        """The served models and the present load; raises ``UnavailableError`` when the engine cannot be reached."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        """Any number of :class:`Delta`, then exactly one :class:`GenerationResult`.

        The texts of the deltas, joined, are the text of the result. Closing the generator (or cancelling the task that
        waits on it) cancels the request; its slot is free before the engine's next step.

        Raises:
            PromptTooLongError: prompt and ``max_tokens`` together exceed the model's context.
            UnsatisfiableSchemaError: no text, or none of ``max_tokens`` tokens, can meet ``json_schema``.
            InvalidInputError: another parameter cannot be used.
            NotFoundError: the engine does not serve ``model``.
            OverloadedError: too many requests wait already.
            UnavailableError: the engine cannot be reached; nothing was generated.
            EngineError: the engine died or failed after it took the request.
        """
        ...

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """The vectors of all the texts; cancelling the task that waits cancels the request.

        Raises:
            NotFoundError: the engine does not serve ``model`` as an embedding model.
            PromptTooLongError: a text is longer than the model reads; nothing was embedded.
            InvalidInputError: no text, an empty one, or another number of dimensions than the model has.
            OverloadedError: too many requests wait already.
            UnavailableError: the engine cannot be reached; nothing was embedded.
            EngineError: the engine died or failed after it took the request.
        """
        ...


class Engine(GenerationEngine, Protocol):
    """An engine as a process holds it: it is also told what to serve, and turns texts into tokens.

    Implemented by ``LocalEngine``, ``EngineClient`` (a process behind a socket) and ``RemoteEngine`` (a URL).
    """

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        """Declare the whole set of models to be served beyond those that the engine was started with.

        Missing ones are loaded while the others go on; a model that the declaration leaves out takes no new requests
        and is unloaded once its requests have ended. The same declaration again changes nothing. Returns what is
        served.

        Raises:
            ConflictError: a name is served with other weights; nothing was changed.
            InvalidInputError: no name, or one name for two models; nothing was changed.
            SetupError: the declaration cannot be saved; nothing was changed. Or a file is missing or no model, or
                memory does not suffice; the other models are served nevertheless.
            CorruptionError: a file's SHA-256 differs from the declared one; the other models are served nevertheless.
            UnsupportedParameterError: this engine cannot be told what to serve, and does not serve it already.
            UnavailableError: the engine cannot be reached or went away meanwhile.
        """
        ...

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """A text's tokens, or the text of tokens.

        Raises:
            NotFoundError: the engine does not serve ``model``.
            InvalidInputError: the model has no such token.
            UnsupportedParameterError: this engine cannot tokenize for its callers.
            UnavailableError: the engine cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Release what the engine holds here. Requests in flight end with ``EngineError``."""
        ...


class EngineCore(Protocol):
    """An engine as its server drives it: events of many requests go to sinks, and a ticket cancels one of them.

    Implemented by ``LocalEngine`` and ``UpstreamFront``.
    """

    async def describe(self) -> EngineDescription:
        """See :meth:`GenerationEngine.describe`."""
        ...

    async def submit(self, request: GenerationRequest, sink: Sink) -> int:
        """Submit a request; its events go to ``sink`` on the event loop, the last one a GenerationResult or
        RequestFailure. Returns a ticket for :meth:`cancel`; raises what :meth:`Engine.generate` does before anything is
        generated."""
        ...

    async def submit_texts(self, request: TextEmbeddingRequest, sink: Sink) -> int:
        """Submit texts; ``sink`` gets a TextEmbeddings or RequestFailure. Returns a ticket for :meth:`cancel`; raises
        what :meth:`Engine.embed` does before anything is embedded."""
        ...

    def cancel(self, ticket: int) -> None:
        """Cancel a request; a ticket of one that has ended is ignored."""
        ...

    async def online(self, seconds: float) -> None:
        """Return once an online request is in flight, at the latest after so many seconds."""
        ...

    def hold_batch(self, seconds: float) -> None:
        """Give batch generations nothing for so many seconds from now, so that other work has the machine: what was
        begun stays where it is. 0 ends that. Online requests and embeddings go on as they are."""
        ...

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        """See :meth:`Engine.serve`."""
        ...

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :meth:`Engine.tokenize`."""
        ...

    async def drain(self) -> None:
        """Wait until no request is in flight."""
        ...

    async def close(self) -> None:
        """See :meth:`Engine.close`."""
        ...
