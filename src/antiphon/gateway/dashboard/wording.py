"""Figures in a person's words."""

from __future__ import annotations

import json
import re
from datetime import datetime

from antiphon.catalog.learning.evaluations import IntervalEstimate, counted
from antiphon.learning.evaluation.metrics import title


def duration(seconds: float | None) -> str:
    """``850 µs``, ``12 ms``, ``2.3 s``, ``4 min``, ``3 h``, ``5 d``; a dash for none."""
    if seconds is None:
        return "–"
    size = abs(seconds)
    if size < 0.000_5:
        return f"{seconds * 1e6:.0f} µs" if size else "0 s"
    if size < 1:
        return f"{seconds * 1e3:.0f} ms"
    if size < 10:
        return f"{seconds:.1f} s"
    if size < 120:
        return f"{seconds:.0f} s"
    if size < 7_200:
        return f"{seconds / 60:.0f} min"
    if size < 172_800:
        return f"{seconds / 3_600:.0f} h"
    return f"{seconds / 86_400:.0f} d"


def moment(at: datetime | None) -> str:
    """An instant in UTC to the second."""
    return at.strftime("%Y-%m-%d %H:%M:%S") if at is not None else "–"


def count(number: int | float | None) -> str:
    """Thousands apart by a narrow space."""
    return f"{number:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") if number is not None else "–"


def size(octets: int | None) -> str:
    """Bytes as ``MB``."""
    return f"{octets / 1e6:,.0f} MB" if octets is not None else "–"


def money(amount: float, currency: str) -> str:
    """Costs of one answer are small: four digits that count, no exponent."""
    if amount == 0:
        return f"0 {currency}"
    return f"{amount:.4g} {currency}" if amount >= 0.001 else f"{amount * 1e6:.3g} µ{currency}"


def share(part: float | None) -> str:
    """A probability as per cent; a dash for none."""
    return "–" if part is None else f"{part * 100:.1f} %"


def number(value: float | int | str | None) -> str:
    """A feature's value as it is, without noise digits."""
    if value is None:
        return "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def pretty(text: str | None) -> str:
    """JSON indented; any other text as it is."""
    if text is None:
        return "(erased)"
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def figure(value: float | None) -> str:
    """A score to three digits; a dash for none."""
    return "–" if value is None else f"{value:.3f}"


def measure(value: IntervalEstimate | None) -> str:
    """A figure with its interval."""
    return "–" if value is None else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def evidence(value: float) -> str:
    """An e-value to three digits."""
    return f"{value:.3g}" if value < 1e6 else "over a million"


def words(name: str) -> str:
    """An identifier of ours as words."""
    return name.replace("_", " ")


def brief(value: object) -> str:
    """Any value on one line, cut after 120 characters."""
    text = " ".join(("none" if value is None else str(value)).split())
    return text if len(text) <= 120 else f"{text[:119]}…"


def hint(value: object) -> str:
    """A value as text; of a hash its beginning, which is enough to recognize it by."""
    text = str(value)
    return f"{text[:12]}…" if re.fullmatch(r"[0-9a-f]{40,}", text) else text


_WORDED = (
    duration, moment, count, counted, size, money, share, number, pretty, figure, measure, evidence, words, brief, hint,
)  # fmt: skip
FILTERS = {function.__name__: function for function in _WORDED} | {"metric": title}
