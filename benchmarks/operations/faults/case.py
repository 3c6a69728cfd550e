"""One case: a copy of the project runs, users ask, a fault is done to it, and what came of it is written down."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from benchmarks.operations.faults.injectors import INJECTORS
from benchmarks.operations.faults.kind import FaultKind
from benchmarks.operations.faults.project import RATE, FaultyProject, copied
from benchmarks.operations.faults.rivals import MeasuredCase, by_baro, by_rules, measured_case
from benchmarks.operations.faults.split import held_out
from benchmarks.operations.faults.users import Users

from antiphon.catalog.database import Database
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.incidents import NO_CAUSE, Incident, Incidents
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.scope import Scope
from antiphon.operations.cost.metering import usages_of

TICKETS = "tickets"
"""The view whose source faults of data are done to."""

SMALL_DISK = 200
"""Megabytes of the file system of a case that fills it."""

SCOPE = Scope("default", "dev")
_LOOK = 0.5
_AFTER = 12.0
"""An incident that is opened so long after the end of the fault is still about it."""


class CaseLasts(msgspec.Struct, frozen=True):
    """Seconds of the parts of a case.

    Attributes:
        settle: users ask for so long before the fault; their waiting times then are the usual ones.
        fault: it lasts as its kind says, and no longer than this.
        mend: it is waited for so long after it until an incident is mitigated: a detector needs a minute of calm.
        known: the same where the injector has undone the fault, until causes are known.
    """

    settle: float = 25.0
    fault: float = 60.0
    mend: float = 150.0
    known: float = 20.0


class FaultOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a case, a line of the file of cases.

    Attributes:
        impact: users felt it, or data was not renewed, as the kind says; measured without the platform.
        seconds: from the fault to the first incident that can be read; ``None``: there was none.
        path: a path of evidence leads from each root to what it explains, or the root itself is what was hit.
        mended: the incident was mitigated and users were answered again, and no injector undid the fault.
        ledger: the sum of the ledger less the sum of the receipts and meters, over all resources, in absolute terms.
        before: incidents that were open before the fault: such a case says little.
        lasting: symptoms of the incident that last at the end.
    """

    kind: str
    seed: int
    held_out: bool
    impact: bool
    questions: int
    hit: int
    class_: str
    roots: tuple[str, ...]
    seconds: float | None
    incidents: int
    path: bool
    mended: bool
    state: str
    ledger: int
    before: int
    by_rules: str
    by_baro: tuple[str, ...]
    title: str = ""
    problem: str = ""
    lasting: tuple[str, ...] = ()


async def run_case(kind: FaultKind, seed: int, template: Path, baro: Path | None, lasts: CaseLasts) -> FaultOutcome:
    """Run a case in a folder of its own; ``baro``: the Python of the environment with the rival.

    Raises:
        RuntimeError: the project does not run without a fault either.
    """
    async with copied(template, SMALL_DISK if kind.own_disk else None) as project:
        return await _observed(kind, seed, project, random.Random(seed), baro, lasts)


async def _observed(
    kind: FaultKind, seed: int, project: FaultyProject, chance: random.Random, baro: Path | None, lasts: CaseLasts
) -> FaultOutcome:
    lasting = min(kind.seconds, lasts.fault)
    async with project.running():
        users = Users(project.url, project.key, chance, RATE)
        await asyncio.wait_for(users.until_answered(), 60)
        async with asking(users):
            settled = time.monotonic()
            await asyncio.sleep(lasts.settle + chance.uniform(0.0, lasts.settle / 3))
            with _Records(project) as kept:
                earlier = {one.id for one in kept.incidents()}
                published = kept.published(TICKETS)
                at, begun = datetime.now(UTC), time.monotonic()
                fault = asyncio.create_task(_injected(kind, project, users, chance, lasting, kept))
                seconds = await kept.until_new(earlier, begun, fault)
                ended = time.monotonic()
                renewed = fault.result() != published
                new = await kept.until_mended(earlier, lasts.mend if kind.ends == "platform" else lasts.known)
        recovered = users.impact((settled, begun), time.monotonic() - 15.0, time.monotonic())
    # What is read now is at rest: every process has ended in good order.
    with _Records(project) as kept:
        ledger = kept.ledger_difference()
        measured = kept.measured(at, lasting)
    impact = users.impact((settled, begun), begun, ended)
    seen = _most(new)
    return FaultOutcome(
        kind=kind.name,
        seed=seed,
        held_out=held_out(kind.name),
        impact={"users": impact.felt, "data": not renewed, "nobody": True}[kind.felt],
        questions=impact.questions,
        hit=impact.failed + impact.slow,
        class_=seen.class_ if seen else NO_CAUSE,
        roots=tuple(sorted(root.component for root in seen.roots)) if seen else (),
        seconds=None if seconds is None else round(seconds, 1),
        incidents=len(new),
        path=seen is not None and _has_path(seen),
        mended=bool(
            seen and kind.ends == "platform" and seen.state in ("mitigated", "resolved") and not recovered.felt
        ),
        state=seen.state if seen else "",
        ledger=ledger,
        before=len(earlier),
        by_rules=by_rules(measured),
        by_baro=await asyncio.to_thread(by_baro, measured, baro) if baro is not None else (),
        title=seen.title if seen else "",
        lasting=tuple(f"{one.signal} of {one.component}" for one in seen.symptoms if one.until is None) if seen else (),
    )


