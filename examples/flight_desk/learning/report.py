"""The story of learning as a table for the terminal, one self-contained page, and values for the JSON line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import IntervalEstimate
from examples.flight_desk import plots
from examples.flight_desk.learning.measure import BASE_RATE, DAWN, LEARNED, REGRESSION, TUNED, UNTUNED, Measured
from examples.flight_desk.learning.story import Story
from examples.flight_desk.report import aligned, render

_ORDER = (UNTUNED, TUNED, LEARNED, DAWN, REGRESSION, BASE_RATE)


class Told(msgspec.Struct, frozen=True):
    """The story, and what was measured at its end."""

    story: Story
    measured: Measured

    @property
    def forecasters(self) -> list[tuple[str, str, str]]:
        """Everybody who forecast, with AUC and Brier score in words."""
        known = {one.name: one for one in self.measured.forecasters}
        return [(name, _shown(known[name].auc), _shown(known[name].brier)) for name in _ORDER if name in known]

    @property
    def phases(self) -> list[tuple[str, float, str]]:
        """Each phase with its seconds and what it came to."""
        return [(phase.name, phase.seconds, _outcome(phase.found)) for phase in self.story.phases]

    @property
    def decisions(self) -> dict[str, str]:
        """What the judge said last of each rollout."""
        return {name: judged[-1]["sentence"] for name, judged in self.story.judged.items()}


def table(told: Told) -> str:
    """Forecasters and phases as aligned text."""
    phases = [(name, f"{seconds:.0f} s", outcome) for name, seconds, outcome in told.phases]
    forecasters = aligned([("forecaster", "AUC [95 %]", "Brier [95 %]"), *told.forecasters])
    return forecasters + "\n\n" + aligned([("phase", "took", "came to"), *phases])


def _outcome(found: Mapping[str, Any]) -> str:
    """What a phase came to, in a few words."""
    if "model" in found:
        examples = found["examples"]
        return f"{found['model']} {found['stage']}, {examples['new']} new and {examples['replayed']} earlier examples"
    if "state" in found:
        return f"{found['state'].replace('_', ' ')} after {found['questions']} questions"
    if "answered_by" in found:
        answered_by = len(found["answered_by"])
        return f"{found['questions']} questions, {found['failed']} failed, {answered_by} releases answered"
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
    return says + [f"{name}: {sentence}" for name, sentence in told.decisions.items()]


def summary(told: Told) -> dict[str, Any]:
    """For the JSON line."""
    return {
        "phases": [
            {"name": name, "seconds": round(seconds, 1), "found": outcome} for name, seconds, outcome in told.phases
        ],
        "outcomes": told.story.outcomes,
        "measured": told.measured,
        "decisions": told.decisions,
    }


def write(told: Told, path: Path) -> None:
    """Write the page: self-contained, no script, nothing fetched."""
    render(
        Path(__file__).with_name("report.html"),
        path,
        told=told,
        verdict=verdict(told),
        plots={name: _evidence(name, judged) for name, judged in told.story.judged.items()},
        forecasts=_forecasts(told),
    )


def _evidence(name: str, judged: Sequence[Mapping[str, Any]]) -> str:
    """E-values of one rollout over its judgements, against the two bounds."""

    def draw(axes: Any) -> None:
        numbers = range(1, len(judged) + 1)
        axes.plot(numbers, [max(one["harm"], 1e-3) for one in judged], color="#a4262c", marker=".", label="harm")
        safe: dict[str, list[tuple[int, float]]] = {}
        for number, one in zip(numbers, judged, strict=True):
            for metric in one["metrics"]:
                safe.setdefault(metric["name"], []).append((number, max(metric["safe"], 1e-3)))
        for metric, points in sorted(safe.items()):
            axes.plot(*zip(*points, strict=True), linewidth=1, label=f"safe: {metric}")
        last = judged[-1]
        axes.axhline(last["harm_bound"], color="#a4262c", linestyle="--", linewidth=0.8)
        axes.axhline(last["safe_bound"], color="#0f7b53", linestyle="--", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xlabel(f"judgement; at the last one: {last['decision'].replace('_', ' ')}")
        axes.set_ylabel("e-value")
        axes.legend(frameon=False, fontsize=7)

    return plots.figure(draw, f"{name}: evidence of the judge against its bounds", 6.4, 3.2)


def _forecasts(told: Told) -> str:
    """AUC of every forecaster with its interval."""

    def draw(axes: Any) -> None:
        names = [name for name, _, _ in reversed(told.forecasters)]
        for place, name in enumerate(names):
            auc = told.measured.forecaster(name).auc
            axes.errorbar([auc.value], [place], xerr=plots.error(auc), fmt="o", color="#1f5fa8", capsize=3)
        axes.set_yticks(range(len(names)), names)
        axes.axvline(0.5, color="#8c8c8c", linewidth=0.8)
        axes.set_xlabel("area under the ROC curve, 95 % interval")

    return plots.figure(draw, "How well each tells late flights from the others", 6.4, 2.8)


def _shown(measure: IntervalEstimate) -> str:
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"
