"""Tells a text that says a word from one that quotes it: an answer may cite what it was asked to obey."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_WORD = re.compile(r"\w+")
NEIGHBORS = 2
"""Words on one side that must be those of the given text for a word to be a quotation of it."""


def says(text: str, word: str, given: str) -> bool:
    """Tests whether a text has a word that is no quotation of the given one: neither the two words before it nor the
    two after it are as they are there."""
    sought, words, source = word.lower(), _words(text), _words(given)
    quoted = {side for at in _places(source, sought) for side in _sides(source, at)}
    return any(not quoted.intersection(_sides(words, at)) for at in _places(words, sought))


def says_match(text: str, pattern: re.Pattern[str], given: str) -> bool:
    """Tests whether a text has a match of a pattern that is no quotation of the given one, as :func:`says`."""
    quoted = {side for match in pattern.finditer(given) for side in _around(given, match)}
    return any(not quoted.intersection(_around(text, match)) for match in pattern.finditer(text))


def _words(text: str) -> list[str]:
    return [match.group().lower() for match in _WORD.finditer(text)]


def _places(words: Sequence[str], sought: str) -> Iterator[int]:
    return (at for at, word in enumerate(words) if word == sought)


def _sides(words: Sequence[str], at: int) -> Iterator[tuple[str, ...]]:
    if at >= NEIGHBORS:
        yield ("before", *words[at - NEIGHBORS : at])
    if at + NEIGHBORS < len(words):
        yield ("after", *words[at + 1 : at + 1 + NEIGHBORS])


def _around(text: str, match: re.Match[str]) -> Iterator[tuple[str, ...]]:
    before, after = _words(text[: match.start()])[-NEIGHBORS:], _words(text[match.end() :])[:NEIGHBORS]
    if len(before) == NEIGHBORS:
        yield ("before", *before)
    if len(after) == NEIGHBORS:
        yield ("after", *after)
