"""``antiphon features``: views, how fresh they are, what the gates said, and computing them anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli import feast, features_export, features_get, features_neighbors, features_refresh, features_watch
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, refusals_on_record, services, stores
from antiphon.cli.pruned import pruned

if TYPE_CHECKING:
    from antiphon.core.scope import Scope
    from antiphon.features.offline.history import ViewDescription, ViewDifference, ViewHistory, ViewVersion

app = typer.Typer(name="features", help="Feature views and their freshness.", no_args_is_help=True)
app.command("import-feast")(feast.import_feast)
app.command("get")(features_get.get)
app.command("refresh")(features_refresh.refresh)
features_watch.add_to(app)
app.command("export")(features_export.export)
app.command("neighbors")(features_neighbors.neighbors)


@app.command("list")
def list_views(project: Project = HERE, as_json: Json = False) -> None:
    """Status of every view: version, snapshot, age against contracts, next refresh, blocks and holds."""
    from antiphon.cli.features_status import status_table
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.services.features.view_status import read_view_statuses

    with stores(project) as store:
        platform = FeaturePlatform(store)
        try:
            views = read_view_statuses(store, platform, store.scope)
        finally:
            platform.close()
    show(views, as_json, lambda: status_table(views))


@app.command("streams")
def streams(project: Project = HERE, as_json: Json = False) -> None:
    """Show each view's progress in its stream: lag, event time reached, late and rejected events."""
    import asyncio

    from antiphon.cli.status import streams_table
    from antiphon.features.streaming.consumer import StreamStatus

    async def found() -> list[StreamStatus]:
        async with services(project) as (ports, store):
            return list(await asyncio.to_thread(ports.features.streams.status, store.scope))

    positions = asyncio.run(found())
    show(positions, as_json, lambda: streams_table(positions))


@app.command("describe")
def describe(
    view: Annotated[str, typer.Argument(help="The view's name.")],
    version: Annotated[str | None, typer.Option(help="A definition version; the latest by default.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """A view: its features and rules, what is served, what it was made from and how good that was."""
    with _history(project) as (scope, history):
        found = history.describe(scope, view, version)
    show(found, as_json, lambda: _description(found))


@app.command("history")
def history(
    view: Annotated[str, typer.Argument(help="The view's name.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many versions at most.")] = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List a view's snapshots, published or not, with the verdicts of the gates."""
    with _history(project) as (scope, reading):
        found = reading.history(scope, view, limit)
    show(found, as_json, lambda: _versions(found))


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(help="A snapshot or verdict, as `features history` shows them.")],
    after: Annotated[str, typer.Argument(help="Another one of the same view.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Two versions of a view: what differs in the definition and in the distributions."""
    with _history(project) as (scope, reading):
        found = reading.difference(scope, before, after)
    show(found, as_json, lambda: _difference(found))


@app.command("quarantine")
def quarantine(
    view: Annotated[str, typer.Argument(help="The view's name.")],
    version: Annotated[str | None, typer.Option(help="A snapshot or verdict; the latest that kept rows aside.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many rows at most.")] = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Source rows that rules kept out, with the rule that each offends."""
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.services.governance.policy_versions import records

    with stores(project) as store:
        reader = at_terminal(store)
        with refusals_on_record(store, reader, "read_source_rows", f"view/{view}"):
            records(store).require_source(store.scope, reader, f"view/{view}")
        found = FeaturePlatform(store).history.quarantine(store.scope, view, version, limit)
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
    from antiphon.services.features.platform import FeaturePlatform

    with stores(project) as store:
        who = allowed(store, "publish", "features/prune")
        platform = FeaturePlatform(store)
        try:
            found = platform.prune(who.id, dry=dry_run)
        finally:
            platform.close()
    show(found, as_json, lambda: pruned(found))


@contextmanager
def _history(project: Path) -> Iterator[tuple[Scope, ViewHistory]]:
    from antiphon.services.features.platform import FeaturePlatform

    with stores(project) as store:
        yield store.scope, FeaturePlatform(store).history


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
