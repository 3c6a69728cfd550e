"""Parameters that the generating endpoints of ``/v1`` share, and the request that they become.

A parameter that is unknown, or known and not implemented, is refused by name. ``entity``, ``inputs``, ``as_of``,
``minimum_publication``, ``release`` and ``exposure_unit`` are ours; the official client sends them through
``extra_body``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec

from antiphon.batch.request_batches import check_metadata
from antiphon.core.clock import utc
from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.core.scope import Scope
from antiphon.engine.api.messages import Penalties
from antiphon.gateway.http import incoming
from antiphon.gateway.http.bounds import Int64, Number
from antiphon.gateway.openai.engine_parameters import EngineParameters, engine_parameters
from antiphon.governance.identity.principal import Principal
from antiphon.serving.admission.limits import grant_tier
from antiphon.serving.request import AnswerRequest, DecodingOverrides

LEAVE_OUT = "Leave it out."

NOT_IMPLEMENTED: Mapping[str, str] = dict.fromkeys(
    (
        "audio", "best_of", "function_call", "functions", "modalities", "moderation", "prediction",
        "prompt_cache_retention", "reasoning_effort", "store", "suffix", "verbosity", "web_search_options",
    ),
    LEAVE_OUT,
)  # fmt: skip
"""OpenAI's, and refused here, each with the next step: accepting one and ignoring it would be a lie."""

NEUTRAL: Mapping[str, Any] = {"best_of": 1, "echo": False, "store": False}
"""Values that ask for nothing; some clients always send them."""

HINTS = ("metadata", "client_metadata", "prompt_cache_key", "safety_identifier")
"""Parameters that change no answer. They are kept with the receipt, like ``user``, which is its originating user."""

Key = str | int

ConversationId = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]

Stop = Annotated[str, msgspec.Meta(min_length=1)]


class Common(EngineParameters, msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of every endpoint.

    ``not_implemented`` and ``neutral`` are the endpoint's own, as :data:`NOT_IMPLEMENTED` and :data:`NEUTRAL`.
    """

    not_implemented: ClassVar[Mapping[str, str]] = NOT_IMPLEMENTED
    neutral: ClassVar[Mapping[str, Any]] = NEUTRAL

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    seed: Int64 | None = None
    stop: Stop | Annotated[list[Stop], msgspec.Meta(max_length=4)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    prompt_cache_key: Annotated[str, msgspec.Meta(max_length=512)] | None = None
    safety_identifier: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    frequency_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, msgspec.Meta(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, msgspec.Meta(ge=-100, le=100)]] | None = None
    entity: dict[str, Key] = {}
    inputs: dict[str, Any] = {}
    as_of: datetime | None = None
    minimum_publication: Number | None = None
    release: str | None = None
    exposure_unit: str | None = None

    @property
    def choices(self) -> int:
        """The number of answers to each prompt."""
        return 1

    @classmethod
    def prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields as they are to be read, where the endpoint permits more forms of them than its types."""
        return fields


P = TypeVar("P", bound=msgspec.Struct)


def read(content: bytes, shape: type[P]) -> P:
    """The parameters of a body.

    Raises:
        UnsupportedParameterError: names the parameter that is unknown or not implemented.
        InvalidInputError: malformed JSON, or names the parameter of a wrong type.
    """
    known = set(incoming.field_names(shape))
    refused, neutral = NOT_IMPLEMENTED, NEUTRAL
    prepared: Callable[[dict[str, Any]], dict[str, Any]] = dict
    if issubclass(shape, Common):
        refused, neutral, prepared = shape.not_implemented, shape.neutral, shape.prepared
    fields: dict[str, Any] = {}
    for name, value in incoming.json_object(content).items():
        if value is None or (name in neutral and value == neutral[name]):
            if name in known or name in refused:
                continue
        elif name not in known and (name in refused or name in neutral):
            permitted = f" Only {neutral[name]!r} is accepted." if name in neutral else ""
            raise UnsupportedParameterError(
                f"The parameter {name!r} is not implemented here.{permitted}",
                where=name,
                next_step=refused.get(name, LEAVE_OUT),
            )
        fields[name] = value
    return incoming.typed(prepared(fields), shape)


def answer_request(
    parameters: Common,
    scope: Scope,
    principal: Principal,
    request: str,
    user: str | None,
    decoding: dict[str, Any],
    **question: Any,
) -> AnswerRequest:
    """The request with what every endpoint has.

    Args:
        decoding: overrides that not every endpoint has; ``question`` the other fields of the request.

    Raises:
        InvalidInputError: ``as_of`` without a zone, a bias of what is no token, or metadata beyond its bounds.
        ForbiddenError: a tier that the key may not ask for.
    """
    if parameters.as_of is not None and parameters.as_of.tzinfo is None:
        raise InvalidInputError(
            "`as_of` has no time zone.", where="as_of", next_step="Write it with an offset, e.g. Z."
        )
    stop = parameters.stop
    penalties = Penalties(
        frequency=parameters.frequency_penalty or 0.0,
        presence=parameters.presence_penalty or 0.0,
        bias=tuple(sorted(_biased(token, bias) for token, bias in (parameters.logit_bias or {}).items() if bias)),
    )
    return AnswerRequest(
        scope=scope,
        principal=principal,
        application=parameters.model,
        entity={name: str(value) for name, value in parameters.entity.items()},
        inputs=parameters.inputs,
        as_of=utc(parameters.as_of) if parameters.as_of else None,
        release=parameters.release,
        minimum_publication=parameters.minimum_publication,
        originating_user=user,
        exposure_unit=parameters.exposure_unit,
        request_id=request,
        tier=grant_tier(parameters.service_tier, principal),
        hints=hints(parameters),
        overrides=DecodingOverrides(
            temperature=parameters.temperature,
            top_p=parameters.top_p,
            seed=parameters.seed,
            stop=None if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
            penalties=None if penalties == Penalties() else penalties,
            engine=engine_parameters(parameters),
            **decoding,
        ),
        **question,
    )


def hints(parameters: Common) -> dict[str, Any]:
    """The hints that a request has; raises ``InvalidInputError`` for metadata beyond its bounds."""
    check_metadata(parameters.metadata or {})
    return {name: given for name in HINTS if (given := getattr(parameters, name, None)) is not None}


def _biased(token: str, bias: float) -> tuple[int, float]:
    if not (token.isascii() and token.isdigit() and len(token) < 10):
        raise InvalidInputError("The keys of `logit_bias` are tokens, as numbers.", where="logit_bias")
    return int(token), bias
