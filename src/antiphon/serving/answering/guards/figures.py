"""The guard on figures: a text may contain only figures of this request's features, in their role.

It is a pure function of the text, the declared figures, how they print, and the locale; the flight desk's checker of
served texts shares no code with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import regex

from antiphon.definitions.application import Figure
from antiphon.serving.answering.guards.numbers import UNSPACED, Numeral, durations, numerals, plain, read
from antiphon.serving.answering.guards.sentences import sentences

_IDIOMS = re.compile(r"\b(?:half an?|a quarter of an|a few|several)\s+(?:hours?|days?)\b", re.IGNORECASE)
_WINDOW = re.compile(r"\b(?:last|past|previous|next)\s+$", re.IGNORECASE)
"""Words before a length of time that is the window a figure is about ("over the past two hours")."""
_UNSPACED = regex.compile(f"[{UNSPACED}]")


def violations(
    text: str,
    figures: Sequence[Figure],
    prints: Mapping[str, str | None],
    allowed: Iterable[str] = (),
    locale: str = "en",
    earlier: Sequence[Mapping[str, str | None]] = (),
) -> list[str]:
    """Reasons that keep a text from being served; empty when every figure is one of the request's, in its role.

    Args:
        prints: how each figure prints for this request (``None``: no value, so no number may be given).
        allowed: texts that may hold digits and are no figures (the entity's keys: a flight's number).
        locale: of the text.
        earlier: how figures printed in earlier turns of the conversation, which a text may repeat.
    """
    found: list[str] = []
    for sentence in sentences(_mask(plain(text), map(plain, allowed), figures)):
        for numeral in numerals(sentence, locale):
            # A number word counts as a figure only before a unit: "one of the" is no figure, "ten minutes" is.
            if numeral.words and not any(_unit_follows(sentence, numeral.end, figure) for figure in figures):
                if _is_length(sentence, numeral, locale):
                    found.append(f"{sentence[numeral.start : numeral.end]} has no unit of a declared figure")
                continue
            reason = _judge(numeral, sentence, figures, prints)
            if reason is not None and all(_judge(numeral, sentence, figures, turn) for turn in earlier):
                found.append(reason)
        if locale.startswith("en"):
            found += [f"{match.group()} has no unit of a declared figure" for match in _idioms(sentence, figures)]
    return found


def _mask(text: str, allowed: Iterable[str], figures: Sequence[Figure]) -> str:
    """The text without the digits of allowed words; where a figure's unit follows, a figure is meant all the same."""

    def masked(match: re.Match[str]) -> str:
        stands = any(_unit_follows(match.string, match.end(), figure) for figure in figures)
        return match.group() if stands else "#" * len(match.group())

    for words in sorted({word for word in allowed if any(character.isdigit() for character in word)}, key=len)[::-1]:
        text = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", masked, text)
    return text


def _is_length(sentence: str, numeral: Numeral, locale: str) -> bool:
    """Tells whether hours or days follow, of which no figure is in; English windows are not meant."""
    following = re.match(r"[\s-]+(?:and a half\s+)?(\w+)", sentence[numeral.end :])
    if following is None or following.group(1).lower() not in durations(locale):
        return False
    return not (locale.startswith("en") and _WINDOW.search(sentence[: numeral.start]))


def _idioms(sentence: str, figures: Sequence[Figure]) -> Iterable[re.Match[str]]:
    declared = {unit.lower().rstrip("s") for figure in figures for unit in figure.unit}
    for match in _IDIOMS.finditer(sentence):
        unit = re.split(r"\s+", match.group().lower())[-1].rstrip("s")
        if unit not in declared and not _WINDOW.search(sentence[: match.start()]):
            yield match


def _unit_follows(sentence: str, end: int, figure: Figure) -> bool:
    rest = sentence[end : end + 24].lower().lstrip(" -")
    return any(rest.startswith(unit) and _ends(rest, unit) for unit in map(_folded, figure.unit))


def _folded(unit: str) -> str:
    return plain(unit).lower()


def _ends(rest: str, unit: str) -> bool:
    """Tells whether a word ends with the unit; scripts without spaces do not show it."""
    following = rest[len(unit) : len(unit) + 1]
    return not following.isalpha() or _UNSPACED.match(following) is not None


def _judge(numeral: Numeral, sentence: str, figures: Sequence[Figure], prints: Mapping[str, str | None]) -> str | None:
    shown = sentence[numeral.start : numeral.end]
    candidates = [figure for figure in figures if _unit_follows(sentence, numeral.end, figure)]
    if not candidates:
        return f"{shown} has no unit of a declared figure"
    nearest = _nearest_role(numeral, sentence.lower(), candidates)
    if nearest is None:
        return f"{shown} stands in no declared role"
    text = prints.get(nearest.feature)
    if text is None:
        return f"{nearest.feature} has no value, the text says {shown}"
    value = read(text, "en")
    if value is None:
        return f"{nearest.feature} is {text!r}, the text says {shown}"
    return None if value == numeral.value else f"{nearest.feature} prints {text}, the text says {shown}"


def _nearest_role(numeral: Numeral, sentence: str, candidates: Sequence[Figure]) -> Figure | None:
    best: tuple[int, Figure] | None = None
    for figure in candidates:
        for role in figure.roles:
            edge = "" if _UNSPACED.match(role) else r"\b"
            for match in re.finditer(edge + re.escape(_folded(role)), sentence):
                distance = max(match.start() - numeral.end, numeral.start - match.end(), 0)
                if best is None or distance < best[0]:
                    best = (distance, figure)
    return best[1] if best else None
