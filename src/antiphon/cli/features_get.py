"""``antiphon features get`` and ``neighbors``: values of entities, and the entities with the nearest texts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import at_terminal, features_of, services
from antiphon.core.errors import InvalidInputError, WriteConflictError

if TYPE_CHECKING:
    from antiphon.features.embedding.neighbors import Neighbors
    from antiphon.gateway.lookup import FeatureLookupAnswer
    from antiphon.serving.features.lookup_values import LookupPlan, LookupValue

_TRIES = 5


def get(
    features: Annotated[list[str] | None, typer.Argument(metavar="VIEW[.FEATURE]...", help="What to look up.")] = None,
    entity: entities.Entity = [],  # noqa: B006 -- typer copies it
    entity_file: Annotated[
        Path | None, typer.Option("--entities", metavar="FILE", help="Many: CSV, JSON lines or Parquet, a row each.")
    ] = None,
    application: Annotated[str, typer.Option(help="Under the freshness contracts of its live release.")] = "",
    as_of: entities.AsOf = "",
    minimum: Annotated[int, typer.Option("--minimum-publication", min=0, help="At least this publication.")] = 0,
    purpose: Annotated[str, typer.Option(help="What the values are for, which policies may ask.")] = "",
    options: entities.Input = [],  # noqa: B006 -- typer copies it
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Look feature values up, with event times, ages and what their contracts did."""
    if bool(entity) == (entity_file is not None):
        raise InvalidInputError(
            "Name one entity or a file of them.",
            where="--entity",
            next_step="Write --entity KEY=VALUE for each key, or --entities FILE.",
        )
    from antiphon.gateway.lookup import answer
    from antiphon.serving.features.lookup import MOST_ENTITIES
    from antiphon.serving.features.lookup_values import LookupRequest

    keys = [entities.keys(entity)] if entity_file is None else _rows(entity_file)
    given = entities.inputs(options) if options else None
    at = entities.moment(as_of)
    columns = frozenset(name for row in keys for name in row)

    async def answered() -> FeatureLookupAnswer:
        async with services(project) as (ports, store):
            lookups = ports.features.lookups
            plan = lookups.plan(store.scope, features or [], application or None, purpose, computed=given is not None)
            moment = at or ports.clock.now()
            for _ in range(_TRIES):
                parts = []
                rest = iter(keys)
                while part := list(islice(rest, MOST_ENTITIES)):
                    inputs = [_inputs(plan, given or {}, row, columns) for row in part]
                    request = LookupRequest(
                        store.scope, at_terminal(store), plan, part, moment, minimum or None,
                        inputs=inputs if any(inputs) else {},
                    )  # fmt: skip
                    parts.append(answer(await lookups.look_up(request), part))
                if len({part.publication for part in parts}) == 1:
                    return msgspec.structs.replace(
                        parts[0], entities=[line for part in parts for line in part.entities]
                    )
        raise WriteConflictError(
            "Every time another publication became current before all entities were read.",
            where="publication",
            next_step="Try again, or look up fewer entities at a time.",
        )

    found = asyncio.run(answered())
    away = "The catalog does not answer: these are the values last known to be current."
    show(found, as_json, lambda: _text(found), away if found.catalog_away else "")


def _inputs(
    plan: LookupPlan, given: Mapping[str, Any], row: Mapping[str, str], columns: frozenset[str]
) -> dict[str, Any]:
    """Returns the inputs of on-demand features: ``--input`` for all rows, else the row's column of that name."""
    from antiphon.definitions.on_demand import input_of_text
    from antiphon.serving.features.on_demand import input_types

    if plan.derived is None:
        return dict(given)
    types = input_types(plan.derived.on_demand, plan.derived.keys)
    said = {name: input_of_text(types[name], row.get(name, "")) for name in types if name in columns}
    return {**said, **given}


def _rows(file: Path) -> list[dict[str, str]]:
    """The key columns of each row; columns that are no key of a view are not looked at."""
    from antiphon.batch import tables

    rows = [{str(name): str(value) for name, value in row.items() if value is not None} for row in tables.read(file)]
    if not rows:
        raise InvalidInputError(f"{file} has no rows.", where="--entities", next_step="Write a row for each entity.")
    return rows


def _text(found: FeatureLookupAnswer) -> str:
    head = f"publication {found.publication}, as of {found.as_of:%Y-%m-%d %H:%M:%SZ}"
    if len(found.entities) == 1:
        one = found.entities[0]
        rows = [
            (name, _short(value), moment, None if age is None else f"{age:.0f} s", said)
            for name, value, moment, age, said in zip(
                found.features, one.values, one.event_times, one.ages, one.contracts, strict=True
            )
        ]
        known = "" if one.known else "\nNo event of this entity is known."
        return f"{head}\n{table(('feature', 'value', 'event time', 'age', 'contract'), rows)}{known}"
    keys = list(found.entities[0].entity)
    lines = [
        (
            *(line.entity.get(key) for key in keys),
            *map(_short, line.values),
            ", ".join(sorted({*line.contracts} - {"fresh"})),
        )
        for line in found.entities
    ]
    return f"{head}\n{table((*keys, *found.features, 'contracts'), lines)}"


def _short(value: LookupValue) -> object:
    """A vector by its beginning; ``--json`` has all of it."""
    if not isinstance(value, tuple):
        return value
    return f"[{', '.join(f'{number:.4f}' for number in value[:4])}, … {len(value)} numbers]"


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
    show(found, as_json, lambda: _neighbor_table(found))


def _neighbor_table(found: Neighbors) -> str:
    names = list(found.neighbors[0].keys or ()) if found.neighbors else []
    rows = [(f"{one.similarity:.4f}", *(one.keys or {}).values()) for one in found.neighbors]
    return "\n".join(
        [
            table(("similarity", *names), rows, "No entity has a text."),
            f"{found.entities} entities of publication {found.publication}, as of {moment(found.as_of)}, by "
            f"{found.model}; {'by the index' if found.search == 'index' else 'every one compared'}",
        ]
    )
