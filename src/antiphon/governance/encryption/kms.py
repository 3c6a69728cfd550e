"""Wrapping keys in a key service over HTTP.

``POST URL/wrap`` ``{"plaintext", "context"}`` → ``{"key_id", "ciphertext"}``; ``POST URL/unwrap`` ``{"key_id",
"ciphertext", "context"}`` → ``{"plaintext"}``; ``POST URL/rotate`` ``{}`` → ``{"key_id"}``. Bytes are base64. Every
request carries a bearer token, is bounded in time, and is repeated when the service is away: each is idempotent but
``rotate``, which is sent once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.http_client import HttpClient, ResponseError
from antiphon.governance.encryption.key_provider import WrappedKey, unknown_wrapping_key

_PROBE = b"antiphon probe"
_MOST_BYTES = 65_536
_TIMEOUT_SECONDS = 5.0
"""For one request."""
_ATTEMPTS = 3
"""Times that a request is sent while the service is away."""

T = TypeVar("T")


class _WrapResponse(msgspec.Struct, frozen=True):
    key_id: str
    ciphertext: str


class _UnwrapResponse(msgspec.Struct, frozen=True):
    plaintext: bytes


class _RotateResponse(msgspec.Struct, frozen=True):
    key_id: str


class KmsKeys:
    """A key service at ``url``, which is ``http`` only on this machine; ``pause`` waits between attempts."""

    name = "kms"

    def __init__(self, url: str, token: str, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._url = url.rstrip("/")
        self._client = HttpClient(
            self._url,
            where="encryption.url",
            secret=True,
            timeout=_TIMEOUT_SECONDS,
            most_bytes=_MOST_BYTES,
            headers={"authorization": f"Bearer {token}"},
        )
        self._pause = pause

    def current(self) -> str:
        # A service tells which key is current by using it.
        return self.wrap(bytes(32), _PROBE).wrapping_key

    def wrap(self, key: bytes, context: bytes) -> WrappedKey:
        answer = self._post("wrap", {"plaintext": key, "context": context}, _WrapResponse)
        return WrappedKey(answer.key_id, answer.ciphertext.encode())

    def unwrap(self, wrapped: WrappedKey, context: bytes) -> bytes:
        body = {"key_id": wrapped.wrapping_key, "ciphertext": wrapped.content.decode(), "context": context}
        return self._post("unwrap", body, _UnwrapResponse, wrapped.wrapping_key).plaintext

    def rotate(self) -> str:
        return self._post("rotate", {}, _RotateResponse).key_id

    def retire(self, wrapping_key: str) -> None:
        """The service's owner retires its keys."""

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def _post(self, path: str, body: Mapping[str, object], kind: type[T], wrapping_key: str | None = None) -> T:
        why, repeat = "", path != "rotate"
        for attempt in range(_ATTEMPTS if repeat else 1):
            if attempt:
                self._pause(0.1 * 4**attempt)
            try:
                response = self._client.post(f"/{path}", body, repeat=repeat)
            except ResponseError as error:
                raise self._nonsense(path) from error
            except OSError as error:
                why = type(error).__name__
                continue
            if response.status >= 500 or response.status == 429:
                why = f"status {response.status}"
                continue
            return self._understood(path, response.status, response.body, kind, wrapping_key)
        raise UnavailableError(
            f"The key service does not answer ({why}).",
            where=f"{self._url}/{path}",
            next_step="Keys that a process already holds go on working; new ones wait for the service.",
        )

    def _understood(self, path: str, status: int, content: bytes, kind: type[T], wrapping_key: str | None) -> T:
        where = f"{self._url}/{path}"
        if status in (401, 403):
            raise SetupError(
                "The key service refuses this project's token.", where=where, next_step="Renew [encryption] secret."
            )
        if status == 404 and wrapping_key is not None:
            raise unknown_wrapping_key(wrapping_key, where, "Restore the key in the key service.")
        if status == 400 and path == "unwrap":
            raise CorruptionError(
                f"The key service refuses a data key wrapped by {wrapping_key}.",
                where=where,
                next_step="Its row was changed or moved: restore the catalog from a backup.",
            )
        if status in (404, 405) and path == "rotate":
            raise InvalidInputError(
                "The key service rotates its keys by itself.", where=where,
                next_step="Rotate there, then run `antiphon encryption rewrap`.",
            )  # fmt: skip
        if status != 200:
            raise SetupError(f"The key service answers with status {status}.", where=where, next_step="See its log.")
        try:
            return msgspec.json.decode(content, type=kind)
        except msgspec.DecodeError as error:
            raise self._nonsense(path) from error

    def _nonsense(self, path: str) -> SetupError:
        return SetupError(
            "The key service's answer cannot be read.",
            where=f"{self._url}/{path}",
            next_step="docs/encryption.md states what it must answer.",
        )
