"""``antiphon lineage``: where data comes from and where it goes, as OpenLineage events and as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import at_terminal, refusals_on_record, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.services.lineage.graph import Direction
    from antiphon.services.lineage.values import LineageEvent

app = typer.Typer(name="lineage", help="Where data comes from and where it goes.", no_args_is_help=True)

Since = Annotated[str, typer.Option("--since", metavar="TIME", help="Only what happened since then.")]
OneRun = Annotated[str, typer.Option("--run", metavar="RUN", help="Only the events of this run.")]

_DIRECTIONS: tuple[Direction, ...] = ("both", "upstream", "downstream")


@app.command("events")
def list_events(
    run: OneRun = "", since: Since = "", limit: Limit = 50, project: Project = HERE, as_json: Json = False
) -> None:
    """The events of the latest runs or of one, derived from what is kept of them; --json as they are sent."""
    from antiphon.services.lineage import openlineage
    from antiphon.services.lineage.project import ProjectLineage

    with stores(project) as store:
        found = ProjectLineage(store).events(
            store.scope, run or None, limit=limit, since=entities.moment(since, "--since")
        )
    show([openlineage.document(one) for one in found] if as_json else found, as_json, lambda: _events(found))


@app.command("graph")
def show_graph(
    of: Annotated[
        str, typer.Option("--of", metavar="NAME", help="A run, release, prediction, model version, dataset or view.")
    ] = "",
    direction: Annotated[str, typer.Option(help="both, upstream or downstream.")] = "both",
    as_dot: Annotated[bool, typer.Option("--dot", help="Print it in the language of Graphviz.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The graph of one thing: all that it was made from and that was made of it, from source to answer; without --of
    of everything behind the live releases."""
    from antiphon.services.governance.policy_versions import records
    from antiphon.services.lineage.graph import dot, outline
    from antiphon.services.lineage.project import ProjectLineage

    way = next((one for one in _DIRECTIONS if one == direction), None)
    if way is None:
        raise InvalidInputError(
            f"{direction!r} is no direction.", where="--direction", next_step="Give both, upstream or downstream."
        )
    with stores(project) as store:
        lineage = ProjectLineage(store)
        if of and lineage.node(store.scope, of).kind == "prediction":
            reader = at_terminal(store)
            with refusals_on_record(store, reader, "read", f"prediction/{of}"):
                records(store).require_prediction(store.scope, reader, of)
        found = lineage.graph(store.scope, of or None, way)
    empty = "Nothing is live yet: `antiphon apply`, or name a run with --of."
    show(found, as_json, lambda: dot(found) if as_dot else "\n".join(outline(found)) or empty)


@app.command("send")
def send(
    run: OneRun = "",
    since: Since = "",
    limit: Limit = 1_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be sent, and send nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Send events to the receiver of the settings at once: of one run, or of those since a time; what it has already
    it gets again. The worker sends the others by itself."""
    from antiphon.services.lineage.delivery import LineageDelivery
    from antiphon.services.lineage.project import ProjectLineage

    if not run and not since and not dry_run:
        raise InvalidInputError(
            "Nothing says which events.", where="lineage send", next_step="Give --run RUN, --since TIME or --dry-run."
        )
    with stores(project) as store:
        lineage, delivery = ProjectLineage(store), LineageDelivery(store)
        from_then = entities.moment(since, "--since")
        found = lineage.events(store.scope, run or None, limit=limit, since=from_then)
        if not run and not since:
            found = delivery.due()
        sent = 0 if dry_run else delivery.send(found)
        said = delivery.status()
    result = {"events": len(found), "sent": sent, "receiver": said}
    words = f"{len(found)} events would be sent" if dry_run else f"{sent} events were sent"
    show(result, as_json, lambda: f"{_events(found)}\n{words}. {said.sentence}.")


def _events(events: list[LineageEvent]) -> str:
    rows = [
        (
            moment(one.at),
            one.type,
            one.job,
            ", ".join(dataset.label for dataset in one.inputs) or None,
            ", ".join(dataset.label for dataset in one.outputs) or None,
            one.run,
        )
        for one in events
    ]
    return table(("time", "event", "job", "read", "made", "run"), rows, "No run yet.")
