from __future__ import annotations

from typing import Any

import pytest

from antiphon.operations.chaos.tolerance import mistakes, shown, within

RESPONSE = {"status": 200, "headers": {}, "body": '{"ready": true, "parts": {"engine": null}, "jobs": [{"id": "a"}]}'}


@pytest.mark.parametrize(
    ("value", "tolerance", "met"),
    [
        (200, 200, True),
        (503, 200, False),
        (RESPONSE, 200, True),
        (RESPONSE, [200, 204, 301], True),
        (RESPONSE, [201, 204, 301], False),
        (True, True, True),
        (1, True, False),
        ("running", "running", True),
        ("away", ["running", "paused", "x"], False),
        (0.5, [0, 1], True),
        (1.5, [0, 1], False),
        ("0.5", [0, 1], False),
        (0.5, {"type": "range", "range": [0, 0.5]}, True),
        (None, {"type": "range", "range": [0, 1]}, False),
        (RESPONSE, {"type": "range", "range": [200, 299], "target": "status"}, True),
        ("is ready", {"type": "regex", "pattern": "ready$"}, True),
        (RESPONSE, {"type": "regex", "pattern": "engine", "target": "body"}, True),
        (RESPONSE, {"type": "jsonpath", "path": "$.ready", "expect": True, "target": "body"}, True),
        (RESPONSE, {"type": "jsonpath", "path": "$.jobs[0].id", "expect": ["a"], "target": "body"}, True),
        (RESPONSE, {"type": "jsonpath", "path": "$.jobs[1].id", "target": "body"}, False),
        (RESPONSE, {"type": "jsonpath", "path": "$.parts['engine']", "count": 1, "target": "body"}, True),
    ],
)
def test_a_value_is_within_as_the_format_says(value: Any, tolerance: Any, met: bool) -> None:
    assert not [*mistakes(tolerance)]
    assert within(value, tolerance) is met


@pytest.mark.parametrize(
    "tolerance",
    [
        None,
        [],
        {"type": "probe"},
        {"type": "range", "range": [1]},
        {"type": "regex", "pattern": "("},
        {"type": "jsonpath", "path": "$..x"},
    ],
)
def test_what_is_no_tolerance_is_told(tolerance: Any) -> None:
    assert [*mistakes(tolerance)]


def test_tolerances_are_shown_in_words() -> None:
    assert shown({"type": "range", "range": [0, 0.02]}) == "0 to 0.02"
    assert shown([200, 204, 301]) == "one of 200, 204, 301"
    assert shown([0, 5]) == "0 to 5"
    assert shown(200) == "200"
