"""From printed figures to the text the engine reads: sandboxed templates, then the model's chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from antiphon.core.errors import InvalidInput
from antiphon.definitions.application import ApplicationSpec
from antiphon.engine.messages import ModelDescription

_sandbox = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
)


def variables(
    application: ApplicationSpec,
    prints: Mapping[str, str | None],
    entity: Mapping[str, str],
    question: str | None,
) -> dict[str, Any]:
    """What a template sees: ``features.VIEW.FEATURE`` as printed, ``entity`` and ``question``."""
    views: dict[str, dict[str, str | None]] = {view: {} for view in application.features}
    for name, text in prints.items():
        view, _, feature = name.partition(".")
        views.setdefault(view, {})[feature] = text
    return {"features": views, "entity": dict(entity), "question": question or ""}


def render(template: str, names: Mapping[str, Any], where: str) -> str:
    """Render a user's template.

    Raises:
        InvalidInput: it does not parse, or it names something that is not there.
    """
    try:
        return _compiled(template).render(names)
    except TemplateError as error:
        raise InvalidInput(f"The template fails: {error}.", where=where) from None


def turns(application: ApplicationSpec, user: str) -> list[tuple[str, str]]:
    """The conversation an application's request becomes: system, examples, user."""
    conversation = [("system", application.prompt.system)] if application.prompt.system else []
    for asked, answered in application.prompt.examples:
        conversation += [("user", asked), ("assistant", answered)]
    return [*conversation, ("user", user)]


def chat(model: ModelDescription, conversation: Sequence[tuple[str, str]]) -> str:
    """The conversation as the model's own chat template writes it.

    Special tokens inside the turns are taken apart first, so that no user can speak as the system.

    Raises:
        InvalidInput: the template refuses the turns (an unknown role, say).
    """
    messages = [{"role": role, "content": neutral(model, content)} for role, content in conversation]
    try:
        return _compiled(model.chat_template).render(
            messages=messages, add_generation_prompt=True, bos_token=model.bos, eos_token=model.eos
        )
    except TemplateError as error:
        raise InvalidInput(f"The model's chat template refuses these messages: {error}.", where="messages") from None


def neutral(model: ModelDescription, content: str) -> str:
    """The text with every special token of the model broken by a space, so that it is read as letters.

    Repeated until nothing changes: breaking one token may put another together.
    """
    while True:
        before = content
        for token in model.special_tokens:
            if len(token) > 1 and token in content:
                content = content.replace(token, f"{token[0]} {token[1:]}")
        if content == before:
            return content


@lru_cache(maxsize=256)
def _compiled(template: str) -> Template:
    return _sandbox.from_string(template)
