"""What is shown at the end: a table for the terminal, one self-contained page, one JSON line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import msgspec

from examples.flight_desk import plots
from examples.flight_desk.analysis import Interval
from examples.flight_desk.findings import Findings
from examples.flight_desk.plots import NAMES
from examples.flight_desk.settings import Settings

_COLUMNS = (
    "way", "false/1,000 [95 %]", "when written", "stale", "lag", "tokens/answer", "from store", "from batch", "p50 s",
    "p99 s",
)  # fmt: skip


def table(findings: Findings) -> str:
    """The four ways as aligned text."""
    rows = [_COLUMNS, *(tuple(cells) for cells in _cells(findings))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(findings: Findings) -> list[list[str]]:
    return [
        [
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
        ]
        for way in findings.ways
    ]


def verdict(findings: Findings) -> list[str]:
    """What the figures say, in sentences made from them; nothing is claimed that they do not show."""
    briefing, online = findings.way("briefing"), findings.way("online")
    fingerprint = findings.way("fingerprint")
    says = [
        _compared("The fingerprint", fingerprint.false, "batch only", briefing.false),
        f"It generates {fingerprint.tokens_per_answer.value:.1f} tokens per answer where online only generates"
        f" {online.tokens_per_answer.value:.1f}"
        f" ({_share(fingerprint.tokens_per_answer.value, online.tokens_per_answer.value)}).",
    ]
    equal = findings.equal_cost
    if equal is not None:
        fewer = equal.fewer
        how = (
            "fewer" if fewer.low > 0 else "more" if fewer.high < 0 else "not distinguishably more or fewer"
        )  # fmt: skip
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


def _compared(subject: str, own: Interval, other: str, others: Interval) -> str:
    how = "fewer than" if own.high < others.low else "more than" if own.low > others.high else "about as many as"
    return f"{subject} serves {own.value:.0f} false statements per 1,000 answers, {how} {other} ({others.value:.0f})."


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "no comparison"


def write(findings: Findings, settings: Settings, path: Path) -> None:
    """Write the page: self-contained, no script, nothing fetched."""
    page = (
        environment()
        .from_string(_PAGE)
        .render(
            style=STYLE,
            findings=findings,
            names=NAMES,
            verdict=verdict(findings),
            columns=_COLUMNS,
            cells=_cells(findings),
            settings=settings,
            plots={
                name: getattr(plots, name)(findings)
                for name in ("falsehood_against_cost", "why_false", "latency", "reliability", "timeline")
            },
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def environment() -> jinja2.Environment:
    """How both reports are written: escaped, and a missing name is an error."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def summary(findings: Findings, page: Path, seconds: float | None) -> dict[str, Any]:
    """The findings for the JSON line, without the plots' raw points."""
    ways: dict[str, Any] = {way.way: msgspec.to_builtins(way) for way in findings.ways}
    scored = findings.scored
    content = {
        "benchmark": "flight-desk",
        "days": findings.days,
        "questions": findings.questions,
        "flights": findings.flights,
        "generations": findings.generations,
        "ways": ways,
        "equal_cost": msgspec.to_builtins(findings.equal_cost),
        "sweep": msgspec.to_builtins(findings.sweep),
        "same_as_derived": findings.same_as_derived,
        "outlook": {
            "rows": scored.rows,
            "left_out": scored.left_out,
            "late": scored.late,
            "scores": msgspec.to_builtins(scored.scores),
        }
        if scored is not None
        else None,
        "event_to_servable_seconds": msgspec.to_builtins(findings.lag_seconds),
        "wall_seconds": seconds,
        "report": str(page),
    }
    finite: dict[str, Any] = _finite(content)
    return finite


def _finite(value: Any) -> Any:
    """JSON has no NaN: a figure that could not be computed is null."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


_PAGE = Path(__file__).with_name("report.html").read_text(encoding="utf-8")
STYLE = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
"""What both reports look like; a page brings it along, so that it needs nothing else."""
