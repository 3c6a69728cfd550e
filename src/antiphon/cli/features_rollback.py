"""``antiphon features rollback``, ``hold`` and ``resume``: a hand on what is published of a view."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project, Reason, View
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, features_of
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.features.publication.rollback import ViewRollback
    from antiphon.services.features.feature_services import FeatureRollback
    from antiphon.services.features.platform import FeaturePlatform
    from antiphon.services.project.store import Store


def rollback(
    reason: Reason,
    view: Annotated[str | None, typer.Argument(help="The view; every view, with --to a publication.")] = None,
    to: Annotated[
        str, typer.Option(metavar="SNAPSHOT|PUBLICATION", help="What comes back; the snapshot before by default.")
    ] = "",
    hold: Annotated[bool, typer.Option("--hold", help="Let no refresh replace it until `features resume`.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would become of it; change nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Publish an earlier snapshot of a view again; its next refresh moves it forward, unless it is held."""
    target = int(to) if to.isdecimal() else to or None
    if view is None and not isinstance(target, int):
        raise InvalidInputError(
            "Neither a view nor a publication is named.", where="rollback",
            next_step="Name a view, or --to the number of a publication.",
        )  # fmt: skip
    with _hand(project) as (store, platform, hand):
        who = allowed(store, "publish", f"view/{view or '*'}")
        found = hand.view(store.scope, view, target, reason=reason, principal=who.id, hold=hold, dry_run=dry_run)
        specs = platform.views()
        every = [specs[one.key].refresh for one in found.moves]
    moving = [interval / 60e6 for interval in every if interval is not None and not hold]
    hints = [f"Its next refresh (every {min(moving):g} min) moves it forward again; --hold keeps it."] if moving else []
    show(found, as_json, lambda: _text(found), *hints)


def hold(view: View, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let no refresh replace what is published of a view, until ``resume``."""
    with _hand(project) as (store, _, hand):
        who = allowed(store, "publish", f"view/{view}")
        hand.hold(store.scope, view, reason=reason, principal=who.id)
        held = hand.held(store.scope)[view]
    show(held, as_json, lambda: f"{view} stays as it is; `antiphon features resume {view} --reason …` lets it go on.")


def resume(view: View, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a held view go on with its next refresh."""
    with _hand(project) as (store, _, hand):
        who = allowed(store, "publish", f"view/{view}")
        hand.resume(store.scope, view, reason=reason, principal=who.id)
    show({"view": view, "held": None}, as_json, lambda: f"{view} goes on with its next refresh.")


@contextmanager
def _hand(project: Path) -> Iterator[tuple[Store, FeaturePlatform, FeatureRollback]]:
    from antiphon.services.features.feature_services import FeatureRollback

    with features_of(project) as (store, platform):
        yield store, platform, FeatureRollback(store, platform)


def _text(found: ViewRollback) -> str:
    rows = [
        (
            f"{one.view}@{one.definition_version[:8]}", one.before, one.snapshot, moment(one.as_of),
            moment(one.made_at), one.last_in, one.events,
        )
        for one in found.moves
    ]  # fmt: skip
    said = (
        "Nothing is changed; this is what would be:"
        if found.publication is None
        else f"Publication {found.publication}{', held' if found.held else ''}:"
    )
    head = ("view", "now" if found.publication is None else "before", "comes back", "as of", "made", "in", "replayed")
    return f"{said}\n{table(head, rows)}"
