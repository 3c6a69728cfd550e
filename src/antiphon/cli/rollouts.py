"""``antiphon releases rollout …``: a release on its way beside the live one, and a hand on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import note, show, table
from antiphon.cli.project import at_terminal, require_application, stores

if TYPE_CHECKING:
    from antiphon.catalog.rollouts import RolloutRecord
    from antiphon.services.project.store import Store

Application = Annotated[str, typer.Argument(help="The application.")]

_HEAD = ("rollout", "application", "candidate", "control", "state", "weight", "held", "began", "latest judgement")
_USERS = 300
"""Users that a rollout's declaration is made for when nobody says how many there are."""


def rollout(
    release: Annotated[str, typer.Argument(help="A validated release.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Also past its gates; needs --reason.")] = False,
    users: Annotated[
        int, typer.Option(min=1, help="Users expected in the canary, to say what it can decide.")
    ] = _USERS,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Send a release on its way by the plan it declares: shadow, canary, live. The judge moves it, or takes it back."""
    from antiphon.releases.declaration import declaration
    from antiphon.services.rollouts import rollout_transitions

    with stores(project) as store:
        begun = rollout_transitions(store).begin(
            store.scope,
            release,
            principal=(who := at_terminal(store)).id,
            by=who,
            reason=reason or ("" if force else "asked for at the terminal"),
            force=force,
        )
        found = _line(store, begun)
    if begun.ended_at is None:
        note(declaration(begun.plan, users))
    show(found, as_json, lambda: _text([found]))


def rollouts(
    application: Annotated[str, typer.Argument(help="Only this application's.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Rollouts, newest first, with what the judge said last."""
    from antiphon.catalog.rollouts import Rollouts

    with stores(project) as store:
        found = [
            _line(store, each) for each in Rollouts(store.database).list(store.scope, application or None, limit=20)
        ]
        if not found:
            require_application(store, application)
    show(found, as_json, lambda: _text(found))


def hold(application: Application, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let nothing move a rollout until `resume`; both arms keep answering."""
    _act(project, application, "hold", reason, as_json)


def resume(application: Application, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a held rollout go on."""
    _act(project, application, "resume", reason, as_json)


def abort(application: Application, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """End a rollout without a verdict: everybody gets the live release, and the candidate may be sent again."""
    _act(project, application, "abort", reason, as_json)


def _act(project: Path, application: str, act: str, reason: str, as_json: bool) -> None:
    from antiphon.catalog.rollouts import Rollouts
    from antiphon.core.errors import NotFoundError
    from antiphon.services.rollouts import rollout_transitions

    with stores(project) as store:
        active = Rollouts(store.database).active(store.scope, application)
        if active is None:
            raise NotFoundError(
                f"No rollout of {application!r} is under way.",
                where=str(store.scope),
                next_step=f"See `antiphon releases rollouts {application}`.",
            )
        move = getattr(rollout_transitions(store), act)
        found = _line(store, move(store.scope, active.id, principal=at_terminal(store).id, reason=reason))
    show(found, as_json, lambda: _text([found]))


def _line(store: Store, rollout: RolloutRecord) -> dict[str, Any]:

    judged = store.judgements.latest(store.scope, rollout.id)
    return {
        "rollout": rollout.id,
        "application": rollout.application,
        "candidate": rollout.candidate,
        "control": rollout.control,
        "state": rollout.state,
        "weight": f"{rollout.weight:.0%}" if rollout.state == "canary" else None,
        "held": rollout.held,
        "began": rollout.created_at,
        "ended": rollout.ended_at,
        "reason": rollout.reason,
        "judgement": None if judged is None else judged.sentence,
    }


def _text(lines: list[dict[str, Any]]) -> str:
    rows = [
        (
            line["rollout"],
            line["application"],
            line["candidate"],
            line["control"],
            line["state"],
            line["weight"],
            line["held"],
            line["began"],
            line["judgement"] or line["reason"],
        )
        for line in lines
    ]
    return table(_HEAD, rows, "No rollout yet: `antiphon releases rollout RELEASE` begins one.")
