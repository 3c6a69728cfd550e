"""``antiphon plan`` and ``antiphon apply``: what would change, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import note, show, table
from antiphon.cli.project import at_terminal, stores

if TYPE_CHECKING:
    from antiphon.durable.run import Run
    from antiphon.orchestration.conductor.durations import RunDurations
    from antiphon.services.apply.apply import ApplyPlan, ApplyReport, PlannedChange
    from antiphon.services.learning.gate_orders import GateCheck, GatesError
    from antiphon.services.project.store import Store


def plan(project: Project = HERE, as_json: Json = False) -> None:
    """Show how the definitions differ from what is applied, and what applying them takes; change nothing."""
    from antiphon.services.apply import apply as applying

    with stores(project) as store:
        planned = applying.plan(store)
    show(planned, as_json, lambda: _text(planned))


def apply(
    project: Project = HERE,
    rationale: Annotated[str, typer.Option(help="Why, kept with the releases.")] = "",
    activate: Annotated[
        bool | None,
        typer.Option(
            "--activate/--no-activate",
            help="Make the new releases live once their gates passed, past their rollouts, or make drafts and no more. "
            "By default each reaches users as its application declares.",
        ),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait/--no-wait",
            help="Wait until it is in force and its releases were held against their gates, or leave that to the "
            "worker of `antiphon up`.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Record the definitions and release every changed application: once its gates passed it is live, or its rollout
    begins where it declares one.

    New versions of published views are materialized and published first; until then what is live goes on answering.
    """
    from antiphon.services.apply import apply as applying
    from antiphon.services.features.refreshing import worker_runs

    with stores(project) as store:
        applied = applying.apply(store, principal=at_terminal(store).id, rationale=rationale, activate=activate)
        if applied.run is not None and wait:
            applied = _finished(store, applied)
        refused: GatesError | None = None
        checked = bool(applied.checks) and wait and worker_runs(store)
        if checked:
            applied, refused = _checked(store, applied)

    def text() -> str:
        releases = table(
            ("application", "release", "number"),
            [(release.bundle.application.name, release.id, release.number) for release in applied.releases],
        )
        notes = "".join(f"\n{each}" for each in applied.notes)
        return f"{_text(applied.plan)}\n\n{releases}\n\n{_outcome(applied, wait, checked)}{notes}"

    show(applied, as_json, text)
    if refused is not None:
        raise refused


def _checked(store: Store, applied: ApplyReport) -> tuple[ApplyReport, GatesError | None]:
    """Wait for the gates, with progress on standard error; the report, and the first release that did not go live."""
    from antiphon.services.learning.gate_orders import await_gates, refusal

    said: list[str] = []

    def tell(check: GateCheck) -> None:
        line = f"{check.application}: release {check.number} is {check.sentence}"
        if line not in said[-1:]:
            said.append(line)
            note(line)

    ended = await_gates(store, applied.checks.values(), tell)
    live = tuple(
        one.application for one in ended if one.release in {now.id for now in store.releases.live_ones(store.scope)}
    )
    notes = tuple(
        f"{one.application}: release {one.number} {one.sentence}" for one in ended if one.application not in live
    )
    begun = {one.application: one.rollout for one in ended if one.rollout is not None}
    report = msgspec.structs.replace(
        applied,
        activated=(*applied.activated, *live),
        notes=(*applied.notes, *notes),
        rollouts={**applied.rollouts, **begun},
    )
    return report, next((refusal(one) for one in ended if one.state in ("failed", "broken")), None)


def _finished(store: Store, applied: ApplyReport) -> ApplyReport:
    """Wait for an apply, with progress on standard error."""
    from antiphon.services.features.refreshing import finish_apply

    said: list[str] = []

    def tell(run: Run) -> None:
        line = f"{run.note} ({run.done} of {run.total})" if run.note else ""
        if run.status == "queued" and run.error:
            line = f"attempt {run.attempts} of {run.max_attempts} failed and is repeated: {run.error}"
        if line and line not in said[-1:]:
            said.append(line)
            note(line)

    assert applied.run is not None
    note(f"features first, what is live goes on answering: run {applied.run}")
    done = finish_apply(store, applied.run, tell)
    notes = (*applied.notes, *done.notes)
    return msgspec.structs.replace(
        applied, activated=done.activated, notes=notes, checks=done.checks, rollouts=done.rollouts
    )


def _outcome(applied: ApplyReport, waited: bool, checked: bool) -> str:
    if applied.run is not None and not waited:
        return (
            f"Not in force yet: run {applied.run} materializes features first, in the worker of `antiphon up`. What is "
            f"live goes on answering. `antiphon runs show {applied.run}` follows it; `antiphon apply` waits for it."
        )
    live = f"Went live: {', '.join(applied.activated) or 'nothing new'}."
    if applied.rollouts:
        live += f" Rollouts began: {', '.join(applied.rollouts)}; `antiphon releases rollouts` shows them."
    if applied.checks and not checked:
        live += (
            f" Held against its gates first: {', '.join(applied.checks)}, by the worker of `antiphon up`; what passes "
            "goes live, or begins its rollout. `antiphon status` says how far that is."
        )
    return live


def _text(planned: ApplyPlan) -> str:
    rows = [
        (change.change, change.noun, change.name, ", ".join(change.fields), _level(change), "; ".join(change.sentences))
        for change in planned.changes
    ]
    head = ("change", "noun", "name", "fields", "readers", "what differs")
    parts = [table(head, rows, "Nothing is declared."), *planned.consequences, *planned.missing, *planned.unread]
    parts += planned.refused
    if planned.materializes:
        first = [(one.view, one.definition_version, one.rows, one.seconds) for one in planned.materializes]
        parts.append(
            "\nMaterialized and published first, while what is live goes on answering (rows and seconds of the version "
            f"before):\n{table(('view', 'version', 'rows', 'seconds'), first)}"
        )
    if planned.schedules:
        next_runs = [
            (
                one.name,
                one.work_of,
                f"{one.value:g}",
                one.declared,
                one.outlook.reason,
                one.outlook.earliest,
                _took(one.runtime),
            )
            for one in planned.schedules
        ]
        columns = ("schedule", "work", "value", "due at", "now", "earliest", "takes")
        parts.append(f"\nWhat happens by itself once this is applied:\n{table(columns, next_runs)}")
    if planned.stale:
        found = [(one.asset, one.parts, one.reason, one.made_by) for one in planned.stale]
        listed = table(("asset", "parts", "why", "made by"), found)
        parts.append(f"\nStale once this is applied:\n{listed}")
    if planned.under_way is not None:
        parts.append(f"\nAn apply is under way, run {planned.under_way}; applying other definitions takes its place.")
    return "\n".join(parts)


def _took(runtime: RunDurations | None) -> str:
    return "" if runtime is None else f"{runtime.low:.0f} to {runtime.high:.0f} s (9 of 10, by {runtime.runs} runs)"


def _level(change: PlannedChange) -> str:
    return "" if change.level in (None, "same") else str(change.level)
