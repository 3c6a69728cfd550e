"""Turns that call functions, read and written in pieces."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from antiphon.engine.api.messages import ToolCall
from antiphon.engine.api.tool_text import BEGIN, END, ToolReader, ToolWriter, read

VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.lists(st.text(max_size=6), max_size=3)
CALLS = st.lists(
    st.tuples(st.text(min_size=1, max_size=8), st.dictionaries(st.text(max_size=6), VALUES, max_size=3)), max_size=3
)
SPLITS = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def in_pieces(text: str, lengths: list[int]) -> list[str]:
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + lengths[turn % len(lengths)]])
        at, turn = at + len(pieces[-1]), turn + 1
    return pieces


def streamed(text: str, lengths: list[int]) -> tuple[str, list[tuple[str, object]]]:
    """(content, calls) as they come piece by piece."""
    reader = ToolReader()
    found = [part for piece in in_pieces(text, lengths) for part in reader.read(piece)] + reader.end()
    content = "".join(part for part in found if isinstance(part, str))
    return content, [(part.name, json.loads(part.arguments)) for part in found if isinstance(part, ToolCall)]


@given(content=st.none() | st.text(), calls=CALLS, lengths=SPLITS, escaped=st.booleans())
def test_the_object_is_read_however_it_is_cut(content, calls, lengths, escaped) -> None:
    written = {} if content is None else {"content": content}
    assume(written or calls)
    if calls:
        written["tool_calls"] = [{"name": name, "arguments": arguments} for name, arguments in calls]
    text = json.dumps(written, ensure_ascii=escaped)
    assert streamed(text, lengths) == (content or "", [(name, arguments) for name, arguments in calls])


@given(content=st.text().filter(lambda text: text.strip() and BEGIN not in text), lengths=SPLITS)
def test_a_text_without_tags_is_content(content, lengths) -> None:
    assume(not content.strip().startswith("{"))
    found, calls = streamed(content, lengths)
    assert (found.strip(), calls) == (content.strip(), [])


@given(calls=CALLS.filter(bool), lengths=SPLITS)
def test_calls_between_tags_are_read_however_they_are_cut(calls, lengths) -> None:
    safe = [(name, arguments) for name, arguments in calls if END not in json.dumps([name, arguments])]
    text = "\n".join(
        f"{BEGIN}\n{json.dumps({'name': name, 'arguments': arguments})}\n{END}" for name, arguments in safe
    )
    assert streamed(text, lengths) == ("", safe)


@given(content=st.text(), calls=CALLS, lengths=SPLITS)
def test_what_another_server_streams_is_written_as_the_object(content, calls, lengths) -> None:
    writer, text = ToolWriter(), ""
    for piece in in_pieces(content, lengths):
        text += writer.content(piece)
    for index, (name, arguments) in enumerate(calls):
        writer.call({"index": index, "id": "x", "function": {"name": name, "arguments": ""}})
        for piece in in_pieces(json.dumps(arguments), lengths):
            writer.call({"index": index, "function": {"arguments": piece}})
    text += writer.end()
    assert json.loads(text).get("content", "") == content
    found, read_calls = read(text)
    assert (found or "") == content
    assert [(call.name, json.loads(call.arguments)) for call in read_calls] == [
        (name, arguments) for name, arguments in calls
    ]


@pytest.mark.parametrize(
    ("text", "content", "names"),
    [
        ('{"tool_calls": [{"name": "a", "arguments": {}}, {"name": "b", "argu', None, ["a"]),
        ('{"content": "half a wo', "half a wo", []),
        ('{"content": "half a character \\ud83d', "half a character ", []),
        ('{"tool', "", []),
        ("Not <tool_ca", "Not <tool_ca", []),
        (f'{BEGIN}\n{{"name": "a"', "", []),
        (f"{BEGIN}no JSON{END}", f"{BEGIN}no JSON{END}", []),
    ],
)  # fmt: skip
def test_what_was_cut_off_is_left_out(text, content, names) -> None:
    found, calls = read(text)
    assert (found, [call.name for call in calls]) == (content, names)


def test_arguments_that_are_no_json_are_handed_on() -> None:
    writer = ToolWriter()
    writer.call({"index": 0, "function": {"name": "a", "arguments": "{half"}})
    (call,) = read(writer.end())[1]
    assert call.arguments == "{half"
