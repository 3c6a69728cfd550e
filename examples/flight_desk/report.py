"""What is shown at the end: a table for the terminal, one self-contained page, one JSON line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.core.disk import replace_file
from examples.flight_desk import plots
from examples.flight_desk.findings import Findings
from examples.flight_desk.plots import NAMES
from examples.flight_desk.settings import Settings

_COLUMNS = (
    "way", "false/1,000 [95 %]", "when written", "stale", "lag", "tokens/answer", "from store", "from batch", "p50 s",
    "p99 s",
)  # fmt: skip


def table(findings: Findings) -> str:
    """The four ways as aligned text."""
    return aligned([_COLUMNS, *_cells(findings)])


def _cells(findings: Findings) -> list[tuple[str, ...]]:
    return [
        (
            NAMES[way.way],
            f"{way.false.value:.0f} [{way.false.low:.0f}, {way.false.high:.0f}]",
            f"{way.written.value:.0f}",
            f"{way.stale.value:.0f}",
            f"{way.lag.value:.0f}",
            f"{way.tokens_per_answer.value:.1f}",
            f"{way.share_stored:.0%}",
            f"{way.share_from_batch:.0%}",
            f"{way.p50_seconds:.3f}",
            f"{way.p99_seconds:.3f}",
        )
        for way in findings.ways
    ]


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows as text, their columns aligned and the first of them underlined."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def verdict(findings: Findings) -> list[str]:
    """What the figures say, in sentences made from them; nothing is claimed that they do not show."""
    briefing, online = findings.way("briefing"), findings.way("online")
    fingerprint = findings.way("fingerprint")
    own, every = fingerprint.tokens_per_answer.value, online.tokens_per_answer.value
    says = [
        _compared("The fingerprint", fingerprint.false, "batch only", briefing.false),
        f"It generates {own:.1f} tokens per answer where online only generates {every:.1f}"
        f" ({f'{own / every:.0%}' if every else 'no comparison'}).",
    ]
    equal = findings.equal_cost
    if equal is not None:
        fewer = equal.fewer
        how = "fewer" if fewer.low > 0 else "more" if fewer.high < 0 else "not distinguishably more or fewer"
        says.append(
            f"At equal cost ({equal.tokens_per_answer:.1f} tokens per answer, an age limit of about"
            f" {equal.minutes:.0f} minutes) the age limit serves {equal.age_false:.0f} false statements per 1,000"
            f" answers and the fingerprint {equal.fingerprint_false:.0f}: {how}"
            f" (difference {fewer.value:.0f}, 95 % interval {fewer.low:.0f} to {fewer.high:.0f})."
        )
    if findings.same_as_derived is not None:
        says.append(
            "The sweep is derived, not measured: generation is deterministic, so any age limit's answers follow from"
            f" the online-only ones. The measured limit agrees with its derivation in {findings.same_as_derived:.1%}"
            " of its answers."
        )
    return says


def _compared(subject: str, own: IntervalEstimate, other: str, others: IntervalEstimate) -> str:
    how = "fewer than" if own.high < others.low else "more than" if own.low > others.high else "about as many as"
    return f"{subject} serves {own.value:.0f} false statements per 1,000 answers, {how} {other} ({others.value:.0f})."


def write(findings: Findings, settings: Settings, path: Path) -> None:
    """Write the page: self-contained, no script, nothing fetched."""
    drawn = (plots.falsehood_against_cost, plots.why_false, plots.latency, plots.reliability, plots.timeline)
    render(
        Path(__file__).with_name("report.html"),
        path,
        findings=findings,
        names=NAMES,
        verdict=verdict(findings),
        columns=_COLUMNS,
        cells=_cells(findings),
        settings=settings,
        plots={draw.__name__: draw(findings) for draw in drawn},
    )


def render(template: Path, path: Path, **values: Any) -> None:
    """Write a page, escaped, with the style of both reports; a missing name is an error."""
    written = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = written.from_string(template.read_text(encoding="utf-8"))
    replace_file(path, page.render(style=STYLE, **values).encode())


def summary(findings: Findings, page: Path, seconds: float | None) -> dict[str, Any]:
    """The findings for the JSON line, without the plots' raw points."""
    scored = findings.scored
    return {
        "benchmark": "flight-desk",
        "days": findings.days,
        "questions": findings.questions,
        "flights": findings.flights,
        "generations": findings.generations,
        "ways": {way.way: way for way in findings.ways},
        "equal_cost": findings.equal_cost,
        "sweep": findings.sweep,
        "same_as_derived": findings.same_as_derived,
        "outlook": scored
        and {"rows": scored.rows, "left_out": scored.left_out, "late": scored.late, "scores": scored.scores},
        "event_to_servable_seconds": findings.lag_seconds,
        "wall_seconds": seconds,
        "report": str(page),
    }


STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
"""What both reports look like; a page brings it along, so that it needs nothing else."""
