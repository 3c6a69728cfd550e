"""A runtime without a model: deterministic words, step times as configured; for tests of everything around it.

It has no context length worth mentioning and no knowledge; under a JSON schema it writes short valid values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from antiphon.core.ids import content_hash
from antiphon.engine.api.messages import ModelDescription
from antiphon.engine.execution.runtime import CallInterruptedError, Layout, Logits, SequenceState, TokenVocabulary

_SENTENCE = (
    "a an and are answers at before by every flight for from here in is it later model no of on one only online or "
    "passengers please ready simulated speaks step text that the there this time to today under waits while with "
    "words you"
)
_WORDS = tuple(_SENTENCE.split())
_PIECES = (
    tuple(bytes([value]) for value in range(256))
    + tuple(f" {word}".encode() for word in _WORDS)
    + (b'{"', b'": "', b'": ', b'", "', b', "', b'"}', b"")
)
_END = len(_PIECES) - 1
_FIRST_WORD = 256
_QUOTE, _BRACE, _COMMA, _BRACKET = 0x22, 0x7D, 0x2C, 0x5D
_CLOSERS = (_QUOTE, _BRACE, _BRACKET, _PIECES.index(b'", "'), _PIECES.index(b'"}'))
_LONGEST_PIECE = max(map(len, _PIECES))
_IDS = {piece: token for token, piece in enumerate(_PIECES) if piece}

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class _Slot(msgspec.Struct):
    tokens: list[int] = []
    start: int = -1
    """Position of the completion, ``-1`` before the first logits."""


class SimulatedRuntime:
    """Implements :class:`~antiphon.engine.execution.runtime.Runtime`.

    Args:
        call_seconds: each call's fixed time.
        decode_seconds: per token of a shared decode call.
        prefill_seconds: per token of a prefill call.
        words: about how many words a text has.
        weights: two models with different weights write different texts.
    """

    vocabulary = TokenVocabulary(_PIECES, frozenset({_END}), max(map(len, _PIECES)))

    def __init__(
        self,
        name: str = "simulated",
        layout: Layout | None = None,
        *,
        call_seconds: float = 0.0,
        decode_seconds: float = 0.0,
        prefill_seconds: float = 0.0,
        words: int = 8,
        weights: str = "",
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.layout = layout or Layout(context_tokens=16_384)
        self._call_seconds, self._decode_seconds, self._prefill_seconds = call_seconds, decode_seconds, prefill_seconds
        self._words = words
        self._weights = [weights] if weights else []
        self._interrupted = threading.Event()
        self._sleep = sleep or self._interrupted.wait
        self._slots = [_Slot([]) for _ in range(self.layout.slots)]
        self.resting = False
        self.description = ModelDescription(
            name=name,
            fingerprint=content_hash({"simulated": 1, "words": words} | ({"weights": weights} if weights else {}))[:32],
            context_tokens=self.layout.context_tokens,
            chat_template=CHAT_TEMPLATE,
            special_tokens=(),
            bos="",
            eos="",
        )

    @cached_property
    def grammar_tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        return LLTokenizer(TokenizerWrapper(_GrammarTokens()))

    def tokenize(self, text: str) -> list[int]:
        return _tokenize(text.encode())

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        self._wait(self._prefill_seconds * len(tokens))
        held = self._slots[slot]
        assert position == len(held.tokens)
        held.tokens.extend(tokens)
        return self._logits(held) if want_logits else None

    def score(self, slot: int, position: int, tokens: Sequence[int]) -> list[Logits]:
        self._wait(self._prefill_seconds * len(tokens))
        held = self._slots[slot]
        assert position == len(held.tokens)
        every = []
        for token in tokens:
            held.tokens.append(token)
            every.append(self._logits(_Slot(held.tokens)))
        held.start = len(held.tokens)  # only prompts are scored: a completion begins behind what was scored last
        return every

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self._wait(self._decode_seconds * len(tokens))
        every = []
        for slot, position, token in zip(slots, positions, tokens, strict=True):
            held = self._slots[slot]
            assert position == len(held.tokens)
            held.tokens.append(token)
            every.append(self._logits(held))
        return every

    def interrupt(self) -> None:
        self._interrupted.set()

    def rearm(self) -> None:
        self._interrupted.clear()

    def drop(self, slot: int) -> None:
        self._slots[slot] = _Slot([])

    def copy_state(self, slot: int) -> SequenceState:
        return np.frombuffer(msgspec.msgpack.encode(self._slots[slot]), dtype=np.uint8)

    def restore_state(self, slot: int, state: SequenceState) -> None:
        self._slots[slot] = msgspec.msgpack.decode(state.tobytes(), type=_Slot)

    def rest(self) -> None:
        self._slots = [_Slot([]) for _ in range(self.layout.slots)]
        self.resting = True

    def wake(self) -> None:
        self.resting = False

    def close(self) -> None:
        self._slots = []

    def _wait(self, seconds: float) -> None:
        if seconds + self._call_seconds > 0:
            self._sleep(seconds + self._call_seconds)
        if self._interrupted.is_set():
            self._interrupted.clear()
            raise CallInterruptedError

    def _logits(self, held: _Slot) -> Logits:
        if held.start < 0:
            held.start = len(held.tokens)
        completion = held.tokens[held.start :]
        since_quote = next(
            (n for n, token in enumerate(reversed(completion)) if _QUOTE in _PIECES[token]), len(completion)
        )
        key = int(content_hash([held.tokens[: held.start], completion, *self._weights])[:16], 16)
        generator = np.random.Generator(np.random.Philox(key=key))
        logits = generator.standard_normal(len(_PIECES)).astype(np.float32)
        if since_quote < self._words:
            # A few words are about equally likely, so that a draw has a choice.
            logits[_FIRST_WORD + generator.integers(len(_WORDS), size=4)] += 20.0
        else:
            logits[_END] += 16.0
        # Where a grammar forbids words, and once there are enough of them, values are closed.
        logits[list(_CLOSERS)] += 9.0
        logits[_COMMA] += 6.0
        return logits


class _GrammarTokens:
    """The tokenizer that llguidance expects."""

    eos_token_id = _END
    bos_token_id = None
    tokens = (*_PIECES[:_END], b"\xff<end>")
    special_token_ids = (_END,)

    def __call__(self, text: bytes) -> list[int]:
        return _tokenize(text)


def _tokenize(content: bytes) -> list[int]:
    """Longest match first."""
    tokens = []
    at = 0
    while at < len(content):
        length = next(n for n in range(_LONGEST_PIECE, 0, -1) if content[at : at + n] in _IDS)
        tokens.append(_IDS[content[at : at + length]])
        at += length
    return tokens
