"""``antiphon rollback``: back to what answered before, at once."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.cli.project import at_terminal, stores


def rollback(
    application: Annotated[str, typer.Argument(help="The application.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "asked for at the terminal",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """End the rollout under way, or make the release live again that was live before."""
    from antiphon.services.rollouts import rollout_transitions

    with stores(project) as store:
        moved = rollout_transitions(store).rollback(
            store.scope, application, principal=at_terminal(store).id, reason=reason
        )
    ended = f"The rollout {moved.rollout.id} is undone; " if moved.rollout is not None else ""
    show(moved, as_json, lambda: f"{ended}{moved.release} answers everybody of {application}, {moved.left} nobody.")
