"""The port every engine implements: the local one, a process behind a socket, a remote URL, the simulated one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from antiphon.engine.api.messages import (
    Delta,
    Described,
    Embed,
    Embedded,
    Finished,
    Generate,
    ServedModel,
    Tokenise,
    Tokenised,
)


class Engine(Protocol):
    """Turns prompts into text."""

    async def describe(self) -> Described:
        """The served models and the present load.

        Raises:
            Unavailable: the engine cannot be reached.
        """
        ...

    async def serve(self, models: Sequence[ServedModel]) -> Described:
        """Declare the whole set of models to be served beyond those that the engine was started with.

        Missing ones are loaded while the others go on; those that are named no longer take no new requests and are
        unloaded once their requests have ended. The same declaration again changes nothing. Returns what is served.

        Raises:
            Conflict: a name is served with other weights; nothing was changed.
            InvalidInput: no name, or one name for two models; nothing was changed.
            SetupError: the declaration cannot be kept on disk; nothing was changed. Or a file is missing or no model,
                or memory does not suffice; the other models are served nevertheless.
            Corrupt: a file's SHA-256 is another one; the other models are served nevertheless.
            UnsupportedParameter: this engine cannot be told what to serve, and does not serve it already.
            Unavailable: the engine cannot be reached or went away meanwhile.
        """
        ...

    def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """Any number of :class:`Delta`, then exactly one :class:`Finished`.

        The texts of the deltas, joined, are the text of ``Finished``. Closing the generator (or cancelling the
        task that waits on it) cancels the request; its slot is free before the engine's next step.

        Raises:
            PromptTooLong: prompt and ``max_tokens`` together exceed the model's context.
            SchemaUnsatisfiable: no text, or none of ``max_tokens`` tokens, can meet ``json_schema``.
            InvalidInput: another parameter cannot be used.
            NotFound: the engine does not serve ``model``.
            Overloaded: too many requests wait already.
            Unavailable: the engine cannot be reached; nothing was generated.
            EngineFailed: the engine died or failed after it took the request.
        """
        ...

    async def close(self) -> None:
        """Release what the engine holds here. What is still in flight ends with ``EngineFailed``."""
        ...


class TextEmbedding(Protocol):
    """Turns texts into vectors: what an engine does beside :class:`Engine` when it serves embedding models."""

    async def embed(self, request: Embed) -> Embedded:
        """The vectors of all the texts; cancelling the task that waits cancels the request.

        Raises:
            NotFound: the engine does not serve ``model`` as an embedding model.
            PromptTooLong: a text is longer than the model reads; nothing was embedded.
            InvalidInput: no text, an empty one, or another number of dimensions than the model has.
            Overloaded: too many requests wait already.
            Unavailable: the engine cannot be reached; nothing was embedded.
            EngineFailed: the engine died or failed after it took the request.
        """
        ...


class Tokenising(Protocol):
    """Tells how a model reads a text."""

    async def tokenise(self, request: Tokenise) -> Tokenised:
        """A text's tokens, or the text of tokens.

        Raises:
            NotFound: the engine does not serve ``model``.
            InvalidInput: the model has no such token.
            UnsupportedParameter: this engine does not tell.
            Unavailable: the engine cannot be reached.
        """
        ...


class ServingEngine(Engine, TextEmbedding, Tokenising, Protocol):
    """All of it: what a project's engine is."""
