"""Finds personal data in a text: the measure of a guard, and no part of one.

Patterns with the check digits that the numbers have: e-mail addresses, telephone numbers, IBANs (ISO 13616, modulo 97),
payment cards (ISO/IEC 7812, Luhn), public IP addresses, and identity numbers of the United States, Germany (ISO 7064
MOD 11,10), France (modulo 97) and Spain (modulo 23). Names are not looked for. What stands in documentation by
agreement (``example.com``, telephone numbers with 555-01) is nobody's.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator

import msgspec


class PersonalDatum(msgspec.Struct, frozen=True):
    """One datum: its kind, and its value without separators."""

    kind: str
    value: str


_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@(?:[\w-]+\.)+[^\W\d_]{2,}", re.UNICODE)
_RESERVED = re.compile(r"@(?:[\w-]+\.)*(?:example(?:\.\w+)?|test|invalid|localhost)\Z")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?:[ -]?[A-Z0-9]){11,30}(?!\w)")
_DIGITS = re.compile(r"(?<![\w.])\d(?:[ -]?\d){12,18}(?![\w])")
_CARD = re.compile(r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|3[068]\d{12}|6\d{15,18}")
_PHONE = re.compile(r"(?<![\w.-])(?:\+\d{1,3}[ ./-]?)?\(?\d{1,5}\)?(?:[ ./-]?\d{2,5}){2,5}(?![\w-])")
_DATE = re.compile(r"\d{4}[-./ ]\d{1,2}[-./ ]\d{1,2}|\d{1,2}[-./ ]\d{1,2}[-./ ]\d{4}")
_ADDRESS = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)")
_SOCIAL = re.compile(r"(?<![\w-])(?!000|666|9\d\d)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_GERMAN = re.compile(r"(?<!\w)\d{2} ?\d{3} ?\d{3} ?\d{3}(?!\w)")
_FRENCH = re.compile(r"(?<!\w)[12] ?\d{2} ?\d{2} ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\w)")
_SPANISH = re.compile(r"(?<!\w)([XYZ]?\d{7,8})-?([A-Z])(?!\w)")


def found(text: str) -> frozenset[PersonalDatum]:
    """The personal data in a text."""
    return frozenset(PersonalDatum(kind, value) for kind, find in _FINDERS.items() for value in find(text))


def _emails(text: str) -> Iterator[str]:
    for match in _EMAIL.finditer(text):
        address = match.group().rstrip(".").lower()
        if not _RESERVED.search(address):
            yield address


def _ibans(text: str) -> Iterator[str]:
    for match in _IBAN.finditer(text):
        squeezed = _squeezed(match.group())
        # The text may go on after it: the longest beginning whose check digits hold.
        for length in range(min(len(squeezed), 34), 14, -1):
            number = squeezed[:length]
            if int("".join(str(int(one, 36)) for one in number[4:] + number[:4])) % 97 == 1:
                yield number
                break


def _cards(text: str) -> Iterator[str]:
    for match in _DIGITS.finditer(text):
        digits = _squeezed(match.group())
        if _CARD.fullmatch(digits) and len(set(digits)) > 2 and _luhn(digits):
            yield digits


def _phones(text: str) -> Iterator[str]:
    for match in _PHONE.finditer(text):
        shown = match.group().strip()
        digits = re.sub(r"\D", "", shown)
        written = shown.startswith("+") or ((shown[0] in "(0") and len(re.findall(r"[ ./()-]+", shown)) >= 2)
        american = re.fullmatch(r"\d{3}[-. ]\d{3}[-. ]\d{4}", shown) is not None
        if not (written or american) or not 8 <= len(digits) <= 15 or _DATE.match(shown):
            continue
        if re.search(r"55501\d\d\Z", digits) or digits in "01234567890123456789" or len(set(digits)) < 4:
            continue
        yield digits


def _addresses(text: str) -> Iterator[str]:
    for match in _ADDRESS.finditer(text):
        try:
            if ipaddress.ip_address(match.group()).is_global:
                yield match.group()
        except ValueError:
            continue


def _identities(text: str) -> Iterator[str]:
    for match in _SOCIAL.finditer(text):
        if match.group() != "123-45-6789":
            yield _squeezed(match.group())
    for match in _GERMAN.finditer(text):
        digits = _squeezed(match.group())
        if digits[0] != "0" and _mod_11_10(digits):
            yield digits
    for match in _FRENCH.finditer(text):
        digits = _squeezed(match.group())
        if 97 - int(digits[:13]) % 97 == int(digits[13:]):
            yield digits
    for match in _SPANISH.finditer(text):
        number = match[1].translate(str.maketrans("XYZ", "012"))
        if "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == match[2]:
            yield match[1] + match[2]


_FINDERS: dict[str, Callable[[str], Iterator[str]]] = {
    "email": _emails,
    "iban": _ibans,
    "card": _cards,
    "phone": _phones,
    "address": _addresses,
    "identity": _identities,
}


def _squeezed(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "", text)


def _luhn(digits: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _mod_11_10(digits: str) -> bool:
    """The check digit of a German tax number, of whose other digits one occurs twice or three times."""
    body = digits[:10]
    if not 8 <= len(set(body)) <= 9:
        return False
    product = 10
    for digit in body:
        product = ((int(digit) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[10])
