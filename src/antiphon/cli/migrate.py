"""``antiphon migrate``: the project's catalog moves between its file and a server."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, show


def migrate(
    to: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="postgresql://USER@HOST/DATABASE, or sqlite for the project's file."),
    ],
    password_variable: Annotated[
        str | None, typer.Option(help="The environment variable with the password of the target's user.")
    ] = None,
    schema: Annotated[str | None, typer.Option(help="A schema of the target's database.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Move the catalog, whole and compared row by row, while the project is stopped. It can be moved back."""
    from antiphon.core.settings_sections import CatalogSettings
    from antiphon.operations.preflight import directory_lock
    from antiphon.services.project.catalog_move import move
    from antiphon.services.project.store import Store, catalog_of

    section = CatalogSettings(url=None if to == "sqlite" else to, password_variable=password_variable, schema=schema)
    with closing(Store.unprotected(project, moved=True)) as store:
        store.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (
            directory_lock(store.paths.run),
            closing(catalog_of(section, store.paths)) as target,
            Progress() as progress,
        ):
            moved = move(store.database, target, lambda table, done, total: progress(done, total, f"rows of {table}"))
    given = {"url": section.url, "password_variable": password_variable, "schema": schema}
    lines = "\n".join(f'  {name} = "{value}"' for name, value in given.items() if value is not None)
    say = f"Write into antiphon.toml before the next start:\n  [catalog]\n{lines}"
    show(
        moved,
        as_json,
        lambda: f"{moved.rows:,} rows of {len(moved.tables)} tables are in {moved.target}, each compared.",
        say if section.url is not None else "Remove the section [catalog] from antiphon.toml before the next start.",
    )
