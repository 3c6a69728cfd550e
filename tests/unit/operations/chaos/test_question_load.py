from __future__ import annotations

import json
from typing import Any

import pytest

from antiphon.operations.chaos.question_load import classified

ANSWER = {"choices": [{"message": {"content": "It is on time."}}], "antiphon": {"role": "live"}}


@pytest.mark.parametrize(
    ("status", "body", "result"),
    [
        (200, ANSWER, "answered"),
        (200, ANSWER | {"antiphon": {"role": "fallback"}}, "degraded"),
        (200, {"choices": []}, "unexplained"),
        (200, {"choices": [{"message": {"content": ""}}]}, "unexplained"),
        (503, {"error": {"code": "unavailable", "message": "The engine is away."}}, "refused"),
        (503, {"error": "away"}, "unexplained"),
        (500, [], "unexplained"),
    ],
)
def test_a_response_is_an_answer_a_refusal_with_a_reason_or_unexplained(status: int, body: Any, result: str) -> None:
    assert classified(status, json.dumps(body).encode())[0] == result


def test_what_is_no_json_is_unexplained() -> None:
    assert classified(502, b"<html>")[0] == "unexplained"
    assert classified(200, b'{"choices": [')[0] == "unexplained"
