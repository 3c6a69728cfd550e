"""Printed figures: a feature rounded to its declared step, the only form a prompt sees.

Rounding is half away from zero on the value's shortest decimal form, so both paths print alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal

from antiphon.core.ids import content_hash
from antiphon.definitions.application import Figure

Value = float | int | str | bool | None


def printed(value: Value, figure: Figure) -> str | None:
    """The figure as text (``"25"``), or ``None`` when there is no value."""
    if value is None:
        return None
    if isinstance(value, (str, bool)) or figure.step == 0:
        return str(value)
    step = Decimal(str(figure.step))
    steps = (Decimal(str(value)) * Decimal(str(figure.scale)) / step).quantize(Decimal(1), rounding=ROUND_HALF_UP)
    rounded = steps * step
    if rounded == 0:
        rounded = abs(rounded)
    return format(rounded.normalize() if rounded % 1 else rounded.quantize(Decimal(1)), "f")


def print_all(values: Mapping[str, Value], figures: Sequence[Figure]) -> dict[str, str | None]:
    """Every declared figure printed, by feature name."""
    return {figure.feature: printed(values.get(figure.feature), figure) for figure in figures}


def fingerprint(prints: Mapping[str, str | None]) -> str:
    """Hash of the printed figures: alike exactly when every figure prints alike."""
    return content_hash(dict(sorted(prints.items())))[:32]
