"""An engine for tests that follows a script of texts, failures and waits, in the order of the requests.

It implements the engine's port in process, without tokens of a real vocabulary: a text's words are its tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

import msgspec

from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.core.ids import content_hash
from antiphon.engine.api.messages import (
    Branch,
    Delta,
    EngineDescription,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    ModelDescription,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
    TokenOut,
)

MODEL = ModelDescription(
    name="scripted",
    fingerprint="scripted-1",
    context_tokens=4_096,
    chat_template=(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    special_tokens=("<|im_start|>", "<|im_end|>"),
    bos="<|im_start|>",
    eos="<|im_end|>",
)


class ScriptedGeneration(msgspec.Struct, frozen=True):
    """One scripted generation.

    Attributes:
        text: the completion, one word a delta.
        pieces: the deltas instead, where words are not to be the pieces; together they are the text.
        reason: of the end.
        error: raised instead of the end, after ``text`` was sent.
        branches: reported at the end.
        waits: awaited before the first word; the generation is in flight meanwhile.
        fingerprint: of this generation, the model's own by default.
        unfinished: stop without an end, as an engine that breaks the protocol would.
    """

    text: str = ""
    reason: Literal["stop", "length", "cancelled"] = "stop"
    error: Exception | None = None
    branches: tuple[Branch, ...] = ()
    waits: asyncio.Event | None = None
    fingerprint: str | None = None
    unfinished: bool = False
    pieces: tuple[str, ...] = ()


Script = Sequence[ScriptedGeneration] | Callable[[GenerationRequest], ScriptedGeneration]


class ScriptedEngine:
    """Implements :class:`~antiphon.engine.api.port.Engine`.

    Args:
        script: generations in the order of the requests (the last one is repeated), or a function of the request.
        models: the served models.
    """

    def __init__(self, script: Script, models: tuple[ModelDescription, ...] = (MODEL,)) -> None:
        self.models = models
        self.away = False
        """True if it cannot be reached."""
        self.asked: list[GenerationRequest] = []
        """Every request, in order."""
        self.in_flight = 0
        self.most_in_flight = 0
        self.cancelled = 0
        """Generations that were closed before their end."""
        self.declared: list[tuple[ServedModel, ...]] = []
        """Every declaration of models, in order; the last one's are served beside ``models``."""
        self.gpus = 0
        """GPUs that it says to have."""
        self._script = script

    def follow(self, script: Script) -> None:
        """Follow another script from now on; places in a sequence count from the first request of all."""
        self._script = script

    async def describe(self) -> EngineDescription:
        self._require_reachable()
        known = {model.name for model in self.models}
        declared = tuple(
            msgspec.structs.replace(self.models[0], name=model.name, fingerprint=model.sha256)
            for model in (self.declared[-1] if self.declared else ())
            if model.name not in known
        )
        return EngineDescription(
            "describe", self.models + declared, EngineLoad(running_online=self.in_flight, slots=16, gpus=self.gpus)
        )

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        self._require_reachable()
        self.declared.append(tuple(models))
        return await self.describe()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self._require_reachable()
        says = self._next(request)
        self.asked.append(request)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        ended = False
        try:
            if says.waits is not None:
                await says.waits.wait()
            pieces = says.pieces or _words(says.text)
            tokens = [TokenOut(at, piece, -0.5, False) for at, piece in enumerate(pieces)]
            for token in tokens:
                yield Delta(request.id, token.text, (token,))
            ended = True
            if says.error is not None:
                raise says.error
            if not says.unfinished:
                yield self._finished(request, says, len(tokens))
        finally:
            self.in_flight -= 1
            self.cancelled += not ended

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """Refuse: there is no embedding model."""
        raise NotFoundError("The engine embeds nothing.", where="model")

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """Refuse: there is no tokenizer."""
        raise NotFoundError("The engine has no tokens.", where="model")

    async def close(self) -> None:
        self.away = True

    def _require_reachable(self) -> None:
        if self.away:
            raise UnavailableError("The engine cannot be reached.", where="engine", next_step="Try again shortly.")

    def _next(self, request: GenerationRequest) -> ScriptedGeneration:
        if callable(self._script):
            return self._script(request)
        return self._script[min(len(self.asked), len(self._script) - 1)]

    def _finished(self, request: GenerationRequest, says: ScriptedGeneration, tokens: int) -> GenerationResult:
        prompt = len(request.prompt.split()) + sum(len(turn.content.split()) for turn in request.messages)
        return GenerationResult(
            id=request.id,
            reason=says.reason,
            text=says.text,
            usage=GenerationUsage(prompt, 0, tokens, 0, tokens, 0.0, 0.001, 0.002, 0.003, gpus=self.gpus),
            fingerprint=says.fingerprint or self.models[0].fingerprint,
            token_ids=tuple(range(tokens)),
            branches=says.branches,
        )


def echo(request: GenerationRequest) -> ScriptedGeneration:
    """A text that depends on the whole request and on nothing else, as a deterministic model's does."""
    return ScriptedGeneration(f"echo {content_hash([request.prompt, request.messages, request.seed])[:12]}")


def _words(text: str) -> list[str]:
    words = text.split(" ")
    return [word if at == 0 else f" {word}" for at, word in enumerate(words)] if text else []
