"""Numbers as a locale writes them: digits by babel's formats, words by the spelling rules of ICU.

English numbers in words are read with the idioms that ICU does not write ("a hundred and five", "two dozen"). Words of
other languages need the extra ``locales``; a language in which ICU spells no numbers, or that writes without spaces, is
read in digits alone.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from itertools import chain

import msgspec
import regex
from babel import Locale
from babel.numbers import get_decimal_symbol, get_group_symbol
from babel.units import format_unit

from antiphon.core.errors import SetupError

UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
"""Scripts that write without spaces, as part of a set."""

_WORD = regex.compile(r"[^\W\d_]+")
_ONE = {
    "en": ("a", "an"), "de": ("ein", "eine", "einen", "einem", "einer"), "fr": ("une",), "es": ("un", "una"),
    "it": ("un", "una"), "pt": ("uma",), "nl": ("een",),
}  # fmt: skip
"""Forms of one before a noun, which ICU spells as it counts."""

_TENS_EN = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL_EN = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip

Words = tuple[str, ...]


class Numeral(msgspec.Struct, frozen=True):
    """A number in a text: its value, ``None`` where the locale does not write numbers like that, and its place."""

    value: Decimal | None
    start: int
    end: int
    words: bool = False


def plain(text: str) -> str:
    """The text in compatibility characters, without invisible ones: digits and letters that look alike are alike."""
    compatible = unicodedata.normalize("NFKC", text).replace("\u2019", "'")
    return "".join(one for one in compatible if unicodedata.category(one) != "Cf")


def localized(print_: str, locale: str) -> str:
    """A printed figure with the locale's decimal sign; a text that is no number stays as it is."""
    whole, dot, rest = print_.partition(".")
    if not (dot and rest.isdecimal() and whole.lstrip("-").isdecimal()):
        return print_
    return whole + str(get_decimal_symbol(_locale(locale))) + rest


def numerals(text: str, locale: str) -> Iterator[Numeral]:
    """Numbers of a :func:`plain` text: those in digits, then those in words."""
    for match in _digits(locale).finditer(text):
        yield Numeral(read(match.group(), locale), match.start(), match.end())
    language = _language(locale)
    for run in _runs(text, _vocabulary(language)):
        yield Numeral(_value(run, language), run[0].start(), run[-1].end(), words=True)


def _runs(text: str, known: frozenset[str]) -> Iterator[list[regex.Match[str]]]:
    """Number words that stand beside each other."""
    run: list[regex.Match[str]] = []
    for word in _WORD.finditer(text):
        counts = word.group().lower() in known
        if run and not (counts and not text[run[-1].end() : word.start()].strip(" \t\n-")):
            yield run
            run = []
        if counts:
            run.append(word)
    if run:
        yield run


def read(written: str, locale: str) -> Decimal | None:
    """The number that digits write in a locale; ``None`` where it does not write numbers like that."""
    match = _format(locale).fullmatch(written)
    if match is None:
        return None
    whole = "".join(one for one in match["whole"] or "0" if one.isdecimal())
    return Decimal(f"{match['sign']}{whole}.{match['part'] or 0}")


def durations(locale: str) -> frozenset[str]:
    """Words for hours and days."""
    return _durations(locale)


@lru_cache(maxsize=64)
def _locale(locale: str) -> Locale:
    return Locale.parse(locale.replace("-", "_"))


def _language(locale: str) -> str:
    return str(_locale(locale).language)


def _signs(locale: str) -> tuple[str, str, int]:
    """The decimal sign of a locale, the sign between its groups of digits, and the digits of the last group."""
    parsed = _locale(locale)
    decimal, group = (plain(one(parsed)) for one in (get_decimal_symbol, get_group_symbol))
    return decimal, group, parsed.decimal_formats[None].grouping[0]


@lru_cache(maxsize=64)
def _digits(locale: str) -> regex.Pattern[str]:
    """Digits with what stands between them: signs of any locale, and a space where this one groups by spaces."""
    decimal, group, last = _signs(locale)
    signs = regex.escape("".join(sorted({*".,'٫٬", decimal, group} - {" "})))
    spaced = rf"| \d{{{last}}}(?!\d)" if group == " " else ""
    return regex.compile(
        rf"(?<![\w--[{UNSPACED}]])(?<!\d[.,])-?(?:(?<!\w)[.,٫])?\d+(?:[{signs}]\d+{spaced})*(?!\d)", regex.VERSION1
    )


