"""Conditions and order by which runs are claimed and held, and the moments at which the next one may be."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from antiphon.catalog import schema
from antiphon.durable.run import Run

_runs = schema.runs

OLDEST_FIRST = (_runs.c.not_before, _runs.c.created_at, _runs.c.id)
"""The order of claims by which the run that is due for longest goes first."""


def fair_order(environment: str, now: datetime, workflows: Collection[str] | None) -> tuple[ColumnElement[Any], ...]:
    """The order of claims: tenants with fewer running runs first, then the run that waited longest."""
    others = _runs.alias()
    running = (
        select(func.count())
        .select_from(others)
        .where(
            others.c.tenant == _runs.c.tenant,
            others.c.environment == environment,
            others.c.status == "running",
            others.c.lease_until >= now,
        )
    )
    if workflows is not None:
        running = running.where(others.c.workflow.in_(sorted(workflows)))
    return running.scalar_subquery(), _runs.c.updated_at, _runs.c.id


def claimable(environment: str, now: datetime, workflows: Collection[str] | None) -> ColumnElement[bool]:
    """True for runs of an environment that wait and are due, and for those whose lease ran out; not for those of a
    tenant that is suspended or deleted."""
    queued, running, *known = _claimed_by(environment, None if workflows is None else tuple(sorted(workflows)))
    due = or_(and_(queued, _runs.c.not_before <= now), and_(running, _runs.c.lease_until < now))
    return and_(due, *known)


@lru_cache(maxsize=64)
def _claimed_by(environment: str, workflows: tuple[str, ...] | None) -> tuple[ColumnElement[bool], ...]:
    """The part of :func:`claimable` that no time changes: a worker looks often, and mostly for nothing."""
    tenants = schema.tenants
    stopped = select(tenants.c.tenant).where(tenants.c.state != "active")
    own = and_(_runs.c.environment == environment, _runs.c.tenant.not_in(stopped))
    known = [] if workflows is None else [_runs.c.workflow.in_(workflows)]
    return and_(_runs.c.status == "queued", own), and_(_runs.c.status == "running", own), *known


def holds(run: Run) -> ColumnElement[bool]:
    """True for the run while its claim, by this epoch, lasts."""
    return schema.owned(_runs, run.scope, id=run.id, epoch=run.epoch, status="running")


def held_by(worker: str, environment: str, parts: bool) -> ColumnElement[bool]:
    """True for running runs of a worker, with ``parts`` also for those of its executors that are named
    ``WORKER/PART``."""
    named = _runs.c.worker == worker
    if parts:
        named |= _runs.c.worker.startswith(f"{worker}/", autoescape=True)
    return and_(_runs.c.status == "running", _runs.c.environment == environment, named)


@lru_cache(maxsize=64)
def next_moments(environment: str, workflows: tuple[str, ...]) -> Select[tuple[datetime | None, datetime | None]]:
    """Selects the earliest moment that a run waits for, and the earliest end of a lease."""
    waits = (
        select(func.min(moment))
        .where(_runs.c.status == status, _runs.c.environment == environment, _runs.c.workflow.in_(workflows))
        .scalar_subquery()
        for status, moment in (("queued", _runs.c.not_before), ("running", _runs.c.lease_until))
    )
    return select(*waits)
