"""``antiphon releases rollout …`` and ``antiphon rollback``: a release on its way beside the live one, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.options import HERE, Application, Json, OnlyApplication, Project, Reason
from antiphon.cli.output import note, show, table
from antiphon.cli.project import at_terminal, require_application, stores
from antiphon.core.errors import NotFoundError

if TYPE_CHECKING:
    from antiphon.catalog.releases.rollouts import RolloutRecord
    from antiphon.services.project.store import Store

_HEAD = ("rollout", "application", "candidate", "control", "state", "weight", "held", "began", "latest judgement")
_USERS = 300
"""Users that a rollout's declaration is made for when nobody says how many there are."""


def rollout(
    release: Annotated[str, typer.Argument(help="A validated release.")],
    reason: Reason = "",
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
        application = store.releases.get(store.scope, begun.candidate).bundle.application
    if begun.ended_at is None:
        note(declaration(begun.plan, users, measure=application.shadow_measure, slo=application.slo))
    show(found, as_json, lambda: _text([found]))


def rollouts(
    application: OnlyApplication = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Rollouts, newest first, with what the judge said last."""
    with stores(project) as store:
        found = [_line(store, each) for each in store.rollouts.list(store.scope, application or None, limit=20)]
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


def rollback(
    application: Application,
    reason: Reason = "asked for at the terminal",
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
    show(moved, as_json, lambda: f"{ended}{moved.release} answers all users of {application}, {moved.left} none.")


def _act(project: Path, application: str, act: str, reason: str, as_json: bool) -> None:
    from antiphon.services.rollouts import rollout_transitions

    with stores(project) as store:
        active = store.rollouts.active(store.scope, application)
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
    rows = [(*(line[name] for name in _HEAD[:-1]), line["judgement"] or line["reason"]) for line in lines]
    return table(_HEAD, rows, "No rollout yet: `antiphon releases rollout RELEASE` begins one.")
