"""Any OpenAI-compatible URL as an engine: what a team already runs can be fronted from the first day.

What such a server does not tell stays empty and is never made up: token ids are ``-1``, branches are not
reported, seconds in the engine are the wall seconds of the stream, and the fingerprint is what the server calls
its own. A request with ``messages`` goes to the server's chat endpoint and its own template, one with a ``prompt`` to
its completions endpoint as it is.

Batch beside online: a vLLM server (``serves="vllm"``) is told each request's priority and service level and decides by
itself; of any other, batch requests wait here while it has as many as :mod:`~antiphon.engine.admission` lets it have.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

import aiohttp
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
from antiphon.engine.admission import Admission, Begun
from antiphon.engine.messages import (
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
)
from antiphon.engine.remote_reading import Reading, fingerprint, message
from antiphon.engine.vllm import arguments

Serves = Literal["openai", "vllm"]
_LOOK_AGAIN = 1.0
"""Seconds after which a batch request that waits asks again though nothing has ended: a time without batch may be
over."""

_BROKEN = (aiohttp.ClientError, TimeoutError, ssl.SSLError)
"""What aiohttp raises; a late TLS alert it passes on as it is."""

_ENDING_SECONDS = 0.02
"""How long the end of a body is waited for after ``[DONE]``; who sends it later is connected to anew."""

_BUFFER = 1 << 18
"""Bytes of an answer that are read ahead of who takes them."""


class RemoteEngine:
    """Implements :class:`~antiphon.engine.port.Engine` over HTTP.

    Args:
        url: base URL, with or without the final ``/v1``.
        key: bearer token, if the server wants one.
        models: model names of requests to the server's own names; a name not listed is sent as it is.
        context_tokens: reported when the server does not say.
        timeout_seconds: longest silence within a stream.
        serves: ``vllm`` for a vLLM server with ``--scheduling-policy priority``, ``openai`` for any.
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
        serves: Serves = "openai",
        tls: ClientTls | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        checked = outgoing.check_url(url, where="engine.url", secret=bool(key))
        base = checked.rstrip("/").removesuffix("/v1") + "/v1"
        self._headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._verify = (tls or ClientTls()).context() if base.startswith("https:") else True
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None
        self._url = base
        self._models = dict(models or {})
        self._context_tokens = context_tokens
        self._monotonic = monotonic
        self._serves = serves
        self._admission = Admission()
        self._changed = asyncio.Condition()

    async def describe(self) -> Described:
        try:
            async with self._http().get(f"{self._url}/models", allow_redirects=False) as response:
                content = await response.read()
        except _BROKEN as error:
            raise self._unreachable(error) from error
        if response.status != 200:
            raise self._refused(response.status, response.headers, content)
        try:
            listed = msgspec.json.decode(content)["data"]
            found = {str(entry["id"]): entry for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            raise EngineFailed("The server's list of models cannot be read.", where=self._url) from error
        names = {served: name for name, served in self._models.items()}
        return Described(
            new_id("describe"),
            tuple(
                ModelDescription(
                    name=names.get(served, served),
                    fingerprint=fingerprint(served, None),
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
        content = msgspec.json.encode(self._body(request))
        async with self._admitted(request) as begun:
            began = self._monotonic()
            reading = Reading(request, began)
            try:
                path = "/chat/completions" if request.messages else "/completions"
                async with self._http().post(self._url + path, data=content, allow_redirects=False) as response:
                    if response.status != 200:
                        raise self._refused(response.status, response.headers, await response.read())
                    async for payload in _events(response.content):
                        delta = reading.read(payload, self._monotonic())
                        if delta is not None:
                            if begun is not None:
                                self._admission.first_token(begun, self._monotonic())
                                begun = None
                            yield delta
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError) as error:
                raise self._unreachable(error) from error
            except _BROKEN as error:
                raise EngineFailed(
                    f"The connection to the remote engine broke ({type(error).__name__}).", where=self._url
                ) from error
        last = reading.last()
        if last is not None:
            yield last
        yield reading.finished(self._monotonic())

    @contextlib.asynccontextmanager
    async def _admitted(self, request: Generate) -> AsyncIterator[Begun | None]:
        """The time in which the server has the request: a batch request waits for it here. Yields what an online
        request's first token is to be held against; ``None`` where nothing is learnt from it."""
        admission = self._admission
        if self._serves == "vllm":
            yield None
        elif request.priority == "online":
            size = len(request.prompt) + sum(len(turn.content) for turn in request.messages)
            try:
                yield admission.online_began(self._monotonic(), size, request.level)
            finally:
                admission.online_ended(self._monotonic())
                await self._look_again()
        else:
            while not admission.admits(self._monotonic()):
                async with self._changed:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), _LOOK_AGAIN)
            admission.batch_began()
            refused = False
            try:
                yield None
            except Overloaded:
                refused = True
                raise
            finally:
                admission.batch_ended(self._monotonic(), refused=refused)
                await self._look_again()

    async def _look_again(self) -> None:
        async with self._changed:
            self._changed.notify_all()

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
            async with self._http().post(
                self._url + "/embeddings", data=msgspec.json.encode(body), allow_redirects=False
            ) as response:
                content = await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError) as error:
            raise self._unreachable(error) from error
        except _BROKEN as error:
            raise EngineFailed(
                f"The connection to the remote engine broke ({type(error).__name__}).", where=self._url
            ) from error
        if response.status != 200:
            raise self._refused(response.status, response.headers, content)
        return _vectors_of(content, request, self._monotonic() - began)

    async def tokenise(self, request: Tokenise) -> Tokenised:
        """See :class:`~antiphon.engine.port.Tokenising`: OpenAI's protocol has no way to ask."""
        raise UnsupportedParameter(
            "The remote engine does not tell how its models read a text.",
            where="model",
            next_step="Ask that server itself.",
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:  # made by the first request: a session belongs to the event loop it is made in
            self._session = aiohttp.ClientSession(
                connector=outgoing.connector("engine.url", self._verify), headers=self._headers, timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_BUFFER,
            )  # fmt: skip
        return self._session

    def _body(self, request: Generate) -> dict[str, Any]:
        vllm = self._serves == "vllm"
        if request.ignore_end and not vllm:
            raise UnsupportedParameter("A remote engine cannot be told to go on after the end.", where="ignore_end")
        if request.grammar is not None:
            raise UnsupportedParameter("OpenAI's protocol carries no grammar.", where="grammar")
        body: dict[str, Any] = {
            "model": self._models.get(request.model, request.model),
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        penalties = request.penalties
        if penalties.frequency:
            body["frequency_penalty"] = penalties.frequency
        if penalties.presence:
            body["presence_penalty"] = penalties.presence
        if penalties.bias:
            body["logit_bias"] = {str(token): bias for token, bias in penalties.bias}
        if vllm:
            body |= arguments.body(request.priority, request.level)
            if request.ignore_end:
                body["ignore_eos"] = True
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

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> AntiphonError:
        """The error a non-200 answer stands for."""
        message, code, parameter = _complaint(content)
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
            return InvalidInput(text, where=parameter if parameter in _SENT else self._url)
        if status == 503:
            return Unavailable(text, where=self._url)
        return EngineFailed(text, where=self._url)


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """The payloads of server-sent events up to ``[DONE]``, each as soon as its line is whole."""
    rest = b""
    async for arrived in content.iter_any():
        *lines, rest = (rest + arrived).split(b"\n")
        for line in lines:
            payload = line[5:].strip() if line.startswith(b"data:") else b""
            if payload == b"[DONE]":
                await _read_off(content)
                return
            if payload:
                yield payload


async def _read_off(content: aiohttp.StreamReader) -> None:
    """Take the end of the body, so that the connection may be used again; it comes with ``[DONE]`` or right after."""
    if content.at_eof():
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_SECONDS):
            await content.read()


_SENT = frozenset({"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "presence_penalty", "prompt", "seed"}
    | {"messages", "response_format", "stop", "temperature", "tool_choice", "tools", "top_p", "echo"})  # fmt: skip
"""Parameters that a server may say to be wrong; anything else it says is not passed on."""


def _complaint(content: bytes) -> tuple[str, str | None, str | None]:
    """(message, code, parameter) of an OpenAI-shaped error, or the text itself."""
    try:
        error = msgspec.json.decode(content)["error"]
        if not isinstance(error, dict):
            return str(error), None, None
        return str(error.get("message", error)), error.get("code"), error.get("param")
    except (msgspec.DecodeError, KeyError, TypeError):
        return content[:200].decode("utf-8", "replace") or "nothing", None, None


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
        fingerprint=fingerprint(request.model, None),
        engine_seconds=seconds,
    )
