"""``antiphon features``: views, how fresh they are, what the gates said, and computing them anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import (
    feast,
    features_backfill,
    features_get,
    features_lineage,
    features_refresh,
    features_rollback,
    features_skew,
)
from antiphon.cli.options import HERE, Json, Project, View
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, features_of, refusals_on_record, services, stores
from antiphon.cli.status import status_table, streams_table

if TYPE_CHECKING:
    from antiphon.features.offline.history import ViewDescription, ViewDifference, ViewVersion
    from antiphon.features.publication.prune import PruneResult, SnapshotLine

app = typer.Typer(name="features", help="Feature views and their freshness.", no_args_is_help=True)
_KEPT_SHOWN = 20

app.command("import-feast")(feast.import_feast)
app.command("get")(features_get.get)
app.command("refresh")(features_refresh.refresh)
app.command("backfill")(features_backfill.backfill)
app.command("backfills")(features_backfill.backfills)
app.command("promote")(features_backfill.promote)
app.command("discard")(features_backfill.discard)
app.command("skew")(features_skew.skew)
app.command("lineage")(features_lineage.lineage)
app.command("rollback")(features_rollback.rollback)
app.command("hold")(features_rollback.hold)
app.command("resume")(features_rollback.resume)
app.command("neighbors")(features_get.neighbors)


@app.command("list")
def list_views(project: Project = HERE, as_json: Json = False) -> None:
    """Status of every view: version, snapshot, age against contracts, next refresh, blocks and holds."""
    from antiphon.services.features.view_status import read_view_statuses

    with features_of(project) as (store, platform):
        views = read_view_statuses(store, platform, store.scope)
    show(views, as_json, lambda: status_table(views))


@app.command("streams")
def streams(project: Project = HERE, as_json: Json = False) -> None:
    """Show each view's progress in its stream: lag, event time reached, late and rejected events."""
    from antiphon.features.streaming.consumer import StreamStatus

    async def found() -> list[StreamStatus]:
        async with services(project) as (ports, store):
            return list(await asyncio.to_thread(ports.features.streams.status, store.scope))

    positions = asyncio.run(found())
    show(positions, as_json, lambda: streams_table(positions))


