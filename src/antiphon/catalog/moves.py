"""The count of a catalog's moves: the fencing token of every process that has the catalog open.

Invariant: the transaction that moves a project from these stores adds one, and the count is never taken back, also when
the project returns. A write transaction of a process that opened the catalog before is refused from then on, also of
one that hung or was cut off meanwhile, so that nothing is written beside the stores that count.
"""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.dialect import upsert
from antiphon.core.errors import ProjectMovedError
from antiphon.core.scope import ANY

MOVES = "moves"
"""Name of the row, a lease of no tenant and environment: its epoch is the count, its holder the catalog since."""

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)

_table = schema.leases
_find = f"SELECT epoch, holder FROM leases WHERE tenant = '{ANY}' AND environment = '{ANY}' AND name = '{MOVES}'"


def counted_moves(connection: Connection) -> int:
    """Returns how often the project was moved from these stores."""
    row = connection.exec_driver_sql(_find).first()
    return 0 if row is None else int(row.epoch)


def count_move(connection: Connection, place: str) -> None:
    """Add one, in the write transaction that moves the project; its catalog is at ``place`` from now on."""
    row = {"tenant": ANY, "environment": ANY, "name": MOVES, "holder": place, "until": FOREVER, "detail": ""}
    statement = upsert(_table).values(**row, epoch=1)
    connection.execute(statement.on_conflict_do_update(set_={"holder": place, "epoch": _table.c.epoch + 1}))


def require_unmoved(connection: Connection, count: int, here: str) -> None:
    """Refuse a process that opened the catalog at another count.

    Raises:
        ProjectMovedError: it was moved since; a request may be repeated, as processes go on where it is now.
    """
    row = connection.exec_driver_sql(_find).first()
    if row is None or int(row.epoch) == count:
        return
    to = "" if row.holder == here else f" to {row.holder}"
    raise ProjectMovedError(
        f"The project was moved{to} while this process had it open, which writes nothing any more.",
        where=here,
        next_step="Processes of the platform begin again by themselves; give a command once more.",
    )
