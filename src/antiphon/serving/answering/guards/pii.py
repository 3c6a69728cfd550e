"""Recognizers of personal data: a pattern each, and the checksum that its numbers have.

Sources: RFC 5322 (addresses, as they are written in texts), ITU-T E.164 (phone numbers), ISO 13616 (IBAN, modulo 97),
ISO/IEC 7812 (cards, Luhn), RFC 791 and 4291 (IP addresses).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence

import msgspec

from antiphon.serving.answering.guards.patterns import Accepts, as_read, search

_DATE = re.compile(r"\d{4}([-./])\d\d\1\d\d|\d\d([-./])\d\d\2\d{4}")

_PART = re.compile(r"\w\w+")


class Recognizer(msgspec.Struct, frozen=True):
    """Pattern of one kind, and the test of what it matched."""

    pattern: str
    accepts: Accepts


class PIIFindings(msgspec.Struct, frozen=True):
    """Number of findings a kind, the texts found, and the number of leading characters that pass."""

    counts: dict[str, int]
    texts: tuple[str, ...]
    passed: int


def recognize(text: str, kinds: Sequence[str], allowed: Sequence[str] = (), *, ended: bool = True) -> PIIFindings:
    """Find personal data in a text, or in the beginning of one."""
    read, passed = as_read(text), len(text)
    counts: dict[str, int] = {}
    texts: list[str] = []
    permitted = {_squeezed(one) for one in allowed}
    for kind in kinds:
        recognizer = RECOGNIZERS[kind]
        result = search(
            recognizer.pattern,
            read.text,
            ended=ended,
            accepts=recognizer.accepts,
            permits=lambda one: _squeezed(one) in permitted,
        )
        passed = min(passed, read.back(result.passed, len(text)))
        if result.found:
            counts[kind] = len(result.found)
            texts += result.found
    return PIIFindings(counts, tuple(texts), passed)


def redacted(reason: str, found: Sequence[str]) -> str:
    """A reason without the words and numbers that the found personal data consists of."""
    parts = sorted({part for one in found for part in _PART.findall(one)}, key=len, reverse=True)
    return re.sub(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", "[removed]", reason) if parts else reason


def _squeezed(text: str) -> str:
    return "".join(one for one in text.casefold() if one.isalnum() or one in "@.:")


def _digits(text: str) -> str:
    return "".join(one for one in text if one.isdecimal())


def _beginnings(text: str) -> Iterator[str]:
    """The text up to each of its separators, and all of it: what follows a number may look like more of it."""
    for at, character in enumerate(text):
        if character in " -" and at:
            yield text[:at]
    yield text


def _is_card(text: str) -> bool:
    return any(_meets_luhn([int(one) for one in _digits(part)][::-1]) for part in _beginnings(text))


def _meets_luhn(digits: list[int]) -> bool:
    doubled = (sum(divmod(2 * one, 10)) for one in digits[1::2])
    return 13 <= len(digits) <= 19 and any(digits) and (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    return any(_meets_97("".join(part.split()).upper()) for part in _beginnings(text))


def _meets_97(packed: str) -> bool:
    return 15 <= len(packed) <= 34 and int("".join(str(int(one, 36)) for one in packed[4:] + packed[:4])) % 97 == 1


def _is_phone(text: str) -> bool:
    digits = _digits(text)
    said = text.startswith(("+", "0", "(")) or len(digits) >= 10
    return said and 7 <= len(digits) <= 15 and _DATE.match(text) is None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


RECOGNIZERS = {
    "email": Recognizer(
        r"[\w.!#$%&'*+/=?^`{|}~-]+\s?(?:@|\(at\)|\[at\])\s?[\p{L}\p{N}-]+(?:\.[\p{L}\p{N}-]+)+", lambda text: True
    ),
    "phone": Recognizer(r"(?<![\w.,])(?:\+|\(\+?)?\d(?:[ ()/.-]{0,3}\d){6,16}(?!\w)", _is_phone),
    "iban": Recognizer(
        r"(?<!\w)(?:[A-Za-z]{2}\d{2}[A-Za-z0-9]{11,30}|[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?)(?!\w)",
        _is_iban,
    ),
    "card": Recognizer(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)", _is_card),
    "ip": Recognizer(
        r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)", _is_address
    ),
}
"""By kind, as :data:`~antiphon.definitions.guards.PII_KINDS` names them."""
