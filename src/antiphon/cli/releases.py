"""``antiphon releases``: what is live, what was, what is on its way, and going back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli import rollouts, watches
from antiphon.cli.options import HERE, Application, Json, OnlyApplication, Probes, Project, Reason
from antiphon.cli.outline import outline
from antiphon.cli.output import Progress, moment, note, shortened, show, table
from antiphon.cli.project import at_terminal, require_application, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from datetime import datetime

    from antiphon.catalog.learning.evaluations import Evaluation
    from antiphon.catalog.learning.safety import SafetyReport
    from antiphon.catalog.releases.releases import Release
    from antiphon.learning.evaluation.validation import ValidationResult

app = typer.Typer(name="releases", help="Releases, rollouts and the live pointer.", no_args_is_help=True)

ReleaseId = Annotated[str, typer.Argument(help="The release's id.")]


@app.command("list")
def list_releases(application: OnlyApplication = "", project: Project = HERE, as_json: Json = False) -> None:
    """Releases, newest first; the live one is marked."""
    _show(project, application or None, as_json)


@app.command("show")
def show_release(release: ReleaseId, project: Project = HERE, as_json: Json = False) -> None:
    """One release: what it pins, the stages it entered, how it met its gates or why it needs none, and how it has been
    watched since it went live."""
    from antiphon.services.learning.gate_orders import check_of
    from antiphon.services.watching.report import ProjectWatches

    with stores(project) as store:
        check = check_of(store, store.scope, release)
        report = store.safety_reports.latest(store.scope, release)
        found = store.releases.get(store.scope, release)
        stages = store.releases.stages(store.scope, release)
        evaluation = store.evaluations.latest(store.scope, release)
        watch = ProjectWatches(store, store.scope).of_release(release)
    newest = max((one for one in (evaluation, report) if one is not None), key=_made, default=None)
    gates: list[dict[str, Any]] = [] if newest is None else msgspec.to_builtins(newest.gates)
    ungated = found.bundle.application.ungated
    value = {
        "release": found.id,
        "number": found.number,
        "stage": found.stage,
        "author": found.author,
        "rationale": found.rationale,
        "created": moment(found.created_at),
        "content_hash": found.content_hash,
        "bundle": msgspec.to_builtins(found.bundle),
        "stages": [
            {"stage": move.stage, "at": moment(move.at), "principal": move.principal, "reason": move.reason}
            for move in stages
        ],
        "ungated": f"{ungated.reason} ({ungated.releases} releases)" if ungated else None,
        "check": None if check is None else check.sentence,
        "evaluation": None if evaluation is None else evaluation.id,
        "safety_report": None if report is None else report.id,
        "gates": gates,
        "watch": msgspec.to_builtins(watch),
    }
    short = {name: part for name, part in value.items() if name not in ("bundle", "gates", "watch")}
    model = found.bundle.model
    short["model"] = f"{model.name} ({(model.weights_sha256 or 'weights elsewhere')[:16]})"
    short["gates"] = [_gate(gate) for gate in gates]
    if watch.since is not None:
        short["watched"] = watches.watched(watch)
        short["decisions"] = [f"{moment(one.created_at)} {one.sentence}" for one in watch.decisions]
    show(value, as_json, lambda: outline({name: part for name, part in short.items() if part not in (None, [])}))


@app.command()
def history(application: Application, project: Project = HERE, as_json: Json = False) -> None:
    """Every move of the live pointer, first to last."""
    with stores(project) as store:
        moves = store.releases.history(store.scope, application)
        if not moves:
            require_application(store, application)
    rows = [(move.at, move.action, move.release, move.principal, move.reason) for move in moves]
    show(moves, as_json, lambda: table(("at", "action", "release", "by", "reason"), rows, "Nothing was live yet."))


@app.command()
def validate(
    release: ReleaseId,
    rows: Annotated[int, typer.Option(min=1, help="Rows that are evaluated.")] = 400,
    texts: Annotated[int, typer.Option(min=1, help="So many of them are asked for the whole output.")] = 100,
    probes: Probes = 0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Evaluate a release on held-out moments, or without enough known outcomes on sampled requests, and hold it against
    its gates."""
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.gate_orders import GatesError
    from antiphon.services.learning.gate_runs import evaluation_set, validate_without_set

    async def validated() -> ValidationResult:
        async with open_learning(project) as (learning, store):
            with Progress() as progress:
                candidate = await asyncio.to_thread(store.releases.get, store.scope, release)
                await learning.run_regressions(candidate, at_terminal(store).id, progress)
                chosen = await asyncio.to_thread(evaluation_set, learning, candidate, rows)
                if chosen["why"]:
                    note(f"{release} is checked without an evaluation set: {chosen['why']}.")
                    await learning.serve(candidate)
                    return await validate_without_set(
                        learning, candidate, principal=at_terminal(store).id, progress=progress
                    )
                return await learning.validate(
                    store.scope, release, principal=at_terminal(store).id, rows=rows, texts=texts,
                    probes=probes or None, progress=lambda done, total, note: progress(done, total, f"{release} rows"),
                )  # fmt: skip

    verdict = asyncio.run(validated())
    gates = [(gate.name, _passed(gate.passed), gate.reason) for gate in verdict.evaluation.gates]
    found = {
        "release": release,
        "stage": verdict.release.stage,
        "evaluation": verdict.evaluation.id,
        "reasons": verdict.reasons,
        "gates": verdict.evaluation.gates,
    }
    show(found, as_json, lambda: table(("gate", "passed", "reason"), gates))
    if not verdict.passed:
        raise GatesError(
            f"The release {release} stays a draft: {' '.join(verdict.reasons)}",
            where=release,
            next_step="Train further or mend the definitions; "
            f"`antiphon releases rollout {release} --force --reason …` goes past the gates.",
        )


