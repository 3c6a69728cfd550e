"""Any OpenAI-compatible URL as an engine: what a team already runs can be fronted from the first day.

What such a server does not tell stays empty and is never made up: token ids are ``-1``, branches are not
reported, seconds in the engine are the wall seconds of the stream, and the fingerprint is what the server calls
its own. A request with ``messages`` goes to the server's chat endpoint and its own template, one with a ``prompt`` to
its completions endpoint as it is.
"""

from __future__ import annotations

import base64
import ssl
import struct
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import httpx
import msgspec

from antiphon.core import outgoing
from antiphon.core.errors import (
    AntiphonError,
    EngineFailed,
    InvalidInput,
    NotFound,
    Overloaded,
    PromptTooLong,
    Unavailable,
    UnsupportedParameter,
)
from antiphon.core.ids import new_id
from antiphon.core.tls import ClientTls
from antiphon.engine.messages import (
    Alternative,
    Delta,
    Described,
    Embed,
    Embedded,
    Finished,
    Generate,
    Load,
    ModelDescription,
    ServedModel,
    Tokenise,
    Tokenised,
    TokenOut,
    Usage,
)


class RemoteEngine:
    """Implements :class:`~antiphon.engine.port.Engine` over HTTP.

    Args:
        url: base URL, with or without the final ``/v1``.
        key: bearer token, if the server wants one.
        models: model names of requests to the server's own names; a name not listed is sent as it is.
        context_tokens: reported when the server does not say.
        timeout_seconds: longest silence within a stream.
        tls: whom to trust when the URL is https.

    Raises:
        InvalidInput: a URL that is not called, a key that would cross a network in plain text, or trusted certificates
            that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        models: dict[str, str] | None = None,
        context_tokens: int = 4096,
        timeout_seconds: float = 60.0,
        tls: ClientTls | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        checked = outgoing.check_url(url, where="engine.url", secret=bool(key))
        base = checked.rstrip("/").removesuffix("/v1") + "/v1"
        verify = (tls or ClientTls()).context() if base.startswith("https:") else True
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_seconds, connect=5.0)
        self._http = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=timeout, trust_env=False, follow_redirects=False,
            transport=outgoing.async_transport("engine.url", verify),
        )  # fmt: skip
        self._url = base
        self._models = dict(models or {})
        self._context_tokens = context_tokens
        self._monotonic = monotonic

    async def describe(self) -> Described:
        try:
            response = await self._http.get("/models")
        except (httpx.HTTPError, ssl.SSLError) as error:  # httpx passes a late TLS alert on as it is
            raise self._unreachable(error) from error
        if response.status_code != 200:
            raise self._refused(response.status_code, response.headers, response.content)
        try:
            listed = response.json()["data"]
            found = {str(entry["id"]): entry for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFailed("The server's list of models cannot be read.", where=self._url) from error
        names = {served: name for name, served in self._models.items()}
        return Described(
            new_id("describe"),
            tuple(
                ModelDescription(
                    name=names.get(served, served),
                    fingerprint=_fingerprint(served, None),
                    context_tokens=int(entry.get("max_model_len") or self._context_tokens),
                    chat_template="",
                    special_tokens=(),
                    bos="",
                    eos="",
                )
                for served, entry in found.items()
            ),
            Load(),
        )

    async def serve(self, models: Sequence[ServedModel]) -> Described:
        served = await self.describe()
        missing = {model.name for model in models} - {model.name for model in served.models}
        if missing:
            raise UnsupportedParameter(
                f"The remote engine does not serve {', '.join(sorted(missing))} and cannot be told to.",
                where=self._url,
                next_step="Load the model on that server under this name.",
            )
        return served

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        began = self._monotonic()
        reading = _Reading(request, began)
        try:
            path = "/chat/completions" if request.messages else "/completions"
            async with self._http.stream("POST", path, json=self._body(request)) as response:
                if response.status_code != 200:
                    raise self._refused(response.status_code, response.headers, await response.aread())
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    payload = line[5:].strip()
                    if payload == "[DONE]":
                        break
                    delta = reading.read(payload, self._monotonic())
                    if delta is not None:
                        yield delta
        except (httpx.ConnectError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise EngineFailed(
                f"The connection to the remote engine broke ({type(error).__name__}).", where=self._url
            ) from error
        yield reading.finished(self._monotonic())

    async def embed(self, request: Embed) -> Embedded:
        """See :class:`~antiphon.engine.port.TextEmbedding`; tokens are told of the request as a whole."""
        began = self._monotonic()
        body: dict[str, Any] = {
            "model": self._models.get(request.model, request.model),
            "input": list(request.texts),
            "encoding_format": "base64",
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        try:
            response = await self._http.post("/embeddings", json=body)
        except (httpx.ConnectError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        except httpx.HTTPError as error:
            raise EngineFailed(
                f"The connection to the remote engine broke ({type(error).__name__}).", where=self._url
            ) from error
        if response.status_code != 200:
            raise self._refused(response.status_code, response.headers, response.content)
        return _vectors_of(response.content, request, self._monotonic() - began)

    async def tokenise(self, request: Tokenise) -> Tokenised:
        """See :class:`~antiphon.engine.port.Tokenising`: OpenAI's protocol has no way to ask."""
        raise UnsupportedParameter(
            "The remote engine does not tell how its models read a text.",
            where="model",
            next_step="Ask that server itself.",
        )

    async def close(self) -> None:
        await self._http.aclose()

    def _body(self, request: Generate) -> dict[str, Any]:
        if request.ignore_end:
            raise UnsupportedParameter("A remote engine cannot be told to go on after the end.", where="ignore_end")
        body: dict[str, Any] = {
            "model": self._models.get(request.model, request.model),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.stop:
            body["stop"] = list(request.stop)
        if request.messages:
            body["messages"] = [{"role": role, "content": content} for role, content in request.messages]
            if request.logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": request.logprobs}
        else:
            body["prompt"] = request.prompt
            if request.logprobs is not None:
                body["logprobs"] = request.logprobs
        if request.json_schema is not None:
            try:
                schema = msgspec.json.decode(request.json_schema)
            except msgspec.DecodeError as error:
                raise InvalidInput(f"The schema is no JSON: {error}.", where="json_schema") from error
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "output", "schema": schema, "strict": True},
            }
        return body

    def _unreachable(self, error: Exception) -> Unavailable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Unavailable(
                "The remote engine's certificate is not accepted.",
                where=self._url,
                next_step="Check its name and dates; `authority` under [engine] names whom to trust.",
            )
        if "ALERT" in str(error):
            return Unavailable(
                "The remote engine refused the connection by a TLS alert.",
                where=self._url,
                next_step="If it asks for a certificate, set `client_certificate` and `client_key` under [engine].",
            )
        return Unavailable(
            f"The remote engine cannot be reached ({type(error).__name__}).",
            where=self._url,
            next_step="See whether the server runs and the URL is right.",
        )

    def _refused(self, status: int, headers: httpx.Headers, content: bytes) -> AntiphonError:
        """The error a non-200 answer stands for."""
        message, code = _complaint(content)
        # Its own words may repeat the prompt or the key; the status and what it means are what is passed on.
        text = f"The remote engine answered {status}."
        if status == 429:
            retry_after = headers.get("retry-after", "")
            return Overloaded(text, where=self._url, retry_after=float(retry_after) if retry_after.isdigit() else 1.0)
        if status == 404:
            return NotFound(text, where=self._url)
        if status in (401, 403):
            return Unavailable(text, where=self._url, next_step="Check the key of the remote engine.")
        if code == PromptTooLong.code or "context length" in message:
            return PromptTooLong(text, where=self._url)
        if status in (400, 422):
            return InvalidInput(text, where=self._url)
        if status == 503:
            return Unavailable(text, where=self._url)
        return EngineFailed(text, where=self._url)