@lru_cache(maxsize=64)
def _format(locale: str) -> regex.Pattern[str]:
    decimal, group, last = _signs(locale)
    decimal, group = regex.escape(decimal), regex.escape(group)
    grouped = rf"\d{{1,3}}(?:{group}\d{{2,3}})*{group}\d{{{last}}}"
    return regex.compile(rf"(?P<sign>-?)(?:(?P<whole>{grouped}|\d+)(?:{decimal}(?P<part>\d+))?|{decimal}(?P<part>\d+))")


@lru_cache(maxsize=64)
def _durations(locale: str) -> frozenset[str]:
    written = [
        format_unit(count, unit, length="long", locale=_locale(locale))
        for unit in ("duration-hour", "duration-day")
        for count in (1, 2, 5)
    ]
    return frozenset(word.lower() for text in written for word in _WORD.findall(plain(text)))


@lru_cache(maxsize=64)
def _spelled(language: str) -> dict[Words, int]:
    """Spelling to number, up to 9,999 and for whole thousands to 999,000."""
    if language == "en":
        return _english()
    try:
        from icu4py.messageformat import MessageFormat
    except ImportError:
        raise SetupError(
            f"Numbers in words of the language {language!r} cannot be read here.",
            where="application locale",
            next_step="Install the extra: pip install 'antiphon[locales]'.",
        ) from None
    spell = MessageFormat("{n, spellout}", language)
    found: dict[Words, int] = {}
    one = str(spell.format({"n": 1})).lower()
    for number in chain(range(10_000), range(10_000, 1_000_000, 1_000)):
        text = str(spell.format({"n": number})).lower()
        if any(character.isdecimal() for character in text):
            return {}
        found.setdefault(_words(text), number)
        first, _, rest = text.partition("\u00ad" if "\u00ad" in text else " ")
        if rest and one.startswith(first) and (100 <= number < 200 or 1_000 <= number < 2_000):
            found.setdefault(_words(rest), number)  # "hundert", which ICU spells "einhundert"
    return found


def _english() -> dict[Words, int]:
    def below(number: int) -> Words:
        if number < 20:
            return (_SMALL_EN[number],)
        if number < 100:
            return (_TENS_EN[number // 10 - 2], *(below(number % 10) if number % 10 else ()))
        return (*below(number // 100), "hundred", *(below(number % 100) if number % 100 else ()))

    found = {below(number): number for number in range(10_000)}  # "twenty five hundred" too
    for number in range(1, 1_000):
        found[(*below(number), "thousand")] = number * 1_000
    for number in range(1_000, 10_000):
        rest = below(number % 1_000) if number % 1_000 else ()
        found[(*below(number // 1_000), "thousand", *rest)] = number
    for number in range(1, 100):
        found[(*below(number), "dozen")] = 12 * number
    found |= {("".join(below(number)),): number for number in range(21, 100)}  # "twentyfive"
    return found | {("dozen",): 12, ("hundred",): 100, ("thousand",): 1_000}


def _words(text: str) -> Words:
    return tuple(_WORD.findall(plain(text)))


@lru_cache(maxsize=64)
def _vocabulary(language: str) -> frozenset[str]:
    connecting = ("and",) if language == "en" else ()
    return frozenset(chain.from_iterable(_spelled(language))).union(_ONE.get(language, ()), connecting)


@lru_cache(maxsize=64)
def _first_words(language: str) -> frozenset[str]:
    return frozenset(words[0] for words in _spelled(language)).union(_ONE.get(language, ()))


@lru_cache(maxsize=64)
def _one(language: str) -> str:
    return next((key[0] for key, number in _spelled(language).items() if number == 1 and len(key) == 1), "")


def _value(run: list[regex.Match[str]], language: str) -> Decimal | None:
    words = [word.group().lower() for word in run]
    while words and words[0] not in _first_words(language):
        words.pop(0)  # "and", "et": joins numbers and begins none
    words = [_one(language) if word in _ONE.get(language, ()) else word for word in words]
    if language == "en":
        words = [word for at, word in enumerate(words) if word != "and" or at == 0]
    value = _spelled(language).get(tuple(words))
    return None if value is None else Decimal(value)
