"""Reads the stream of an OpenAI-compatible server as an engine's deltas and result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import (
    Alternative,
    Delta,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    TokenOut,
)
from antiphon.engine.api.tool_text import ToolWriter
from antiphon.engine.backends.remote.protocol import unpinned


class CompletionStream:
    """One stream of a completion as far as it was read; times are of the caller's clock."""

    def __init__(
        self,
        request: GenerationRequest,
        began: float,
        fingerprint: Callable[[str, str | None], str] | None = None,
        gpus: int = 0,
    ) -> None:
        self._request = request
        self._gpus = gpus
        self._named = fingerprint or unpinned
        self._began = began
        self._first: float | None = None
        self._text: list[str] = []
        self._chunks = 0
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None
        self._fingerprint: str | None = None
        self._tools = ToolWriter() if request.tools is not None else None
        self._echo: list[TokenOut] | None = [] if request.prompt_logprobs is not None else None
        self._echoed = 0
        """Characters of the prompt that came back."""

    def read(self, payloads: Sequence[bytes], now: float) -> Delta | None:
        """Read events of the stream that came together; raises ``EngineError`` if one tells of a failure or is
        unreadable."""
        deltas = [delta for payload in payloads if (delta := self._event(payload, now)) is not None]
        if len(deltas) < 2:
            return deltas[0] if deltas else None
        text = "".join(delta.text for delta in deltas)
        tokens = tuple(token for delta in deltas for token in delta.tokens)
        return Delta(self._request.id, text, tokens, next((delta.prompt for delta in deltas if delta.prompt), ()))

    def _event(self, payload: bytes, now: float) -> Delta | None:
        try:
            chunk = msgspec.json.decode(payload)
            if "error" in chunk:
                raise EngineError("The remote engine failed in the middle of an answer.")
            self._usage = chunk.get("usage") or self._usage
            self._fingerprint = chunk.get("system_fingerprint") or self._fingerprint
            if not chunk.get("choices"):
                return None
            choice = chunk["choices"][0]
            self._reason = choice.get("finish_reason") or self._reason
            text = self._written(choice["delta"]) if self._request.messages else choice["text"]
            tokens = self._tokens(choice.get("logprobs") or {})
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError("The remote engine sent an event that cannot be read.") from error
        prompt: tuple[TokenOut, ...] = ()
        if self._echo is not None:
            text, tokens, prompt = self._without_prompt(text or "", tokens)
        if not text and not tokens and not prompt:
            return None
        self._first = self._first if self._first is not None else now
        self._text.append(text or "")
        self._chunks += bool(text or tokens)
        return Delta(self._request.id, text or "", tokens, prompt)

    def last(self) -> Delta | None:
        """The delta that only the end of the stream completes."""
        prompt = tuple(self._echo or ())  # a prompt with nothing behind it
        self._echo = None
        text = self._tools.end() if self._tools is not None and self._reason is not None else ""
        self._text.append(text)
        return Delta(self._request.id, text, (), prompt) if text or prompt else None

    def result(self, now: float) -> GenerationResult:
        """The end of the generation; raises ``EngineError`` when the stream ended before it."""
        if self._reason is None:
            raise EngineError("The remote engine's stream ended early.", next_step="Ask again.")
        first = self._first if self._first is not None else now
        cached = (self._usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        completed = self._usage.get("completion_tokens")
        return GenerationResult(
            id=self._request.id,
            reason="length" if self._reason == "length" else "stop",
            text="".join(self._text),
            usage=GenerationUsage(
                prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
                cached_prompt_tokens=int(cached),
                completion_tokens=int(completed if completed is not None else self._chunks),
                forced_tokens=0,
                steps=self._chunks,
                queue_seconds=0.0,
                prefill_seconds=first - self._began,
                decode_seconds=now - first,
                engine_seconds=now - self._began,
                gpus=self._gpus,
            ),
            fingerprint=self._named(self._request.model, self._fingerprint),
        )

    def _written(self, delta: dict[str, Any]) -> str | None:
        content: str | None = delta.get("content")
        if self._tools is None:
            return content
        for piece in delta.get("tool_calls") or ():
            self._tools.call(piece)
        return self._tools.content(content) if content else None

    def _without_prompt(
        self, text: str, tokens: tuple[TokenOut, ...]
    ) -> tuple[str, tuple[TokenOut, ...], tuple[TokenOut, ...]]:
        """(text, tokens, prompt): what belongs to the completion, and the prompt's tokens once they are all there."""
        assert self._echo is not None
        request, count = self._request, 0
        while count < len(tokens) and not self._prompt_is_back():
            self._echo.append(tokens[count])
            self._echoed += len(tokens[count].text)
            count += 1
        text = text[sum(len(token.text) for token in tokens[:count]) :]
        if not tokens and text == request.prompt:
            return "", (), ()  # a server that repeats the prompt without its tokens
        if not self._prompt_is_back():
            return text, tokens[count:], ()
        prompt, self._echo = tuple(self._echo), None
        return text, tokens[count:], prompt

    def _prompt_is_back(self) -> bool:
        request = self._request
        if request.prompt_ids:
            return len(self._echo or ()) >= len(request.prompt_ids)
        return self._echoed >= len(request.prompt)

    def _tokens(self, logprobs: dict[str, Any]) -> tuple[TokenOut, ...]:
        if self._request.messages:
            return tuple(
                _token(
                    entry["token"],
                    entry["logprob"],
                    [(other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()],
                )
                for entry in logprobs.get("content") or ()
            )
        texts = logprobs.get("tokens") or []
        chosen = logprobs.get("token_logprobs") or [None] * len(texts)
        tops = logprobs.get("top_logprobs") or [None] * len(texts)
        return tuple(
            _token(text, logprob, (top or {}).items()) for text, logprob, top in zip(texts, chosen, tops, strict=True)
        )


def _token(text: str, logprob: float | None, alternatives: Iterable[tuple[str, float]]) -> TokenOut:
    others = tuple(Alternative(other, -1, value) for other, value in alternatives)
    return TokenOut(-1, text, logprob, False, others)
