"""``antiphon features skew``: whether what is read online is what batch computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, moment, show, table
from antiphon.cli.project import at_terminal, features_of, stores
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError

if TYPE_CHECKING:
    from antiphon.catalog.features.skew_reports import Difference, FeatureSkew, SkewReport

DIFFERENT = 1
"""The exit code when values differ."""


def skew(
    views: Annotated[list[str] | None, typer.Argument(help="Views; all when none is named.")] = None,
    sample: Annotated[
        int, typer.Option(min=1, max=100_000, help="Entities of each view, and predictions, at most.")
    ] = 100,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Predictions made since then: a time, or how long ago (24h).")
    ] = "",
    as_of: entities.AsOf = "",
    seconds: Annotated[float, typer.Option(min=1, max=86_400, help="How long it may take.")] = 60.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32, help="Draw the entities of the report with this seed.")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Compare nothing: what was found so far, latest first.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines of the history at most.")] = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compare batch and online on live data, bit for bit; leaves with 1 when values differ."""
    if history:
        return _tell_history(project, views or [], limit, as_json)
    from antiphon.services.features.skew import ProjectSkew

    with features_of(project) as (store, platform), Progress() as progress:
        found = ProjectSkew(store, platform).measure(
            store.scope,
            views or [],
            as_of=entities.moment(as_of),
            since=_since(since),
            sample=sample,
            seconds=seconds,
            seed=seed,
            trigger=at_terminal(store).id,
            progress=progress,
        )
        detail = {"route": "antiphon features skew", "views": views or ["*"], "different": found.different}
        store.trail.record(store.scope, at_terminal(store).id, "data.read", "features", detail)
    show(found, as_json, lambda: _text(found))
    if found.different:
        raise typer.Exit(DIFFERENT)


def _tell_history(project: Path, views: Sequence[str], limit: int, as_json: bool) -> None:
    with stores(project) as store:
        known = store.skew_reports.list(store.scope, limit=limit) if not views else []
        for view in views:
            known += store.skew_reports.list(store.scope, view, limit=limit)
    lines = sorted(known, key=lambda one: one.measured_at, reverse=True)[:limit]
    head = ("when", "by", "view", "publication", "compared", "different", "share", "not comparable")
    rows = [
        (
            one.measured_at, one.trigger, one.view, one.publication, one.compared, one.different,
            None if one.share is None else f"{one.share:.2%}", one.not_comparable,
        )
        for one in lines
    ]  # fmt: skip
    show(lines, as_json, lambda: table(head, rows, "Nothing was compared yet."))


def _since(text: str) -> datetime | None:
    try:
        return datetime.now(UTC) - parse_duration(text) if text else None
    except AntiphonError:
        return entities.moment(text, "--since")


def _text(found: SkewReport) -> str:
    rows = [
        (f"{one.view}.{one.feature}", one.path, one.compared, one.equal, one.different, _judged(one), _reasons(one))
        for one in found.features
    ]
    said = (
        f"{found.different} of {found.compared} values differ"
        if found.different
        else f"{found.compared} values are the same, bit for bit"
    )
    head = ("feature", "path", "compared", "equal", "different", "judged by", "not comparable")
    return "\n".join(
        [
            f"{said} (publication {found.publication}, {found.predictions} predictions, seed {found.seed}, "
            f"{found.seconds:.1f} s).",
            *([] if found.complete else ["The time was over before all was compared; --seconds gives it more."]),
            table(head, rows, "There is nothing to compare."),
            *_examples(found),
        ]
    )


def _judged(one: FeatureSkew) -> str:
    return ", ".join(
        f"{basis} {values}" if len(one.judged_by) > 1 else basis for basis, values in one.judged_by.items()
    )


def _reasons(one: FeatureSkew) -> str:
    return "; ".join(f"{values}: {reason}" for reason, values in one.not_comparable.items())


def _examples(found: SkewReport) -> Iterator[str]:
    for one in found.features:
        for example in one.examples:
            yield f"{one.view}.{one.feature} {_example(example)}"


def _example(one: Difference) -> str:
    who = " ".join(f"{name}={value}" for name, value in (one.entity or {}).items())
    of = f" in {one.prediction}" if one.prediction else ""
    times = ""
    if one.online_event_time != one.batch_event_time:
        times = f"; latest event {moment(one.online_event_time)}, batch {moment(one.batch_event_time)}"
    return f"{who} as of {moment(one.as_of)}{of}: online {one.online!r}, batch {one.batch!r}{times}"
