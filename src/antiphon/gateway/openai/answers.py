"""Answers in OpenAI's shapes: whole, the same online and for a line of a batch, and streamed.

With several choices each chunk says which one it adds to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from antiphon.engine.api import tool_text
from antiphon.engine.api.messages import TokenOut, ToolCall
from antiphon.engine.api.tool_text import ToolReader
from antiphon.gateway.openai import shapes
from antiphon.gateway.openai.parameters import ChatParameters, ChoiceParameters, CompletionParameters
from antiphon.gateway.openai.tools import called, called_delta
from antiphon.serving.request import Answer, TextDelta

Answering = AsyncIterator[tuple[int, TextDelta | Answer]]
"""Deltas and answers, each with its choice's number."""


def chat_completion(created: int, read: ChatParameters, answers: Sequence[Answer]) -> shapes.ChatCompletion:
    """Answer of ``/v1/chat/completions``; ``created`` is in seconds since 1970."""
    return shapes.ChatCompletion(
        created=created,
        model=read.model,
        choices=tuple(
            shapes.ChatChoice(
                *_turn(read, answer),
                shapes.chat_logprobs(answer.tokens) if read.logprobs else None,
                index,
                **_each(answer, answers),
            )
            for index, answer in enumerate(answers)
        ),
        **_common(read, answers),
    )


def completion(created: int, read: CompletionParameters, answers: Sequence[Answer]) -> shapes.Completion:
    """Answer of ``/v1/completions``; ``created`` is in seconds since 1970."""
    return shapes.Completion(
        created=created,
        model=read.model,
        choices=tuple(
            shapes.CompletionChoice(
                f"{echoed(read, index, answer.prompt)}{answer.text}",
                answer.finish_reason,
                shapes.completion_logprobs(answer.tokens, answer.prompt) if read.logprobs is not None else None,
                index,
                **_each(answer, answers),
            )
            for index, answer in enumerate(answers)
        ),
        **_common(read, answers),
    )


