"""The port every engine implements: the local one, a process behind a socket, a remote URL, the simulated one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from antiphon.engine.messages import Delta, Described, Finished, Generate


class Engine(Protocol):
    """Turns prompts into text."""

    async def describe(self) -> Described:
        """The served models and the present load.

        Raises:
            Unavailable: the engine cannot be reached.
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
