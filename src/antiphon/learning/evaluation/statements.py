"""Finds figures in a text that are not the request's: the measure of a guard, and no part of one.

It shares no code and no threshold with the guard: it reads a text word by word, takes every number, in digits or in
words, with the unit after it and the role named nearest to it in its clause, and holds it against the figures as the
request's prompt printed them, digit for digit. It errs towards "false" where a number has no unit that anything was
declared in, and towards "true" only where a text names no role among figures of one unit and the number is one of
theirs.

Digits and number signs are the locale's, by CLDR; numbers in words, windows of time ("the past two hours") and words
that part clauses are read in English, of other languages CLDR's word for "and" and its names of durations. A language
that writes without spaces is not read at all.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

import msgspec
import regex
from babel import Locale, UnknownLocaleError
from babel.numbers import get_decimal_symbol, get_group_symbol
from babel.units import format_unit

from antiphon.definitions.application import ApplicationSpec, Figure

_UNSPACED = frozenset(("ja", "zh", "yue", "th", "lo", "km", "my", "bo", "dz"))
"""Languages that write without spaces, of whose words neither units nor roles are told apart."""
_SPACES = " \u00a0\u2009\u202f"
_LIKE_ASCII = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {ord("’"): "'", ord("٪"): "%"}
_LETTERS = regex.compile(r"\p{L}[\p{L}\p{M}]*")
_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(_SMALL)} | {word: 20 + 10 * at for at, word in enumerate(_TENS)}
_GREAT = {"hundred": 100, "thousand": 1_000, "dozen": 12}
_TIMES = {
    "second": 1, "seconds": 1, "sec": 1, "secs": 1, "minute": 60, "minutes": 60, "min": 60, "mins": 60,
    "hour": 3_600, "hours": 3_600, "hr": 3_600, "hrs": 3_600, "h": 3_600, "day": 86_400, "days": 86_400,
    "week": 604_800, "weeks": 604_800,
}  # fmt: skip
_OTHERS = frozenset((
    "%", "percent", "mph", "knots", "knot", "kmh", "miles", "mile", "km", "feet", "degrees", "celsius", "fahrenheit",
    "dollars", "usd", "euros", "months", "years",
))  # fmt: skip
_WINDOW = frozenset(["last", "past", "previous", "recent", "every"])
_ENDS = frozenset((".", "!", "?", ";", "؛", "؟", "।"))
_BREAKS = _ENDS | {",", "،"}
_BREAKS_EN = frozenset(("while", "but", "with"))
_RANGE = frozenset(("-", "–", "to"))


class FigureStatement(msgspec.Struct, frozen=True):
    """A number that a text states: value, unit, the figures it may mean (none: of nothing declared), its words."""

    number: Decimal
    unit: str | None
    features: tuple[str, ...]
    words: str


class _Notation(msgspec.Struct, frozen=True):
    """Signs of numbers, names of durations and breaks of clauses of a locale.

    Attributes:
        token: a number with what is glued to it, a word, or a sign. digits: the number of such a token, and the rest.
        number: groups ``whole`` and ``part``, of a number that is written as the locale writes them.
        times: names of durations to seconds.
        breaks: words and signs that part clauses.
        english: whether numbers in words are read, and windows of time.
    """

    token: regex.Pattern[str]
    digits: regex.Pattern[str]
    number: regex.Pattern[str]
    times: Mapping[str, int]
    breaks: frozenset[str]
    english: bool

    def tokens(self, text: str) -> list[str]:
        """The tokens of a unit's or a role's name."""
        return [word.lower() for word in self.token.findall(_legible(text))]


class _Number(msgspec.Struct, frozen=True):
    value: Decimal
    at: int
    after: int
    """Index of the first token after it, where its unit would stand."""
    glued: str = ""
    spelt: bool = False


def texts_of(output_text: str, application: ApplicationSpec) -> tuple[str, ...]:
    """The pieces of an output that say something in words: every string that is no label. Numbers that stand as
    numbers in the JSON have no unit, so nothing is said about them."""
    schema = application.schema
    if schema is None:
        return (output_text,)
    try:
        output = msgspec.json.decode(output_text)
    except msgspec.DecodeError:
        return (output_text,)
    labels = {name for name, part in schema.get("properties", {}).items() if "enum" in part or "const" in part}
    if not isinstance(output, dict):
        return tuple(_strings(output))
    return tuple(text for name, value in output.items() if name not in labels for text in _strings(value))


def is_read(locale: str) -> bool:
    """Tells whether figures of a locale's texts are found; of any other, nothing is measured."""
    try:
        return Locale.parse(locale.replace("-", "_")).language not in _UNSPACED
    except (ValueError, UnknownLocaleError):
        return False


