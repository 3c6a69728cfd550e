"""Ends of sentences, one rule for guards that judge a sentence and for streams that show one.

Invariant: an end is known once the first character behind its white space is, and no later text takes it back.
"""

from __future__ import annotations

from collections.abc import Iterator

import regex

_END = regex.compile(
    r"[.!?;…][\"'”’»)\]]*\s+(?=[\p{Lu}\p{Lt}\p{Lo}\p{Nd}\"'“„«(\[*#-])"
    r"|[。！？][”」』）]*\s*(?=[^”」』）\s])"
    r"|\n[ \t]*\n\s*(?=\S)"
)


def ends(text: str, begin: int = 0) -> Iterator[int]:
    """Positions behind ``begin`` at which a sentence begins behind another one, in order."""
    for match in _END.finditer(text, begin):
        yield match.end()


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text."""
    begin = 0
    for end in ends(text):
        yield text[begin:end]
        begin = end
    yield text[begin:]