@app.command("describe")
def describe(
    view: View,
    version: Annotated[str | None, typer.Option(help="A definition version; the latest by default.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """A view: its features and rules, what is served, what it was made from and how good that was."""
    with features_of(project) as (store, platform):
        found = platform.history.describe(store.scope, view, version)
    show(found, as_json, lambda: _description(found))


@app.command("history")
def history(
    view: View,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many versions at most.")] = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List a view's snapshots, published or not, with the verdicts of the gates."""
    with features_of(project) as (store, platform):
        found = platform.history.history(store.scope, view, limit)
    show(found, as_json, lambda: _versions(found))


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(help="A snapshot or verdict, as `features history` shows them.")],
    after: Annotated[str, typer.Argument(help="Another one of the same view.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Two versions of a view: what differs in the definition and in the distributions."""
    with features_of(project) as (store, platform):
        found = platform.history.difference(store.scope, before, after)
    show(found, as_json, lambda: _difference(found))


@app.command("quarantine")
def quarantine(
    view: View,
    version: Annotated[str | None, typer.Option(help="A snapshot or verdict; the latest that kept rows aside.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows at most.")] = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Source rows that rules kept out, with the rule that each offends."""
    from antiphon.services.governance.policy_versions import records

    with features_of(project) as (store, platform):
        reader = at_terminal(store)
        with refusals_on_record(store, reader, "read_source_rows", f"view/{view}"):
            records(store).require_source(store.scope, reader, f"view/{view}")
        found = platform.history.quarantine(store.scope, view, version, limit)
    rows: list[dict[str, Any]] = [] if found is None else [{"rule": row.rule, **row.columns} for row in found.rows]

    def text() -> str:
        if found is None:
            return "No version kept rows aside."
        said = ", ".join(f"{rule} {count}" for rule, count in found.reasons.items())
        if found.expired_at is not None:
            return (
                f"{found.total} rows were kept out of {found.verdict}: {said}\n"
                f"They expired on {found.expired_at:%Y-%m-%d %H:%M:%SZ} ([features] quarantine_kept)."
            )
        head = list(rows[0])
        listed = table(head, [[str(row[name]) for name in head] for row in rows])
        return f"{found.total} rows are kept out of {found.verdict}: {said}\n{listed}"

    show(found, as_json, text)


@app.command("prune")
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go and what pins the rest.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Give up files of snapshots that nothing needs, rows that expired, and garbage; the worker does so every hour."""
    with features_of(project) as (store, platform):
        found = platform.prune(allowed(store, "publish", "features/prune").id, dry=dry_run)
    show(found, as_json, lambda: _pruned(found))


@app.command("export")
def export(
    view: Annotated[str, typer.Argument(help="The view.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The table's folder.")],
    format_: Annotated[str, typer.Option("--format", help="delta or parquet.")] = "delta",
    snapshot: Annotated[str, typer.Option(help="Another snapshot than the published one.")] = "",
    backfill: Annotated[
        str, typer.Option(metavar="RUN", help="Every partition of a backfill, as Parquet in folders as_of=MOMENT.")
    ] = "",
    purpose: Annotated[str, typer.Option(help="What for, as policies know it.")] = "",
    clear: Annotated[bool, typer.Option("--clear", help="Write clear text although the project is encrypted.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Write a view's published values as a new version of a Delta table, or as a Parquet file."""
    from antiphon.features.exports.export import require_format
    from antiphon.services.export.export import export_backfill, export_view

    if backfill:
        with stores(project) as store:
            who = at_terminal(store)
            every = export_backfill(store, view, backfill, to, principal=who, purpose=purpose, clear=clear)
        rows = sum(one.written.rows or 0 for one in every)
        show(every, as_json, lambda: f"{to} holds {len(every)} partitions, {rows:,} rows.")
        return
    with stores(project) as store:
        exported = export_view(
            store,
            view,
            to,
            require_format(format_),
            principal=at_terminal(store),
            snapshot=snapshot or None,
            purpose=purpose,
            clear=clear,
        )
    written = exported.written

    def text() -> str:
        version = "" if written.version is None else f", version {written.version}"
        if not written.changed:
            return f"{written.path} holds {exported.about.snapshot} already{version}."
        withheld = f"; policy kept {written.withheld:,} back" if written.withheld else ""
        return f"Wrote {written.rows:,} rows of {exported.about.snapshot} to {written.path}{version}{withheld}."

    show(exported, as_json, text)


def _description(found: ViewDescription) -> str:
    definition, made = found.definition, found.current
    parts = [
        f"{definition.name}@{definition.definition_version}   {definition.description or ''}".rstrip(),
        f"entity {', '.join(definition.entity.keys)}; source {definition.source.name}; owner {definition.owner or '-'}",
    ]
    if found.rules:
        parts.append(table(("rule", "kind", "if not"), [(rule.name, rule.kind, rule.action) for rule in found.rules]))
    if found.staged_until is not None:
        parts.append(f"A version waits for the end of its embargo at {found.staged_until:%Y-%m-%d %H:%M:%SZ}.")
    if found.latest is not None and found.latest.outcome == "blocked":
        stays = f"{found.latest.kept} stays" if found.latest.kept else "nothing is published"
        parts.append(f"The last version is blocked, {stays}:")
        parts += [f"  {finding.rule}: {finding.reason}" for finding in found.latest.findings]
    if made is None:
        return "\n".join([*parts, "Nothing is published."])
    why = "".join(f", {reason} {rows}" for reason, rows in made.rejections.items())
    parts.append(
        f"{made.id} as of {made.as_of:%Y-%m-%d %H:%M:%SZ}: {made.rows_in} rows read, {made.rows_rejected} rejected{why}"
        f", {made.rows_out} entities; {made.duration_seconds:.2g} s, {made.cost.cpu_seconds:.2g} s of CPU; "
        f"ordered by {made.principal or '-'}: {made.reason or '-'}"
    )
    if made.read.taken_over is not None:
        parts.append(f"{made.read.rows} of them read now, the others taken over from {made.read.taken_over}")
    elif made.read.whole is not None:
        parts.append(f"all of the source was read: {made.read.whole}")
    parts.append(f"from {made.source} ({made.source_hash[:12] or 'no file'}), {made.sampling_rate:.0%} of all events")
    quality = made.source_quality
    if quality is not None:
        parts.append(
            f"{quality.score:.1%} of the rows without a defect: null {quality.null_share:.1%}, late "
            f"{quality.late_share:.1%}, repeated {quality.duplicate_share:.1%}, out of range "
            f"{quality.out_of_range_share:.1%}, unusable {quality.rejected_share:.1%}"
        )
    rows = [
        (name, one.rows, f"{one.null_share:.1%}", one.minimum, one.mean, one.maximum, one.deviation, _top(one.top))
        for name, one in made.statistics.items()
    ]
    head = ("feature", "entities", "null", "least", "mean", "greatest", "deviation", "most frequent")
    return "\n".join([*parts, table(head, rows)])


def _top(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in list(counts.items())[:3])


def _versions(found: tuple[ViewVersion, ...]) -> str:
    rows = [
        (
            line.created_at,
            f"{line.outcome}{' *' if line.current else ''}",
            line.snapshot or line.id,
            line.definition_version[:8],
            line.rows_in,
            line.rows_rejected,
            line.rows_out,
            None if line.source_quality is None else f"{line.source_quality:.1%}",
            f"{line.principal}: {line.reason}",
        )
        for line in found
    ]
    head = ("made", "gates", "version", "definition", "rows", "rejected", "entities", "source", "ordered by")
    said = [
        f"{line.created_at:%Y-%m-%d %H:%M:%SZ} {finding.action}: {finding.reason}"
        for line in found
        for finding in line.findings
    ]
    return "\n".join([table(head, rows, "It was not made yet."), *(["", *said] if said else [])])


def _difference(found: ViewDifference) -> str:
    rows = [
        (
            place,
            one.name,
            "new" if one.before is None else "gone" if one.after is None else "",
            one.before.mean if one.before is not None else None,
            one.after.mean if one.after is not None else None,
            one.test,
            one.effect,
            one.psi,
        )
        for place, differences in (("feature", found.features), ("column", found.columns))
        for one in differences
    ]
    changed = "; ".join(found.definition.sentences) or "the definition is the same"
    return "\n".join(
        [
            f"{found.view}: {found.definition.level}: {changed}",
            table(
                ("", "name", "", "mean before", "after", "test", "distance", "PSI"),
                rows,
                "There is nothing to compare.",
            ),
        ]
    )


def _pruned(found: PruneResult) -> str:
    """Lists removed snapshots, then those that stay and their pins."""
    lines = [f"{found.summary() or 'nothing'} {'would go' if found.dry else 'went'}."]
    if found.dry and (found.lake or found.online):
        lines.append("Files and builds that were written within the last hour are spared.")
    if found.snapshots:
        lines += ["", table(("goes", "view", "as of", "bytes"), [_snapshot_line(one) for one in found.snapshots])]
    if found.expired:
        rows = [(one.verdict, one.view, f"{one.kept_since:%Y-%m-%d %H:%M:%SZ}") for one in found.expired]
        lines += ["", table(("rows expire", "view", "kept aside since"), rows)]
    if found.kept:
        kept = [(*_snapshot_line(one), "; ".join(f"{pin.kind} {pin.what}" for pin in one.pins)) for one in found.kept]
        lines += ["", table(("stays", "view", "as of", "bytes", "pinned by"), kept[:_KEPT_SHOWN])]
        if len(kept) > _KEPT_SHOWN:
            lines.append(f"{len(kept) - _KEPT_SHOWN} more stay; --json lists them all.")
    if found.datasets:
        lines.append(f"{found.datasets} files stay for datasets.")
    return "\n".join(lines)


def _snapshot_line(one: SnapshotLine) -> tuple[object, ...]:
    return one.snapshot, f"{one.view}@{one.definition_version[:8]}", f"{one.as_of:%Y-%m-%d %H:%M:%SZ}", one.bytes
