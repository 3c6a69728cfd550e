"""Turns a request into a sequence: checked, tokenized, and with its grammar compiled.

This may take a hundred milliseconds, so it happens in a thread, before the step loop.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError, PromptTooLongError, UnsatisfiableSchemaError
from antiphon.engine.api import parameters
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.execution.model_executor import ModelExecutor
from antiphon.engine.execution.prefix_cache import hash_prefixes
from antiphon.engine.execution.sequence import Sequence

MOST_STOPS = 16
MOST_LOGPROBS = 20


def check(request: GenerationRequest) -> None:
    """Refuse a request that no model could serve: ``InvalidInputError`` names the parameter."""

    def require(good: bool, parameter: str, rule: str) -> None:
        if not good:
            value: Any = msgspec.to_builtins(getattr(request, parameter))
            raise InvalidInputError(f"{parameter} is {value!r}; it must be {rule}.", where=parameter)

    scored = request.prompt_logprobs is not None
    require(request.max_tokens >= (0 if scored else 1), "max_tokens", "at least 1")
    require(math.isfinite(request.temperature) and 0 <= request.temperature <= 10, "temperature", "between 0 and 10")
    require(0 < request.top_p <= 1, "top_p", "above 0 and at most 1")
    for name, count in (("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)):
        require(count is None or 0 <= count <= MOST_LOGPROBS, name, f"between 0 and {MOST_LOGPROBS}")
    parameters.refuse(*parameters.fields(request.parameters))
    constrained = request.json_schema is not None or request.grammar is not None
    require(not (scored and constrained), "prompt_logprobs", "left out with a schema")
    require(request.json_schema is None or request.grammar is None, "grammar", "left out with a schema")
    require(not (request.prompt and request.prompt_ids), "prompt_ids", "left out beside a prompt")
    penalties = request.penalties
    require(
        all(-2 <= value <= 2 for value in (penalties.frequency, penalties.presence))
        and all(-100 <= bias <= 100 for _, bias in penalties.bias),
        "penalties",
        "between -2 and 2, and bias between -100 and 100",
    )
    require(
        not (request.ignore_end and constrained),
        "ignore_end",
        "false with a schema, which says where to end",
    )
    require(
        len(request.stop) <= MOST_STOPS and all(request.stop), "stop", f"at most {MOST_STOPS} texts, none of them empty"
    )


def prepare(executor: ModelExecutor, ticket: int, request: GenerationRequest, arrived: float) -> Sequence:
    """Make the sequence of a request that was checked; from any thread.

    Raises:
        InvalidInputError, PromptTooLongError, UnsatisfiableSchemaError: the model cannot serve it.
    """
    if request.messages or request.tools is not None:
        raise InvalidInputError(
            "The engine has no chat template of its own to apply to `messages`.",
            where="messages",
            next_step="Render them with the template of its description, and send a prompt.",
        )
    runtime = executor.runtime
    room = runtime.layout.context_tokens
    _require_room(request, room, runtime.vocabulary.longest)
    runtime.wake()  # Here and not in the step loop, where others would wait for it.
    prompt = list(request.prompt_ids) or runtime.tokenize(request.prompt)
    _check_tokens(request, len(runtime.vocabulary.pieces))
    if not prompt:
        raise InvalidInputError("The prompt is empty.", where="prompt")
    if len(prompt) + request.max_tokens > room:
        raise _too_long(str(len(prompt)), request, room)
    constraint = None
    forced: list[int] = []
    constrained = request.json_schema if request.grammar is None else request.grammar
    if constrained is not None:
        constraint = executor.grammars.constraint(constrained, lark=request.grammar is not None)
        forced = constraint.forced()
        if len(forced) + (not constraint.complete) > request.max_tokens:
            raise UnsatisfiableSchemaError(
                f"The schema needs more than max_tokens ({request.max_tokens}) tokens: "
                f"{len(forced)} are fixed from the start.",
                where="max_tokens",
            )
    return Sequence(
        ticket=ticket,
        request=request,
        prompt=prompt,
        forced=forced,
        constraint=constraint,
        vocabulary=runtime.vocabulary,
        prefix_hashes=hash_prefixes(prompt + forced, runtime.layout.chunk_tokens, request.cache_salt),
        arrived=arrived,
    )


def _require_room(request: GenerationRequest, room: int, longest: int) -> None:
    """Refuse by its length alone what cannot fit: tokenizing megabytes would take seconds of everybody's time."""
    least = len(request.prompt_ids)
    if request.prompt and longest and 4 * len(request.prompt) > room * longest:
        least = -(-len(request.prompt.encode()) // longest)
    if least + request.max_tokens > room:
        raise _too_long(f"At least {least}", request, room)


def _too_long(count: str, request: GenerationRequest, room: int) -> PromptTooLongError:
    return PromptTooLongError(
        f"{count} prompt tokens and max_tokens {request.max_tokens} exceed the context of {room} tokens.",
        where="prompt",
        next_step="Shorten the prompt, lower max_tokens, or give the engine a larger context.",
    )


def _check_tokens(request: GenerationRequest, vocabulary: int) -> None:
    biased = [token for token, _ in request.penalties.bias]
    for where, tokens in (("prompt", request.prompt_ids), ("logit_bias", biased)):
        wrong = next((token for token in tokens if not 0 <= token < vocabulary), None)
        if wrong is not None:
            raise InvalidInputError(
                f"The model has no token {wrong}; it has those from 0 to {vocabulary - 1}.",
                where=where,
                next_step="Make the tokens with this model's own tokenizer.",
            )
