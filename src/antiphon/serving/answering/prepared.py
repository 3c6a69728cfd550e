"""A request that was assigned, permitted and given its features: everything known before a token is made."""

from __future__ import annotations

from datetime import datetime

import msgspec

from antiphon.catalog.releases import Release
from antiphon.catalog.rollouts import Assigned
from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import InputValue
from antiphon.engine.api.messages import Penalties
from antiphon.serving.answering import generation
from antiphon.serving.answering.arrival import Arrival
from antiphon.serving.features.reading import Reading
from antiphon.serving.ports import Decision
from antiphon.serving.request import AnswerRequest


class Prepared(msgspec.Struct, frozen=True):
    """A request after assignment, policy and features.

    Attributes:
        application: the release's, narrowed to the properties that are asked for.
        inputs: what the request said for on-demand features, checked.
        cache_namespace: where its stored answers live; ``None``: none is read and none is kept.
    """

    arrival: Arrival
    assigned: Assigned
    application: ApplicationSpec
    decision: Decision
    as_of: datetime
    reading: Reading
    question_hash: str
    cache_namespace: str | None
    inputs: dict[str, InputValue] = {}

    @property
    def request(self) -> AnswerRequest:
        """What was asked."""
        return self.arrival.request

    @property
    def release(self) -> Release:
        """What answers, from beginning to end."""
        return self.assigned.release

    @property
    def prompt_namespace(self) -> str:
        """What keeps an arm's identical prompts apart from everybody else's; empty outside of a rollout."""
        namespace = self.cache_namespace
        return "" if namespace is None or namespace == self.release.id else namespace


def entity_of(request: AnswerRequest, expected: tuple[str, ...]) -> dict[str, str]:
    """The entity's keys in a fixed order.

    Raises:
        InvalidInputError: a key is missing or unknown.
    """
    missing = [key for key in expected if key not in request.entity]
    unknown = [key for key in request.entity if key not in expected]
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] if missing else []
        said += [f"has unknown {', '.join(unknown)}"] if unknown else []
        raise InvalidInputError(
            f"The entity {' and '.join(said)}.",
            where="entity",
            next_step=f"Send exactly these keys: {', '.join(expected) or '(none)'}.",
        )
    return dict(sorted(request.entity.items()))


def wants_tokens(request: AnswerRequest) -> bool:
    """Log-probabilities are of tokens as they were made; a text from store has none."""
    return request.overrides.logprobs is not None


def check_overrides(request: AnswerRequest, application: ApplicationSpec) -> None:
    """An application's prompt and decoding are its release's: a wish for others is refused by name, never ignored.

    Raises:
        UnsupportedParameterError: names the parameter.
    """
    overrides, decoding = request.overrides, application.decoding
    penalties = overrides.penalties or Penalties()
    pinned = {
        "temperature": (overrides.temperature, decoding.temperature),
        "top_p": (overrides.top_p, decoding.top_p),
        "seed": (overrides.seed, decoding.seed),
        "stop": (overrides.stop, decoding.stop),
        "max_tokens": (overrides.max_tokens, decoding.max_tokens),
        "response_format": (overrides.json_schema, application.schema),
        "n": (overrides.choices, 1),
        "echo": (overrides.prompt_logprobs, None),
        "frequency_penalty": (penalties.frequency or None, None),
        "presence_penalty": (penalties.presence or None, None),
        "logit_bias": (penalties.bias or None, None),
        "tools": (overrides.tools, None),
        "prompt": (request.prompt_ids or None, None),
        **{name: (value, None) for name, value in generation.engine_fields(overrides.engine).items()},
    }
    granted = set()
    if overrides.max_tokens is not None and overrides.max_tokens >= decoding.max_tokens:
        granted.add("max_tokens")
    if overrides.json_schema == {"type": "object"} and application.output_schema is not None:
        granted.add("response_format")  # any JSON object: that is what it gives
    for name, (wished, has) in pinned.items():
        if wished is not None and wished != has and name not in granted:
            raise UnsupportedParameterError(
                f"The application {application.name!r} pins its own `{name}`.",
                where=name,
                next_step="Leave the parameter out, or ask the plain model.",
            )
    _check_turns(request, application)


def _check_turns(request: AnswerRequest, application: ApplicationSpec) -> None:
    """An application reads one user's turn as its question; what it would not read is refused, never dropped."""
    for number, turn in enumerate(request.messages):
        where = f"messages[{number}]"
        if turn.role != "user":
            what = f"`{where}` is a turn of the role `{turn.role}`"
        elif number:
            what = f"`{where}` is a second turn of the user"
        elif turn.name is not None:
            what, where = f"`{where}` has a `name`", f"{where}.name"
        else:
            continue
        raise UnsupportedParameterError(
            f"The application {application.name!r} reads one turn of the user as its question, and {what}.",
            where=where,
            next_step="Send that one turn alone: what else the model is told is in its release, and conversations are "
            "not kept. A plain model takes any turns.",
        )
