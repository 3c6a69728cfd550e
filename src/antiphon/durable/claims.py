"""Conditions and order by which runs are claimed and held, and the moments at which the next one may be.

Invariants:
- A worker of a tenant claims that tenant's runs. Of another tenant it claims runs of shared workflows alone, which need
  nothing of a project's own, and those only while no worker of that tenant lives.
- No run is claimed while it is paused, or while a freeze or window holds those of its workflow or a limit's slots are
  taken, whichever worker looks, unless a person exempted it from the latter: the condition is part of the claim.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
    type_coerce,
    union_all,
)

from antiphon.catalog import schema
from antiphon.core.scope import ANY
from antiphon.durable.run import Run

_runs, _leases, _holds = schema.runs, schema.leases, schema.run_holds

_now = bindparam("now", type_=_runs.c.not_before.type)
"""The moment of a look, which whoever executes a statement binds: statements are made once, for a worker looks often,
and mostly for nothing."""

WORKERS = "worker/"
"""Of the names of the leases under which workers claim runs: ``worker/TENANT/NAME``."""

Candidates = Select[Any] | CompoundSelect[Any]
"""Statements that select runs of which one is claimed."""

OLDEST_FIRST = (_runs.c.not_before, _runs.c.created_at, _runs.c.id)
"""The order of claims by which the run that is due for longest goes first."""

_WAITED = bindparam("moment", type_=BigInteger) - type_coerce(_runs.c.not_before, BigInteger)
WORTHIEST_FIRST = ((_WAITED * func.coalesce(_runs.c.value, 1.0)).desc(), *OLDEST_FIRST)
"""The order in which a run counts as waiting for its value times as long, so that nothing is passed over for ever."""


class ServedRuns(msgspec.Struct, frozen=True):
    """The runs that a worker serves.

    Attributes:
        environment: of the runs; others are for their own workers, which have their stores and models.
        workflows: names of those that it knows; ``None`` for all.
        tenant: whose runs they are; ``None`` for every tenant's.
        shared: workflows of which runs of another tenant are served too, while no worker of that tenant lives.
    """

    environment: str
    workflows: tuple[str, ...] | None = None
    tenant: str | None = None
    shared: tuple[str, ...] = ()


@lru_cache(maxsize=64)
def claimable(served: ServedRuns, fair: bool = False) -> Candidates:
    """Selects runs of which a worker claims one next, each as a workflow and ``TENANT/ID``: those that it serves, and
    that wait and are due ``now``, or whose lease ran out (without the workflow). Those in ``held`` are left out.

    With ``fair`` it is the one that goes first. Else they are the oldest whose lease ran out, the oldest of each
    workflow that waits, found at the beginning of its own part of an index (a look costs as much before ten thousand
    runs that wait as before one), and those that have a value, of which there are as many as schedules.
    """
    now = _now
    queued, running = _runs.c.status == "queued", _runs.c.status == "running"
    arrived = _runs.c.not_before <= now
    due = and_(queued, arrived)
    lapsed = and_(running, _runs.c.lease_until < now)
    others = _runs.c.id.not_in(bindparam("held", expanding=True))
    served_now = and_(_is_served(served), ~held_back(), others)
    name = _runs.c.tenant + "/" + _runs.c.id
    if fair:
        return select(literal(""), name).where(or_(due, lapsed), served_now).order_by(*fair_order(served)).limit(1)
    oldest = select(name).order_by(*OLDEST_FIRST).limit(1)
    taken = select(literal(""), oldest.where(lapsed, served_now).scalar_subquery())
    # The status not as a bare column: they are found by the index of those that have a value, not among all.
    unended = and_(_runs.c.status + "" == "queued", _runs.c.ended_at.is_(None), _runs.c.value.is_not(None))
    valued = select(_runs.c.workflow, name).where(unended, arrived, served_now)
    if served.workflows is None:
        return taken.union_all(select(literal(""), oldest.where(due, served_now).scalar_subquery()), valued)
    # A statement with a part for each workflow takes a server as long to plan as ten looks.
    of_own = served.workflows or ("",)
    workflows = union_all(*(select(literal(one).label("name")) for one in of_own)).subquery()
    of_each = oldest.where(due, _runs.c.workflow == workflows.c.name, served_now).correlate(workflows)
    return taken.union_all(select(workflows.c.name, of_each.scalar_subquery()), valued)


@lru_cache(maxsize=1)
def first_of() -> Select[Any]:
    """Selects the run of an ``environment`` that goes first of those that are ``found``, by tenant and id, at a
    ``moment`` in microseconds."""
    found = tuple_(_runs.c.tenant, _runs.c.id).in_(bindparam("found", expanding=True))
    own = _runs.c.environment == bindparam("environment")
    return select(_runs).where(own, found).order_by(*WORTHIEST_FIRST).limit(1)


def waiting(served: ServedRuns) -> ColumnElement[bool]:
    """True for runs that a worker serves and that wait and are due ``now``."""
    return and_(_runs.c.status == "queued", _runs.c.not_before <= _now, _is_served(served), ~held_back())


@lru_cache(maxsize=1)
def held_back() -> ColumnElement[bool]:
    """True for runs that are paused, and for those whose workflow is held ``now`` and which nobody has exempted."""
    held = and_(_runs.c.exempted_by.is_(None), exists().where(*_holding()))
    return or_(_runs.c.paused_by.is_not(None), held)


def _holding() -> tuple[ColumnElement[bool], ...]:
    """The holds of a run's workflow that are in force ``now``; of limits those whose slots are taken."""
    own = _holds.c.tenant == _runs.c.tenant, _holds.c.environment == _runs.c.environment
    taken = or_(_holds.c.slots == 0, _before_in_limit() >= _holds.c.slots)
    return *own, _holds.c.workflow == _runs.c.workflow, _holds.c.begins <= _now, _holds.c.until > _now, taken


