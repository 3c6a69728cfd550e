import time

import pytest

from antiphon.serving.answering.guards.patterns import as_read, phrases, search


@pytest.mark.parametrize(
    ("pattern", "text", "passed"),
    [
        (r"secret-\d+", "It is sec", 6),
        (r"secret-\d+", "It is secret-1", 6),
        (r"secret-\d+", "It is second to none", 20),
        (r"secret-\d+", "It is secret-1 no more", 6),
        (r"\bfoo(?!bar)", "a foob", 2),
        (r"\bfoo(?!bar)", "a foobar", 8),
        (phrases(("full refund",)), "We give a full ", 10),
        (phrases(("full refund",)), "We give a fully ", 16),
        (phrases(("full refund",)), "We give a FULL\n  Refund.", 10),
    ],
)
def test_a_beginning_passes_up_to_what_may_become_a_match(pattern: str, text: str, passed: int) -> None:
    assert search(pattern, text, ended=False).passed == passed


def test_a_search_has_an_end() -> None:
    began = time.perf_counter()
    with pytest.raises(TimeoutError):
        search(r"(?:a|aa)+$", "a" * 60 + "b", ended=True)
    assert time.perf_counter() - began < 5


def test_a_reader_sees_no_invisible_characters() -> None:
    read = as_read("a\u200bb\ufb01c")
    assert read.text == "abfic"
    assert read.back(2, 5) == 3
    assert read.back(99, 5) == 5
