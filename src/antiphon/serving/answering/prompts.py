"""From printed figures to the text the engine reads: sandboxed templates, then the model's chat template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from antiphon.core.errors import InvalidInputError, PromptFailedError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.granted import prompt_name
from antiphon.engine.api.messages import ChatTurn, ModelDescription, ToolCall
from antiphon.serving.answering.guards.numbers import localized
from antiphon.serving.answering.tools import Tools, as_template_reads, in_words, writes_tools
from antiphon.serving.history import NO_HISTORY, History

LARGEST_RENDERED = 200_000
"""Characters a template may write: far beyond any model's context, far below what would hurt the process."""

BEFORE = "Summary of the conversation before:"
"""Words before the summary of earlier turns."""

_ROUNDS = 32
_WIDTH = re.compile(r"[%{][^%{}]*\d{6}")
"""A width of six digits or more in a format."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without the operators by which a short template makes a long text or a long computation."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (isinstance(left, (int, float)) and isinstance(right, (int, float))):
            raise SecurityError(
                f"the operator {operator} is for numbers only" if operator != "**" else "no powers here"
            )
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, called: Any, *args: Any, **named: Any) -> Any:
        if isinstance(getattr(called, "__self__", None), str):
            _refuse_widths((*args, *named.values()))
        return super().call(context, called, *args, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        format_safely, text = wrapped, str(value.__self__)

        def formatted(*args: Any, **named: Any) -> str:
            _refuse_widths((*args, *named.values()), text)
            return format_safely(*args, **named)

        return formatted


def _refuse_widths(values: Iterable[Any], format: str = "") -> None:
    """A width in a format or for padding makes a long text of a short one, before its length can be counted."""
    if _WIDTH.search(format) or any(isinstance(value, int) and abs(value) > LARGEST_RENDERED for value in values):
        raise SecurityError("a width is too large")


def _bounded(apply: Callable[..., Any], formats: bool) -> Callable[..., Any]:
    """The filter with its widths bounded; of one that ``formats``, also those in its text."""

    def filtered(text: Any, *args: Any, **named: Any) -> Any:
        _refuse_widths((*args, *named.values()), str(text) if formats else "")
        return apply(text, *args, **named)

    return filtered


def _plain_json(value: Any, indent: int | None = None) -> str:
    _refuse_widths((indent,))
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse_turns(reason: str) -> None:
    raise TemplateError(reason)


_sandbox = _Sandbox(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
# The same names must give the same prompt, or nothing could be replayed.
del _sandbox.globals["lipsum"], _sandbox.filters["random"]
# Models' chat templates are written for an environment where a missing name is empty (transformers' convention).
_chat_sandbox = _Sandbox(
    undefined=Undefined, trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
)
_chat_sandbox.globals["raise_exception"] = _refuse_turns
# As transformers writes it: Jinja's own escapes characters for HTML.
_chat_sandbox.filters["tojson"] = _plain_json
_compiled = lru_cache(256)(_sandbox.from_string)
_compiled_chat = lru_cache(32)(_chat_sandbox.from_string)
for _environment in (_sandbox, _chat_sandbox):
    for _name in ("center", "format", "indent"):
        _environment.filters[_name] = _bounded(_environment.filters[_name], _name == "format")


def variables(
    application: ApplicationSpec,
    prints: Mapping[str, str | None],
    entity: Mapping[str, str],
    question: str | None,
    retrieved: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> dict[str, Any]:
    """The variables of a template: ``features.VIEW.FEATURE`` as printed, with the locale's decimal sign, ``entity``,
    ``question``, and the chunks of each retrieval as ``retrieved.NAME``."""
    views: dict[str, dict[str, str | None]] = {prompt_name(view): {} for view in application.versions}
    for name, text in prints.items():
        view, _, feature = name.partition(".")
        written = text if text is None else localized(text, application.text_locale)
        views.setdefault(prompt_name(view), {})[feature] = written
    chunks = {one.name: list((retrieved or {}).get(one.name, ())) for one in application.retrievals or ()}
    return {"features": views, "entity": dict(entity), "question": question or "", "retrieved": chunks}


def render(template: str, names: Mapping[str, Any], where: str) -> str:
    """Render a user's template.

    Raises:
        InvalidInputError: it does not parse, it names something that is not there, or what it computes fails.
    """
    try:
        return _written(_compiled(template), names)
    # A template is a program of the user's: whatever it raises is its own fault (a sum of text and number, say).
    except Exception as error:
        raise InvalidInputError(f"The template fails: {_words(error)}.", where=where) from None


def question_text(application: ApplicationSpec, names: Mapping[str, Any]) -> str:
    """The user's turn of an application's request: its template with these variables.

    Raises:
        PromptFailedError: as :func:`render` does.
    """
    where = f"application {application.name}, prompt"
    try:
        return render(application.prompt.template, names, where)
    except InvalidInputError as error:
        step = f"Roll the release of {application.name} back, or mend its template and apply."
        raise PromptFailedError(error.what, where=where, next_step=step) from None


def turns(application: ApplicationSpec, user: str, history: History = NO_HISTORY) -> list[ChatTurn]:
    """The conversation an application's request becomes: system, examples, earlier turns, user.

    The summary of turns that are not shown whole stands at the beginning of the first user's turn that is: a text that
    a model made of a stranger's words is no instruction.
    """
    conversation = [ChatTurn("system", application.prompt.system)] if application.prompt.system else []
    for question, answered in application.prompt.examples:
        conversation += [ChatTurn("user", question), ChatTurn("assistant", answered)]
    shown: list[ChatTurn] = []
    for turn in history.whole:
        shown += [ChatTurn("user", turn.shown), *turn.exchanged, ChatTurn("assistant", turn.answer)]
    shown.append(ChatTurn("user", user))
    if history.summary:
        shown[0] = ChatTurn("user", f"{BEFORE}\n{history.summary}\n\n{shown[0].content}")
    return [*conversation, *shown]


def chat(model: ModelDescription, conversation: Sequence[ChatTurn], tools: Tools | None = None) -> str:
    """The conversation as the model's own chat template writes it.

    A template that writes tools is given them; for any other they are told in words.

    Special tokens inside the turns are taken apart first, so that no user can speak as the system.

    Raises:
        InvalidInputError: the template refuses the turns (an unknown role, say).
    """
    native = writes_tools(model.chat_template)
    turns = conversation if native else in_words(conversation, tools)
    messages = [as_template_reads(_neutral_turn(model, turn)) for turn in turns]
    names = {"messages": messages, "add_generation_prompt": True, "bos_token": model.bos, "eos_token": model.eos}
    if native and tools is not None:
        names["tools"] = json.loads(neutral(model, json.dumps(tools.openai["tools"], ensure_ascii=False)))
    try:
        return _written(_compiled_chat(model.chat_template), names)
    except Exception as error:
        raise InvalidInputError(
            f"The model's chat template refuses these messages: {_words(error)}.", where="messages"
        ) from None


def _neutral_turn(model: ModelDescription, turn: ChatTurn) -> ChatTurn:
    return ChatTurn(
        turn.role,
        neutral(model, turn.content),
        tuple(ToolCall(call.id, neutral(model, call.name), neutral(model, call.arguments)) for call in turn.tool_calls),
        turn.tool_call_id,
        None if turn.name is None else neutral(model, turn.name),
    )


def neutral(model: ModelDescription, content: str) -> str:
    """The text with every special token of the model broken by a space, so that it is read as letters.

    Repeated until nothing changes: breaking one token may put another together. White space alone is no
    special token here, since a space does not break it. Raises ``InvalidInputError`` for a text that does not rest.
    """
    tokens = {
        token: broken
        for token in model.special_tokens
        if len(token) > 1 and token not in (broken := f"{token[0]} {token[1:]}")
    }
    for _ in range(_ROUNDS):
        before = content
        for token, broken in tokens.items():
            content = content.replace(token, broken)
        if content == before:
            return content
    raise InvalidInputError("The text is made of the model's special tokens.", where="messages")


def _written(template: Template, names: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    length = 0
    for piece in template.generate(names):
        pieces.append(piece)
        length += len(piece)
        if length > LARGEST_RENDERED:
            raise TemplateError(f"it writes more than {LARGEST_RENDERED} characters")
    return "".join(pieces)


def _words(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
