"""Evidence about a rollout: exposures of users, shadow pairs, and what the judge made of them. Rows are only added.

Invariant: one request is one exposure and one prediction is one pair, however often it is recorded: the first stands.
"""

from __future__ import annotations

import math
import sys
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, Table, func, insert, select
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rollouts import Exposure, JudgedMetric, Judgement, ShadowPair
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.ids import canonical
from antiphon.core.scope import Scope

_judgement = msgspec.json.Decoder(Judgement)


class Exposures:
    """Repository of exposures."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, exposure: Exposure, *, within: Connection | None = None) -> None:
        """Record an exposure; one of the same id that is there already stays as it is."""
        statement = upsert(schema.exposures).values(_columns(exposure)).on_conflict_do_nothing()
        with self._database.writing(within) as connection:
            connection.execute(statement)

    def of(
        self,
        scope: Scope,
        rollout: str,
        limit: int | None = None,
        *,
        since: datetime | None = None,
        within: Connection | None = None,
    ) -> list[Exposure]:
        """A rollout's exposures in order of id; ``since``: only those made then or later."""
        statement = _of_rollout(schema.exposures, scope, rollout, since)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(schema.exposures.c.id).limit(limit))
            return [_exposure(scope, row) for row in rows]


class ShadowPairs:
    """Repository of shadow pairs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, pair: ShadowPair, *, within: Connection | None = None) -> None:
        """Record a pair; one of the same prediction that is there already stays as it is."""
        statement = upsert(schema.shadow_pairs).values(_columns(pair)).on_conflict_do_nothing()
        with self._database.writing(within) as connection:
            connection.execute(statement)

    def of(
        self,
        scope: Scope,
        rollout: str,
        limit: int | None = None,
        *,
        since: datetime | None = None,
        within: Connection | None = None,
    ) -> list[ShadowPair]:
        """A rollout's pairs in order of the prediction's id; ``since``: only those made then or later."""
        statement = _of_rollout(schema.shadow_pairs, scope, rollout, since)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(schema.shadow_pairs.c.prediction).limit(limit))
            return [_pair(scope, row) for row in rows]


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
        with self._database.writing(within) as connection:
            last = connection.execute(
                select(func.max(table.c.sequence)).where(
                    schema.owned(table, scope), table.c.rollout == judgement.rollout
                )
            ).scalar()
            kept = msgspec.structs.replace(
                judgement,
                sequence=(last or 0) + 1,
                metrics=tuple(map(_representable, judgement.metrics)),
                harm=_finite(judgement.harm),
            )
            connection.execute(
                insert(table).values(
                    tenant=scope.tenant,
                    environment=scope.environment,
                    rollout=judgement.rollout,
                    sequence=kept.sequence,
                    document=canonical(kept),
                    created_at=microseconds(judgement.created_at),
                )
            )
        return kept

    def latest(self, scope: Scope, rollout: str, *, within: Connection | None = None) -> Judgement | None:
        """The last judgement, ``None`` before the first."""
        found = self.of(scope, rollout, limit=1, within=within)
        return found[-1] if found else None

    def of(
        self, scope: Scope, rollout: str, limit: int | None = None, *, within: Connection | None = None
    ) -> list[Judgement]:
        """A rollout's judgements, first to last; with ``limit`` only so many of the last."""
        table = schema.judgements
        statement = (
            select(table.c.document)
            .where(schema.owned(table, scope), table.c.rollout == rollout)
            .order_by(table.c.sequence.desc())
            .limit(limit)
        )
        with self._database.reading(within) as connection:
            latest_first = [_judgement.decode(document) for document in connection.execute(statement).scalars()]
        return latest_first[::-1]


def _of_rollout(table: Table, scope: Scope, rollout: str, since: datetime | None) -> Select[Any]:
    statement = select(table).where(schema.owned(table, scope), table.c.rollout == rollout)
    return statement if since is None else statement.where(table.c.created_at >= microseconds(since))


def _columns(evidence: Exposure | ShadowPair) -> dict[str, object]:
    columns = {field: getattr(evidence, field) for field in evidence.__struct_fields__ if field != "scope"}
    return {
        **columns,
        "tenant": evidence.scope.tenant,
        "environment": evidence.scope.environment,
        "created_at": microseconds(evidence.created_at),
    }


def _exposure(scope: Scope, row: Row[tuple[object, ...]]) -> Exposure:
    return Exposure(
        rollout=row.rollout,
        id=row.id,
        scope=scope,
        unit=row.unit,
        arm=row.arm,
        step=row.step,
        probability=row.probability,
        error=row.error,
        invalid=row.invalid,
        generated=row.generated,
        first_byte=row.first_byte,
        seconds=row.seconds,
        publication=row.publication,
        prediction=row.prediction,
        created_at=from_microseconds(row.created_at),
    )


def _pair(scope: Scope, row: Row[tuple[object, ...]]) -> ShadowPair:
    return ShadowPair(
        rollout=row.rollout,
        scope=scope,
        prediction=row.prediction,
        shadow=row.shadow,
        error=row.error,
        same_text=row.same_text,
        live_probability=row.live_probability,
        shadow_probability=row.shadow_probability,
        live_seconds=row.live_seconds,
        shadow_seconds=row.shadow_seconds,
        created_at=from_microseconds(row.created_at),
    )


def _representable(metric: JudgedMetric) -> JudgedMetric:
    return msgspec.structs.replace(metric, harm=_finite(metric.harm), safe=_finite(metric.safe))


def _finite(value: float) -> float:
    # JSON has no infinity: an overwhelming e-value would come back as no number at all.
    if math.isnan(value):
        raise ValueError("An e-value is not a number.")
    return min(value, sys.float_info.max)
