"""The port of a model runtime: tokens in, logits out, and sequences whose state can be copied and moved.

A runtime is used by one thread at a time, but ``tokenize`` and the plain attributes may be read from any.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from antiphon.engine.api.messages import ModelDescription

Logits = NDArray[np.float32]
"""One value per token of the vocabulary, shape ``(vocabulary,)``; valid until the runtime's next call."""

SequenceState = NDArray[np.uint8]
"""A sequence's whole state in host memory, opaque."""


@dataclass(frozen=True, slots=True)
class TokenVocabulary:
    """``pieces[token]`` is the token's bytes (empty for control tokens); ``ends`` are the end-of-generation tokens.
    No token stands for more than ``longest`` bytes of a text; 0 where that is not known."""

    pieces: tuple[bytes, ...]
    ends: frozenset[int]
    longest: int = 0


@dataclass(frozen=True, slots=True)
class Layout:
    """The way work is cut into calls of the runtime; part of the fingerprint, because it decides the last bits.

    Attributes:
        chunk_tokens: a prompt is computed alone, in chunks of this many tokens counted from position 0, and so
            are the tokens that a grammar forces, in calls of at most this many.
        slots: sequences that can be resident at once (no part of the fingerprint).
        context_tokens: prompt and completion of one sequence together.
    """

    chunk_tokens: int = 32
    slots: int = 16
    context_tokens: int = 1024


class CallInterruptedError(Exception):
    """A call was aborted: the sequences are as they were before it."""


class Runtime(Protocol):
    """One model with ``layout.slots`` sequence slots; implemented on llama.cpp and by a simulated model.

    Calls that compute raise :class:`CallInterruptedError` after :meth:`interrupt`.
    """

    @property
    def description(self) -> ModelDescription: ...

    @property
    def vocabulary(self) -> TokenVocabulary: ...

    @property
    def layout(self) -> Layout: ...

    @property
    def grammar_tokenizer(self) -> Any:
        """An ``llguidance.LLTokenizer`` over the same vocabulary; built on first use."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``; the names of special tokens in it become those tokens."""
        ...

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        """Append ``tokens`` of one sequence, alone in their own call; the logits after the last one if wanted."""
        ...

    def score(self, slot: int, position: int, tokens: Sequence[int]) -> list[Logits]:
        """As :meth:`feed`, with the logits after each token; those after the last one are bit for bit ``feed``'s."""
        ...

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        """Append one token to each of several sequences, all in one call. ``slots`` ascend."""
        ...

    def interrupt(self) -> None:
        """Abort the call in flight, or else the next one; from any thread. That call raises
        :class:`CallInterruptedError`, soon and having changed nothing, unless it ends before it notices."""
        ...

    def rearm(self) -> None:
        """Forget interruptions from before now."""
        ...

    def drop(self, slot: int) -> None:
        """Clear a slot."""
        ...

    def copy_state(self, slot: int) -> SequenceState:
        """A copy of the slot's state."""
        ...

    def restore_state(self, slot: int, state: SequenceState) -> None:
        """Put a copied state into a slot, in place of its own. Continuing is bit-identical."""
        ...

    def rest(self) -> None:
        """Free the weights and the slots' states until :meth:`wake` or the next call."""
        ...

    def wake(self) -> None:
        """Load the weights again after :meth:`rest`; from any thread.

        Raises:
            SetupError: memory does not suffice. EngineError: the file has been changed.
        """
        ...

    @property
    def resting(self) -> bool:
        """True while the weights are not in memory."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...
