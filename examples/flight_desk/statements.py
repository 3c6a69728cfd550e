"""What a notice says: every figure and every claim in words, taken out of the text.

The reader of a text knows nothing of the request's features or of the guard that let it pass.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Kind = Literal["delay", "wind", "carrier", "route", "share", "on_time", "delayed", "unsupported"]

AIRLINES = {
    "endeavor": "9E", "american": "AA", "alaska": "AS", "jetblue": "B6", "delta": "DL", "expressjet": "EV",
    "frontier": "F9", "airtran": "FL", "hawaiian": "HA", "envoy": "MQ", "skywest": "OO", "united": "UA",
    "us airways": "US", "virgin": "VX", "southwest": "WN", "mesa": "YV",
}  # fmt: skip
ORIGINS = ("EWR", "JFK", "LGA")

_UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORD_NUMBER = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<ones>{'|'.join(_UNITS[1:10])}))?|(?P<small>{'|'.join(_UNITS)}))"
    r"(?=[- ]*(?:minutes?\b|mins?\b|hours?\b|mph\b|miles per hour|knots?\b|per ?cent\b|%))",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:[.,]\d+)*")
_AFTER = {
    "delay": re.compile(r"[- ]*(?:minutes?|mins?)\b", re.IGNORECASE),
    "hours": re.compile(r"[- ]*hours?\b", re.IGNORECASE),
    "wind": re.compile(r" *(?:mph\b|miles per hour|knots?\b)", re.IGNORECASE),
    "share": re.compile(r" *(?:%|per ?cent\b)", re.IGNORECASE),
}
_WINDOW = re.compile(r"\b(?:last|past|previous|every|over|within|in the next)\s+(?:the\s+)?$", re.IGNORECASE)
_EARLY = re.compile(r"^[- ]*(?:early|ahead of)", re.IGNORECASE)
_CODE = re.compile(r"\b[A-Z]{3}\b")
_ROUTE = re.compile(r"\broutes?\b|\bto [A-Z]{3}\b|\b[A-Z]{3}[-–][A-Z]{3}\b")
_CARRIER = re.compile(rf"\bairlines?\b|\bcarriers?\b|\b(?:{'|'.join(AIRLINES)})\b", re.IGNORECASE)
_NAMED = re.compile(rf"\b(?:{'|'.join(AIRLINES)})\b", re.IGNORECASE)

_SENTENCE = re.compile(r"[^.!?;]+(?:\.(?=\d)[^.!?;]*)*")
_OUTLOOK = re.compile(
    r"\b(?:may|might|could|should|will|would|expect\w*|likely|probabl\w*|possib\w*|predict\w*|outlook|forecast)\b",
    re.IGNORECASE,
)
_ONE_FLIGHT = re.compile(r"\b(?:your|this|the) flight\b", re.IGNORECASE)
_ON_TIME = re.compile(
    r"\bon[- ]time\b|\bon schedule\b|\b(?:no|without|zero|free of)\s+(?:\w+\s+)?delays?\b|\bnot (?:delayed|late)\b",
    re.IGNORECASE,
)
_DELAYED = re.compile(
    r"\bdelays?\b|\bdelayed\b|\brun(?:s|ning)? late\b|\bbehind schedule\b|\b(?:departures|flights)\b[^,%]*\blate\b",
    re.IGNORECASE,
)


class Statement(msgspec.Struct, frozen=True):
    """One thing a notice says.

    Attributes:
        kind: ``delay`` (minutes at an origin), ``wind`` (mph), ``carrier`` and ``route`` (per cent late), ``share``
            (a per cent of neither), ``on_time`` and ``delayed`` (claims in words about an origin's departures),
            ``unsupported`` (a figure of something no source knows).
        figure: the number as printed, ``None`` for a claim in words.
        subject: the airline, destination or origin the text names for it (a code), ``None`` for the request's.
        words: the part of the text.
    """

    kind: Kind
    figure: float | None
    subject: str | None
    words: str


def extract(notice: str) -> tuple[Statement, ...]:
    """Every statement of a notice, in order of the text, figures before claims in words."""
    text = _WORD_NUMBER.sub(_digits, notice)
    found: list[Statement] = []
    for sentence in _SENTENCE.findall(text):
        found += _figures(sentence)
    for sentence in _SENTENCE.findall(text):
        found += _claims(sentence)
    return tuple(found)


def _digits(match: re.Match[str]) -> str:
    if match["small"]:
        return str(_UNITS.index(match["small"].lower()))
    ones = _UNITS.index(match["ones"].lower()) if match["ones"] else 0
    return str(20 + 10 * _TENS.index(match["tens"].lower()) + ones)


def _figures(sentence: str) -> list[Statement]:
    found = []
    numbers = list(_NUMBER.finditer(sentence))
    for index, number in enumerate(numbers):
        before = sentence[numbers[index - 1].end() if index else 0 : number.start()]
        after = sentence[number.end() : numbers[index + 1].start() if index + 1 < len(numbers) else len(sentence)]
        statement = _figure(number.group(), before, after, sentence)
        if statement is not None:
            found.append(statement)
    return found


def _figure(shown: str, before: str, after: str, sentence: str) -> Statement | None:
    # A thousands separator would be a figure no role prints: it is read as it stands and found to be false.
    value = float(shown.replace("−", "-").replace(",", ""))
    unit = next((name for name, pattern in _AFTER.items() if pattern.match(after)), None)
    rest = _AFTER[unit].sub("", after, count=1) if unit else after
    words = (before[-40:] + shown + after[:30]).strip()
    if unit in {"delay", "hours"}:
        if _WINDOW.search(before):
            return None
        minutes = value * (60 if unit == "hours" else 1)
        early = _EARLY.match(rest) is not None
        return Statement("delay", -minutes if early else minutes, _origin(sentence), words)
    if unit == "wind":
        return Statement("wind", value * (1.15078 if "knot" in after[:8].lower() else 1), _origin(sentence), words)
    if unit == "share":
        return _share(value, before, rest, words)
    return Statement("unsupported", value, None, words)


def _share(value: float, before: str, after: str, words: str) -> Statement:
    """The nearest role is the figure's: named last before it in its clause, first after it, or anywhere before it."""
    for context, side in (
        (before.rpartition(",")[2], "before"),
        (after.partition(",")[0], "after"),
        (before, "before"),
    ):
        route, carrier = _place(_ROUTE, context, side), _place(_CARRIER, context, side)
        if route is None and carrier is None:
            continue
        if carrier is None or (route is not None and route > carrier):
            codes = {code for code in _CODE.findall(context) if code not in ORIGINS}
            return Statement("route", value, codes.pop() if len(codes) == 1 else None, words)
        named = _NAMED.findall(context)
        return Statement("carrier", value, AIRLINES[named[-1].lower()] if named else None, words)
    return Statement("share", value, None, words)


def _place(pattern: re.Pattern[str], text: str, side: str) -> int | None:
    """How near a role is named: greater is nearer to the figure that stands before or after the text."""
    starts = [match.start() for match in pattern.finditer(text)]
    if not starts:
        return None
    return max(starts) if side == "before" else -min(starts)


def _origin(sentence: str) -> str | None:
    """The airport a sentence speaks of, if it names exactly one of the three origins."""
    named = {code for code in _CODE.findall(sentence) if code in ORIGINS}
    return named.pop() if len(named) == 1 else None


def _claims(sentence: str) -> list[Statement]:
    """Claims in words. What may happen to one flight is an outlook, not a statement about the origin."""
    if _OUTLOOK.search(sentence) or _ONE_FLIGHT.search(sentence):
        return []
    found = []
    on_time = _ON_TIME.search(sentence)
    if on_time:
        found.append(Statement("on_time", None, _origin(sentence), sentence.strip()))
    rest = _ON_TIME.sub("", sentence)
    has_minutes = any(
        _AFTER[unit].match(rest[number.end() :]) for number in _NUMBER.finditer(rest) for unit in ("delay", "hours")
    )
    if _DELAYED.search(rest) and not has_minutes and not _shares_only(rest):
        found.append(Statement("delayed", None, _origin(sentence), sentence.strip()))
    return found


def _shares_only(sentence: str) -> bool:
    """A sentence about how often somebody is late claims nothing about the origin now."""
    return any(_AFTER["share"].match(sentence[number.end() :]) for number in _NUMBER.finditer(sentence))
