"""``antiphon history``: measurements of all processes over spans of up to years."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import stores

if TYPE_CHECKING:
    from antiphon.operations.history.window import HistoryColumns

_BARS = " ▁▂▃▄▅▆▇█"
_WIDTH = 60


def history(
    measure: Annotated[
        str | None, typer.Argument(metavar="[MEASURE]", help="Such as antiphon_answers; without one, all are listed.")
    ] = None,
    span: Annotated[str, typer.Option(help="Length of time that is looked at: 15m, 6h, 30d, 365d.")] = "1d",
    until: Annotated[datetime | None, typer.Option(help="Its end in UTC, by default now.")] = None,
    statistic: Annotated[
        str | None, typer.Option(help="total, rate; mean, greatest; p50, p90, p99, count: by the kind of measure.")
    ] = None,
    by: Annotated[str, typer.Option(help="Labels, separated by commas: a line for each of their values.")] = "",
    where: Annotated[str, typer.Option(help="Only what has these labels: path=batch,application=desk.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Measurements of all processes over time: requests, latencies, tokens, runs, engines, ages of features."""
    from antiphon.core.clock import utc
    from antiphon.operations.history.measures import MEASURES
    from antiphon.services.history import MetricHistory, parse_labels, parse_span

    if measure is None:
        head = ("measure", "kind", "unit", "labels", "text")
        rows = [(one.name, one.kind, one.unit, ", ".join(one.labels), one.text) for one in MEASURES.values()]
        show(list(MEASURES.values()), as_json, lambda: table(head, rows, ""))
        return
    with stores(project) as store:
        found = MetricHistory(store.measurements, store.database.clock, store.scope.tenant).columns(
            store.scope.tenant,
            measure,
            parse_span(span),
            None if until is None else utc(until),
            statistic=statistic,
            by=[label.strip() for label in by.split(",") if label.strip()],
            where=parse_labels(where),
        )
    show(found, as_json, lambda: "\n".join(_text(found)))


def _text(found: HistoryColumns) -> Iterator[str]:
    unit = f"{found.unit} a second" if found.statistic == "rate" else found.unit
    yield f"{found.measure}, {found.statistic} in {unit}, by {found.period_seconds:,} s. {found.text}"
    if not found.lines:
        yield "Nothing was measured in this span."
        return
    yield f"{moment(found.at[0])} to {moment(found.at[-1])} UTC"
    rows = []
    for line in found.lines:
        known = [value for value in line.values if value is not None]
        name = ", ".join(line.labels.values()) or "all"
        rows.append((name, _bars(line.values), *(f"{one:,.4g}" for one in (min(known), max(known), known[-1]))))
    yield table(("line", "over time", "least", "greatest", "last"), rows, "")


def _bars(values: Sequence[float | None]) -> str:
    """A line of block characters, each the greatest of the values that share its place."""
    groups = max(1, -(-len(values) // _WIDTH))
    parts = [
        [one for one in values[first : first + groups] if one is not None] for first in range(0, len(values), groups)
    ]
    top = max((max(part) for part in parts if part), default=0.0)
    return "".join(
        "·" if not part else _BARS[-(-int(max(part) / top * 1_000) * 8 // 1_000)] if top else _BARS[0] for part in parts
    )
