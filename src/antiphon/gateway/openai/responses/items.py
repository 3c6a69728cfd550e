"""Items of the Responses API's ``input``, and the turns that they become.

An item or a part of one that is no text, no function's call and no call's result is refused by its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec

from antiphon.core.errors import InvalidInputError, UnsupportedParameterError
from antiphon.engine.api.messages import ToolCall
from antiphon.serving.request import Message

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="input_text"):
    """A part of a message, or of a function's result."""

    text: str


class EarlierText(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="output_text"):
    """A part of an earlier answer. Our own answers have no annotations, and their log-probabilities are not read."""

    text: str
    annotations: Annotated[list[Any], msgspec.Meta(max_length=0)] = []
    logprobs: list[Any] | None = None


class MessageItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="message"):
    """A message; ``developer`` is read as ``system``. ``id``, ``status`` and ``phase`` are labels, not read."""

    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText | EarlierText]
    id: str | None = None
    status: Status | None = None
    phase: Literal["commentary", "final_answer"] | None = None


class FunctionCallItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function_call"):
    """An earlier call of a function; ``arguments`` is JSON, as text."""

    call_id: str
    name: str
    arguments: str
    namespace: str | None = None
    id: str | None = None
    status: Status | None = None


class FunctionResultItem(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag="function_call_output"
):
    """The result of a call; ``name`` and ``namespace`` are labels, not read."""

    call_id: str
    output: str | list[InputText]
    name: str | None = None
    namespace: str | None = None
    id: str | None = None
    status: Status | None = None


InputItem = MessageItem | FunctionCallItem | FunctionResultItem

_ITEMS = frozenset({"message", "function_call", "function_call_output"})
_PARTS = frozenset({"input_text", "output_text"})
_NEXT_STEPS = {
    "input_audio": "Send text.",
    "input_file": "Send its text.",
    "input_image": "Send text: no model here reads images.",
    "item_reference": "Send the item itself, or the response's id as `previous_response_id`.",
    "reasoning": "Leave it out: answers here have no reasoning items, and none is read.",
}
_TURNS = "Send messages, function calls and their results."


class PlacedTurn(msgspec.Struct, frozen=True):
    """A turn, and the place in the request that it comes from."""

    turn: Message
    place: str


def checked(items: list[Any], place: str = "input") -> list[Any]:
    """Items as they are read: one without a ``type`` that has a ``role`` is a message.

    Raises:
        UnsupportedParameterError: a type of item or part that is not read here, named by its place.
    """
    found = []
    for number, item in enumerate(items):
        where = f"{place}[{number}]"
        if isinstance(item, dict):
            if item.get("type") is None and "role" in item:
                item = {**item, "type": "message"}
            require_kind(item, _ITEMS, where, "An item", _NEXT_STEPS, _TURNS)
            for name in ("content", "output"):
                parts = item.get(name)
                for at, part in enumerate(parts if isinstance(parts, list) else ()):
                    require_kind(part, _PARTS, f"{where}.{name}[{at}]", "A part", _NEXT_STEPS, "Send text.")
            item = {name: value for name, value in item.items() if value is not None}
        found.append(item)
    return found


def require_kind(
    given: Any, known: Iterable[str], where: str, noun: str, next_steps: Mapping[str, str], otherwise: str
) -> None:
    """Refuse an object of a ``type`` that is not among the known ones (``UnsupportedParameterError``)."""
    kind = given.get("type") if isinstance(given, dict) else None
    if isinstance(kind, str) and kind not in known:
        raise UnsupportedParameterError(
            f"{noun} of the type {kind[:64]!r} is not supported here.",
            where=where,
            next_step=next_steps.get(kind, otherwise),
        )


def turns(items: Sequence[InputItem], place: str = "input") -> list[PlacedTurn]:
    """The turns of items: calls belong to the turn of the assistant that they follow."""
    found: list[PlacedTurn] = []
    for number, item in enumerate(items):
        where = f"{place}[{number}]"
        if isinstance(item, MessageItem):
            role = "system" if item.role == "developer" else item.role
            found.append(PlacedTurn(Message(role, _text(item.content)), where))
        elif isinstance(item, FunctionResultItem):
            found.append(PlacedTurn(Message("tool", _text(item.output), tool_call_id=item.call_id), where))
        else:
            call = ToolCall(item.call_id, qualified(item.namespace, item.name), item.arguments)
            before = found[-1] if found and found[-1].turn.role == "assistant" else None
            if before is None:
                found.append(PlacedTurn(Message("assistant", "", (call,)), where))
            else:
                turn = Message("assistant", before.turn.content, (*before.turn.tool_calls, call))
                found[-1] = PlacedTurn(turn, before.place)
    return found


def qualified(namespace: str | None, name: str) -> str:
    """The name under which a model is offered a function of a namespace, of characters that every server takes."""
    return name if namespace is None else f"{namespace}__{name}"


def require_calls(conversation: Sequence[PlacedTurn]) -> None:
    """Refuse the result of a call that no turn before it made (``InvalidInputError``)."""
    called: set[str] = set()
    for placed in conversation:
        called |= {call.id for call in placed.turn.tool_calls}
        if placed.turn.tool_call_id is not None and placed.turn.tool_call_id not in called:
            raise InvalidInputError(
                f"`{placed.place}` is the result of {placed.turn.tool_call_id[:64]!r}, which no call before it is.",
                where=f"{placed.place}.call_id",
                next_step="Send the call before its result, or the response that made it as `previous_response_id`.",
            )


def _text(content: str | Sequence[InputText | EarlierText]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
