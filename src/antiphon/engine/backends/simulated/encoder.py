"""An embedding model without weights: texts that share words are near each other. For tests of everything around it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable

import numpy as np

from antiphon.core.ids import content_hash
from antiphon.engine.api.messages import EmbedderDescription
from antiphon.engine.execution.embedding_executor import unit_bytes

_WORD = re.compile(r"\w+")


class SimulatedEncoder:
    """Implements :class:`~antiphon.engine.execution.embedding_executor.Encoder`: each word adds a direction
    drawn from its hash.

    Args:
        tokens: words of the longest text.
        token_seconds: of each word, as it is to seem.
        sleep: waits; for tests that count.
    """

    def __init__(
        self,
        name: str,
        *,
        tokens: int = 256,
        dimensions: int = 384,
        token_seconds: float = 0.0,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        fingerprint = content_hash({"simulated-encoder": 1, "name": name, "dimensions": dimensions})[:32]
        self.description = EmbedderDescription(name, fingerprint, tokens, dimensions)
        self._token_seconds = token_seconds
        self._sleep = sleep or time.sleep

    def tokenize(self, text: str) -> list[int] | None:
        words = _WORD.findall(text.lower()) or [text]
        if len(words) > self.description.tokens:
            return None
        return [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") for word in words]

    def vector(self, tokens: list[int]) -> bytes:
        if self._token_seconds:
            self._sleep(self._token_seconds * len(tokens))
        total = np.zeros(self.description.dimensions)
        for token in tokens:
            total += np.random.default_rng(token).normal(size=self.description.dimensions)
        return unit_bytes(total)

    def close(self) -> None:
        """There is nothing to free."""
