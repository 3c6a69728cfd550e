"""Citations: what a text cites was retrieved for its request, and says what it is cited for.

A citation is ``[2]``, the chunk of that number, ``[1-3]``, all from one to another, or ``[returns.md#1]``, that of this
id; several stand apart by commas. Brackets with other words are no citations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from antiphon.definitions.documents import MOST_RETRIEVED
from antiphon.serving.answering.guards.groundedness import ungrounded
from antiphon.serving.answering.guards.numbers import plain
from antiphon.serving.answering.guards.sentences import sentences

_CITED = r"(?:\d+\s*[-\u2010-\u2015]\s*\d+|\d+|[^\[\]\s,]+\#\d+)"
_CITATION = regex.compile(rf"\[\s*({_CITED}(?:\s*[,;]\s*{_CITED})*)\s*\]")
_SHOWN = 60
_RANGE = regex.compile(r"(\d{1,9})\s*[-\u2010-\u2015]\s*(\d{1,9})")
_AFTER = regex.compile(rf"([.!?]['\")»”’]*)\s*((?:\[\s*{_CITED}(?:\s*[,;]\s*{_CITED})*\s*\]\s*)+)")


def violations(text: str, retrieved: Sequence[Mapping[str, Any]], share: float, *, required: bool) -> list[str]:
    """Reasons that keep a text from being served.

    Args:
        retrieved: the request's chunks, as templates see them.
        share: least share of a citing sentence's words that the cited chunks have; 0: they are not compared.
    """
    text = plain(text)
    known = {plain(str(chunk[name])): chunk for chunk in retrieved for name in ("number", "id")}
    cited = list(dict.fromkeys(_cited(text)))
    found = [f"it cites [{one[:_SHOWN]}], which was not retrieved" for one in cited if one not in known]
    if required and retrieved and not cited:
        found.append("it cites nothing")
    if found or not share:
        return found
    # A citation behind a sentence's end is of that sentence.
    for place, sentence in enumerate(sentences(_AFTER.sub(r" \2\1 ", text)), 1):
        own = [known[one] for one in _cited(sentence)]
        if own and ungrounded(without_citations(sentence), [f"{one['title']} {one['text']}" for one in own], share):
            found.append(f"sentence {place} is not what it cites")
    return found


def without_citations(text: str) -> str:
    """A text without what it cites by."""
    without: str = _CITATION.sub("", text)
    return without


def _cited(text: str) -> Iterator[str]:
    for match in _CITATION.finditer(text):
        for one in regex.split(r"[,;]", match[1]):
            numbers = _RANGE.fullmatch(one.strip())
            if numbers is None:
                yield one.strip()
                continue
            first, last = int(numbers[1]), int(numbers[2])
            # Of a range that is longer than any list of chunks, beginning and end are enough to refuse it.
            yield from map(str, (first, *range(first + 1, min(last, first + MOST_RETRIEVED)), last))
