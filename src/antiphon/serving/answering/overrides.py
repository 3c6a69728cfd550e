"""Parameters of a request that an application's release pins."""

from __future__ import annotations

from antiphon.core.errors import UnsupportedParameterError
from antiphon.definitions.application import ApplicationSpec
from antiphon.engine.api import parameters
from antiphon.engine.api.messages import Penalties
from antiphon.serving.request import AnswerRequest


def check_overrides(request: AnswerRequest, application: ApplicationSpec) -> None:
    """Refuse a parameter, by name, that the application's release pins to another value
    (``UnsupportedParameterError``)."""
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
        **{name: (value, None) for name, value in parameters.fields(overrides.engine).items()},
    }
    granted = set()
    if overrides.max_tokens is not None and overrides.max_tokens >= decoding.max_tokens:
        granted.add("max_tokens")
    if overrides.json_schema == {"type": "object"} and application.output_schema is not None:
        granted.add("response_format")  # any JSON object: that is what it gives
    for name, (requested, own) in pinned.items():
        if requested is not None and requested != own and name not in granted:
            called = request.names.get(name, name)
            raise UnsupportedParameterError(
                f"The application {application.name!r} pins its own `{called}`.",
                where=called,
                next_step="Leave the parameter out, or ask the plain model.",
            )
    check_turns(request, application)


def check_turns(request: AnswerRequest, application: ApplicationSpec) -> None:
    """Refuse turns other than the one user turn that an application reads as its question; one that sees earlier turns
    reads the assistant's and other user's turns too."""
    for number, turn in enumerate(request.messages):
        where = request.names.get(f"messages[{number}]", f"messages[{number}]")
        if application.conversation and turn.role in ("user", "assistant") and not turn.tool_calls:
            if turn.name is None:
                continue
            what, where = f"`{where}` has a `name`", f"{where}.name"
        elif turn.role != "user":
            what = f"`{where}` is a turn of the role `{turn.role}`"
        elif number:
            what = f"`{where}` is a second turn of the user"
        elif turn.name is not None:
            what, where = f"`{where}` has a `name`", f"{where}.name"
        else:
            continue
        reads = "turns of user and assistant" if application.conversation else "one turn of the user as its question"
        declared = (
            "" if application.conversation else " To see earlier turns it declares `conversation=Conversation()`."
        )
        raise UnsupportedParameterError(
            f"The application {application.name!r} reads {reads}, and {what}.",
            where=where,
            next_step="Leave it out: what else the model is told is in its release. A plain model takes any turns."
            + declared,
        )
