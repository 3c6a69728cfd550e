"""Searches for what a text must not have, also in the beginning of a text that goes on.

Invariant: of an unfinished text as many characters pass as no match touches, nor could touch whatever follows: a match
that the end of the text cuts off, or that ends there and may grow, holds back everything from its first character on.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import msgspec
import regex

SECONDS = 0.1
"""Longest time of one search; a pattern that takes longer has not let the text pass."""

Accepts = Callable[[str], bool]
"""Tells whether a matched text is what is meant (its checksum is right, say)."""


class Search(msgspec.Struct, frozen=True):
    """Result of a search: texts that were found, and the number of leading characters that pass."""

    found: tuple[str, ...]
    passed: int


def search(
    pattern: str,
    text: str,
    *,
    ended: bool,
    accepts: Accepts = lambda text: True,
    permits: Accepts = lambda text: False,
) -> Search:
    """Search a text; one that has not ``ended`` may go on in any way. Raises ``TimeoutError``.

    Args:
        accepts: of what matches, counts this; what it does not accept may have a match inside.
        permits: of what matches, passes over this as a whole.
    """
    compiled, at, found = compile_pattern(pattern), 0, list[str]()
    passed = len(text) if ended else _open(pattern, text)
    while (match := compiled.search(text, at, timeout=SECONDS)) is not None:
        counts = ended or match.end() < len(text)
        permitted = permits(match.group())
        if counts and not permitted and accepts(match.group()):
            found.append(match.group())
            passed = min(passed, match.start())
            permitted = True
        at = max(match.end() if permitted else 0, match.start() + 1)
    return Search(tuple(found), passed)


def _open(pattern: str, text: str) -> int:
    """Place of the first match that the end of the text cuts off, or that ends there and may grow."""
    match = _growing(pattern).search(text, partial=True, timeout=SECONDS)
    return len(text) if match is None else int(match.start())


@lru_cache(maxsize=512)
def compile_pattern(pattern: str) -> regex.Pattern[str]:
    """Compile in the newer rules of the package; raises ``regex.error``."""
    return regex.compile(pattern, regex.VERSION1)


@lru_cache(maxsize=512)
def _growing(pattern: str) -> regex.Pattern[str]:
    # It asks for a character behind the match and then fails: only what reaches the end of the text is found.
    return regex.compile(rf"(?:{pattern})(?s:.)(?!)", regex.VERSION1)


@lru_cache(maxsize=512)
def phrases(listed: Sequence[str]) -> str:
    """The pattern of phrases: any case, any white space between words, whole words. Nothing matches that of none."""
    if not listed:
        return "(?!)"
    written = (r"\s+".join(regex.escape(word) for word in plain_words(phrase)) for phrase in listed)
    return "(?i)" + "|".join(rf"(?<!\w){one}(?!\w)" for one in written)


def plain_words(phrase: str) -> list[str]:
    """The words of a phrase in compatibility characters."""
    return unicodedata.normalize("NFKC", phrase).split()


class ReaderText(msgspec.Struct, frozen=True):
    """A text as its reader takes it in, without invisible characters and in compatibility characters, and where each
    of its characters comes from."""

    text: str
    origin: tuple[int, ...]

    def back(self, passed: int, whole: int) -> int:
        """The number of the text's own characters for so many of these; ``whole``: of all of them."""
        return whole if passed >= len(self.origin) else self.origin[passed]


def as_read(text: str) -> ReaderText:
    """Read a text as its reader does."""
    if text.isascii():
        return ReaderText(text, tuple(range(len(text))))
    pairs = tuple(_characters(text))
    return ReaderText("".join(one for one, _ in pairs), tuple(at for _, at in pairs))


def _characters(text: str) -> Iterator[tuple[str, int]]:
    for at, character in enumerate(text):
        if unicodedata.category(character) != "Cf":
            for one in unicodedata.normalize("NFKC", character):
                yield one, at
