"""Parts of assets as schedules made them: of which versions of their inputs, under which definition, by which run.

Invariants:
- A part has at most one order that has not been settled, and what it was ordered with is written in the transaction
  that counts the order.
- An order is settled once, by the end of its run: whoever sees that first writes it, and nobody else. Only an order
  that ended well changes the version of the part.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

_table = schema.asset_parts
_ORDER = ("run", "inputs", "definition", "ordered_at", "outcome", "ended_at")
_put = upsert(_table).on_conflict_replace(*_ORDER)


class PartRecord(msgspec.Struct, frozen=True):
    """A part of an asset as it was made last.

    Attributes:
        partition: empty where the asset has none.
        run: ordered last, with ``inputs`` (keys of assets to versions) under ``definition``.
        outcome: how that ended, at ``ended_at``; ``None``: it has not been settled.
        version: of the part that there is, made by ``made_by`` of ``made_inputs`` under ``made_definition``; ``None``:
            there is none yet.
    """

    asset: str
    partition: str
    run: str
    inputs: Mapping[str, str]
    definition: str
    ordered_at: datetime
    outcome: str | None = None
    ended_at: datetime | None = None
    version: str | None = None
    made_by: str | None = None
    made_inputs: Mapping[str, str] = {}
    made_definition: str | None = None
    made_at: datetime | None = None

    def settled(self, outcome: str, version: str | None, at: datetime) -> PartRecord:
        """The record once its run has ended; with a version it has made the part."""
        ended = msgspec.structs.replace(self, outcome=outcome, ended_at=at)
        if version is None:
            return ended
        return msgspec.structs.replace(
            ended, version=version, made_by=self.run, made_inputs=self.inputs, made_definition=self.definition,
            made_at=at,
        )  # fmt: skip


class AssetParts:
    """Repository of the parts of assets of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope, *, unsettled: bool = False) -> builtins.list[PartRecord]:
        """Every part that was ever ordered, by asset and partition; or only those whose order is not settled."""
        conditions = [schema.owned(_table, scope), *([_table.c.outcome.is_(None)] if unsettled else [])]
        rows = self._database.rows(select(_table).where(*conditions).order_by(_table.c.asset, _table.c.partition))
        return [_record(row) for row in rows]

    def order(self, scope: Scope, record: PartRecord, *, within: Connection) -> None:
        """Note with what a part is ordered; the part that there is stays."""
        values = {"asset": record.asset, "partition": record.partition, "run": record.run}
        values |= {"inputs": canonical(record.inputs).decode(), "definition": record.definition}
        owner = {"tenant": scope.tenant, "environment": scope.environment}
        within.execute(_put.values(**owner, **values, ordered_at=record.ordered_at, outcome=None, ended_at=None))

    def settle(self, scope: Scope, record: PartRecord, *, within: Connection | None = None) -> bool:
        """Note how a part's order ended; ``False`` when that was done before, or the part was ordered anew."""
        values: dict[str, Any] = {"outcome": record.outcome, "ended_at": record.ended_at}
        if record.made_by == record.run:
            values |= {name: getattr(record, name) for name in ("version", "made_by", "made_definition", "made_at")}
            values["made_inputs"] = canonical(record.made_inputs).decode()
        same = schema.owned(_table, scope, asset=record.asset, partition=record.partition, run=record.run)
        statement = update(_table).where(same, _table.c.outcome.is_(None)).values(values)
        return self._database.write(statement, within) == 1

    def reopen(self, scope: Scope, run: str, goes_on: str, *, within: Connection) -> None:
        """Count a run that was queued again, or one that goes on for it, as the order of its part."""
        statement = update(_table).where(schema.owned(_table, scope, run=run))
        within.execute(statement.values(run=goes_on, outcome=None, ended_at=None))


def _record(row: Row[Any]) -> PartRecord:
    read = msgspec.json.decode
    made = {} if row.made_inputs is None else read(row.made_inputs)
    return value_of(PartRecord, row, inputs=read(row.inputs), made_inputs=made)
