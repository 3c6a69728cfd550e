"""Marks in the catalog that say which stores of a project count.

Invariants: the catalog that counts is the one without the mark ``moved to`` or ``moving from``; a store beside it
counts when its place is the marked one, or none is marked. A project whose settings say otherwise is not opened.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.moves import FOREVER
from antiphon.core.errors import SetupError
from antiphon.core.scope import ANY, Scope
from antiphon.core.settings import Settings

MOVED_TO, MOVING_FROM = "moved to", "moving from"
EMBEDDED = "the project's folder"
SETTINGS_AFTER = "settings after the move"
"""Name of the row that leads hosts from a catalog that a live move has left (``order.py``); it stays until the project
is back, for one that comes back while that is under way."""

_leases = schema.leases
OWN = (_leases.c.tenant == ANY) & (_leases.c.environment == ANY)
"""Marks lie in the table of leases, as rows of no tenant and environment. Those of places have no detail, unlike the
count of moves and what belongs to a live move (``order.py``)."""


def store_places(settings: Settings, scopes: Mapping[str, Collection[Scope]] | None = None) -> dict[str, str]:
    """Mark of each store beside the catalog to its place; the event log's stands with each stream.

    Args:
        scopes: those of which each store (``lake``, ``online``, ``files``) is marked; the project's own by default.
    """
    places = {
        "lake": ("lake", settings.features.lake),
        "online": ("online store", settings.features.online),
        "files": ("files", settings.batch.files),
    }
    return {
        f"{name} of {scope}": place or EMBEDDED
        for part, (name, place) in places.items()
        for scope in (scopes.get(part, ()) if scopes is not None else (settings.scope,))
    }


def require_present(database: Database, places: Mapping[str, str] | None = None) -> None:
    """Refuse a catalog that was moved elsewhere, or whose move here has not ended, and other stores than the marked.

    Raises:
        SetupError: it is such a one.
    """
    found = read_marks(database)
    if (elsewhere := found.get(MOVED_TO)) is not None:
        raise SetupError(
            f"The catalog was moved to {elsewhere}.",
            where=database.backend.place,
            next_step="Name that one in [catalog] url, or move it back with `antiphon migrate`.",
        )
    if (source := found.get(MOVING_FROM)) is not None:
        raise SetupError(
            f"The move of {source} into this catalog has not ended.",
            where=database.backend.place,
            next_step="Run `antiphon migrate` again: it goes on where it was.",
        )
    for name, place in (places or {}).items():
        if (moved := found.get(name, place)) != place:
            raise SetupError(
                f"The {name.partition(' of ')[0]} was moved to {moved}, and the settings name {place}.",
                where="antiphon.toml",
                next_step="Name the place that it was moved to; `antiphon migrate` moves it from there to another.",
            )


def read_marks(database: Database) -> dict[str, str]:
    """The place that each mark names."""
    marks = sa.select(_leases.c.name, _leases.c.holder).where(OWN, _leases.c.detail.is_(None))
    return {row.name: row.holder for row in database.rows(marks)}


def set_marks(connection: Connection, marks: Mapping[str, str]) -> None:
    """Replace the marks of these names, in a write transaction."""
    connection.execute(sa.delete(_leases).where(OWN, _leases.c.name.in_(list(marks))))
    for name, place in marks.items():
        row = {"tenant": ANY, "environment": ANY, "name": name, "holder": place, "epoch": 1, "until": FOREVER}
        connection.execute(sa.insert(_leases).values(row))


def remove_marks(connection: Connection, *names: str) -> None:
    """Remove the marks of these names, in a write transaction."""
    connection.execute(sa.delete(_leases).where(OWN, _leases.c.name.in_(names)))
