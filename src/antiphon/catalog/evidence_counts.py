"""Counts of a rollout's evidence, made in the database, so that a page may query them every few seconds."""

from __future__ import annotations

import msgspec
from sqlalchemy import and_, case, func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rollouts import Arm, RolloutRecord
from antiphon.core.scope import Scope


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
    """Mirrored requests: ``failed`` in shadow, with the ``same_text``, and with an outcome (``known``)."""

    pairs: int = 0
    failed: int = 0
    same_text: int = 0
    known: int = 0


class EvidenceCounts:
    """Counts exposures and shadow pairs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def arms(self, rollout: RolloutRecord, *, within: Connection | None = None) -> tuple[ArmCount, ...]:
        """The arms that saw anybody, by name."""
        table = schema.exposures
        at_step = case((table.c.step == rollout.step, table.c.unit))
        statement = (
            select(
                table.c.arm,
                func.count(table.c.unit.distinct()).label("units"),
                func.count(at_step.distinct()).label("step_units"),
                func.count().label("requests"),
                func.count(table.c.error).label("errors"),
                func.count(case((table.c.invalid, 1))).label("invalid"),
            )
            .where(schema.owned(table, rollout.scope), table.c.rollout == rollout.id)
            .group_by(table.c.arm)
            .order_by(table.c.arm)
        )
        with self._database.reading(within) as connection:
            return tuple(ArmCount(*row) for row in connection.execute(statement))

    def pairs(self, scope: Scope, rollout: str, *, within: Connection | None = None) -> PairCount:
        """The shadow pairs of a rollout."""
        table, outcomes = schema.shadow_pairs, schema.outcomes
        label = and_(
            outcomes.c.tenant == table.c.tenant,
            outcomes.c.environment == table.c.environment,
            outcomes.c.prediction == table.c.prediction,
            outcomes.c.status == "joined",
            outcomes.c.kind == "label",
        )
        statement = (
            select(
                func.count(table.c.prediction.distinct()).label("pairs"),
                func.count(case((table.c.error.is_not(None), table.c.prediction)).distinct()).label("failed"),
                func.count(case((table.c.same_text, table.c.prediction)).distinct()).label("same_text"),
                func.count(outcomes.c.prediction.distinct()).label("known"),
            )
            .select_from(table.outerjoin(outcomes, label))
            .where(schema.owned(table, scope), table.c.rollout == rollout)
        )
        with self._database.reading(within) as connection:
            return PairCount(*connection.execute(statement).one())
