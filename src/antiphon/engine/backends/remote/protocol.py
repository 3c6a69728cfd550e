"""OpenAI's protocol as an engine speaks it: bodies of requests, vectors of answers, and errors of refusals.

Invariant: the text of a server's error is not passed on. It may repeat the prompt or the key.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
    UnsupportedParameterError,
)
from antiphon.engine.api import parameters, tool_text
from antiphon.engine.api.messages import GenerationRequest, TextEmbeddingRequest, TextEmbeddings
from antiphon.engine.backends.remote.admission import ServerReport
from antiphon.engine.backends.vllm import arguments

_SENT = frozenset({"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "presence_penalty", "prompt", "seed"}
    | {"messages", "response_format", "stop", "temperature", "tool_choice", "tools", "top_p", "echo"})  # fmt: skip
"""Parameters that a server's error may name; the rest of it is not passed on."""

_REPORTED = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


def generation_body(
    request: GenerationRequest, model: str, *, vllm: bool, takes: Collection[str] = ()
) -> dict[str, Any]:
    """The body of a streamed generation, under the server's own name of the model.

    Args:
        vllm: the server is a vLLM, and gets fields that only vLLM knows.
        takes: names of fields beyond OpenAI's that the server knows besides.

    Raises:
        UnsupportedParameterError: the protocol has no such parameter.
        InvalidInputError: the schema is no JSON.
    """
    more = parameters.fields(request.parameters) | ({"ignore_eos": True} if request.ignore_end else {})
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
    given = {
        "frequency_penalty": penalties.frequency,
        "presence_penalty": penalties.presence,
        "logit_bias": {str(token): bias for token, bias in penalties.bias},
        "cache_salt": request.cache_salt if vllm else "",
        "stop": list(request.stop),
    }
    body |= {name: value for name, value in given.items() if value}
    if vllm:
        body |= arguments.body(request.priority, request.level)
    if request.messages:
        body["messages"] = [tool_text.message(turn, lambda call: call.arguments) for turn in request.messages]
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


class _RemoteVector(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _RemoteVectors(msgspec.Struct):
    data: list[_RemoteVector]
    usage: dict[str, Any] = {}


def embeddings_of(content: bytes, request: TextEmbeddingRequest, seconds: float, gpus: int = 0) -> TextEmbeddings:
    """Read the vectors of an answer; a server that does not know base64 sends numbers.

    Raises:
        EngineError: they cannot be read, or are not one vector of the same length for each text.
    """
    try:
        read = msgspec.json.decode(content, type=_RemoteVectors)
        rows = {
            one.index: base64.b64decode(one.embedding, validate=True)
            if isinstance(one.embedding, str)
            else struct.pack(f"<{len(one.embedding)}f", *one.embedding)
            for one in read.data
        }
        tokens = int(read.usage.get("prompt_tokens") or 0)
    except (ValueError, TypeError, struct.error, OverflowError) as error:
        raise EngineError("The remote engine sent vectors that cannot be read.") from error
    sizes = {len(row) for row in rows.values()}
    if sorted(rows) != list(range(len(request.texts))) or len(sizes) != 1 or not sizes or min(sizes) % 4:
        raise EngineError("The remote engine sent other vectors than one for each text.")
    return TextEmbeddings(
        id=request.id,
        vectors=b"".join(rows[place] for place in range(len(rows))),
        dimensions=sizes.pop() // 4,
        tokens=(tokens,),
        fingerprint=fingerprint(request.model),
        engine_seconds=seconds,
        gpus=gpus,
    )


def report_of(content: bytes, url: str) -> ServerReport:
    """The state in a vLLM's metrics (names of release 0.32), all of its engines together: the fullest cache.

    Raises:
        EngineError: it is not there.
    """
    found: dict[str, list[float]] = {}
    try:
        for line in content.decode().splitlines():
            name, _, rest = line.partition("{")
            if name in _REPORTED:
                found.setdefault(name, []).append(float(rest.rpartition("}")[2].split()[0]))
        running, waiting, cache = (found[name] for name in _REPORTED)
        return ServerReport(int(sum(running)), int(sum(waiting)), max(cache))
    except (ValueError, LookupError, OverflowError) as error:
        raise EngineError("The server's metrics cannot be read.", where=url) from error


def fingerprint(model: str, version: str | None = None, system: str | None = None) -> str:
    """Fingerprint of a remote model: its name, the version that it was seen to be, and the server's own fingerprint of
    its configuration."""
    return f"remote:{model}:{version or 'unknown'}" + ("" if system is None else f":{system}")


def unpinned(model: str, system: str | None) -> str:
    """Fingerprint of a model of which no version is known."""
    return fingerprint(model, None, system)


def version_of(text: str, model: str) -> str | None:
    """The version in a fingerprint of this remote model; ``None`` where none was known, or of anything else."""
    begins = fingerprint(model, "")[: -len("unknown")]
    version = text.removeprefix(begins).partition(":")[0] if text.startswith(begins) else "unknown"
    return None if version == "unknown" else version


def unreachable(error: Exception, url: str) -> UnavailableError:
    """The error for a connection that could not be made."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return UnavailableError(
            "The remote engine's certificate is not accepted.",
            where=url,
            next_step="Check its name and dates; `authority` under [engine] names whom to trust.",
        )
    if "ALERT" in str(error):
        return UnavailableError(
            "The remote engine refused the connection by a TLS alert.",
            where=url,
            next_step="If it asks for a certificate, set `client_certificate` and `client_key` under [engine].",
        )
    return UnavailableError(
        f"The remote engine cannot be reached ({type(error).__name__}).",
        where=url,
        next_step="See whether the server runs and the URL is right.",
    )


def refusal_of(
    status: int, headers: Mapping[str, str], content: bytes, url: str, sent: Collection[str] = ()
) -> AntiphonError:
    """The error for a non-200 answer; ``sent`` names parameters beyond OpenAI's that were sent."""
    message, code, parameter = _complaint(content)
    text = f"The remote engine answered {status}."
    if status == 429:
        retry_after = headers.get("retry-after", "")
        return OverloadedError(text, where=url, retry_after=float(retry_after) if retry_after.isdigit() else 1.0)
    if status == 404:
        return NotFoundError(text, where=url)
    if status in (401, 403):
        return UnavailableError(text, where=url, next_step="Check the key of the remote engine.")
    if code == PromptTooLongError.code or "context length" in message:
        return PromptTooLongError(text, where=url)
    if status in (400, 422):
        if parameter in _SENT or parameter in sent:
            return InvalidInputError(f"The remote engine refused `{parameter}` ({status}).", where=parameter)
        return InvalidInputError(text, where=url)
    if status == 503:
        return UnavailableError(text, where=url)
    return EngineError(text, where=url)


def _complaint(content: bytes) -> tuple[str, str | None, str | None]:
    """(message, code, parameter) of an OpenAI-shaped error, or the text itself."""
    try:
        error = msgspec.json.decode(content)["error"]
        if not isinstance(error, dict):
            return str(error), None, None
        return str(error.get("message", error)), error.get("code"), error.get("param")
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace") or "nothing", None, None
