"""Measures of live releases in words, for people: the same in decisions, commands and pages."""

from __future__ import annotations

import math

from antiphon.catalog.releases.watches import MeasureEvidence
from antiphon.definitions.watches import COUNTED
from antiphon.services.watching.evidence import view_of

TITLES = {
    "errors": "failed requests",
    "invalid": "invalid answers",
    "first_byte": "first bytes over the service level",
    "latency": "answers over the service level",
    "quality": "quality by outcomes",
    "calibration": "calibration",
    "outputs": "drift of answers",
}


def title(measure: MeasureEvidence) -> str:
    """Its title."""
    view = view_of(measure)
    return TITLES[measure.name] if view is None else f"drift of {view}"


def figures(measure: MeasureEvidence) -> str:
    """The values seen, the ceiling that they are held against, and how strong the evidence is."""
    if measure.mean is None:
        return f"{title(measure)}: nothing seen yet"
    against = f"evidence {strength(measure.evidence)} of {strength(measure.bound)}"
    if measure.name in COUNTED and measure.ceiling is not None:
        seen = f"{measure.mean:.1%} of {measure.units:,.0f}, at most {measure.ceiling:.1%} ({measure.basis})"
    elif measure.name == "quality" and measure.ceiling is not None:
        seen = f"a loss of {measure.mean:.3f} over {measure.units:,.0f} outcomes, at most {measure.ceiling:.3f}"
        seen += f" ({measure.basis})"
    elif measure.name == "calibration" and measure.ceiling is not None:
        seen = f"{measure.mean:+.3f} over {measure.units:,.0f} outcomes, at most {measure.ceiling:.3f} either way"
        seen += f" ({measure.basis})"
    else:
        beyond = "beyond" if measure.mean > 0 else "below"
        seen = f"of {measure.units:,.0f} values the largest share is now {abs(measure.mean):.1%} {beyond} its ceiling"
        seen += f" ({measure.basis})"
    return f"{title(measure)}: {seen}; {against}"


def strength(logarithm: float) -> str:
    """Evidence as a figure that a person reads."""
    value = math.exp(min(logarithm, 30.0))
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"