class _Reading:
    """What was read of one stream so far."""

    def __init__(self, request: Generate, began: float) -> None:
        self._request = request
        self._began = began
        self._first: float | None = None
        self._text: list[str] = []
        self._chunks = 0
        self._usage: dict[str, Any] = {}
        self._reason: str | None = None
        self._fingerprint: str | None = None

    def read(self, payload: str, now: float) -> Delta | None:
        try:
            chunk = msgspec.json.decode(payload)
            if "error" in chunk:
                raise EngineFailed("The remote engine failed in the middle of an answer.")
            self._usage = chunk.get("usage") or self._usage
            self._fingerprint = chunk.get("system_fingerprint") or self._fingerprint
            if not chunk.get("choices"):
                return None
            choice = chunk["choices"][0]
            self._reason = choice.get("finish_reason") or self._reason
            text = choice["delta"].get("content") if self._request.messages else choice["text"]
            tokens = self._tokens(choice.get("logprobs") or {})
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineFailed("The remote engine sent what cannot be read.") from error
        if not text and not tokens:
            return None
        self._first = self._first if self._first is not None else now
        self._text.append(text or "")
        self._chunks += 1
        return Delta(self._request.id, text or "", tokens)

    def finished(self, now: float) -> Finished:
        if self._reason is None:
            raise EngineFailed("The remote engine's stream ended early.", next_step="Ask again.")
        first = self._first if self._first is not None else now
        cached = (self._usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        return Finished(
            id=self._request.id,
            reason="length" if self._reason == "length" else "stop",
            text="".join(self._text),
            usage=Usage(
                prompt_tokens=int(self._usage.get("prompt_tokens") or 0),
                cached_prompt_tokens=int(cached),
                completion_tokens=int(self._usage.get("completion_tokens") or self._chunks),
                forced_tokens=0,
                steps=self._chunks,
                queue_seconds=0.0,
                prefill_seconds=first - self._began,
                decode_seconds=now - first,
                engine_seconds=now - self._began,
            ),
            fingerprint=_fingerprint(self._request.model, self._fingerprint),
        )

    def _tokens(self, logprobs: dict[str, Any]) -> tuple[TokenOut, ...]:
        if self._request.messages:
            return tuple(
                TokenOut(
                    -1,
                    entry["token"],
                    entry["logprob"],
                    False,
                    tuple(
                        Alternative(other["token"], -1, other["logprob"]) for other in entry.get("top_logprobs") or ()
                    ),
                )
                for entry in logprobs.get("content") or ()
            )
        texts = logprobs.get("tokens") or []
        chosen = logprobs.get("token_logprobs") or [None] * len(texts)
        tops = logprobs.get("top_logprobs") or [None] * len(texts)
        return tuple(
            TokenOut(
                -1,
                text,
                logprob,
                False,
                tuple(Alternative(other, -1, value) for other, value in (top or {}).items()),
            )
            for text, logprob, top in zip(texts, chosen, tops, strict=True)
        )


def _fingerprint(model: str, system: str | None) -> str:
    return f"remote:{model}:{system or 'unknown'}"


def _complaint(content: bytes) -> tuple[str, str | None]:
    """(message, code) of an OpenAI-shaped error, or the text itself."""
    try:
        error = msgspec.json.decode(content)["error"]
        return _message(error), error.get("code") if isinstance(error, dict) else None
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace") or "nothing", None


def _message(error: Any) -> str:
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)


class _RemoteVector(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _RemoteVectors(msgspec.Struct):
    data: list[_RemoteVector]
    usage: dict[str, Any] = {}


def _vectors_of(content: bytes, request: Embed, seconds: float) -> Embedded:
    """The vectors of an answer; a server that does not know base64 sends numbers.

    Raises:
        EngineFailed: they cannot be read, or are not one vector of the same length for each text.
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
        raise EngineFailed("The remote engine sent vectors that cannot be read.") from error
    sizes = {len(row) for row in rows.values()}
    if sorted(rows) != list(range(len(request.texts))) or len(sizes) != 1 or not sizes or min(sizes) % 4:
        raise EngineFailed("The remote engine sent other vectors than one for each text.")
    return Embedded(
        id=request.id,
        vectors=b"".join(rows[place] for place in range(len(rows))),
        dimensions=sizes.pop() // 4,
        tokens=(tokens,),
        fingerprint=_fingerprint(request.model, None),
        engine_seconds=seconds,
    )