def echoed(read: CompletionParameters, index: int, tokens: Sequence[TokenOut]) -> str:
    """The prompt of a choice as ``echo`` gives it back: as it came, or the texts of its tokens."""
    if not read.echo:
        return ""
    prompt = read.prompts[index // read.choices]
    return prompt if isinstance(prompt, str) else "".join(token.text for token in tokens)


def finish_reason(answer: Answer, calls: int) -> str:
    """Returns the reason a turn ended; one that called did so for its calls."""
    return "tool_calls" if calls and answer.finish_reason == "stop" else answer.finish_reason


def _turn(read: ChatParameters, answer: Answer) -> tuple[shapes.AssistantMessage, str]:
    if not read.calls:
        return shapes.AssistantMessage(answer.text), answer.finish_reason
    content, calls = tool_text.read(answer.text)
    message = shapes.AssistantMessage(content)
    if calls:
        message = shapes.AssistantMessage(content, tool_calls=tuple(called(call) for call in calls))
    return message, finish_reason(answer, len(calls))


def _each(answer: Answer, answers: Sequence[Answer]) -> dict[str, Any]:
    return {"antiphon": shapes.provenance(answer)} if len(answers) > 1 else {}


def _common(read: ChoiceParameters, answers: Sequence[Answer]) -> dict[str, Any]:
    first = answers[0]
    return {
        "id": first.prediction,
        "usage": shapes.usage(answers, read.choices),
        "system_fingerprint": shapes.fingerprint(first),
        "antiphon": shapes.provenance(first),
        "service_tier": shapes.tier(read.service_tier),
    }


class _Ends:
    """The ends of the choices, and what their last chunks carry."""

    def __init__(self, read: ChoiceParameters, choices: int) -> None:
        self.with_usage = read.stream_options is not None and read.stream_options.include_usage
        self._each = read.choices
        self._choices = choices
        self._tier = shapes.tier(read.service_tier)
        self._answers: dict[int, Answer] = {}

    @property
    def usual(self) -> dict[str, Any]:
        """Returns the fields of every chunk."""
        return {"service_tier": self._tier, **({"usage": None} if self.with_usage else {})}

    def made(self, index: int, answer: Answer) -> dict[str, Any]:
        """Returns the fields of a choice's last chunk: of a lone one with usage, the chunk after it has them."""
        self._answers[index] = answer
        return self.usual if self.with_usage and self._choices == 1 else {**self.usual, **_made(answer)}

    @property
    def last(self) -> dict[str, Any] | None:
        """Returns the fields of the chunk without choices after all have ended, if there is one."""
        if not self.with_usage or len(self._answers) < self._choices:
            return None
        answers = [answer for _, answer in sorted(self._answers.items())]
        made = _made(answers[0]) if self._choices == 1 else {}
        return {**self.usual, "usage": shapes.usage(answers, self._each), **made}


async def chat_chunks(
    name: str, created: int, read: ChatParameters, choices: int, answering: Answering
) -> AsyncGenerator[shapes.ChatChunk, None]:
    """Chunks of a chat completion of so many choices."""
    ends = _Ends(read, choices)
    readers: dict[int, ToolReader] = defaultdict(ToolReader)
    begun: set[int] = set()
    calls: dict[int, int] = defaultdict(int)

    def chunk(*parts: shapes.ChunkChoice, **carried: Any) -> shapes.ChatChunk:
        return shapes.ChatChunk(id=name, created=created, model=read.model, choices=parts, **carried)

    def pieces_of(index: int, pieces: list[str | ToolCall]) -> list[shapes.ChatDelta]:
        found: list[shapes.ChatDelta] = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                found.append(shapes.ChatDelta(tool_calls=(called_delta(calls[index], piece),)))
                calls[index] += 1
            elif piece:
                found.append(shapes.ChatDelta(content=piece))
        return found

    async for index, item in answering:
        if index not in begun:
            begun.add(index)
            yield chunk(shapes.ChunkChoice(shapes.ChatDelta(role="assistant", content=""), index=index), **ends.usual)
        if isinstance(item, TextDelta):
            logprobs = shapes.chat_logprobs(item.tokens) if read.logprobs else None
            written = [shapes.ChatDelta(content=item.text)]
            for delta in pieces_of(index, readers[index].read(item.text)) if read.calls else written:
                yield chunk(shapes.ChunkChoice(delta, logprobs=logprobs, index=index), **ends.usual)
            continue
        for delta in pieces_of(index, readers[index].end()):
            yield chunk(shapes.ChunkChoice(delta, index=index), **ends.usual)
        reason = finish_reason(item, calls[index])
        end = shapes.ChunkChoice(shapes.ChatDelta(), finish_reason=reason, index=index)
        yield chunk(end, **ends.made(index, item))
    if ends.last is not None:
        yield chunk(**ends.last)


async def completion_chunks(
    name: str, created: int, read: CompletionParameters, choices: int, answering: Answering
) -> AsyncGenerator[shapes.Completion, None]:
    """Chunks of a completion of so many choices; with ``echo`` the prompt comes first."""
    ends = _Ends(read, choices)
    written: dict[int, int] = defaultdict(int)

    def chunk(*parts: shapes.CompletionChoice, **carried: Any) -> shapes.Completion:
        return shapes.Completion(id=name, created=created, model=read.model, choices=parts, **carried)

    def choice(index: int, text: str, logprobs: shapes.CompletionLogprobs | None) -> shapes.CompletionChoice:
        written[index] += len(text)
        return shapes.CompletionChoice(text, None, logprobs, index)

    async for index, item in answering:
        if isinstance(item, Answer):
            end = shapes.CompletionChoice("", item.finish_reason, index=index)
            yield chunk(end, **ends.made(index, item))
            continue
        if item.prompt:
            logprobs = shapes.completion_logprobs((), item.prompt) if read.logprobs is not None else None
            yield chunk(choice(index, echoed(read, index, item.prompt), logprobs), **ends.usual)
        if item.text or item.tokens:
            start = written[index]
            logprobs = shapes.completion_logprobs(item.tokens, (), start) if read.logprobs is not None else None
            yield chunk(choice(index, item.text, logprobs), **ends.usual)
    if ends.last is not None:
        yield chunk(**ends.last)


def _made(answer: Answer) -> dict[str, Any]:
    return {"system_fingerprint": shapes.fingerprint(answer), "antiphon": shapes.provenance(answer)}
