"""What an OpenAI-compatible server is asked: requests of an engine as the protocol writes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.engine.api import parameters
from antiphon.engine.api.messages import ChatTurn, GenerationRequest
from antiphon.engine.backends.vllm import arguments


def generation_body(
    request: GenerationRequest, model: str, *, vllm: bool, takes: Collection[str] = ()
) -> dict[str, Any]:
    """A generation as the protocol asks for it, streamed; under the server's own name of the model.

    Args:
        vllm: the server is a vLLM, and is told what only that understands.
        takes: names of fields beyond OpenAI's that the server understands besides.

    Raises:
        UnsupportedParameterError: the protocol cannot say it.
        InvalidInputError: the schema is no JSON.
    """
    more = parameters.fields(request) | ({"ignore_eos": True} if request.ignore_end else {})
    if not vllm:
        parameters.refuse(*(name for name in more if name not in takes))
    if request.grammar is not None:
        raise UnsupportedParameterError("OpenAI's protocol carries no grammar.", where="grammar")
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    body |= more
    penalties = request.penalties
    if penalties.frequency:
        body["frequency_penalty"] = penalties.frequency
    if penalties.presence:
        body["presence_penalty"] = penalties.presence
    if penalties.bias:
        body["logit_bias"] = {str(token): bias for token, bias in penalties.bias}
    if vllm:
        body |= arguments.body(request.priority, request.level)
        if request.cache_salt:
            body["cache_salt"] = request.cache_salt
    if request.stop:
        body["stop"] = list(request.stop)
    if request.messages:
        body["messages"] = [message(turn) for turn in request.messages]
        if request.tools is not None:
            body |= msgspec.json.decode(request.tools)
        if request.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": request.logprobs}
    else:
        body["prompt"] = list(request.prompt_ids) or request.prompt
        if request.logprobs is not None:
            body["logprobs"] = request.logprobs
        if request.prompt_logprobs is not None:
            body |= {"echo": True, "logprobs": max(request.prompt_logprobs, request.logprobs or 0)}
    if request.json_schema is not None:
        try:
            schema = msgspec.json.decode(request.json_schema)
        except msgspec.DecodeError as error:
            raise InvalidInputError(f"The schema is no JSON: {error}.", where="json_schema") from error
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema, "strict": True},
        }
    return body


def message(turn: ChatTurn) -> dict[str, Any]:
    """A turn as the protocol writes it."""
    written: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        written["content"] = turn.content or None
        written["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in turn.tool_calls
        ]
    if turn.tool_call_id is not None:
        written["tool_call_id"] = turn.tool_call_id
    if turn.name is not None:
        written["name"] = turn.name
    return written
