"""Groundedness: each sentence's numbers, and a share of its words, occur in what the request brought.

K-Precision of Adlakha et al., "Evaluating Correctness and Faithfulness of Instruction-Following Models for Question
Answering" (2023), by sentence, over words of four letters or more.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

from antiphon.serving.answering.guards.numbers import plain
from antiphon.serving.answering.guards.sentences import sentences

_WORD = regex.compile(r"[^\W\d_]{4,}")
_NUMBER = regex.compile(r"\d+(?:[.,]\d+)*")
_STEM = 6
"""Two words that share so many letters at their beginning are forms of one."""


def ungrounded(text: str, documents: Iterable[str], share: float) -> list[str]:
    """Reasons that keep a text from being served, one for each sentence that is not grounded."""
    known = plain(" ".join(documents)).casefold()
    stems = {word[:_STEM] for word in _WORD.findall(known)}
    numbers = set(_NUMBER.findall(known))
    found = []
    for place, sentence in enumerate(sentences(plain(text)), 1):
        said = _WORD.findall(sentence.casefold())
        grounded = sum(word[:_STEM] in stems for word in said)
        unknown = [number for number in _NUMBER.findall(sentence) if number not in numbers]
        if unknown:
            found.append(f"sentence {place} has the number {unknown[0]}, which is in no document")
        elif said and grounded < share * len(said):
            found.append(f"sentence {place} has {grounded} of {len(said)} words from the documents")
    return found
