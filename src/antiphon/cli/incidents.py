"""``antiphon incidents``: what did not work, why, and what was done about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, For, Json, Limit, Project, Reason
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, stores

if TYPE_CHECKING:
    from antiphon.catalog.incidents import Incident
    from antiphon.services.incidents.project import ProjectIncidents

app = typer.Typer(name="incidents", help="Incidents: causes, evidence, timeline.", no_args_is_help=True)

IncidentId = Annotated[str, typer.Argument(metavar="INCIDENT", help="Its id, inc_….")]


@app.command("list")
def list_incidents(
    everything: Annotated[bool, typer.Option("--all", help="Those that are resolved as well.")] = False,
    limit: Limit = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Incidents that are not resolved, the latest first."""
    from antiphon.services.incidents.project import ProjectIncidents

    with stores(project) as store:
        found = ProjectIncidents(store, store.scope).list(all=everything, limit=limit)
    head = ("incident", "state", "severity", "class", "owner", "opened", "title")
    rows = [
        (one.id, one.state, one.severity, one.class_, one.owner or "-", moment(one.opened_at), one.title)
        for one in found
    ]
    show(found, as_json, lambda: table(head, rows, "No incident."))


@app.command("show")
def show_incident(incident: IncidentId, project: Project = HERE, as_json: Json = False) -> None:
    """One incident: its causes with their evidence and paths, its symptoms and timeline."""
    from antiphon.services.incidents.project import ProjectIncidents

    with stores(project) as store:
        found = ProjectIncidents(store, store.scope).get(incident)
    show(found, as_json, lambda: "\n".join(_text(found)))


@app.command()
def report(
    incident: IncidentId,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write it there.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The draft of a post-mortem, as Markdown."""
    from antiphon.services.incidents.project import ProjectIncidents

    with stores(project) as store:
        found = ProjectIncidents(store, store.scope).report(incident)
    if output is not None:
        output.write_text(found, encoding="utf-8")
    show({"markdown": found}, as_json, lambda: found if output is None else f"It is in {output}.")


@app.command()
def acknowledge(incident: IncidentId, project: Project = HERE, as_json: Json = False) -> None:
    """Take an incident: it is yours, unless it has an owner."""
    _move(project, as_json, lambda found, who: found.acknowledge(incident, who))


@app.command()
def assign(incident: IncidentId, owner: str, project: Project = HERE, as_json: Json = False) -> None:
    """Give an incident to an owner."""
    _move(project, as_json, lambda found, who: found.assign(incident, owner, who))


@app.command()
def note(incident: IncidentId, text: str, project: Project = HERE, as_json: Json = False) -> None:
    """Add a note to its timeline."""
    _move(project, as_json, lambda found, who: found.note(incident, text, who))


@app.command()
def silence(
    incident: IncidentId,
    reason: Reason,
    duration: For = "2h",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Say nothing of an incident for a while."""
    _move(project, as_json, lambda found, who: found.silence(incident, duration, reason, who))


@app.command()
def resolve(incident: IncidentId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """End an incident; what goes on opens it again after some minutes."""
    _move(project, as_json, lambda found, who: found.resolve(incident, reason, who))


def _move(project: Path, as_json: bool, change: Callable[[ProjectIncidents, str], Incident]) -> None:
    from antiphon.services.incidents.project import ProjectIncidents

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        moved = change(ProjectIncidents(store, store.scope), who.id)
    show(moved, as_json, lambda: f"{moved.id} is {moved.state}; owner: {moved.owner or 'none'}.")


def _text(found: Incident) -> Iterator[str]:
    from antiphon.operations.incidents.course import impact_sentence

    yield f"{found.id}: {found.title}"
    yield f"{found.state}, {found.severity}, {found.class_}; owner: {found.owner or 'none'}"
    yield impact_sentence(found)
    for root in found.roots:
        yield f"cause: {root.component} ({root.class_})"
        for one in root.evidence:
            yield f"  {moment(one.since)}  {one.sentence}  [{one.record or f'{one.measure} {one.where}'.strip()}]"
        for path in root.paths:
            yield f"  path: {' -> '.join(path)}"
    for sentence in found.considered:
        yield f"considered: {sentence}"
    for symptom in found.symptoms:
        until = "lasts" if symptom.until is None else f"until {moment(symptom.until)}"
        yield f"symptom: {moment(symptom.since)}, {until}: {symptom.evidence.sentence}"
    for entry in found.timeline:
        yield f"{moment(entry.at)}  {entry.kind}  {entry.principal}  {entry.text}".rstrip()
