"""Why an OpenAI-compatible server did not do what it was asked, as our errors.

Invariant: the server's own words are not passed on. They may repeat the prompt or the key.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)

_SENT = frozenset({"frequency_penalty", "logit_bias", "logprobs", "max_tokens", "presence_penalty", "prompt", "seed"}
    | {"messages", "response_format", "stop", "temperature", "tool_choice", "tools", "top_p", "echo"})  # fmt: skip
"""Parameters that a server may say to be wrong; anything else it says is not passed on."""


def unreachable(error: Exception, url: str) -> UnavailableError:
    """The error that a connection which could not be made stands for."""
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
    """The error a non-200 answer stands for; ``sent`` names parameters besides OpenAI's that were sent."""
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
