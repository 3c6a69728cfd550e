"""``antiphon playbooks``: what mends an incident, when it may do so alone, and what it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Limit, Project, Reason
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, features_of
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.catalog.playbooks import PlaybookRun
    from antiphon.operations.playbooks.backtest import Backtest
    from antiphon.services.playbooks.project import PlaybookLine, PlaybookRehearsal, ProjectPlaybooks
    from antiphon.services.project.store import Store

app = typer.Typer(name="playbooks", help="Playbooks: declared steps that mend incidents.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The playbook.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run of a playbook, as `playbooks runs` shows it.")]


@app.command("list")
def list_playbooks(project: Project = HERE, as_json: Json = False) -> None:
    """Every playbook, shipped or declared, and whether it would act alone."""
    with _playbooks(project) as (_, found):
        lines = found.list()
    head = ("playbook", "mode", "acts alone", "cases", "right", "by", "title")
    rows = [
        (
            one.playbook.name, one.playbook.mode, "yes" if one.alone else "no", str(len(one.backtest.cases)),
            str(one.backtest.right), "platform" if one.shipped else "definitions", one.playbook.title,
        )
        for one in lines
    ]  # fmt: skip
    show(lines, as_json, lambda: table(head, rows, "No playbook."))


@app.command("show")
def show_playbook(name: Name, project: Project = HERE, as_json: Json = False) -> None:
    """One playbook: the incidents that it is for, its steps with their guards, and its backtest."""
    with _playbooks(project) as (_, found):
        line = found.show(name)
    show(line, as_json, lambda: "\n".join(_text(line)))


@app.command()
def run(
    name: Name,
    incident: Annotated[str, typer.Argument(metavar="INCIDENT", help="The incident, inc_….")],
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do now; do nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Begin a playbook for an incident; a worker takes its steps, in the playbook's own name."""
    with _playbooks(project) as (store, found):
        if dry_run:
            rehearsed = found.rehearse(name, incident)
            show(rehearsed, as_json, lambda: "\n".join(_rehearsed(rehearsed)))
            return
        if not reason:
            raise InvalidInputError("A playbook is begun for a reason.", where="--reason", next_step="Say why.")
        begun = found.run(name, incident, _approver(store, found, f"{incident}.{name}"), reason)
    show(begun, as_json, lambda: f"{begun.id} is ordered; `antiphon playbooks runs` tells how it goes.")


@app.command()
def approve(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a playbook begin that waits for an approval."""
    with _playbooks(project) as (store, found):
        ordered = found.approve(run, _approver(store, found, run), reason)
    show(ordered, as_json, lambda: f"{ordered.id} is ordered.")


@app.command()
def reject(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Keep a playbook from beginning that waits for an approval."""
    with _playbooks(project) as (store, found):
        rejected = found.reject(run, allowed(store, "release", "application/*").id, reason)
    show(rejected, as_json, lambda: f"{rejected.id} is rejected.")


@app.command("test")
def backtest(name: Name, project: Project = HERE, as_json: Json = False) -> None:
    """Play a playbook over the recorded incidents: when it would have acted, and whether rightly."""
    with _playbooks(project) as (_, found):
        tested = found.test(name)
    show(tested, as_json, lambda: "\n".join(_tested(tested)))


@app.command()
def runs(
    playbook: Annotated[str | None, typer.Option(metavar="NAME", help="Those of one playbook.")] = None,
    incident: Annotated[str | None, typer.Option(metavar="INCIDENT", help="Those for one incident.")] = None,
    limit: Limit = 50,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Runs of playbooks, the latest first: what was done, undone, or waits."""
    with _playbooks(project) as (_, found):
        listed = found.runs(playbook=playbook, incident=incident, limit=limit)
    head = ("run", "state", "decided by", "since", "last")
    rows = [(one.id, one.state, one.decided_by or "-", moment(one.created_at), _last(one)) for one in listed]
    show(listed, as_json, lambda: table(head, rows, "No playbook has met an incident."))


@app.command()
def allow(
    name: Name,
    reason: Reason,
    forbid: Annotated[bool, typer.Option("--forbid", help="Let it never act alone, whatever its backtest.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Let a playbook act alone whatever its backtest; it is on record. It is the right of administrators."""
    with _playbooks(project) as (store, found):
        who = allowed(store, "administer", f"playbook/{name}")
        permission = found.allow(name, who.id, reason, alone=not forbid)
    said = "may act alone" if permission.alone else "acts alone no more"
    show(permission, as_json, lambda: f"{name} {said}.")


def _approver(store: Store, found: ProjectPlaybooks, run: str) -> str:
    """The person who lets a run act; of one that rotates keys they need the right to administer these as well."""
    for key in found.keys(run):
        allowed(store, "administer", key)
    return allowed(store, "release", "application/*").id


@contextmanager
def _playbooks(project: Path) -> Iterator[tuple[Store, ProjectPlaybooks]]:
    from antiphon.services.playbooks.project import project_playbooks

    with features_of(project) as (store, features):
        yield store, project_playbooks(store, features)(store.scope)


def _text(line: PlaybookLine) -> Iterator[str]:
    one = line.playbook
    yield f"{one.name}: {one.title}"
    yield f"for: {', '.join(one.classes) or 'any class'}; causes: {', '.join(one.roots) or 'any'}; evidence: " + (
        f"{', '.join(one.signals) or 'any'}; from {one.severity} on"
    )
    yield f"mode: {one.mode}; acts alone now: {'yes' if line.alone else 'no'}; cooldown {one.cooldown}"
    if one.turn:
        yield f"turn: {one.turn}"
    if line.permission is not None:
        said = "may act alone" if line.permission.alone else "acts alone never"
        yield f"{said}, says {line.permission.principal}: {line.permission.reason}"
    for number, step in enumerate(one.steps, 1):
        guards = ", ".join(step.only_if) or "nothing"
        key = f" of {step.key or 'most denials'}" if step.action == "rotate-key" else ""
        yield (
            f"{number}. {step.action}{key}, after {step.wait}, only if {guards}; at most {step.most_per_hour} an hour; "
            + (f"undone: {step.undone.replace('_', ' ')}")
        )
    yield line.backtest.sentence


def _rehearsed(found: PlaybookRehearsal) -> Iterator[str]:
    yield f"{found.playbook} for {found.incident}: {found.cause}"
    if found.waits:
        yield found.waits
    for step, why in zip(found.steps, found.hindrances, strict=True):
        yield f"{step}: {f'not now: {why}' if why else 'would be done'}"


def _tested(found: Backtest) -> Iterator[str]:
    yield found.sentence
    for case in found.cases:
        innocent = f"; no cause: {', '.join(case.innocent)}" if case.innocent else ""
        yield f"{case.incident}  {'right' if case.right else 'wrong'}  {', '.join(case.components)}{innocent}"
    for incident in found.missed:
        yield f"{incident}  missed"


def _last(run: PlaybookRun) -> str:
    if run.problem:
        return run.problem
    return run.outcomes[-1].sentence if run.outcomes else run.cause
