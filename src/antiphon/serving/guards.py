"""The guard on figures: a text states only figures of this request's features, in their role.

A pure function of the text, the declared figures and how they print. The judge of a served text (see the
flight desk's checker) shares no code with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

import msgspec

from antiphon.definitions.application import Figure

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?![\d])")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[A-Z\d])")
_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30,
    "forty": 40, "fifty": 50, "sixty": 60, "ninety": 90, "hundred": 100,
}  # fmt: skip
_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)


class Stated(msgspec.Struct, frozen=True):
    """A number in a text: its place and the words after it."""

    number: Decimal
    start: int
    end: int


def violations(
    text: str,
    figures: Sequence[Figure],
    prints: Mapping[str, str | None],
    allowed: Iterable[str] = (),
) -> list[str]:
    """Why the text may not be served; empty when every figure is one of the request's, in its role.

    Args:
        text: what the model wrote.
        figures: the application's declared figures.
        prints: how each prints for this request (``None``: no value, so no number may be given).
        allowed: texts that may hold digits and are no figures (the entity's keys: a flight's number).
    """
    masked = _mask(text, allowed)
    found: list[str] = []
    start = 0
    for sentence in _SENTENCE.split(masked):
        offset = masked.index(sentence, start)
        start = offset + len(sentence)
        for stated in _stated(sentence, figures):
            reason = _judge(stated, sentence, figures, prints)
            if reason is not None:
                found.append(reason)
    return found


def _mask(text: str, allowed: Iterable[str]) -> str:
    for words in sorted({word for word in allowed if any(character.isdigit() for character in word)}, key=len)[::-1]:
        text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", "#" * len(words), text)
    return text


def _stated(sentence: str, figures: Sequence[Figure]) -> list[Stated]:
    numbers = [
        Stated(Decimal(match.group().replace(",", "")) if match.group().count(".") < 2 else Decimal(-1), *match.span())
        for match in _NUMBER.finditer(sentence)
    ]
    # A number word counts as a figure only before a unit: "one of the" is no figure, "ten minutes" is.
    for match in _WORD.finditer(sentence):
        if any(_unit_follows(sentence, match.end(), figure) for figure in figures):
            numbers.append(Stated(Decimal(_WORDS[match.group().lower()]), *match.span()))
    return numbers


def _unit_follows(sentence: str, end: int, figure: Figure) -> bool:
    rest = sentence[end : end + 24].lower().lstrip(" -\u00a0")
    return any(rest.startswith(unit.lower()) and not rest[len(unit) : len(unit) + 1].isalpha() for unit in figure.unit)


def _judge(stated: Stated, sentence: str, figures: Sequence[Figure], prints: Mapping[str, str | None]) -> str | None:
    shown = sentence[stated.start : stated.end]
    candidates = [figure for figure in figures if _unit_follows(sentence, stated.end, figure)]
    if not candidates:
        return f"{shown} has no unit of a declared figure"
    nearest = _nearest_role(stated, sentence.lower(), candidates)
    if nearest is None:
        return f"{shown} stands in no declared role"
    text = prints.get(nearest.feature)
    if text is None:
        return f"{nearest.feature} has no value, the text says {shown}"
    try:
        value = Decimal(text)
    except ArithmeticError:
        return f"{nearest.feature} is {text!r}, the text says {shown}"
    return None if value == stated.number else f"{nearest.feature} prints {text}, the text says {shown}"


def _nearest_role(stated: Stated, sentence: str, candidates: Sequence[Figure]) -> Figure | None:
    best: tuple[int, Figure] | None = None
    for figure in candidates:
        for role in figure.roles:
            for match in re.finditer(rf"\b{re.escape(role.lower())}", sentence):
                distance = max(match.start() - stated.end, stated.start - match.end(), 0)
                if best is None or distance < best[0]:
                    best = (distance, figure)
    return best[1] if best else None
