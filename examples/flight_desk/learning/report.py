"""The story of learning as a table for the terminal, one self-contained page, and values for the JSON line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.catalog.releases.rollouts import Judgement
from examples.flight_desk import plots
from examples.flight_desk.learning.measure import (
    BASE_RATE,
    DAWN,
    LEARNED,
    REGRESSION,
    TUNED,
    UNTUNED,
    Forecaster,
    Measured,
)
from examples.flight_desk.learning.story import Story
from examples.flight_desk.report import STYLE, environment

_ORDER = (UNTUNED, TUNED, LEARNED, DAWN, REGRESSION, BASE_RATE)
_COLUMNS = ("forecaster", "AUC [95 %]", "Brier [95 %]")


class Told(msgspec.Struct, frozen=True):
    """The story, what was measured at its end, and the judgements of each rollout by the phase it belongs to."""

    story: Story
    measured: Measured
    judgements: dict[str, tuple[Judgement, ...]]


def table(told: Told) -> str:
    """Forecasters and phases as aligned text."""
    measured = told.measured
    rows = [(one.name, _shown(one.auc), _shown(one.brier)) for one in _ordered(measured)]
    phases = [(phase.name, f"{phase.seconds:.0f} s", outcome(phase.name, phase.found)) for phase in told.story.phases]
    return _aligned([_COLUMNS, *rows]) + "\n\n" + _aligned([("phase", "took", "came to"), *phases])


def outcome(name: str, found: Mapping[str, Any]) -> str:
    """What a phase came to, in a few words."""
    if "model" in found:
        examples = found["examples"]
        return f"{found['model']} {found['stage']}, {examples['new']} new and {examples['replayed']} earlier examples"
    if "state" in found:
        return f"{str(found['state']).replace('_', ' ')} after {found['questions']} questions"
    if "answered_by" in found:
        return (
            f"{found['questions']} questions, {found['failed']} failed, {len(found['answered_by'])} releases answered"
        )
    return f"{found['questions']} questions; outcomes {found['outcomes']}"


def verdict(told: Told) -> list[str]:
    """What the figures say, in sentences made from them."""
    measured = told.measured
    says = [
        f"On {measured.flights} flights of April ({measured.late:.0%} late): {words} in AUC is"
        f" {_shown(difference)}{'' if difference.low > 0 else ', so the sample does not show a gain'}."
        for words, difference in measured.differences.items()
    ]
    tuned, base = measured.forecaster(TUNED).brier, measured.forecaster(BASE_RATE).brier
    place = "below" if tuned.value < base.value else "not below"
    says.append(f"The fine-tuned model's Brier score {tuned.value:.3f} is {place} the base rate's {base.value:.3f}.")
    says += [
        f"{notices.name}: the guard stepped in for {notices.guarded:.0f} of 1,000 notices"
        f" ({notices.notices} were written); {notices.false:.0f} per 1,000 stated a false figure."
        for notices in measured.notices
    ]
    says += [f"{name}: {last[-1].sentence}" for name, last in told.judgements.items() if last]
    return says


def summary(told: Told) -> dict[str, Any]:
    """For the JSON line."""
    return {
        "phases": [
            {"name": phase.name, "seconds": round(phase.seconds, 1), "found": outcome(phase.name, phase.found)}
            for phase in told.story.phases
        ],
        "outcomes": told.story.outcomes,
        "measured": msgspec.to_builtins(told.measured),
        "decisions": {name: last[-1].sentence for name, last in told.judgements.items() if last},
    }


def write(told: Told, path: Path) -> None:
    """Write the page: self-contained, no script, nothing fetched."""
    page = (
        environment()
        .from_string(_PAGE)
        .render(
            style=STYLE,
            told=told,
            verdict=verdict(told),
            forecasters=_ordered(told.measured),
            shown=_shown,
            outcome=outcome,
            plots={name: _evidence(name, judged) for name, judged in told.judgements.items() if judged},
            forecasts=_forecasts(told.measured),
        )
    )
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _evidence(name: str, judged: Sequence[Judgement]) -> str:
    """E-values of one rollout over its judgements, against the two bounds."""

    def draw(axes: Any) -> None:
        numbers = range(1, len(judged) + 1)
        axes.plot(numbers, [max(one.harm, 1e-3) for one in judged], color="#a4262c", marker=".", label="harm")
        for metric in sorted({metric.name for one in judged for metric in one.metrics}):
            points = [
                (number, max(metric_.safe, 1e-3))
                for number, one in zip(numbers, judged, strict=True)
                for metric_ in one.metrics
                if metric_.name == metric
            ]
            axes.plot(*zip(*points, strict=True), linewidth=1, label=f"safe: {metric}")
        axes.axhline(judged[-1].harm_bound, color="#a4262c", linestyle="--", linewidth=0.8)
        axes.axhline(judged[-1].safe_bound, color="#0f7b53", linestyle="--", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xlabel(f"judgement; at the last one: {judged[-1].decision.replace('_', ' ')}")
        axes.set_ylabel("e-value")
        axes.legend(frameon=False, fontsize=7)

    return plots.figure(draw, f"{name}: evidence of the judge against its bounds", 6.4, 3.2)


def _forecasts(measured: Measured) -> str:
    """AUC of every forecaster with its interval."""

    def draw(axes: Any) -> None:
        names = [one.name for one in reversed(_ordered(measured))]
        for place, name in enumerate(names):
            auc = measured.forecaster(name).auc
            axes.errorbar(
                [auc.value], [place], xerr=[[max(0, auc.value - auc.low)], [max(0, auc.high - auc.value)]],
                fmt="o", color="#1f5fa8", capsize=3,
            )  # fmt: skip
        axes.set_yticks(range(len(names)), names)
        axes.axvline(0.5, color="#8c8c8c", linewidth=0.8)
        axes.set_xlabel("area under the ROC curve, 95 % interval")

    return plots.figure(draw, "How well each tells late flights from the others", 6.4, 2.8)


def _ordered(measured: Measured) -> list[Forecaster]:
    known = {one.name: one for one in measured.forecasters}
    return [known[name] for name in _ORDER if name in known]


def _shown(measure: IntervalEstimate) -> str:
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


_PAGE = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
