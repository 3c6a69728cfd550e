"""``antiphon features neighbors``: the entities whose texts are nearest to a text or to an entity's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import at_terminal, features_of
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.features.embedding.neighbors import Neighbors


def neighbors(
    feature: Annotated[str, typer.Argument(metavar="VIEW.FEATURE", help="A feature declared by embed(...).")],
    text: Annotated[str | None, typer.Option(help="What to look for.")] = None,
    entity: Annotated[
        list[str] | None,
        typer.Option("--entity", "-e", metavar="KEY=VALUE", help="An entity whose own text is looked for; repeat it."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=1000, help="How many neighbors.")] = 10,
    publication: Annotated[int | None, typer.Option(min=1, help="A publication; the current one by default.")] = None,
    purpose: Annotated[str, typer.Option(help="What for, when the feature is limited to purposes.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """The entities whose texts are nearest to a text, or to an entity's own."""
    from antiphon.features.embedding.neighbors import NeighborQuery

    view, point, name = feature.partition(".")
    if not point:
        raise InvalidInputError(f"{feature!r} names no feature.", where="VIEW.FEATURE", next_step="Write said.review.")
    keys = entities.keys(entity) if entity else None
    question = NeighborQuery(name, text=text, entity=keys, top=top, number=publication)
    with features_of(project) as (store, platform):
        who = at_terminal(store)
        found = platform.neighbors.find(store.scope, who, view, question, purpose=purpose, see_keys=True)
        detail = {"route": "antiphon features neighbors", "feature": feature, "found": len(found.neighbors)}
        store.trail.record(store.scope, who.id, "data.read", f"view/{view}", detail)
    show(found, as_json, lambda: _text(found))


def _text(found: Neighbors) -> str:
    names = list(found.neighbors[0].keys or ()) if found.neighbors else []
    rows = [(f"{one.similarity:.4f}", *(one.keys or {}).values()) for one in found.neighbors]
    return "\n".join(
        [
            table(("similarity", *names), rows, "No entity has a text."),
            f"{found.entities} entities of publication {found.publication}, as of {moment(found.as_of)}, by "
            f"{found.model}; {'by the index' if found.search == 'index' else 'every one compared'}",
        ]
    )
