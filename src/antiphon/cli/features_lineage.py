"""``antiphon features lineage``: the source rows behind a value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import at_terminal, features_of, refusals_on_record
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.features.offline.lineage import Lineage, SourceRow, Trace

DIFFERENT = 1
"""The exit code when the rows make another value than the one that was served."""


def lineage(
    feature: Annotated[str, typer.Argument(metavar="VIEW.FEATURE", help="The feature; all of a prediction.")] = "",
    prediction: Annotated[str, typer.Option(help="The prediction that used it, pred_….")] = "",
    entity: entities.Entity = [],  # noqa: B006
    as_of: entities.AsOf = "",
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many source rows at most.")] = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Trace a value to its source rows and compute it again from them; exits with 1 when it differs."""
    from antiphon.services.features.lineage import FeatureLineage
    from antiphon.services.governance.policy_versions import records

    if bool(prediction) == bool(entity) or not (prediction or feature):
        raise InvalidInputError(
            "Name a prediction, or an entity and a feature.", where="lineage",
            next_step="--prediction pred_…, or today.orders --entity shop=tea.",
        )  # fmt: skip
    subject, keys = (
        f"prediction/{prediction}" if prediction else f"view/{feature.partition('.')[0]}",
        entities.keys(entity),
    )
    with features_of(project) as (store, platform):
        reading, reader, access = FeatureLineage(store, platform), at_terminal(store), records(store)
        with refusals_on_record(store, reader, "read_source_rows", subject):
            if prediction:
                receipt = access.require_prediction(store.scope, reader, prediction)
                access.require_source_rows(store.scope, reader, receipt)
            else:
                access.require_source(store.scope, reader, subject, keys)
        if prediction:
            found = reading.of_prediction(store.scope, prediction, feature or None, limit)
        else:
            found = (reading.of_entity(store.scope, feature, keys, entities.moment(as_of), limit),)
        detail = {"route": "antiphon features lineage", "count": len(found)}
        store.trail.record(store.scope, reader.id, "data.read", prediction or "features", detail)
    show(found, as_json, lambda: "\n\n".join("\n".join(_text(one)) for one in found) or "It used no features.")
    if any(one.same is False for one in found):
        raise typer.Exit(DIFFERENT)


def _text(one: Lineage) -> Iterator[str]:
    who = " ".join(f"{name}={value}" for name, value in (one.entity or {}).items())
    again = "the same when made again" if one.same else f"made again {one.recomputed!r}"
    if one.same is None:
        again = f"not comparable: {one.why}"
    yield f"{one.feature}@{one.definition_version[:8]} {who} as of {moment(one.as_of)}: {one.value!r}, {again}"
    if one.snapshot:
        yield f"  snapshot {one.snapshot}, known by {moment(one.known_by)}" + (
            f", log through {one.through}" if one.through else ""
        )
    if one.inputs is not None:
        yield "  from the request: " + (
            ", ".join(f"{name}={value!r}" for name, value in one.inputs.items()) or "nothing"
        )
    if one.trace is not None:
        yield from _rows(one.trace, bool(one.source_changed))
    for read in one.reads:
        yield from ("  " + line for line in _text(read))


def _rows(trace: Trace, changed: bool) -> Iterator[str]:
    state = ", changed since the snapshot" if changed else ""
    yield f"  from {trace.source} ({trace.source_hash[:12] or 'no file'}{state})"
    for file in trace.files:
        yield f"  {file.sha256[:16]} {file.path}"
    against = "" if trace.set_against is None else f", set against {trace.set_against} of all entities"
    shown = f", the latest {len(trace.rows)}" if len(trace.rows) < trace.contributing else ""
    yield f"  {trace.contributing} rows{against}{shown}"
    head = ("event", "time", "known", "place", "columns")
    rows = [(row.event_id, row.event_time, row.available_at, _place(row), _columns(row)) for row in trace.rows]
    yield from ("  " + line for line in table(head, rows, "No row.").splitlines())


def _place(row: SourceRow) -> str:
    return f"log {row.log_offset}" if row.log_offset is not None else (row.file or "source").rpartition("/")[2]


def _columns(row: SourceRow) -> str:
    return ", ".join(f"{name}={value}" for name, value in row.columns.items())