@app.command()
def activate(
    application: Application,
    release: str,
    reason: Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that has not passed its gates; policy decides who may.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a release live at once, past shadow and canary: one that passed its gates, was live before, or is forced."""
    from antiphon.services.rollouts import rollout_transitions

    with stores(project) as store:
        rollout_transitions(store).activate(
            store.scope,
            application,
            release,
            principal=(who := at_terminal(store)).id,
            reason=reason,
            force=force,
            by=who,
        )
    _show(project, application, as_json)


@app.command()
def diff(before: str, after: str, project: Project = HERE, as_json: Json = False) -> None:
    """Compare two releases field by field."""
    from antiphon.releases import bundle

    with stores(project) as store:
        old, new = (store.releases.get(store.scope, release) for release in (before, after))
    changes = bundle.diff(old.bundle, new.bundle)
    rows = [(change.field, shortened(change.before, 60), shortened(change.after, 60)) for change in changes]
    show(changes, as_json, lambda: table(("field", "before", "after"), rows, "They are the same."))


@app.command()
def changelog(
    application: Application,
    notes: Annotated[
        bool, typer.Option("--notes", help="Release notes instead, latest first, with the text that differs.")
    ] = False,
    for_public: Annotated[bool, typer.Option("--public", help="Notes that an outside user may read.")] = False,
    atom: Annotated[bool, typer.Option("--atom", help="Notes as an Atom feed.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List the events of an application's releases in sentences, oldest first; or its release notes."""
    from antiphon.releases.changelog import Changelog

    if notes or for_public or atom:
        return _notes(application, for_public, atom, project, as_json)
    with stores(project) as store:
        entries = Changelog(store.releases, store.rollouts).of(store.scope, application)
        if not entries:
            require_application(store, application)
    lines = [f"{moment(entry.at)}  {entry.sentence}" for entry in entries]
    show(entries, as_json, lambda: "\n".join(lines) or "No release yet: `antiphon apply` makes them.")


def _notes(application: str, for_public: bool, atom: bool, project: Path, as_json: bool) -> None:
    from antiphon.core.tls import gateway_url
    from antiphon.releases import feed
    from antiphon.releases.notes import PublicNote, ReleaseNote, public
    from antiphon.services.changes import release_notes

    with stores(project) as store:
        found = release_notes(store).of(store.scope, application)
        if not found:
            require_application(store, application)
        url, scope = gateway_url(store.settings), store.scope
    shown: list[ReleaseNote] | list[PublicNote] = public(found) if for_public else found
    if atom:
        public_path, own_path = f"public/changes/{application}.atom", f"changes.atom?application={application}"
        address = f"{url}/{public_path if for_public else own_path}"
        typer.echo(feed.atom(shown, scope, application, address).decode())
        return
    lines = [f"{moment(note.at)}  {feed.as_text(note)}" for note in shown]
    show(shown, as_json, lambda: "\n\n".join(lines) or "Nothing was live yet.")


@app.command("live-at")
def live_at(
    application: Application,
    time: Annotated[str, typer.Argument(help="An instant of wall time, ISO 8601 with offset.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Show the releases that answered at an instant: the live one and those in a rollout."""
    from antiphon.releases.changelog import Changelog

    at = entities.moment(time, "TIME")
    if at is None:
        raise InvalidInputError("No time is given.", where="TIME", next_step="Write it like 2026-03-01T12:00:00Z.")
    with stores(project) as store:
        found = Changelog(store.releases, store.rollouts).at(store.scope, application, at)
    value = {
        "at": found.at,
        "application": application,
        "release": None if found.release is None else found.release.id,
        "number": None if found.release is None else found.release.number,
        "rollout": found.rollout,
        "candidate": None if found.candidate is None else found.candidate.id,
        "state": found.state,
        "weight": found.weight,
    }

    def text() -> str:
        if found.release is None:
            return f"Nothing of {application} was live at {moment(at)}."
        words = f"{found.release.id} (release {found.release.number}) was live at {moment(at)}"
        if found.candidate is None:
            return f"{words}."
        share = f" for {found.weight:.0%} of users" if found.state == "canary" else ""
        return f"{words}; {found.candidate.id} was in {found.state}{share}."

    show(value, as_json, text)


for _command in (rollouts.rollout, rollouts.rollouts, rollouts.hold, rollouts.resume, rollouts.abort, watches.watch):
    app.command()(_command)


def _show(project: Path, application: str | None, as_json: bool) -> None:
    with stores(project) as store:
        found: list[Release] = store.releases.list(store.scope, application)
        if not found:
            require_application(store, application)
        names = {release.bundle.application.name for release in found}
        live = {moved.id for name in names if (moved := store.releases.live(store.scope, name)) is not None}
    newest = sorted(found, key=lambda release: release.created_at, reverse=True)
    rows = [
        (
            release.bundle.application.name,
            release.number,
            release.id,
            "live" if release.id in live else release.stage,
            release.bundle.model.name,
            release.author,
            release.created_at,
            release.rationale,
        )
        for release in newest
    ]
    head = ("application", "number", "release", "stage", "model", "author", "created", "rationale")
    lines: list[dict[str, Any]] = [dict(zip(head, row, strict=True)) for row in rows]
    show(lines, as_json, lambda: table(head, rows, "No release yet: `antiphon apply` makes them."))


def _made(one: Evaluation | SafetyReport) -> datetime:
    return one.created_at


def _gate(gate: dict[str, Any]) -> dict[str, str]:
    return {"gate": gate["name"], "passed": _passed(gate["passed"]), "reason": gate["reason"]}


def _passed(passed: bool | None) -> str:
    return {True: "yes", False: "no", None: "-"}[passed]
