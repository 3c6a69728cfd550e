"""Any OpenAI-compatible URL as an engine: what a team already runs can be fronted from the first day.

Values that such a server does not report stay empty and are never made up: token ids are ``-1``, branches are not
reported, seconds in the engine are the wall seconds of the stream, and the fingerprint is the server's own. A request
with ``messages`` goes to the server's chat endpoint and its own template, one with a ``prompt`` to its completions
endpoint as it is.

A vLLM server (``serves="vllm"``) gets each request's priority and service level. How many batch requests a server gets
at all, :mod:`~antiphon.engine.backends.remote.front` decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import aiohttp
import msgspec

from antiphon.core import outgoing
from antiphon.core.errors import EngineError, UnsupportedParameterError
from antiphon.core.ids import new_id
from antiphon.core.tls import ClientTls
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    ModelDescription,
    ServedModel,
    TextEmbeddingRequest,
    TextEmbeddings,
    Tokenization,
    TokenizationRequest,
)
from antiphon.engine.backends.remote.admission import ServerReport
from antiphon.engine.backends.remote.protocol import (
    embeddings_of,
    fingerprint,
    generation_body,
    refusal_of,
    report_of,
    unpinned,
    unreachable,
)
from antiphon.engine.backends.remote.stream import CompletionStream

Serves = Literal["openai", "vllm"]
_BROKEN = (aiohttp.ClientError, TimeoutError, ssl.SSLError)
"""Errors of aiohttp; it passes on a late TLS alert as it is."""

_ENDING_SECONDS = 0.02
"""Wait for the end of a body after ``[DONE]``; a server that is later gets a new connection."""

_CONTEXT_TOKENS = 4096
"""Context of a model whose server does not say it."""

_BUFFER = 1 << 18
"""Bytes of an answer that are read ahead of the consumer."""


class RemoteEngine:
    """Implements :class:`~antiphon.engine.api.port.Engine` over HTTP.

    Args:
        url: base URL, with or without the final ``/v1``.
        key: bearer token, if the server wants one.
        models: model names of requests to the server's own names; a name not listed is sent as it is.
        timeout_seconds: longest silence within a stream.
        serves: ``vllm`` for a vLLM server with ``--scheduling-policy priority``, ``openai`` for any.
        parameters: names of request fields beyond OpenAI's that the server takes; a vLLM takes all that are known here.
        tls: the authorities to trust when the URL is https.
        gpus: that the server uses, as it is declared.

    Raises:
        InvalidInputError: a URL that is not called, a key that would cross a network in plain text, or trusted
            certificates that cannot be read.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        models: dict[str, str] | None = None,
        timeout_seconds: float = 60.0,
        serves: Serves = "openai",
        parameters: Collection[str] = (),
        tls: ClientTls | None = None,
        gpus: int = 0,
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
        self._monotonic = monotonic
        self._serves = serves
        self.gpus = gpus
        self.entries: dict[str, dict[str, Any]] = {}
        """The server's list as it was read last, by the names of requests."""
        self.fingerprint: Callable[[str, str | None], str] = unpinned
        """Makes the fingerprint of an answer, from the request's name of the model and the server's fingerprint."""
        self._parameters = frozenset(parameters)

    async def describe(self) -> EngineDescription:
        status, headers, content = await self._got(f"{self._url}/models")
        if status != 200:
            raise refusal_of(status, headers, content, self._url)
        try:
            listed = msgspec.json.decode(content)["data"]
            found = {str(entry["id"]): dict(entry) for entry in listed}
        except (ValueError, KeyError, TypeError) as error:
            raise EngineError("The server's list of models cannot be read.", where=self._url) from error
        names = {served: name for name, served in self._models.items()}
        self.entries = {names.get(served, served): entry for served, entry in found.items()}
        return EngineDescription(
            new_id("describe"),
            tuple(
                ModelDescription(
                    name=name,
                    fingerprint=fingerprint(name),
                    context_tokens=int(entry.get("max_model_len") or _CONTEXT_TOKENS),
                    chat_template="",
                    special_tokens=(),
                    bos="",
                    eos="",
                )
                for name, entry in self.entries.items()
            ),
            EngineLoad(gpus=self.gpus),
        )

    @property
    def reports(self) -> bool:
        """True of a server that may tell its state."""
        return self._serves == "vllm"

    @property
    def keeps_prefixes(self) -> bool:
        """True of a server that keeps what it computed of a prompt whose request was given up."""
        return self._serves == "vllm"

    async def report(self) -> ServerReport | None:
        """The state that the server tells of itself; ``None`` from one that tells none.

        Raises:
            UnavailableError: it cannot be reached.
            EngineError: it answers something else than its metrics.
        """
        url = self._url.removesuffix("/v1") + "/metrics"
        status, headers, content = await self._got(url)
        if status in (401, 403, 404, 405):
            return None
        if status != 200:
            raise refusal_of(status, headers, content, url)
        return report_of(content, url)

    async def serve(self, models: Sequence[ServedModel]) -> EngineDescription:
        served = await self.describe()
        missing = {model.name for model in models} - {model.name for model in served.models}
        if missing:
            raise UnsupportedParameterError(
                f"The remote engine does not serve {', '.join(sorted(missing))} and cannot be told to.",
                where=self._url,
                next_step="Load the model on that server under this name.",
            )
        return served

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        model = self._models.get(request.model, request.model)
        body = generation_body(request, model, vllm=self._serves == "vllm", takes=self._parameters)
        stream = CompletionStream(request, self._monotonic(), self.fingerprint, self.gpus)
        path = "/chat/completions" if request.messages else "/completions"
        async with self._posted(path, body, sent=body) as response:
            async for payloads in _events(response.content):
                delta = stream.read(payloads, self._monotonic())
                if delta is not None:
                    yield delta
        last = stream.last()
        if last is not None:
            yield last
        yield stream.result(self._monotonic())

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """See :class:`~antiphon.engine.api.port.Engine`; tokens are counted for the request as a whole."""
        began = self._monotonic()
        body: dict[str, Any] = {
            "model": self._models.get(request.model, request.model),
            "input": list(request.texts),
            "encoding_format": "base64",
        }
        if request.dimensions is not None:
            body["dimensions"] = request.dimensions
        async with self._posted("/embeddings", body) as response:
            content = await response.read()
        return embeddings_of(content, request, self._monotonic() - began, self.gpus)

    async def tokenize(self, request: TokenizationRequest) -> Tokenization:
        """See :class:`~antiphon.engine.api.port.Engine`: OpenAI's protocol has no such request."""
        raise UnsupportedParameterError(
            "The remote engine does not tell how its models read a text.",
            where="model",
            next_step="Ask that server itself.",
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    @contextlib.asynccontextmanager
    async def _posted(
        self, path: str, body: dict[str, Any], sent: Collection[str] = ()
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a body, and hold the response while it is read; another status than 200 is raised as its error."""
        content = msgspec.json.encode(body)
        try:
            async with self._http().post(self._url + path, data=content, allow_redirects=False) as response:
                if response.status != 200:
                    raise refusal_of(response.status, response.headers, await response.read(), self._url, sent)
                yield response
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ssl.SSLError) as error:
            raise unreachable(error, self._url) from error
        except _BROKEN as error:
            raise EngineError(
                f"The connection to the remote engine broke ({type(error).__name__}).", where=self._url
            ) from error

    async def _got(self, url: str) -> tuple[int, Mapping[str, str], bytes]:
        """(status, headers, body) of a GET."""
        try:
            async with self._http().get(url, allow_redirects=False) as response:
                return response.status, response.headers, await response.read()
        except _BROKEN as error:
            raise unreachable(error, self._url) from error

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:  # made by the first request: a session belongs to the event loop it is made in
            self._session = aiohttp.ClientSession(
                connector=outgoing.connector("engine.url", self._verify), headers=self._headers, timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_BUFFER,
            )  # fmt: skip
        return self._session


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[list[bytes]]:
    """The payloads of server-sent events up to ``[DONE]``, as soon as their lines are whole: what has come together
    stays together, so that a slower consumer has less to do for each event."""
    rest = b""
    async for arrived in content.iter_any():
        *lines, rest = (rest + arrived).split(b"\n")
        payloads = [payload for line in lines if line.startswith(b"data:") and (payload := line[5:].strip())]
        done = b"[DONE]" in payloads
        if done:
            del payloads[payloads.index(b"[DONE]") :]
        if payloads:
            yield payloads
        if done:
            await _read_end(content)
            return


async def _read_end(content: aiohttp.StreamReader) -> None:
    """Take the end of the body, so that the connection may be used again; it comes with ``[DONE]`` or right after."""
    if content.at_eof():
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_ENDING_SECONDS):
            await content.read()