def _before_in_limit() -> ColumnElement[int]:
    """The number of runs of a limit's workflows that have a slot ``now`` and keep it before this run: all that are
    under way before one that waits, and those that were claimed earlier before one that is."""
    others, limited = _runs.alias(), _holds.alias()
    workflows = select(limited.c.workflow).where(
        limited.c.tenant == _holds.c.tenant, limited.c.environment == _holds.c.environment, limited.c.id == _holds.c.id
    )
    earlier = tuple_(others.c.claimed_at, others.c.id) < tuple_(_runs.c.claimed_at, _runs.c.id)
    count = (
        select(func.count())
        .select_from(others)
        .where(
            others.c.tenant == _runs.c.tenant, others.c.environment == _runs.c.environment,
            others.c.status == "running", others.c.lease_until >= _now,
            others.c.workflow.in_(workflows.correlate(_holds)),
            or_(_runs.c.status == "queued", earlier),
        )
    )  # fmt: skip
    return count.correlate(_runs, _holds).scalar_subquery()


def limits_on(run: Run, now: datetime) -> Select[tuple[str]]:
    """Selects the limits that a run is under."""
    own = schema.owned(_holds, run.scope, workflow=run.workflow)
    return select(_holds.c.id).where(own, _holds.c.slots > 0, _holds.c.begins <= now, _holds.c.until > now).limit(1)


def fair_order(served: ServedRuns) -> tuple[ColumnElement[Any], ...]:
    """The order of claims: tenants with fewer running runs first, then the run that waited longest."""
    others = _runs.alias()
    running = (
        select(func.count())
        .select_from(others)
        .where(
            others.c.tenant == _runs.c.tenant,
            others.c.environment == served.environment,
            others.c.status == "running",
            others.c.lease_until >= _now,
        )
    )
    if served.workflows is not None:
        running = running.where(others.c.workflow.in_(sorted(served.workflows)))
    return running.scalar_subquery(), _runs.c.updated_at, _runs.c.id


@lru_cache(maxsize=64)
def next_moments(served: ServedRuns) -> Select[tuple[datetime | None, datetime | None]]:
    """Selects the earliest moment that a run waits for and the earliest end of a lease, of those that are served; of
    runs that are held it is the end of that."""
    # A run that is held is looked for when that ends; its end before is rung.
    over = select(func.max(_holds.c.until)).where(*_holding()).correlate(_runs).scalar_subquery()
    waits = (
        select(func.min(case((held_back(), over), else_=moment)))
        .where(_runs.c.status == status, _is_served(served))
        .scalar_subquery()
        for status, moment in (("queued", _runs.c.not_before), ("running", _runs.c.lease_until))
    )
    return select(*waits)


def _is_served(served: ServedRuns) -> ColumnElement[bool]:
    """True for the runs that a worker serves ``now``; not for those of a tenant that is suspended or deleted."""
    tenants = schema.tenants
    stopped = select(tenants.c.tenant).where(tenants.c.state != "active")
    conditions = [_runs.c.environment == served.environment, _runs.c.tenant.not_in(stopped)]
    if served.workflows is not None:
        conditions.append(_runs.c.workflow.in_(sorted(served.workflows)))
    if served.tenant is not None:
        # Not as a bare column: a tenant's indexes hold every run that it ever had, those of claims the few that wait.
        own = _runs.c.tenant + "" == served.tenant
        shared = and_(_runs.c.workflow.in_(sorted(served.shared)), ~_has_workers(served.environment))
        conditions.append(or_(own, shared) if served.shared else own)
    return and_(*conditions)


def _has_workers(environment: str) -> ColumnElement[bool]:
    """True for runs of a tenant of which a worker lives ``now``."""
    prefix = literal(WORKERS) + _runs.c.tenant + "/"
    named = func.substr(_leases.c.name, 1, func.length(prefix)) == prefix
    return exists().where(_leases.c.tenant == ANY, _leases.c.environment == environment, named, _leases.c.until >= _now)


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
