"""``antiphon features backfill``, ``backfills``, ``promote`` and ``discard``: views as of moments of the past."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, Project, Reason
from antiphon.cli.output import followed, moment, show, table
from antiphon.cli.project import at_terminal, require_worker, services
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError

if TYPE_CHECKING:
    from antiphon.durable.run import Run
    from antiphon.features.publication.promote import BackfillPromotion
    from antiphon.services.features.backfills import BackfillLine, BackfillOutlook, BackfillReport

RunId = Annotated[str, typer.Argument(metavar="RUN", help="The backfill's run.")]


class BackfillFailedError(AntiphonError):
    """A backfill was waited for and did not end well."""

    code = "backfill_failed"


def backfill(
    views: Annotated[list[str], typer.Argument(help="Views, by name or VIEW@VERSION.")],
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="The first moment: a day, or ISO 8601.")],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="The last moment (default: now).")] = "",
    every: Annotated[str, typer.Option("--every", metavar="DURATION", help="From moment to moment.")] = "1d",
    rate: Annotated[float, typer.Option("--rate", min=0, help="Partitions a minute at most; 0: no bound.")] = 0,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would be; order nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended, and say how far it is.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compute views as of moments of the past, and publish nothing."""
    from antiphon.gateway.admin.shapes import RunLine, read
    from antiphon.services.features.backfills import BackfillOrder, BackfillOutlook

    first = _moment(since, "--from")
    if first is None:
        raise InvalidInputError("No first moment is named.", where="--from", next_step="Write --from 2026-10-01.")
    step = parse_duration(every).total_seconds()
    order = BackfillOrder(tuple(views), first, _moment(until, "--to"), step, rate or None, reason)

    async def ordered() -> Run | BackfillOutlook:
        async with services(project) as (ports, store):
            backfills = ports.features.backfills
            if dry_run:
                return await asyncio.to_thread(backfills.outlook, store.scope, order)
            if wait:
                require_worker(store, "backfill", "leave --wait out")
            run = await asyncio.to_thread(backfills.order, store.scope, at_terminal(store), order)
            return await followed(store, run.id, wait)

    found = asyncio.run(ordered())
    if isinstance(found, BackfillOutlook):
        show(found, as_json, partial(_outlook, found))
        return
    line = f"{found.id} {found.status}" if wait else found.id
    hint = (
        f"`antiphon features backfills {found.id}` shows its partitions, `antiphon runs show {found.id}` its progress."
    )
    show(read(found, RunLine), as_json, lambda: line, hint)
    if wait and found.status not in ("succeeded", "succeeded_with_failures"):
        raise BackfillFailedError(
            f"The backfill {found.id} {found.status}: {found.error or 'it was canceled'}",
            next_step=f"Mend the cause; `antiphon runs retry {found.id}` goes on where it was."
            if found.status == "failed"
            else "Order another one.",
        )


