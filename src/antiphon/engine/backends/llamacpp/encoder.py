"""Vectors of texts by llama.cpp.

Invariant: a text's vector has the same bytes on one machine whatever else is embedded. That needs, and this file does:
one text a call, so that the shapes of a call depend on the text alone, and one thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from antiphon.core.errors import EngineError, SetupError
from antiphon.core.ids import content_hash
from antiphon.engine.api.messages import EmbedderDescription
from antiphon.engine.backends.llamacpp.c_api import FLASH_ATTENTION_DISABLED
from antiphon.engine.backends.llamacpp.library import Library
from antiphon.engine.execution.embedding_executor import unit_bytes
from antiphon.engine.weights import Weights

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

LONGEST = 65_536
"""Characters of a text that are looked at, whatever tokens they make."""


class LlamaCppEmbedding:
    """One sentence encoder. Safe to share between threads: texts wait for each other.

    Args:
        weights: a GGUF file whose metadata say how tokens become one vector.
        tokens: the longest text, with the two tokens that are put round it.

    Raises:
        SetupError: the file is no such model, or computes something else than it is known to.
    """

    def __init__(self, weights: Weights, *, tokens: int) -> None:
        self._library = Library.get()
        self._lib, self._ffi = self._library.lib, self._library.ffi
        self._tokens = tokens
        self._lock = threading.RLock()
        parameters = self._library.model_parameters()
        self._model: Any = self._lib.llama_model_load_from_file(os.fsencode(weights.path), parameters)
        if self._model == self._ffi.NULL:
            raise self._unusable(weights, "it is no model")
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self.dimensions = int(self._lib.llama_model_n_embd(self._model))
        self._context = self._opened(weights)
        self._batch = self._lib.llama_batch_init(tokens, 0, 1)
        self._separator = int(self._lib.llama_vocab_sep(self._vocab))
        self.fingerprint = content_hash(
            {"weights": weights.sha256, "binary": self._library.digest, "instructions": self._library.instructions}
        )[:32]
        if weights.vector is not None:
            self._check(weights)

    def embed(self, texts: Sequence[str]) -> tuple[NDArray[numpy.float32], tuple[bool, ...]]:
        """Vectors of texts as the model gives them, one row a text, and for each whether only its beginning was read;
        raises ``EngineError``."""
        import numpy

        vectors = numpy.empty((len(texts), self.dimensions), dtype=numpy.float32)
        truncated = []
        for row, text in enumerate(texts):
            with self._lock:
                tokens, cut = self.truncated_tokens(text)
                vectors[row] = self.vector(tokens)
            truncated.append(cut)
        return vectors, tuple(truncated)

    def vector(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        """The vector of one tokenized text, as the model gives it; raises ``EngineError``."""
        with self._lock:
            self._require_open()
            return self._vector(tokens)

    def close(self) -> None:
        """Give the memory back."""
        with self._lock:
            if self._context is not None:
                self._lib.llama_batch_free(self._batch)
                self._lib.llama_free(self._context)
                self._lib.llama_model_free(self._model)
                self._context = self._model = None

    def _require_open(self) -> None:
        if self._context is None:
            raise EngineError("The embedding model is closed.")

    def _opened(self, weights: Weights) -> Any:
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self._tokens
        parameters.n_seq_max = 1
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.flash_attn_type = FLASH_ATTENTION_DISABLED
        parameters.embeddings = True
        parameters.no_perf = True
        context = self._lib.llama_init_from_model(self._model, parameters)
        if context == self._ffi.NULL:
            raise self._unusable(weights, "no context can be opened")
        if self._lib.llama_pooling_type(context) in (-1, 0):
            raise self._unusable(weights, "it makes no single vector of a text")
        return context

    def truncated_tokens(self, text: str) -> tuple[list[int], bool]:
        """Tokens with the two round them; of a longer text the first ones, and that it is longer. A caller other than
        :meth:`embed` must not close the model meanwhile. Raises ``EngineError``."""
        self._require_open()
        # Texts of users are never control tokens, whatever they spell.
        tokens = self._library.tokenize(self._vocab, text[:LONGEST], add_special=True, parse_special=False)
        if len(tokens) <= self._tokens:
            return tokens, len(text) > LONGEST
        return [*tokens[0 : self._tokens - 1], self._separator], True

    def _vector(self, tokens: Sequence[int]) -> NDArray[numpy.float32]:
        import numpy

        batch = self._batch
        batch.n_tokens = len(tokens)
        for place, token in enumerate(tokens):
            batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
        status = self._lib.llama_encode(self._context, batch)
        pointer = self._lib.llama_get_embeddings_seq(self._context, 0) if status == 0 else self._ffi.NULL
        if pointer == self._ffi.NULL:
            raise EngineError(f"llama.cpp made no vector (status {status}: {self._library.last_message()}).")
        return numpy.frombuffer(self._ffi.buffer(pointer, self.dimensions * 4), dtype=numpy.float32).copy()

    def _check(self, weights: Weights) -> None:
        """Embed a known text: a binary that computes wrongly is found here."""
        import numpy

        assert weights.vector is not None
        found = self.embed([weights.vector.text])[0][0]
        found = found / numpy.linalg.norm(found)
        expected = weights.vector.numbers
        distance = float(numpy.abs(found[: len(expected)] - numpy.array(expected)).max())
        if not distance <= weights.vector.tolerance:
            raise self._unusable(weights, f"a known text is off by {distance:.3g}")

    def _unusable(self, weights: Weights, why: str) -> SetupError:
        return SetupError(
            f"llama.cpp cannot embed with this model: {why} ({self._library.last_message()}).",
            where=str(weights.path),
            next_step="Delete it and fetch it again with `antiphon models pull`.",
        )


class LlamaCppEncoder:
    """Implements :class:`~antiphon.engine.execution.embedding_executor.Encoder`: what an engine process
    serves.

    Args, raises: as :class:`LlamaCppEmbedding`, and:
        dimensions: that its vectors are declared to have.
    """

    def __init__(self, name: str, weights: Weights, *, tokens: int, dimensions: int) -> None:
        self._model = LlamaCppEmbedding(weights, tokens=tokens)
        if self._model.dimensions != dimensions:
            self._model.close()
            raise SetupError(
                f"The model {name!r} makes vectors of {self._model.dimensions} numbers, not {dimensions}.",
                where=str(weights.path),
            )
        self.description = EmbedderDescription(name, self._model.fingerprint, tokens, dimensions)

    def tokenize(self, text: str) -> list[int] | None:
        tokens, cut = self._model.truncated_tokens(text)
        return None if cut else tokens

    def vector(self, tokens: list[int]) -> bytes:
        return unit_bytes(self._model.vector(tokens))

    def close(self) -> None:
        self._model.close()
