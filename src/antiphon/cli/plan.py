"""``antiphon plan`` and ``antiphon apply``: what would change, and doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show, table
from antiphon.cli.project import at_terminal, stores

if TYPE_CHECKING:
    from antiphon.app.apply import Plan, Planned


def plan(project: Project = HERE, as_json: Json = False) -> None:
    """Show how the definitions differ from what is applied; change nothing."""
    from antiphon.app import apply as applying

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
            help="Make the new releases live, or none. By default those whose application declares no rollout.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Record the definitions and release every changed application: live at once, or a draft for its rollout."""
    from antiphon.app import apply as applying

    with stores(project) as store:
        applied = applying.apply(store, principal=at_terminal(store).id, rationale=rationale, activate=activate)

    def text() -> str:
        live = ", ".join(applied.activated) or "nothing new"
        releases = table(
            ("application", "release", "number"),
            [(release.bundle.application.name, release.id, release.number) for release in applied.releases],
        )
        notes = "".join(f"\n{note}" for note in applied.notes)
        return f"{_text(applied.plan)}\n\n{releases}\n\nWent live: {live}.{notes}"

    show(applied, as_json, text)


def _text(planned: Plan) -> str:
    rows = [
        (change.change, change.noun, change.name, ", ".join(change.fields), _level(change), "; ".join(change.sentences))
        for change in planned.changes
    ]
    head = ("change", "noun", "name", "fields", "readers", "what differs")
    return "\n".join([table(head, rows, "Nothing is declared."), *planned.consequences])


def _level(change: Planned) -> str:
    return "" if change.level in (None, "same") else str(change.level)
