"""``antiphon features import-feast``: a Feast repository becomes definitions, or what cannot is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.entity import pairs
from antiphon.cli.options import Json
from antiphon.cli.output import note, show
from antiphon.core import outgoing
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.entity import snake_case

if TYPE_CHECKING:
    from antiphon.features.feast.repository import FeastRepository
    from antiphon.features.feast.translation import Translation, TranslationFinding

INCOMPLETE = 5
"""Exit code when something has no counterpart and nothing was written."""


def import_feast(
    repository: Annotated[Path, typer.Argument(help="Folder with feature_store.yaml.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The project's folder.")] = Path(),
    python: Annotated[
        Path | None,
        typer.Option(help="A Python that has Feast: it imports the repository. Without it the syntax is read."),
    ] = None,
    online: Annotated[
        str, typer.Option(metavar="URL", help="Read values from Feast's feature server there, not from the files.")
    ] = "",
    event_id: Annotated[
        list[str] | None, typer.Option(metavar="SOURCE=COLUMN", help="The column that names a pushed event.")
    ] = None,
    available_at: Annotated[
        bool, typer.Option("--created-is-known", help="A created column says when a row was known.")
    ] = False,
    partial: Annotated[bool, typer.Option("--partial", help="Write what has a counterpart.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Replace definitions that are there.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show what would be.")] = False,
    as_json: Json = False,
) -> None:
    """Translate a Feast repository into definitions. Nothing is written while something has no counterpart."""
    from antiphon.features.feast import render
    from antiphon.features.feast.feast_process import read_with_feast
    from antiphon.features.feast.syntax import read_syntax
    from antiphon.features.feast.translate import TranslationOptions, translate

    if online:
        outgoing.check_url(online, where="--online")
    event_ids = pairs(event_id or [], "--event-id", "orders=order_id", "SOURCE=COLUMN")
    if not all(event_ids.values()):
        raise InvalidInputError("A source is given no column.", where="--event-id", next_step="Write SOURCE=COLUMN.")
    options = TranslationOptions(online=bool(online), event_id=event_ids, available_at=available_at)
    read = read_with_feast(repository, python) if python is not None else read_syntax(repository)
    translation = translate(read, repository, to, options)
    text = render.definitions_text(translation, repository.resolve().name) if translation.views else ""
    if text:
        render.check(text)
    writes = bool(text) and (partial or not translation.left_out)
    files: list[str] = []
    if writes and not dry_run:
        files = render.write(to, text, render.settings_text(translation, online, read.project), replace=replace)
    show(_report(read, translation, files, text if dry_run else None), as_json, lambda: _text(read, translation))
    if not as_json:
        if dry_run and text:
            typer.echo(f"\n{text}", nl=False)
        note(_closing(translation, files, writes, to))
    if not writes:
        raise typer.Exit(INCOMPLETE)


def _report(read: FeastRepository, translation: Translation, files: list[str], text: str | None) -> dict[str, Any]:
    return {
        "project": translation.project,
        "read_by": read.read_by,
        "feast_version": read.feast_version or None,
        "translated": {
            "entities": [entity.name for entity in translation.entities],
            "sources": [source.name for source in translation.sources],
            "views": {view.name: list(view.features) for view in translation.views},
            "on_demand": {snake_case(view.class_name): list(view.features) for view in translation.on_demand},
            "services": [service.name for service in translation.services],
        },
        "left_out": [_line(finding) for finding in translation.left_out],
        "notes": [_line(finding) for finding in translation.findings if finding.kind == "note"],
        "files": files,
        **({} if text is None else {"definitions": text}),
    }


def _line(finding: TranslationFinding) -> dict[str, Any]:
    return {
        "noun": finding.noun,
        "name": finding.name,
        "what": finding.what,
        "file": finding.at.file or None,
        "line": finding.at.line or None,
    }


def _text(read: FeastRepository, translation: Translation) -> str:
    by = f"Feast {read.feast_version}" if read.read_by == "feast" else "its syntax"
    features = sum(len(view.features) for view in translation.views)
    lines = [
        f"{read.project}, read by {by}: {len(translation.entities)} entities, {len(translation.sources)} sources, "
        f"{len(translation.views)} views with {features} features, {len(translation.on_demand)} on-demand views, "
        f"{len(translation.services)} services."
    ]
    for kind, label in (("left_out", "left out"), ("note", "note")):
        for finding in translation.findings:
            if finding.kind == kind:
                where = f"{finding.at}: " if finding.at.file else ""
                lines.append(f"{label}: {where}{finding.noun} {finding.name}: {finding.what}.")
    return "\n".join(lines)


def _closing(translation: Translation, files: list[str], writes: bool, to: Path) -> str:
    left_out = len(translation.left_out)
    if files:
        return f"Wrote {', '.join(str(to / file) for file in files)}. `antiphon plan` shows what applying it does."
    if writes:
        return "Nothing was written: this was a dry run."
    if not translation.views:
        return "Nothing was written: no view can be translated."
    return f"Nothing was written: {left_out} objects have no counterpart. --partial writes the rest."
