"""Watches of live releases: the evidence since a move of the pointer, and what was decided by it.

Invariants:
- The evidence and the place up to which it was read are one row, replaced by compare-and-swap on that place: each
  outcome and receipt counts once, whoever looks and whatever is killed.
- Of one move of the pointer each measure is decided at most once. A decision that acts outside of its transaction is
  recorded before it acts, and is done once ``done_at`` says so.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.errors import ConflictError
from antiphon.core.scope import Scope

WatchVerdict = Literal["roll_back", "hold", "tell"]

_watches, _decisions = schema.release_watches, schema.watch_decisions


class Bins(msgspec.Struct, frozen=True):
    """The bins of one variable, as the evaluation's values make them.

    Attributes:
        cuts: between bins of numbers; ``None`` of texts, whose bins are the ``names``.
        names: of the bins, in the order of their counts; ``absent`` and ``other`` are always among them.
        ceilings: share of all values that each bin may have; 1 where more cannot be told from chance.
        rows: values of the evaluation.
    """

    cuts: tuple[float, ...] | None
    names: tuple[str, ...]
    ceilings: tuple[float, ...]
    rows: int


class MeasureEvidence(msgspec.Struct, frozen=True):
    """One measure of a live release since it went live.

    Attributes:
        ceiling: mean that it may have; ``None`` of bins, which have their own, and where there is nothing to hold it
            against: then ``note`` says why.
        basis: what the ceiling comes from, in words.
        bins: variable to its bins.
        blocks: sums by block, in their order: of a mean the count, the sum and the logarithmic gains; of bins the
            counts. Blocks are hours, of a view snapshots. Of shares of requests there are none: the history has them.
        merged: blocks that were added to the oldest one, so that each keeps its number.
        units: values so far; ``mean`` of them; of bins how far the largest share is beyond its ceiling
            since the block in which it rose, if it did.
        evidence: natural logarithm of the evidence that it is above its ceiling; ``bound`` at which it is decided.
    """

    name: str
    ceiling: float | None = None
    basis: str = ""
    note: str = ""
    bins: dict[str, Bins] = {}
    blocks: dict[str, builtins.list[float]] = {}
    merged: int = 0
    units: float = 0.0
    mean: float | None = None
    evidence: float = 0.0
    bound: float = 0.0


class WatchRecord(msgspec.Struct, frozen=True):
    """A live release as it is watched.

    Attributes:
        sequence: of the pointer's move that made it live. since: when that was.
        outcomes_until, receipts_until: up to which those were read. read_at: when it was looked at last.
    """

    scope: Scope
    application: str
    release: str
    sequence: int
    since: datetime
    outcomes_until: datetime
    receipts_until: datetime
    read_at: datetime
    measures: dict[str, MeasureEvidence] = {}


class WatchDecision(msgspec.Struct, frozen=True):
    """One decision about a live release, or about a view that it reads.

    Attributes:
        measure: that decided. decision: what was done; ``declared``: what is declared for it, which conditions may
            forbid.
        sentence: why, with the figures that decided.
        release: the one that was live. to: the one that is since, or a snapshot; ``None`` where nothing moved.
        view: the view that it is about, if it is one; ``since_snapshot`` the first bad one.
        units, mean, ceiling, evidence, bound: of the measure then.
        done_at: when what it does was done.
    """

    id: str
    scope: Scope
    application: str
    release: str
    activation: int
    measure: str
    decision: WatchVerdict
    declared: WatchVerdict
    sentence: str
    units: float
    mean: float | None
    ceiling: float | None
    evidence: float
    bound: float
    created_at: datetime
    to: str | None = None
    view: str | None = None
    since_snapshot: str | None = None
    done_at: datetime | None = None


_state = msgspec.json.Decoder(WatchRecord)
_document = msgspec.json.Decoder(WatchDecision)


class ReleaseWatches:
    """Repository of watches and their decisions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(
        self, scope: Scope, application: str, sequence: int, *, within: Connection | None = None
    ) -> WatchRecord | None:
        """The watch since one move of the pointer; ``None`` before its first look."""
        return self._one(schema.owned(_watches, scope, application=application, sequence=sequence), within)

    def of_release(self, scope: Scope, release: str, *, within: Connection | None = None) -> WatchRecord | None:
        """The last watch of a release; ``None`` where it was not watched."""
        return self._one(schema.owned(_watches, scope, release=release), within)

    def put(self, record: WatchRecord, before: WatchRecord | None, *, within: Connection) -> None:
        """Replace what was read before.

        Raises:
            ConflictError: another process has looked since.
        """
        scope, key = record.scope, {"application": record.application, "sequence": record.sequence}
        values = {"release": record.release, "state": msgspec.json.encode(record), "created_at": record.read_at}
        if before is None:
            row = {"tenant": scope.tenant, "environment": scope.environment, **key, **values}
            stored = within.execute(upsert(_watches).values(row).on_conflict_do_nothing()).rowcount
        else:
            same = schema.owned(_watches, scope, **key), _watches.c.created_at == before.read_at
            stored = within.execute(update(_watches).where(*same).values(values)).rowcount
        if not stored:
            raise ConflictError(
                f"The live release of {record.application!r} was looked at by another process.",
                where=str(scope),
                next_step="Look again.",
            )

    def decide(self, decision: WatchDecision, *, within: Connection) -> None:
        """Record a decision."""
        scope = decision.scope
        names = ("id", "application", "release", "activation", "measure", "decision", "created_at", "done_at")
        row = {name: getattr(decision, name) for name in names}
        row |= {"tenant": scope.tenant, "environment": scope.environment, "document": msgspec.json.encode(decision)}
        within.execute(insert(_decisions).values(row))

    def done(self, decision: WatchDecision, *, within: Connection) -> None:
        """Keep a decision again, once what it does was done, as it came out."""
        values = {
            "decision": decision.decision,
            "done_at": decision.done_at,
            "document": msgspec.json.encode(decision),
        }
        within.execute(
            update(_decisions).where(schema.owned(_decisions, decision.scope, id=decision.id)).values(values)
        )

    def decisions(
        self,
        scope: Scope,
        application: str | None = None,
        *,
        release: str | None = None,
        activation: int | None = None,
        limit: int = 50,
        within: Connection | None = None,
    ) -> tuple[WatchDecision, ...]:
        """Decisions, the latest first."""
        of = schema.given(_decisions, application=application, release=release, activation=activation)
        return self._decided(scope, limit, within, *of)

    def pending(self, scope: Scope, *, within: Connection | None = None) -> tuple[WatchDecision, ...]:
        """Decisions that are recorded and not done yet."""
        return self._decided(scope, 100, within, _decisions.c.done_at.is_(None))

    def _one(self, condition: ColumnElement[bool], within: Connection | None) -> WatchRecord | None:
        statement = select(_watches).where(condition).order_by(_watches.c.sequence.desc()).limit(1)
        rows = self._database.rows(statement, within)
        return _state.decode(rows[0].state) if rows else None

    def _decided(
        self, scope: Scope, limit: int, within: Connection | None, *conditions: ColumnElement[bool]
    ) -> tuple[WatchDecision, ...]:
        order = _decisions.c.created_at.desc(), _decisions.c.id.desc()
        statement = select(_decisions).where(schema.owned(_decisions, scope), *conditions)
        rows = self._database.rows(statement.order_by(*order).limit(limit), within)
        return tuple(_document.decode(row.document) for row in rows)
