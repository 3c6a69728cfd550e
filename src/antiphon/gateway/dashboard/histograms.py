"""Histograms as geometry: the shares of one version or of two in the bins that either fills."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.catalog.features.snapshot_facts import Statistics
from antiphon.features.offline.history import StatisticsDifference, ViewVersion
from antiphon.gateway.dashboard.plots import LEFT, RIGHT, WIDTH, Line, Mark, Plot, evenly, linear, spaced

_TICKS = 8


def histogram(found: StatisticsDifference) -> Plot | None:
    """The shares of values in bins, of equal width on the page; ``None`` where there is nothing to draw.

    Two versions are drawn into the same bins, so they must have the same edges.
    """
    sides = [("before", found.before), ("after", found.after)]
    drawn = [(name, side) for name, side in sides if side is not None and side.present]
    if found.before is None:
        drawn = [("", side) for _, side in drawn]  # it stands alone
    if not drawn:
        return None
    named = all(side.top for _, side in drawn)
    if not named and len({side.edges for _, side in drawn}) > 1:
        return None
    bins = _categories([side for _, side in drawn]) if named else _bins([side for _, side in drawn])
    shares = [[_count(side, key) / side.present for key, _ in bins] for _, side in drawn]
    most = max((max(row) for row in shares), default=0.0) or 1.0
    step = (WIDTH - LEFT - RIGHT) / max(len(bins), 1)
    lines = []
    for (name, _), row, style in zip(drawn, shares, ("view-1", "view-2")[2 - len(drawn) :], strict=True):
        marks = tuple(
            Mark(
                round(LEFT + step * (number + 0.5), 1),
                f"{label}: {part:.1%} {name}".rstrip(),
                style,
                linear(part / most),
            )
            for number, ((_, label), part) in enumerate(zip(bins, row, strict=True))
        )
        lines.append(Line(name, style, marks))
    return Plot(
        label=f"Distribution of {found.name} {' and '.join(name for name, _ in drawn)}: {_said(drawn[-1][1])}",
        lines=tuple(lines),
        across=spaced(
            [Mark(round(LEFT + step * (number + 0.5), 1), label[:12]) for number, (_, label) in enumerate(bins)], _TICKS
        ),
        up=tuple(Mark(linear(part), f"{part * most:.0%}") for part in (0.0, 0.5, 1.0)),
    )


def quality_over_time(lines: Sequence[ViewVersion]) -> Plot | None:
    """The quality of the source of each version, oldest first; ``None`` for fewer than two."""
    known = [line for line in lines if line.source_quality is not None][::-1]
    if len(known) < 2:
        return None
    marks = tuple(
        Mark(
            place,
            f"{line.created_at:%Y-%m-%d %H:%M} {line.outcome}: {line.source_quality:.1%} of the rows without a defect",
            "view-1",
            linear(line.source_quality or 0.0),
        )
        for place, line in zip(evenly(len(known)), known, strict=True)
    )
    return Plot(
        label=f"Quality of the source over {len(known)} versions; now {known[-1].source_quality:.1%}",
        lines=(Line("quality", "view-1", marks),),
        across=spaced(
            [Mark(mark.at, f"{line.created_at:%m-%d %H:%M}") for mark, line in zip(marks, known, strict=True)], 6
        ),
        up=tuple(Mark(linear(part), f"{part:.0%}") for part in (0.0, 0.5, 1.0)),
        decisions=tuple(
            Mark(mark.at, "; ".join(finding.reason or finding.rule for finding in line.findings), "roll_back", mark.y)
            for mark, line in zip(marks, known, strict=True)
            if line.outcome == "blocked"
        ),
    )


def _bins(sides: Sequence[Statistics]) -> list[tuple[int | str, str]]:
    """From the first bin that anybody fills to the last, each with its range in words."""
    edges = sides[0].edges
    filled = [number for side in sides for number, count in enumerate(side.counts) if count]
    return [(number, _range(edges, number)) for number in range(min(filled), max(filled) + 1)]


def _categories(sides: Sequence[Statistics]) -> list[tuple[int | str, str]]:
    names = list(dict.fromkeys(name for side in sides for name in side.top))[:12]
    return [(name, name) for name in names]


def _count(side: Statistics, key: int | str) -> int:
    return side.counts[key] if isinstance(key, int) else side.top.get(key, 0)


def _range(edges: Sequence[float], number: int) -> str:
    if number == 0:
        return f"≤ {edges[0]:.4g}"
    return f"> {edges[-1]:.4g}" if number == len(edges) else f"≤ {edges[number]:.4g}"


def _said(side: Statistics) -> str:
    if side.mean is not None:
        return f"mean {side.mean:.4g}, from {side.minimum:.4g} to {side.maximum:.4g}"
    return ", ".join(f"{name} {count / side.present:.0%}" for name, count in list(side.top.items())[:3])
