"""Evidence about a rollout: exposures of users, shadow pairs, and what the judge made of them. Rows are only added.

Invariant: one request is one exposure and one prediction is one pair, however often it is recorded: the first stands.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Table, and_, case, func, insert, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.releases.rollouts import Arm, Exposure, JudgedMetric, Judgement, RolloutRecord, ShadowPair
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

# Built once: they run for every request of a rollout.
_add_exposure = upsert(schema.exposures).on_conflict_do_nothing()
_add_pair = upsert(schema.shadow_pairs).on_conflict_do_nothing()

_PROBABILITIES = ("live_probabilities", "shadow_probabilities")
_probabilities = msgspec.json.Decoder(dict[str, float]).decode


class ArmCount(msgspec.Struct, frozen=True):
    """One arm over the whole rollout.

    Attributes:
        units: users; ``step_units`` those seen in the present step.
        requests: of which ``errors`` ended with an error, and ``invalid`` had an output that a guard replaced.
    """

    arm: Arm
    units: int
    step_units: int
    requests: int
    errors: int
    invalid: int


class PairCount(msgspec.Struct, frozen=True):
    """Mirrored requests: ``failed`` in shadow, with the ``same_text``, and with a declared outcome (``known``)."""

    pairs: int = 0
    failed: int = 0
    same_text: int = 0
    known: int = 0


class Exposures:
    """Repository of exposures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, exposure: Exposure, *, within: Connection | None = None) -> None:
        """Record an exposure; one of the same id that is there already stays as it is."""
        with self._database.writing(within) as connection:
            connection.execute(_add_exposure, row_of(schema.exposures, exposure))

    def of(self, scope: Scope, rollout: str, *, since: datetime | None = None) -> list[Exposure]:
        """A rollout's exposures in order of id; ``since``: only those made then or later."""
        rows = _of_rollout(self._database, schema.exposures, scope, rollout, since)
        return [value_of(Exposure, row) for row in rows]

    def count(self, rollout: RolloutRecord) -> tuple[ArmCount, ...]:
        """The arms that saw anybody, by name; counted in the database, so that a page may ask every few seconds."""
        table = schema.exposures
        at_step = case((table.c.step == rollout.step, table.c.unit))
        statement = (
            select(
                table.c.arm,
                func.count(table.c.unit.distinct()),
                func.count(at_step.distinct()),
                func.count(),
                func.count(table.c.error),
                func.count(case((table.c.invalid, 1))),
            )
            .where(schema.owned(table, rollout.scope, rollout=rollout.id))
            .group_by(table.c.arm)
            .order_by(table.c.arm)
        )
        return tuple(ArmCount(*row) for row in self._database.rows(statement))


class ShadowPairs:
    """Repository of shadow pairs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pair: ShadowPair, *, within: Connection | None = None) -> None:
        """Record a pair; one of the same prediction that is there already stays as it is."""
        with self._database.writing(within) as connection:
            row = row_of(schema.shadow_pairs, pair)
            connection.execute(_add_pair, row | {name: msgspec.json.encode(row[name]) for name in _PROBABILITIES})

    def of(self, scope: Scope, rollout: str, *, since: datetime | None = None) -> list[ShadowPair]:
        """A rollout's pairs in order of the prediction's id; ``since``: only those made then or later."""
        rows = _of_rollout(self._database, schema.shadow_pairs, scope, rollout, since)
        return [
            value_of(ShadowPair, row, **{name: _probabilities(getattr(row, name)) for name in _PROBABILITIES})
            for row in rows
        ]

    def count(self, scope: Scope, rollout: str) -> PairCount:
        """The shadow pairs of a rollout, counted in the database."""
        table, outcomes = schema.shadow_pairs, schema.outcomes
        label = and_(
            outcomes.c.tenant == table.c.tenant,
            outcomes.c.environment == table.c.environment,
            outcomes.c.prediction == table.c.prediction,
            outcomes.c.status == "joined",
            outcomes.c.outcome != "",
        )
        statement = (
            select(
                func.count(table.c.prediction.distinct()),
                func.count(case((table.c.error.is_not(None), table.c.prediction)).distinct()),
                func.count(case((table.c.same_text, table.c.prediction)).distinct()),
                func.count(outcomes.c.prediction.distinct()),
            )
            .select_from(table.outerjoin(outcomes, label))
            .where(schema.owned(table, scope, rollout=rollout))
        )
        return PairCount(*self._database.rows(statement)[0])


class Judgements:
    """Repository of judgements, numbered per rollout from 1."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, judgement: Judgement, *, within: Connection | None = None) -> Judgement:
        """Record a judgement and give it its sequence.

        Raises:
            ValueError: an e-value is not a number.
        """
        table, scope = schema.judgements, judgement.scope
        numbers = select(func.max(table.c.sequence)).where(schema.owned(table, scope, rollout=judgement.rollout))
        with self._database.writing(within) as connection:
            kept = msgspec.structs.replace(
                judgement,
                sequence=(connection.execute(numbers).scalar() or 0) + 1,
                metrics=tuple(map(_representable, judgement.metrics)),
                harm=_finite(judgement.harm),
            )
            connection.execute(insert(table).values(row_of(table, kept, document=canonical(kept))))
        return kept

    def latest(self, scope: Scope, rollout: str) -> Judgement | None:
        """The last judgement, ``None`` before the first."""
        found = self.of(scope, rollout, limit=1)
        return found[-1] if found else None

    def of(self, scope: Scope, rollout: str, limit: int | None = None) -> list[Judgement]:
        """A rollout's judgements, first to last; with ``limit`` only so many of the last."""
        table = schema.judgements
        statement = select(table.c.document).where(schema.owned(table, scope, rollout=rollout))
        with self._database.read() as connection:
            latest_first = connection.execute(statement.order_by(table.c.sequence.desc()).limit(limit)).scalars()
            return [msgspec.json.decode(document, type=Judgement) for document in latest_first][::-1]


def _of_rollout(
    database: Database, table: Table, scope: Scope, rollout: str, since: datetime | None
) -> Sequence[Row[Any]]:
    statement = select(table).where(schema.owned(table, scope, rollout=rollout))
    if since is not None:
        statement = statement.where(table.c.created_at >= since)
    return database.rows(statement.order_by(*table.primary_key))


def _representable(metric: JudgedMetric) -> JudgedMetric:
    return msgspec.structs.replace(metric, harm=_finite(metric.harm), safe=_finite(metric.safe))


def _finite(value: float) -> float:
    # JSON has no infinity: an overwhelming e-value would come back as no number at all.
    if math.isnan(value):
        raise ValueError("An e-value is not a number.")
    return min(value, sys.float_info.max)
