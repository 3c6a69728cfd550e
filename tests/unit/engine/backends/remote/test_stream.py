"""What an OpenAI-compatible server streams, read event by event or several at once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from antiphon.core.errors import EngineError
from antiphon.engine.api.messages import ChatTurn, Delta, GenerationRequest
from antiphon.engine.backends.remote.stream import CompletionStream


def event(text: str, reason: str | None = None, **more: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": reason}], **more}).encode()


def logged(token: str) -> bytes:
    choice = {"index": 0, "delta": {"content": token}, "logprobs": {"content": [{"token": token, "logprob": -0.5}]}}
    return json.dumps({"choices": [choice]}).encode()


def reading() -> CompletionStream:
    return CompletionStream(GenerationRequest("r", "any", "", 8, messages=(ChatTurn("user", "Say."),)), 10.0)


def test_events_that_come_together_are_one_delta_of_the_same_text() -> None:
    apart, together = reading(), reading()
    words = [event(" one"), event(" two"), event(" three")]
    ends = [event("", "stop"), json.dumps({"choices": [], "usage": {"prompt_tokens": 4}}).encode()]
    singly = [apart.read([payload], 11.0) for payload in (*words, *ends)]
    assert [delta.text for delta in singly if delta is not None] == [" one", " two", " three"]
    assert together.read([*words, *ends], 11.0) == Delta("r", " one two three")
    assert together.result(12.0) == apart.result(12.0)
    assert together.result(12.0).usage.completion_tokens == 3


def test_tokens_keep_their_order_and_their_probabilities() -> None:
    delta = reading().read([logged(" one"), logged(" two")], 11.0)
    assert delta is not None
    assert [(token.text, token.logprob) for token in delta.tokens] == [(" one", -0.5), (" two", -0.5)]


def test_what_comes_with_a_failure_is_not_shown() -> None:
    with pytest.raises(EngineError, match="in the middle"):
        reading().read([event(" one"), b'{"error": {"message": "out of memory"}}'], 11.0)


def test_a_read_without_text_is_nothing_to_show() -> None:
    assert reading().read([event("")], 11.0) is None