async def _injected(
    kind: FaultKind, project: FaultyProject, users: Users, chance: random.Random, seconds: float, kept: _Records
) -> str:
    """Do the fault; the snapshot that is served at its end: data that is renewed later was not renewed meanwhile."""
    await INJECTORS[kind.name](project, users, chance, seconds)
    return await asyncio.to_thread(kept.published, TICKETS)


@asynccontextmanager
async def asking(users: Users) -> AsyncIterator[None]:
    """Users ask while the block lasts."""
    task = asyncio.create_task(users.ask())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _has_path(incident: Incident) -> bool:
    """Each root has evidence, and a path to all that it explains elsewhere."""
    hit = {one.component for one in incident.symptoms}
    explained = {path[-1] for root in incident.roots for path in root.paths}
    return bool(incident.roots) and (
        all(root.evidence for root in incident.roots) and hit - {root.component for root in incident.roots} <= explained
    )


def _most(new: Sequence[Incident]) -> Incident | None:
    """The incident that says most: with roots before those without, then by its symptoms."""
    return max(new, key=lambda one: (bool(one.roots), len(one.symptoms)), default=None)


class _Records:
    """What the catalog of a project says, read from outside."""

    def __init__(self, project: FaultyProject) -> None:
        self._project = project

    def __enter__(self) -> _Records:
        self._database = Database.open(f"sqlite:///{self._project.catalog}")
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def incidents(self) -> list[Incident]:
        """Incidents of their own: one that was merged into another is none."""
        found = Incidents(self._database).list(SCOPE, limit=100)
        return [one for one in found if not any(entry.kind == "merged" for entry in one.timeline)]

    def published(self, view: str) -> str:
        """The snapshot of a view that is served."""
        current = Publications(self._database).current(SCOPE)
        found = {} if current is None else current.snapshots
        return next((snapshot for key, snapshot in found.items() if key.partition("@")[0] == view), "")

    async def until_new(self, earlier: set[str], begun: float, fault: asyncio.Task[str]) -> float | None:
        """Wait for the end of the fault, and for an incident for a little longer; the seconds after which there was
        one that can be read."""
        seconds: float | None = None
        ended = False
        deadline = float("inf")
        while time.monotonic() < deadline:
            if seconds is None and any(one.id not in earlier for one in await asyncio.to_thread(self.incidents)):
                seconds = time.monotonic() - begun
            if fault.done() and not ended:
                fault.result()
                ended, deadline = True, time.monotonic() + _AFTER
            if ended and seconds is not None:
                break
            await asyncio.sleep(_LOOK)
        return seconds

    async def until_mended(self, earlier: set[str], seconds: float) -> list[Incident]:
        """Wait until the new incidents are mitigated; all of them as they stand then."""
        deadline = time.monotonic() + seconds
        while True:
            new = [one for one in await asyncio.to_thread(self.incidents) if one.id not in earlier]
            if not any(one.state in ("open", "acknowledged") for one in new) or time.monotonic() > deadline:
                return new
            await asyncio.sleep(_LOOK)

    def ledger_difference(self) -> int:
        """Units by which the ledger differs from what was measured: the usage of each receipt, and engine time."""
        now = self._database.clock.now()
        span = (now - timedelta(days=2), now + timedelta(days=1))
        counted: dict[str, int] = {}
        for entry in Ledger(self._database).entries(SCOPE, *span):
            if entry.resource not in ("worker", "storage", "engine_measured", "engine_idle"):
                counted[entry.resource] = counted.get(entry.resource, 0) + entry.quantity
        for receipt in Receipts(self._database).list(SCOPE, limit=1_000_000):
            for usage in usages_of(receipt):
                counted[usage.resource] = counted.get(usage.resource, 0) - usage.quantity
        return sum(abs(quantity) for quantity in counted.values())

    def measured(self, at: datetime, seconds: float) -> MeasuredCase:
        return measured_case(self._database, at, seconds)


def median(values: Sequence[float]) -> float | None:
    """The median, to a tenth; ``None`` of nothing."""
    return round(statistics.median(values), 1) if values else None
