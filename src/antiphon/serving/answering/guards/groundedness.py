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
    known = _Evidence(documents)
    found = []
    for place, sentence in enumerate(sentences(plain(text)), 1):
        words, grounded, unknown = known.of(sentence)
        if unknown:
            found.append(f"sentence {place} has the number {unknown[0]}, which is in no document")
        elif words and grounded < share * words:
            found.append(f"sentence {place} has {grounded} of {words} words from the documents")
    return found


def grounded_share(text: str, documents: Iterable[str]) -> float:
    """The share of a text's words and numbers that documents have; 1 of one that has none."""
    said = plain(text)
    words, grounded, unknown = _Evidence(documents).of(said)
    numbers = len(_NUMBER.findall(said))
    return (grounded + numbers - len(unknown)) / (words + numbers) if words + numbers else 1.0


class _Evidence:
    """The words and numbers of some documents."""

    def __init__(self, documents: Iterable[str]) -> None:
        known = plain(" ".join(documents)).casefold()
        self._stems = {word[:_STEM] for word in _WORD.findall(known)}
        self._numbers = set(_NUMBER.findall(known))

    def of(self, text: str) -> tuple[int, int, list[str]]:
        """The words of a plain text, how many of them are known, and the numbers that are not."""
        said = _WORD.findall(text.casefold())
        unknown = [number for number in _NUMBER.findall(text) if number not in self._numbers]
        return len(said), sum(word[:_STEM] in self._stems for word in said), unknown
