"""Amounts of money as whole micro-units: millionths of a currency. Floating point is nowhere in them.

Method: a total is rounded once, half to even, and its parts by the largest remainder (Hamilton's method), so that parts
add up to their total exactly, whatever they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

MICROS = 1_000_000
"""Of one unit of a currency."""


def rounded(amount: Fraction) -> int:
    """The nearest whole number, of two that are equally near the even one."""
    return round(amount)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a total by weights, none of them negative: the parts add up to it, and each is less than one from its
    exact share. Of equal remainders the first ones are rounded up. Without any weight all parts are 0."""
    whole = sum(weights)
    if not whole:
        return [0] * len(weights)
    parts = [total * weight // whole for weight in weights]
    order = sorted(range(len(weights)), key=lambda place: (-(total * weights[place] % whole), place))
    for place in order[: total - sum(parts)]:
        parts[place] += 1
    return parts


def decimal_text(micros: int) -> str:
    """The amount in units of the currency, exactly: ``-0.000040``."""
    sign, micros = ("-", -micros) if micros < 0 else ("", micros)
    return f"{sign}{micros // MICROS}.{micros % MICROS:06d}"


def plain_decimal(amount: float | str) -> str:
    """The shortest decimal number that is this one, without an exponent."""
    return format(Decimal(str(amount)).normalize(), "f")
