"""Checks of an output: the guard on figures, and the JSON schema.

The guard lets a text contain only figures of this request's features, in their role. It is a pure function of the text,
the declared figures and how they print; the flight desk's checker of served texts shares no code with it.

An engine masks tokens so that a finished text meets its schema; a remote engine may ignore the schema, and a text that
was cut off meets none. So every served text is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec

from antiphon.core.ids import canonical
from antiphon.definitions.application import Figure

_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[.,]\d+)*(?![\d])")
_SENTENCE = re.compile(r"(?<=[.!?;])\s+(?=[A-Z\d])")
_UNITS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19, "a": 1, "an": 1,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000}
_WORD = "|".join([*_UNITS, *_TENS, *_SCALES])
_WORDS = re.compile(rf"\b(?:{_WORD})(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}))*\b", re.IGNORECASE)
_LENGTHS = re.compile(
    r"(?<!last )(?<!past )(?<!previous )(?<!next )"
    rf"\b(?:(?:{_WORD})[\s-]+(?:and a half\s+)?|half an?\s+|a quarter of an\s+|a few\s+|several\s+)(?:hours?|days?)\b",
    re.IGNORECASE,
)
"""Lengths of time in words, except as the window a figure is about ("over the past two hours")."""


class FigureMention(msgspec.Struct, frozen=True):
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
    """Reasons that keep a text from being served; empty when every figure is one of the request's, in its role.

    Args:
        prints: how each figure prints for this request (``None``: no value, so no number may be given).
        allowed: texts that may hold digits and are no figures (the entity's keys: a flight's number).
    """
    found: list[str] = []
    for sentence in _SENTENCE.split(_mask(text, allowed, figures)):
        for mention in _mentions(sentence, figures):
            reason = _judge(mention, sentence, figures, prints)
            if reason is not None:
                found.append(reason)
        found += [f"{match.group()} has no unit of a declared figure" for match in _lengths(sentence, figures)]
    return found


def _mask(text: str, allowed: Iterable[str], figures: Sequence[Figure]) -> str:
    """The text without the digits of allowed words; where a figure's unit follows, a figure is meant all the same."""

    def masked(match: re.Match[str]) -> str:
        stands = any(_unit_follows(match.string, match.end(), figure) for figure in figures)
        return match.group() if stands else "#" * len(match.group())

    for words in sorted({word for word in allowed if any(character.isdigit() for character in word)}, key=len)[::-1]:
        text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", masked, text)
    return text


def _mentions(sentence: str, figures: Sequence[Figure]) -> list[FigureMention]:
    numbers = [
        FigureMention(
            Decimal(match.group().replace(",", "")) if match.group().count(".") < 2 else Decimal(-1), *match.span()
        )
        for match in _NUMBER.finditer(sentence)
    ]
    # A number word counts as a figure only before a unit: "one of the" is no figure, "ten minutes" is.
    for match in _WORDS.finditer(sentence):
        if any(_unit_follows(sentence, match.end(), figure) for figure in figures):
            numbers.append(FigureMention(Decimal(_spelt(match.group())), *match.span()))
    return numbers


def _spelt(words: str) -> int:
    """The number that words spell: "a hundred and twenty-five" is 125."""
    whole = part = 0
    for word in re.split(r"[\s-]+", words.lower()):
        if word in _SCALES:
            part = max(part, 1) * _SCALES[word]
            if word == "thousand":
                whole, part = whole + part, 0
        elif word != "and":
            part += _UNITS.get(word, _TENS.get(word, 0))
    return whole + part


def _lengths(sentence: str, figures: Sequence[Figure]) -> Iterable[re.Match[str]]:
    declared = {unit.lower().rstrip("s") for figure in figures for unit in figure.unit}
    for match in _LENGTHS.finditer(sentence):
        if re.split(r"[\s-]+", match.group().lower())[-1].rstrip("s") not in declared:
            yield match


def _unit_follows(sentence: str, end: int, figure: Figure) -> bool:
    rest = sentence[end : end + 24].lower().lstrip(" -\u00a0")
    return any(rest.startswith(unit.lower()) and not rest[len(unit) : len(unit) + 1].isalpha() for unit in figure.unit)


def _judge(
    mention: FigureMention, sentence: str, figures: Sequence[Figure], prints: Mapping[str, str | None]
) -> str | None:
    shown = sentence[mention.start : mention.end]
    candidates = [figure for figure in figures if _unit_follows(sentence, mention.end, figure)]
    if not candidates:
        return f"{shown} has no unit of a declared figure"
    nearest = _nearest_role(mention, sentence.lower(), candidates)
    if nearest is None:
        return f"{shown} stands in no declared role"
    text = prints.get(nearest.feature)
    if text is None:
        return f"{nearest.feature} has no value, the text says {shown}"
    try:
        value = Decimal(text)
    except ArithmeticError:
        return f"{nearest.feature} is {text!r}, the text says {shown}"
    return None if value == mention.number else f"{nearest.feature} prints {text}, the text says {shown}"


def _nearest_role(mention: FigureMention, sentence: str, candidates: Sequence[Figure]) -> Figure | None:
    best: tuple[int, Figure] | None = None
    for figure in candidates:
        for role in figure.roles:
            for match in re.finditer(rf"\b{re.escape(role.lower())}", sentence):
                distance = max(match.start() - mention.end, mention.start - match.end(), 0)
                if best is None or distance < best[0]:
                    best = (distance, figure)
    return best[1] if best else None


def parsed(text: str) -> Any:
    """The text's JSON value, ``None`` when it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def mismatches(schema: Mapping[str, Any], output: Any) -> dict[str, str]:
    """Mismatches of a value with the JSON schema: top-level property (``""``: the whole) to a reason."""
    found: dict[str, str] = {}
    for error in _validator(canonical(schema)).iter_errors(output):
        place = str(error.absolute_path[0]) if error.absolute_path else ""
        found.setdefault(place, str(error.message)[:200])
    return found


@lru_cache(maxsize=256)
def _validator(schema: bytes) -> Any:
    from jsonschema.validators import validator_for
    from referencing import Registry

    document = msgspec.json.decode(schema)
    # An empty registry: a reference to somewhere else is an error, never a download.
    return validator_for(document)(document, registry=Registry())
