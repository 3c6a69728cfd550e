"""llama.cpp as a runtime, through its C API.

Invariant: logits of a sequence are bit-identical whatever else the engine runs. That needs, and this file sets:
a KV stream per sequence (``kv_unified=false``), flash attention off, prompts in calls of their own in fixed
chunks from position 0, and all decoding sequences in one call with one token each.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.core.errors import EngineError, SetupError
from antiphon.core.ids import content_hash
from antiphon.engine.api.messages import ModelDescription
from antiphon.engine.backends.llamacpp.c_api import FLASH_ATTENTION_DISABLED
from antiphon.engine.backends.llamacpp.library import Library
from antiphon.engine.execution.runtime import CallInterruptedError, Layout, Logits, SequenceState, TokenVocabulary
from antiphon.engine.weights import Golden, Weights

_ABORTED = 2
"""Status of an aborted call; llama.cpp has taken back what it had written of the sequences."""


class LlamaCpp:
    """One GGUF model in one context of ``layout.slots`` sequences.

    Args:
        name: the model's name to callers.
        weights: where the file is, its sha256, and what to expect of it.
        threads: OpenMP threads; they change speed, not results.
        gpu_layers: layers computed on the GPU by a build that can; negative for all. They change the last bits, and are
            part of the fingerprint. On a GPU a text may also depend on the other sequences of a call.

    Raises:
        SetupError: a library is missing, the file is no model, memory does not suffice, or the golden logits
            are not met.
    """

    def __init__(self, name: str, weights: Weights, layout: Layout, *, threads: int, gpu_layers: int = 0) -> None:
        if weights.vector is not None:
            raise SetupError(
                f"{name} makes vectors of texts and cannot write.",
                where="[engine] models",
                next_step="Name it in a feature, embed(..., model=...), and another model here.",
            )
        self._library = Library.get()
        self._lib, self._ffi = self._library.lib, self._library.ffi
        context_tokens = -(-layout.context_tokens // 256) * 256  # llama.cpp pads a stream to 256 cells.
        self.layout = Layout(layout.chunk_tokens, layout.slots, context_tokens)
        self._path, self._threads, self._gpu_layers = weights.path, threads, max(gpu_layers, -1)
        self._awaking = threading.Lock()
        # Vocabulary only: it tokenizes, also while the weights are not in memory.
        self._vocabulary_alone = self._load(vocabulary_only=True)
        self._vocab = self._lib.llama_model_get_vocab(self._vocabulary_alone)
        self._size = int(self._lib.llama_vocab_n_tokens(self._vocab))
        # Asked between the operations of a call, by a thread that knows no Python. C's strlen is the shortest function
        # that says whether a byte is set: 0 of an empty string, 1 of one with a byte in it.
        self._interruption = self._ffi.new("char[2]")
        self._is_interrupted = self._ffi.cast(
            "ggml_abort_callback", ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p).value
        )
        self._open_batch()
        self._model: Any = None
        self._context: Any = None
        self._memory: Any = None
        self._file = _identity(weights.path)
        self.wake()
        self.vocabulary, self._named_pieces = self._read_vocabulary()
        self.description = self._describe(name, weights)
        if weights.golden is not None:
            self._check(weights.golden, weights.path)

    @cached_property
    def grammar_tokenizer(self) -> Any:
        from llguidance import LLTokenizer

        # llguidance marks control tokens by a leading 0xff byte and tokenizes through llama.cpp's own function.
        build: Any = LLTokenizer
        return build.from_llamacpp(
            tokens=self._named_pieces,
            vocab_ptr=int(self._ffi.cast("uintptr_t", self._vocab)),
            tokenize_fptr=int(self._ffi.cast("uintptr_t", self._ffi.addressof(self._lib, "llama_tokenize"))),
            eos_token=sorted(self.vocabulary.ends),
            slices=LLTokenizer.json_slices(),
        )

    def tokenize(self, text: str) -> list[int]:
        # A rendered chat template may begin with the token that llama.cpp would add once more.
        add_special = not (self.description.bos and text.startswith(self.description.bos))
        return self._library.tokenize(self._vocab, text, add_special=add_special, parse_special=True)

    def wake(self) -> None:
        with self._awaking:
            if self._context is not None:
                return
            if _identity(self._path) != self._file:
                raise EngineError(
                    "The model's file is another one than when it was loaded first.",
                    where=str(self._path),
                    next_step="Restart the engine.",
                )
            self._model = self._load()
            try:
                context = self._open_context(self._threads)
            except BaseException:
                self._lib.llama_model_free(self._model)
                self._model = None
                raise
            self._memory = self._lib.llama_get_memory(context)
            self._lib.llama_set_abort_callback(context, self._is_interrupted, self._interruption)
            self._context = context

    def rest(self) -> None:
        with self._awaking:
            if self._context is None:
                return
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._model = self._context = self._memory = None

    @property
    def resting(self) -> bool:
        return self._context is None

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        count = self._append(slot, position, tokens)
        self._wants[:count] = 0
        self._wants[count - 1] = want_logits
        self._run(count)
        return self._logits(count - 1) if want_logits else None

    def score(self, slot: int, position: int, tokens: Sequence[int]) -> list[Logits]:
        count = self._append(slot, position, tokens)
        self._wants[:count] = 1
        self._run(count)
        return [self._logits(index) for index in range(count)]

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = positions
        self._wants[:count] = 1
        for index, slot in enumerate(slots):
            self._sequence_ids[index][0] = slot
        self._run(count)
        return [self._logits(index) for index in range(count)]

    def interrupt(self) -> None:
        self._interruption[0] = b"\x01"

    def rearm(self) -> None:
        self._interruption[0] = b"\x00"

    def drop(self, slot: int) -> None:
        if self._context is not None:
            self._lib.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def copy_state(self, slot: int) -> SequenceState:
        size = int(self._lib.llama_state_seq_get_size(self._context, slot))
        kept = np.empty(size, dtype=np.uint8)
        target = self._ffi.from_buffer("uint8_t[]", kept, require_writable=True)
        if self._lib.llama_state_seq_get_data(self._context, target, size, slot) != size:
            raise EngineError("llama.cpp could not copy a sequence's state.")
        return kept

    def restore_state(self, slot: int, state: SequenceState) -> None:
        self.wake()
        self.drop(slot)
        source = self._ffi.from_buffer("uint8_t[]", state)
        if self._lib.llama_state_seq_set_data(self._context, source, state.nbytes, slot) != state.nbytes:
            raise EngineError("llama.cpp could not restore a sequence's state.")

    def close(self) -> None:
        self.rest()
        if self._vocab is not None:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_model_free(self._vocabulary_alone)
            self._vocab = None

    def _load(self, *, vocabulary_only: bool = False) -> Any:
        path = self._path
        parameters = self._library.model_parameters(self._gpu_layers)
        parameters.vocab_only = vocabulary_only
        model = self._lib.llama_model_load_from_file(os.fsencode(path), parameters)
        if model == self._ffi.NULL:
            raise SetupError(
                f"llama.cpp cannot read this model ({self._library.last_message()}).",
                where=str(path),
                next_step="Fetch it again with `antiphon models pull`, or name another GGUF file.",
            )
        return model

    def _open_context(self, threads: int) -> Any:
        layout = self.layout
        parameters = self._lib.llama_context_default_params()
        parameters.n_ctx = layout.slots * layout.context_tokens
        parameters.n_seq_max = layout.slots
        parameters.n_batch = parameters.n_ubatch = max(layout.chunk_tokens, layout.slots)
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.flash_attn_type = FLASH_ATTENTION_DISABLED
        parameters.kv_unified = False
        parameters.no_perf = True
        context = self._lib.llama_init_from_model(self._model, parameters)
        if context == self._ffi.NULL:
            raise SetupError(
                f"llama.cpp cannot open a context of {layout.slots} × {layout.context_tokens} tokens "
                f"({self._library.last_message()}).",
                next_step="Use fewer slots or a smaller context.",
            )
        return context

    def _open_batch(self) -> None:
        capacity = max(self.layout.chunk_tokens, self.layout.slots)
        batch = self._batch = self._lib.llama_batch_init(capacity, 0, 1)

        def view(pointer: Any, dtype: type[np.generic]) -> Any:
            width = np.dtype(dtype).itemsize
            return np.frombuffer(self._ffi.buffer(pointer, capacity * width), dtype=dtype)

        self._tokens = view(batch.token, np.int32)
        self._positions = view(batch.pos, np.int32)
        self._wants = view(batch.logits, np.int8)
        self._sequence_ids = [batch.seq_id[index] for index in range(capacity)]
        view(batch.n_seq_id, np.int32)[:] = 1

    def _append(self, slot: int, position: int, tokens: Sequence[int]) -> int:
        """Put tokens of one sequence into the batch; returns how many."""
        count = len(tokens)
        self._tokens[:count] = tokens
        self._positions[:count] = np.arange(position, position + count, dtype=np.int32)
        for index in range(count):
            self._sequence_ids[index][0] = slot
        return count

    def _run(self, count: int) -> None:
        if self._context is None:
            self.wake()
        self._batch.n_tokens = count
        status = self._lib.llama_decode(self._context, self._batch)
        if status == _ABORTED:
            raise CallInterruptedError
        if status != 0:
            raise EngineError(f"llama.cpp failed in a step (status {status}: {self._library.last_message()}).")

    def _logits(self, index: int) -> Logits:
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        if pointer == self._ffi.NULL:
            raise EngineError("llama.cpp returned no logits.")
        return np.frombuffer(self._ffi.buffer(pointer, self._size * 4), dtype=np.float32)

    def _read_vocabulary(self) -> tuple[TokenVocabulary, list[bytes]]:
        capacity = 4096
        buffer = self._ffi.new("char[]", capacity)
        shown: list[bytes] = []
        named: list[bytes] = []
        for token in range(self._size):
            length = max(self._lib.llama_token_to_piece(self._vocab, token, buffer, capacity, 0, True), 0)
            piece = bytes(self._ffi.buffer(buffer, length))
            control = bool(self._lib.llama_vocab_is_control(self._vocab, token))
            shown.append(b"" if control else piece)
            named.append(b"\xff" + piece if control else piece)
        ends = frozenset(t for t in range(self._size) if self._lib.llama_vocab_is_eog(self._vocab, t))
        # Control tokens are read from their names, which have a byte before them here.
        return TokenVocabulary(tuple(shown), ends, max(len(piece) for piece in named)), named

    def _describe(self, name: str, weights: Weights) -> ModelDescription:
        template = self._lib.llama_model_chat_template(self._model, self._ffi.NULL)
        special = [piece[1:].decode("utf-8", "replace") for piece in self._named_pieces if piece.startswith(b"\xff")]

        def named(token: int) -> str:
            return self._named_pieces[token].removeprefix(b"\xff").decode("utf-8", "replace") if token >= 0 else ""

        return ModelDescription(
            name=name,
            fingerprint=self._fingerprint(weights.sha256),
            context_tokens=self.layout.context_tokens,
            chat_template="" if template == self._ffi.NULL else self._ffi.string(template).decode(),
            special_tokens=tuple(special),
            bos=named(int(self._lib.llama_vocab_bos(self._vocab))),
            eos=named(int(self._lib.llama_vocab_eos(self._vocab))),
        )

    def _fingerprint(self, weights_sha256: str) -> str:
        """32 hex digits over everything that decides the bits of a completion but the request itself."""
        return content_hash(
            {
                "weights": weights_sha256,
                "binary": self._library.digest,
                "instructions": self._library.instructions,
                "layout": {"kv": "stream", "flash_attention": False, "chunk": self.layout.chunk_tokens, "forced": 1},
                "grammar": importlib.metadata.version("llguidance"),
                "sampling": {"version": 1, "numpy": np.__version__},
            }
            | ({"gpu_layers": self._gpu_layers} if self._gpu_layers else {})
        )[:32]

    def _check(self, golden: Golden, path: Path) -> None:
        """Compute a known prompt and compare a few logits: a binary that computes wrongly is found here."""
        tokens = self.tokenize(golden.prompt)
        logits = self.feed(0, 0, tokens[: self.layout.chunk_tokens], True)
        assert logits is not None
        found = {token: float(logits[token]) for token in golden.logits}
        largest = int(logits.argmax())
        self.drop(0)
        distance = max(abs(found[token] - expected) for token, expected in golden.logits.items())
        if largest != golden.most_probable or not distance <= golden.tolerance:
            raise SetupError(
                f"The golden logits are not met: token {largest} instead of {golden.most_probable}, "
                f"off by up to {distance:.3g} (tolerance {golden.tolerance}).",
                where=str(path),
                next_step="The model file or the llama.cpp library computes wrongly here; reinstall both.",
            )


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