def false_statements(
    text: str,
    figures: Sequence[Figure],
    prints: Mapping[str, str | None],
    known: Iterable[str] = (),
    locale: str = "en",
) -> tuple[str, ...]:
    """Statements of the text that the request's figures contradict, each as a sentence.

    Args:
        prints: the figures as they are printed, with a decimal point in every locale; ``None`` for one without a value.
        known: other words of the request that may hold digits (the entity's keys).
        locale: of the text. Nothing is found in one that is not read (:func:`is_read`).
    """
    wrong, by_name = [], {figure.feature: figure for figure in reversed(figures)}
    for statement in statements(text, figures, known, locale):
        if not statement.features:
            wrong.append(f"“{statement.words}” is of nothing that was asked about")
        elif not any(_equals(statement, prints.get(name), by_name[name], locale) for name in statement.features):
            shown = ", ".join(f"{feature} is {prints.get(feature) or 'unknown'}" for feature in statement.features)
            wrong.append(f"“{statement.words}” where {shown}")
    return tuple(wrong)


def statements(
    text: str, figures: Sequence[Figure], known: Iterable[str] = (), locale: str = "en"
) -> tuple[FigureStatement, ...]:
    """Every number that the text states, in order; none in a locale that is not read."""
    if not is_read(locale):
        return ()
    notation, text = _notation(locale), _legible(text)
    words = list(notation.token.finditer(text))
    lower = [word.group().lower() for word in words]
    units = _units(figures, notation)
    covered = _covered(text, known)
    found = []
    for number in _numbers(words, lower, units, notation):
        unit, after = _unit(number, lower, units, notation)
        if unit is None and (number.spelt or covered[words[number.at].start()]):
            continue  # "one of the" is no figure, and a flight's number is none either
        before = lower[max(0, number.at - 3) : number.at]
        if notation.english and unit in notation.times and _WINDOW & set(before):
            continue
        shown = text[words[number.at].start() : words[min(after, len(words)) - 1].end()]
        found.append(FigureStatement(number.value, unit, _roles(number, unit, lower, figures, notation), shown))
    return tuple(found)


@lru_cache(maxsize=64)
def _notation(locale: str) -> _Notation:
    parsed = Locale.parse(locale.replace("-", "_"))
    # A text may have the locale's own digits or European ones, each with their signs; Arabic signs are never others.
    decimal, group = (
        {_legible(of(parsed, numbering_system=system)) for system in ("latn", "default")} | {arabic}
        for of, arabic in ((get_decimal_symbol, "٫"), (get_group_symbol, "٬"))
    )
    spaced = any(sign.isspace() for sign in group)
    signs = "".join(sorted({sign for sign in group if not sign.isspace()} - decimal))
    first, second = (regex.escape(one) for one in ("".join(sorted(decimal)), signs + (_SPACES if spaced else "")))
    least, more = parsed.decimal_formats[None].grouping[:2]
    # What stands between digits belongs to a number, in whatever locale: one that is written otherwise is none.
    apart = rf"|[{_SPACES}](?:\d{{{least}}}|\d{{{more}}})(?!\d)" if spaced else ""
    written = rf"\d+(?:[.,{first}{regex.escape(signs)}]\d+{apart})*"
    grouped = rf"\d{{1,{more}}}(?:[{second}]\d{{{more}}})*[{second}]\d{{{least}}}"
    conjunction = _LETTERS.findall(parsed.list_patterns["standard"]["2"])
    english = parsed.language == "en"
    return _Notation(
        token=regex.compile(rf"{written}[\p{{L}}\p{{M}}]*|\p{{L}}[\w\p{{M}}]*|%|[^\s\w]"),
        digits=regex.compile(rf"({written})(.*)"),
        number=regex.compile(rf"(?P<whole>{grouped}|\d+)(?:[{first}](?P<part>\d+))?"),
        times=_TIMES | dict(_durations(parsed)),
        breaks=_BREAKS.union(conjunction, _BREAKS_EN if english else ()),
        english=english,
    )


