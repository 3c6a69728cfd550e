"""Status of views as lines of a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from antiphon.cli.output import moment, table

if TYPE_CHECKING:
    from antiphon.services.features.view_status import ViewStatus


def status_table(views: Sequence[ViewStatus]) -> str:
    """A line for each view, and below the reasons why any is not fresh."""
    from antiphon.gateway.dashboard.wording import duration

    now = datetime.now(UTC)
    rows = [
        (
            view.view,
            view.definition_version[:8],
            view.state,
            None if view.snapshot is None else view.snapshot[:15],
            view.as_of,
            None if view.age_seconds is None else duration(view.age_seconds),
            ", ".join(f"{name} {duration(seconds)}" for name, seconds in view.contracts.items()) or None,
            None if view.next_refresh is None else f"in {duration((view.next_refresh - now).total_seconds())}",
            view.lag,
            ",".join(view.keys),
            view.source,
            ", ".join(view.features),
        )
        for view in views
    ]
    head = (
        "view", "version", "state", "snapshot", "as of", "age", "may be", "next", "lag", "keys", "source", "features",
    )  # fmt: skip
    return "\n".join([table(head, rows, "Nothing is applied."), *(said for view in views for said in _problems(view))])


def _problems(view: ViewStatus) -> Iterator[str]:
    if view.skew is not None and view.skew.different:
        yield (
            f"{view.view}: {view.skew.different} of {view.skew.compared} values that are read online are not what "
            f"batch computes, since or before {moment(view.skew.measured_at)}: `antiphon features skew {view.view}`"
        )
    if view.blocked:
        stays = "the one before stays" if view.snapshot else "nothing is published"
        yield (
            f"{view.view}: its last version is blocked, {stays}: {' '.join(view.blocked)} "
            f"`antiphon features describe {view.view}` shows its rules; correct the source and refresh."
        )
    if view.held is not None:
        yield f"{view.view}: held: {view.held}"
    if view.stale_for:
        yield f"{view.view}: too old for {', '.join(view.stale_for)}"
    if view.staged_until is not None:
        yield f"{view.view}: a version waits for the end of its embargo at {moment(view.staged_until)}"
    if view.quarantined:
        yield f"{view.view}: {view.quarantined} source rows are kept aside"
