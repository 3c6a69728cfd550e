"""A connection to NATS: made, and its errors as ours.

Invariant: with ``tls://`` nothing of ours, credentials least of all, is sent before the server's certificate was
verified. The library alone would go on in clear with a server that does not offer TLS.
"""

from __future__ import annotations

import asyncio
import base64
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec

from antiphon.core.errors import AntiphonError, SetupError, UnavailableError
from antiphon.core.tls import ClientTls, problem_of
from antiphon.features.streaming.nats_access import Access, Key

_SAME_SUBJECT = "maximum messages per subject exceeded"
_NO_JETSTREAM = (10039, 10076)
_CLOSED_WITHIN = 0.1
_REFUSALS = ("authorization", "authentication", "permissions violation")


async def connected(url: str, access: Access, timeout: float) -> Any:
    """A new connection to ``nats://HOST:PORT`` or ``tls://HOST:PORT``, which does not come back by itself.

    Raises:
        SetupError: the client is not installed; credentials or certificates cannot be used, here or there.
        Exception: it does not answer; see :func:`translated`.
    """
    refused: list[BaseException] = []

    async def keep(error: Exception) -> None:
        refused.append(error)

    secure = url.startswith("tls://")
    client, who = _client(url if secure else None), _who(access.key(), access)
    if secure:
        who["tls"] = (access.tls or ClientTls()).context()
    try:
        async with asyncio.timeout(timeout):
            await client.connect(
                url,
                name="antiphon",
                allow_reconnect=False,
                connect_timeout=max(1, int(timeout)),
                error_cb=keep,
                **who,
            )
        return client
    except Exception as error:
        # After a failed handshake the library waits for an end of the connection that it never hears of (2.16).
        with suppress(Exception):
            async with asyncio.timeout(_CLOSED_WITHIN):
                await client.close()
        for each in (error, *refused):
            problem = problem_of(
                each, url, where="event log", authority="log_authority", certificate="log_client_certificate"
            )
            if problem is not None:
                raise problem from error
            if _is_refusal(each):
                raise access.refused(url, str(each), datetime.now(UTC)) from error
        if access.ended(datetime.now(UTC)) is not None:
            # Its refusal may come too late to be read, or be lost with the connection.
            raise access.refused(url, "It gives no answer", datetime.now(UTC)) from error
        raise


def translated(error: Exception, name: str, access: Access) -> AntiphonError | None:
    """Translate an error of the library; ``None`` when the server does not answer. Any other is raised again."""
    from nats.js.errors import APIError, NoStreamResponseError

    if _is_refusal(error):
        return access.refused(name, str(error), datetime.now(UTC))
    # A server without JetStream answers with a refusal that has no description.
    absent = isinstance(error, APIError) and (error.err_code in _NO_JETSTREAM or error.description is None)
    if absent or isinstance(error, NoStreamResponseError):
        return SetupError(
            f"{name} has no JetStream, or lost the stream.",
            where="event log",
            next_step="Start it as `nats-server -js -sd FOLDER`; `antiphon doctor` checks it.",
        )
    if isinstance(error, APIError):
        return UnavailableError(
            f"{name} refused: {error.description}.",
            where="event log",
            next_step="See its log and its limits; nothing that it had taken is lost.",
        )
    if not isinstance(error, TimeoutError | OSError) and not type(error).__module__.startswith("nats."):
        raise error
    return None


def acknowledged(answer: Any) -> int:
    """The sequence that a message was given; 0 when its subject has one already."""
    said = _decode(answer)
    error = said.get("error")
    if error is None:
        return int(said["seq"])
    if _SAME_SUBJECT in error.get("description", ""):
        return 0
    raise _make_api_error(error)


def kept(answer: Any, name: str) -> int:
    """The sequence of a message that was looked for; raises ``UnavailableError`` when it is not stored, or not yet."""
    said = _decode(answer)
    error = said.get("error")
    if error is None:
        return int(said["message"]["seq"])
    if error.get("code") == 404:
        raise UnavailableError(
            f"{name} has taken an event and does not have it on a majority of its nodes.",
            where="event log",
            next_step="Send the same events again: those that are stored by then are not stored twice.",
        )
    raise _make_api_error(error)


def _decode(answer: Any) -> dict[str, Any]:
    from nats.js.errors import NoStreamResponseError

    if not answer.data:
        raise NoStreamResponseError
    return msgspec.json.decode(answer.data, type=dict[str, Any])


def _make_api_error(error: dict[str, Any]) -> Exception:
    from nats.js.errors import APIError

    return APIError(code=error.get("code"), description=error.get("description"), err_code=error.get("err_code"))


def _is_refusal(error: BaseException) -> bool:
    said = str(error).lower()
    return any(word in said for word in _REFUSALS)


def _client(secure: str | None) -> Any:
    try:
        from nats.aio.client import Client
    except ImportError as error:
        raise SetupError(
            "The client of NATS is not installed.", where="event log", next_step="pip install antiphon[nats]"
        ) from error
    if secure is None:
        return Client()

    class OverTls(Client):
        def _connect_command(self) -> Any:
            # A host in between may have removed the offer of TLS from the server's first line.
            if not self._server_info.get("tls_required"):
                raise SetupError(
                    f"{secure} does not offer TLS; nothing was sent.",
                    where="event log",
                    next_step="Give the server a certificate, or write nats:// where the line is trusted.",
                )
            return super()._connect_command()

    return OverTls()


def _who(key: Key | None, access: Access) -> dict[str, Any]:
    if key is None:
        if access.user is not None:
            return {"user": access.user, "password": access.password or ""}
        return {} if access.password is None else {"token": access.password}
    try:
        import nkeys
    except ImportError as error:
        raise SetupError(
            "What signs for a NATS user is not installed.", where="event log", next_step="pip install antiphon[nats]"
        ) from error
    if key.jwt is None:
        return {"nkeys_seed_str": key.seed}
    jwt, seed = key.jwt.encode(), key.seed

    def sign(nonce: str) -> bytes:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        return base64.b64encode(pair.sign(nonce.encode()))

    return {"signature_cb": sign, "user_jwt_cb": lambda: jwt}