def _durations(locale: Locale) -> Iterator[tuple[str, int]]:
    for unit, seconds in (("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400), ("week", 604_800)):
        for length in ("long", "short"):
            for count in (1, 2, 5):
                words = _LETTERS.findall(_legible(format_unit(count, f"duration-{unit}", length, locale=locale)))
                if len(words) == 1:
                    yield words[0].lower(), seconds


def _legible(text: str) -> str:
    """The text without invisible characters, in one form of those signs that a number may have in several."""
    return "".join(one for one in text.translate(_LIKE_ASCII) if unicodedata.category(one) != "Cf")


def _numbers(
    words: Sequence[regex.Match[str]], lower: Sequence[str], units: Mapping[tuple[str, ...], str], notation: _Notation
) -> Iterable[_Number]:
    at = 0
    while at < len(words):
        token = words[at].group()
        if token[0].isdecimal():
            match = notation.digits.fullmatch(token)
            assert match is not None
            digits, glued = match.groups()
            if not glued or (glued.lower(),) in units or glued.lower() in notation.times or glued.lower() in _OTHERS:
                yield _Number(_signed(digits, words, at, notation), at, at + 1, glued.lower())
            at += 1
        elif not notation.english:
            at += 1
        elif lower[at] == "half" and lower[at + 1 : at + 2] in (["a"], ["an"]):
            yield _Number(Decimal("0.5"), at, at + 2, spelt=True)
            at += 2
        elif lower[at] in _WORDS or (lower[at] in ("a", "an") and lower[at + 1 : at + 2] and lower[at + 1] in _GREAT):
            value, after = _spelt(lower, at)
            yield _Number(Decimal(value), at, after, spelt=True)
            at = after
        else:
            at += 1


def _signed(digits: str, words: Sequence[regex.Match[str]], at: int, notation: _Notation) -> Decimal:
    match = notation.number.fullmatch(digits)
    if match is None:
        return Decimal("NaN")  # 1.2.3 is a number of nothing
    whole = "".join(one for one in match["whole"] if one.isdecimal())
    value = Decimal(f"{whole}.{match['part']}" if match["part"] else whole)
    if at and words[at - 1].group() in ("-", "−") and words[at - 1].end() == words[at].start():
        joined = at > 1 and words[at - 2].end() == words[at - 1].start()
        return value if joined else -value
    return value


def _spelt(lower: Sequence[str], at: int) -> tuple[int, int]:
    """The number that words spell and the index after them: "a hundred and twenty-five" is 125."""
    whole, part = 0, 0
    while at < len(lower):
        word = lower[at]
        follows = at + 1 < len(lower) and lower[at + 1] in _WORDS
        if word in _WORDS:
            part += _WORDS[word]
        elif word in _GREAT:
            part = (part or 1) * _GREAT[word]
            if word == "thousand":
                whole, part = whole + part, 0
        elif not (word in ("a", "an") and part == 0) and not (word in ("-", "and") and follows):
            break
        at += 1
    return whole + part, at


def _units(figures: Sequence[Figure], notation: _Notation) -> dict[tuple[str, ...], str]:
    return {tuple(notation.tokens(unit)): _legible(unit).lower() for figure in figures for unit in figure.unit}


def _unit(
    number: _Number, lower: Sequence[str], units: Mapping[tuple[str, ...], str], notation: _Notation
) -> tuple[str | None, int]:
    """The unit after a number, and the index after it. Of a range ("10 to 20 minutes") both ends have it."""
    if number.glued:
        return units.get((number.glued,), number.glued), number.after
    at = number.after
    if lower[at : at + 1] and lower[at] in _RANGE and lower[at + 1 : at + 2]:
        if lower[at + 1][0].isdecimal():
            at += 2
        elif lower[at + 1] in _WORDS:
            _, at = _spelt(lower, at + 1)
    while lower[at : at + 1] == ["-"]:
        at += 1
    for length in range(max(map(len, units), default=0), 0, -1):
        known = units.get(tuple(lower[at : at + length]))
        if known is not None:
            return known, at + length
    if at < len(lower) and (lower[at] in notation.times or lower[at] in _OTHERS):
        return lower[at], at + 1
    return None, number.after


def _roles(
    number: _Number, unit: str | None, lower: Sequence[str], figures: Sequence[Figure], notation: _Notation
) -> tuple[str, ...]:
    """The figures a number may mean: those of its unit, told apart by the role that is named nearest in its clause."""
    meant = [figure for figure in figures if unit in {_legible(one).lower() for one in figure.unit}]
    if not meant and unit in notation.times:
        meant = [figure for figure in figures if _seconds(figure, notation) is not None]
    if len(meant) < 2:
        return tuple(figure.feature for figure in meant)
    clause = _span(number.at, lower, notation.breaks)
    sentence = _span(number.at, lower, _ENDS)
    for first, last, backwards in (
        (clause[0], number.at, True),
        (number.at, clause[1], False),
        (sentence[0], number.at, True),
    ):
        named = [
            (at, figure)
            for figure in meant
            for role in figure.roles
            for at in _places(notation.tokens(role), lower, first, last)
        ]
        if named:
            nearest = (max if backwards else min)(at for at, _ in named)
            return tuple({figure.feature: None for at, figure in named if at == nearest})
    return tuple(figure.feature for figure in meant)


def _places(words: Sequence[str], lower: Sequence[str], first: int, last: int) -> Iterable[int]:
    for at in range(first, last - len(words) + 1):
        # The last word of a role may go on: "wind" names the role in "winds" and "windy".
        if lower[at : at + len(words) - 1] == words[:-1] and lower[at + len(words) - 1].startswith(words[-1]):
            yield at


def _span(at: int, lower: Sequence[str], breaks: frozenset[str]) -> tuple[int, int]:
    first, last = at, at
    while first > 0 and lower[first - 1] not in breaks:
        first -= 1
    while last < len(lower) and lower[last] not in breaks:
        last += 1
    return first, last


def _covered(text: str, known: Iterable[str]) -> list[bool]:
    """Marks the characters that belong to words of the request itself."""
    marks = [False] * (len(text) + 1)
    for word in known:
        if any(character.isdigit() for character in word):
            for match in regex.finditer(rf"(?<!\w){regex.escape(_legible(word))}(?!\w)", text):
                marks[match.start() : match.end()] = [True] * len(match.group())
    return marks


def _equals(statement: FigureStatement, shown: str | None, figure: Figure, locale: str) -> bool:
    try:
        value = Decimal(shown or "NaN")
    except InvalidOperation:
        return False
    if statement.number == value:
        return True
    notation = _notation(locale)
    seconds = _seconds(figure, notation)
    unit = None if statement.unit is None else notation.times.get(statement.unit)
    if unit is None or seconds is None or statement.number.is_nan() or value.is_nan():
        return False
    return bool(statement.number * unit == value * seconds)


def _seconds(figure: Figure, notation: _Notation) -> int | None:
    return next((notation.times[unit.lower()] for unit in figure.unit if unit.lower() in notation.times), None)


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
