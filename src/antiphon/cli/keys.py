"""``antiphon keys``: API keys of the project's tenant."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import note, show, table
from antiphon.cli.project import at_terminal, stores
from antiphon.core.clock import SystemClock, parse_duration

app = typer.Typer(name="keys", help="API keys.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whom it speaks for.")],
    role: Annotated[str, typer.Option(help="admin, engineer, service or viewer.")] = "service",
    expires_in: Annotated[str, typer.Option(metavar="DURATION", help="e.g. 90d; never when left out.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a key; it is shown this once."""
    from antiphon.gateway.admin.shapes import KeyLine, NewKey, read

    lasts: timedelta | None = parse_duration(expires_in) if expires_in else None
    with stores(project) as store, store.database.transaction() as connection:
        expires_at = SystemClock().now() + lasts if lasts else None
        key, record = store.keys.create(store.scope.tenant, name, role, expires_at, within=connection)
        detail = {"name": name, "role": role}
        store.audit.append(store.scope, at_terminal(store).id, "key.create", record.id, detail, within=connection)
    show(NewKey(key, read(record, KeyLine)), as_json, lambda: key)
    if not as_json:
        note(f"{record.id} for {name} ({role}). Keep it: it is not shown again.")


@app.command("list")
def list_keys(project: Project = HERE, as_json: Json = False) -> None:
    """Keys, newest first; never the keys themselves."""
    from antiphon.gateway.admin.shapes import KeyLine, read_all

    with stores(project) as store:
        found = read_all(store.keys.list(store.scope.tenant), KeyLine)
    rows = [
        (
            key.id,
            key.name,
            key.role,
            f"…{key.hint}",
            key.created_at,
            key.expires_at,
            "revoked" if key.revoked_at else "",
        )
        for key in found
    ]
    show(found, as_json, lambda: table(("key", "name", "role", "ends", "created", "expires", "state"), rows))


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, key_….")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Stop a key for good, within a second, everywhere."""
    from antiphon.gateway.admin.shapes import KeyLine, read

    with stores(project) as store, store.database.transaction() as connection:
        record = read(store.keys.revoke(store.scope.tenant, key, within=connection), KeyLine)
        store.audit.append(
            store.scope, at_terminal(store).id, "key.revoke", key, {"name": record.name}, within=connection
        )
    show(record, as_json, lambda: f"{record.id} ({record.name}) is revoked.")
