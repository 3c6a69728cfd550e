"""``antiphon events``: source events into a stream."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.entity import moment_of_cell
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.cli.project import stores
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.suggestions import nearest

if TYPE_CHECKING:
    from antiphon.catalog.features.events import Event
    from antiphon.definitions.source import SourceSpec

app = typer.Typer(name="events", help="Source events.", no_args_is_help=True)

_CHUNK = 5_000


@app.command()
def push(
    stream: Annotated[str, typer.Argument(help="A declared stream source.")],
    file: Annotated[Path, typer.Argument(help="CSV, Parquet or JSON Lines with the source's columns.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Append the rows of a file to a stream; a row whose event id is known already is ignored."""
    from antiphon.batch import tables

    with stores(project) as store:
        current = store.applied.current(store.scope)
        sources = current.project.sources if current is not None else {}
        streams = [name for name, one in sources.items() if one.kind == "stream"]
        source = sources.get(stream)
        if source is None or source.kind != "stream":
            raise NotFoundError(
                f"There is no stream {stream!r}.",
                where="STREAM",
                next_step=nearest(stream, streams, "Declare it with Source.stream, then apply."),
            )
        before = end = store.events.end(store.scope, stream)
        sent, waiting = 0, list[Any]()
        for line, row in enumerate(tables.read(file), 1):
            waiting.append(_event(source, row, f"{file}, row {line}"))
            if len(waiting) == _CHUNK:
                end = store.events.append(store.scope, stream, waiting)
                sent, waiting = sent + len(waiting), []
        if waiting:
            end = store.events.append(store.scope, stream, waiting)
            sent += len(waiting)
    result = {"stream": stream, "sent": sent, "new": end - before, "end": end}
    show(result, as_json, lambda: f"{end - before} new of {sent} events; the stream ends at {end}.")


def _event(source: SourceSpec, row: dict[str, Any], where: str) -> Event:
    from antiphon.catalog.features.events import Event

    event_time, known = (
        moment_of_cell(row.get(column), column, where)
        for column in (source.event_time, source.available_at or source.event_time)
    )
    if source.event_id is None or row.get(source.event_id) in (None, ""):
        raise InvalidInputError(
            f"{where} has no event id.", where=where, next_step=f"Fill the column {source.event_id!r}."
        )
    payload = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
    return Event(str(row[source.event_id]), event_time, known, payload)
