"""A request that was read, permitted and given its features: everything known before a token is made."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.releases import Release
from antiphon.core.errors import InvalidInput, UnsupportedParameter
from antiphon.definitions.application import ApplicationSpec
from antiphon.serving.freshness import Reading
from antiphon.serving.ports import Decision
from antiphon.serving.request import AnswerRequest, DecodingOverrides


class Prepared(msgspec.Struct, frozen=True):
    """A request after policy and features. ``arrived`` is the process's performance counter, ``queued`` seconds."""

    request: AnswerRequest
    request_id: str
    release: Release
    decision: Decision
    as_of: datetime
    reading: Reading
    subject: str
    question_hash: str
    arrived: float
    queued: float


def entity_of(request: AnswerRequest, expected: tuple[str, ...]) -> dict[str, str]:
    """The entity's keys in a fixed order.

    Raises:
        InvalidInput: a key is missing or unknown.
    """
    missing = [key for key in expected if key not in request.entity]
    unknown = [key for key in request.entity if key not in expected]
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise InvalidInput(
            f"The entity {' and '.join(said)}.",
            where="entity",
            next_step=f"Send exactly these keys: {', '.join(expected) or '(none)'}.",
        )
    return dict(sorted(request.entity.items()))


def wants_tokens(request: AnswerRequest) -> bool:
    """Log-probabilities are of tokens as they were made; a text from store has none."""
    return request.overrides.logprobs is not None


def check_overrides(overrides: DecodingOverrides, application: ApplicationSpec) -> None:
    """An application's decoding is its release's: a wish for another one is refused by name, never ignored.

    Raises:
        UnsupportedParameter: names the parameter.
    """
    decoding = application.decoding
    pinned = {
        "temperature": (overrides.temperature, decoding.temperature),
        "top_p": (overrides.top_p, decoding.top_p),
        "seed": (overrides.seed, decoding.seed),
        "stop": (overrides.stop, decoding.stop),
        "max_tokens": (overrides.max_tokens, decoding.max_tokens),
        "response_format": (overrides.json_schema, application.schema),
    }
    granted = set()
    if overrides.max_tokens is not None and overrides.max_tokens >= decoding.max_tokens:
        granted.add("max_tokens")
    if overrides.json_schema == {"type": "object"} and application.output_schema is not None:
        granted.add("response_format")  # any JSON object: that is what it gives
    for name, (wished, has) in pinned.items():
        if wished is not None and wished != has and name not in granted:
            raise UnsupportedParameter(
                f"The application {application.name!r} pins its own.",
                where=name,
                next_step="Leave the parameter out, or ask the plain model.",
            )
