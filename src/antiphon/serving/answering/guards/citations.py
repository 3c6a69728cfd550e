"""Citations: what a text cites was retrieved for its request, and says what it is cited for.

A citation is ``[2]``, the chunk of that number, or ``[returns.md#1]``, that of this id; several stand apart by commas.
Brackets with other words are no citations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from antiphon.serving.answering.guards.groundedness import ungrounded
from antiphon.serving.answering.guards.sentences import sentences

_CITED = r"(?:\d{1,6}|[^\[\]\s,]+\#\d+)"
_CITATION = regex.compile(rf"\[\s*({_CITED}(?:\s*[,;]\s*{_CITED})*)\s*\]")
_AFTER = regex.compile(rf"([.!?]['\")»”’]*)\s*((?:\[\s*{_CITED}(?:\s*[,;]\s*{_CITED})*\s*\]\s*)+)")


def violations(text: str, retrieved: Sequence[Mapping[str, Any]], share: float, *, required: bool) -> list[str]:
    """Reasons that keep a text from being served.

    Args:
        retrieved: the request's chunks, as templates see them.
        share: least share of a citing sentence's words that the cited chunks have; 0: they are not compared.
    """
    known = {str(chunk["number"]): chunk for chunk in retrieved} | {str(chunk["id"]): chunk for chunk in retrieved}
    cited = list(dict.fromkeys(_cited(text)))
    found = [f"it cites [{one}], which was not retrieved" for one in cited if one not in known]
    if required and retrieved and not cited:
        found.append("it cites nothing")
    if found or not share:
        return found
    # A citation behind a sentence's end is of that sentence.
    for place, sentence in enumerate(sentences(_AFTER.sub(r" \2\1 ", text)), 1):
        own = [known[one] for one in _cited(sentence)]
        if own and ungrounded(_CITATION.sub("", sentence), [f"{one['title']} {one['text']}" for one in own], share):
            found.append(f"sentence {place} is not what it cites")
    return found


def _cited(text: str) -> Iterator[str]:
    for match in _CITATION.finditer(text):
        yield from (one.strip() for one in regex.split(r"[,;]", match[1]))