def backfills(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Show this one, partition by partition.")] = "",
    limit: Limit = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Backfills, newest first; of one, what each partition came to."""

    async def found() -> BackfillReport | tuple[BackfillLine, ...]:
        async with services(project) as (ports, store):
            known = ports.features.backfills
            if run:
                return await asyncio.to_thread(known.report, store.scope, run)
            return await asyncio.to_thread(known.list, store.scope, limit)

    listed = asyncio.run(found())
    show(listed, as_json, lambda: _lines(listed) if isinstance(listed, tuple) else _report(listed))


def promote(
    run: RunId,
    reason: Reason,
    older: Annotated[
        bool, typer.Option("--older", help="Also where what is served is newer; the next refresh moves it forward.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be published; change nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Publish the newest snapshots of a backfill, all of its views at once."""

    async def promoted() -> BackfillPromotion:
        async with services(project) as (ports, store):
            who, known = at_terminal(store), ports.features.backfills
            return await asyncio.to_thread(
                lambda: known.promote(store.scope, who, run, reason=reason, older=older, dry_run=dry_run)
            )

    found = asyncio.run(promoted())
    show(found, as_json, lambda: _promoted(found))


def discard(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Give up what is kept of a backfill; the disk is free after the next pruning."""

    async def discarded() -> BackfillReport:
        async with services(project) as (ports, store):
            who, known = at_terminal(store), ports.features.backfills
            return await asyncio.to_thread(lambda: known.discard(store.scope, who, run, reason=reason))

    found = asyncio.run(discarded()).backfill
    hint = "The worker prunes every hour; `antiphon features prune` does so now, but for files of the last hour."
    show(found, as_json, lambda: f"{run}: {found.kept} partitions given up, {found.bytes / 1e6:,.1f} MB.", hint)


def _moment(text: str, where: str) -> datetime | None:
    """A day, from its beginning in UTC, or a moment with an offset."""
    if len(text) == len("2026-10-01"):
        text += "T00:00:00+00:00"
    found = entities.moment(text, where)
    return None if found is None else found.astimezone(UTC)


def _outlook(found: BackfillOutlook) -> str:
    seconds = "not known: no snapshot was made yet" if found.seconds is None else f"about {_time(found.seconds)}"
    size = "not known" if found.bytes is None else f"about {found.bytes / 1e6:,.1f} MB"
    free = "" if found.free is None else f" of {found.free / 1e6:,.0f} MB free"
    return "\n".join(
        [
            f"{found.partitions} partitions: {', '.join(found.views)}",
            f"  moments  {found.moments}, {moment(found.first)} to {moment(found.last)}",
            f"  takes    {seconds}",
            f"  disk     {size}{free}",
        ]
    )


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7_200
        else f"{seconds / 3600:.1f} h"
    )


def _lines(found: tuple[BackfillLine, ...]) -> str:
    head = ("run", "views", "from", "to", "status", "done", "of", "kept", "blocked", "MB", "reason")
    rows = [
        (
            one.run, ", ".join(_short(view) for view in one.views), moment(one.since), moment(one.until), _status(one),
            one.done, one.total, one.kept, one.blocked, one.bytes / 1e6, one.reason,
        )
        for one in found
    ]  # fmt: skip
    return table(head, rows, "No backfill yet.")


def _report(found: BackfillReport) -> str:
    line = found.backfill
    said = f"{line.run} ({_status(line)}): {line.kept} of {line.total or '?'} partitions, {line.bytes / 1e6:,.1f} MB"
    head = ("as of", "view", "snapshot", "gates", "rows", "most nulls", "greatest shift", "s", "findings")
    rows = [
        (
            moment(one.as_of), _short(one.key), one.snapshot, one.outcome, one.rows_out, _most(one.null_shares, "%"),
            _most(one.shifts, "PSI"), one.seconds, " ".join(finding.reason for finding in one.findings),
        )
        for one in found.partitions
    ]  # fmt: skip
    return f"{said}\n{table(head, rows, 'No partition yet.')}"


def _promoted(found: BackfillPromotion) -> str:
    said = (
        "Nothing is changed; this is what would be:"
        if found.publication is None
        else f"Publication {found.publication}:"
    )
    head = ("view", "before", "as of", "comes", "as of", "gates", "replayed", "findings")
    rows = [
        (
            f"{one.view}@{one.definition_version[:8]}", one.before, moment(one.before_as_of), one.snapshot,
            moment(one.as_of), one.outcome, one.events, " ".join(finding.reason for finding in one.findings),
        )
        for one in found.views
    ]  # fmt: skip
    return f"{said}\n{table(head, rows)}"


def _status(line: BackfillLine) -> str:
    return f"paused by {line.paused_by}" if line.paused_by is not None else line.status


def _short(key: str) -> str:
    view, _, version = key.partition("@")
    return f"{view}@{version[:8]}"


def _most(of: dict[str, float], unit: str) -> str:
    """The feature with the greatest figure."""
    name = max(of, key=lambda one: of[one], default=None)
    if name is None:
        return ""
    return f"{name} {of[name]:.0%}" if unit == "%" else f"{name} {of[name]:.2f}"
