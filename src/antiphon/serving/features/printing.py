"""Printed figures: a feature rounded to its declared step, the only form a prompt sees.

Rounding is half away from zero on the value's shortest decimal form, so both paths print alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal

from antiphon.core.ids import content_hash
from antiphon.definitions.application import Figure

_DIGITS = Context(prec=400, rounding=ROUND_HALF_UP)
"""Enough for any float, so that rounding is exact; a value that is no number has no print."""

Value = float | int | str | bool | None


def printed(value: Value, figure: Figure | None) -> str | None:
    """The figure as text (``"25"``), or ``None`` when there is no value, or no figure is declared for it."""
    if value is None or figure is None:
        return None
    if isinstance(value, (str, bool)) or figure.step == 0:
        return str(value)
    exact, step = Decimal(str(value)), Decimal(str(figure.step))
    if not exact.is_finite():
        return None
    scaled = _DIGITS.multiply(exact, Decimal(str(figure.scale)))
    steps = _DIGITS.quantize(_DIGITS.divide(scaled, step), Decimal(1))
    rounded = _DIGITS.multiply(steps, step)
    if rounded == 0:
        return "0"
    text = format(rounded, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def print_all(values: Mapping[str, Value], figures: Sequence[Figure]) -> dict[str, str | None]:
    """Every declared figure printed, by feature name."""
    return {figure.feature: printed(values.get(figure.feature), figure) for figure in figures}


def fingerprint(prints: Mapping[str, str | None]) -> str:
    """Hash of the printed figures: alike exactly when every figure prints alike."""
    return content_hash(dict(sorted(prints.items())))[:32]
