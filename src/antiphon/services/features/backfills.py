"""Backfills of one project's views: forecast, order, report, promotion and discard."""

from __future__ import annotations

import builtins
import shutil
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from antiphon.catalog.features.backfills import BackfillPartition
from antiphon.core.disk import LEAST_FREE
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.durable.run import ENDED, Run, RunStatus
from antiphon.features.offline.backfill import MOST_PARTITIONS, WORKFLOW, BackfillArguments
from antiphon.features.publication.promote import BackfillPromotion, SnapshotPromotion
from antiphon.features.selection import unknown_views
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.policies import require_cancel
from antiphon.services.project.store import Store

LONGEST_STEP, SLOWEST = 366 * 86_400.0, 1 / 60
"""Seconds from moment to moment, at most; and partitions a minute, at least: the slot of backfills is one."""

_LAST = 10
"""Snapshots of a view from which is predicted what the next one takes."""


class BackfillOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A backfill to order.

    Attributes:
        views: by name, or by ``view@definition_version`` where another than the applied one is meant.
        since, until: its first moment and its last, which is now by default.
        every: seconds from moment to moment; before the last one it may be less.
        rate: partitions a minute, at most.
        reason: why, for the record.
        key: under which it is ordered once.
    """

    views: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    since: Annotated[datetime, msgspec.Meta(tz=True)]
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    every: Annotated[float, msgspec.Meta(ge=1, le=LONGEST_STEP)] = 86_400.0
    rate: Annotated[float, msgspec.Meta(ge=SLOWEST)] | None = None
    reason: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    key: str | None = None


class BackfillOutlook(msgspec.Struct, frozen=True):
    """Forecast of a backfill.

    Attributes:
        views: ``view@definition_version`` each.
        first, last: the moments of its first and last partitions; ``partitions`` is moments times views.
        seconds: that it takes, from what the views' last snapshots took; ``None`` while one was never computed.
        bytes: of its files, likewise; ``free`` on the lake's disk, ``None`` for an object store.
    """

    views: tuple[str, ...]
    first: datetime
    last: datetime
    moments: int
    partitions: int
    seconds: float | None
    bytes: int | None
    free: int | None


class BackfillLine(msgspec.Struct, frozen=True):
    """A backfill in a list.

    Attributes:
        kept: partitions that are kept now: none before the first, and none of one that was discarded. ``blocked`` of
            them have no snapshot.
        bytes: of their files.
    """

    run: str
    views: tuple[str, ...]
    since: datetime
    until: datetime
    every: float
    status: RunStatus
    paused_by: str | None
    done: int
    total: int | None
    kept: int
    blocked: int
    bytes: int
    created_at: datetime
    reason: str


class BackfillReport(msgspec.Struct, frozen=True):
    """A backfill with what each partition came to, by moment and view."""

    backfill: BackfillLine
    partitions: tuple[BackfillPartition, ...]


class ProjectBackfills:
    """Backfills of one project; of another scope there are none."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform

    def outlook(self, scope: Scope, order: BackfillOrder) -> BackfillOutlook:
        """Forecasts a backfill from what the views' last snapshots took; nothing is recorded.

        Raises:
            NotFoundError: a view is not applied here.
            InvalidInputError: it has no partition, too many, or a moment to come; or the disk has no room for it.
        """
        return self._outlook(scope, order, self._arguments(scope, order, ""))

    def order(self, scope: Scope, by: Principal, order: BackfillOrder) -> Run:
        """Queue a backfill.

        Raises:
            ForbiddenError: ``by`` may not publish these views.
            ConflictError: the key was used for another run.
            As :meth:`outlook`.
        """
        store = self._store
        known = store.runs.find(scope, order.key) if order.key is not None and order.until is None else None
        if known is not None and known.workflow == WORKFLOW:
            # The same order again ends at the moment at which it was given first.
            until = msgspec.convert(known.arguments, BackfillArguments).until
            order = msgspec.structs.replace(order, until=until)
        arguments = self._arguments(scope, order, by.id)
        self._outlook(scope, order, arguments)
        for view in {key.partition("@")[0] for key in arguments.views}:
            store.decider.require(
                by, "publish", f"view/{view}", {"environment": scope.environment, "tenant": scope.tenant}
            )
        with store.database.transaction() as connection:
            submitted: dict[str, Any] = msgspec.to_builtins(arguments)
            run = store.runs.submit(scope, WORKFLOW, submitted, order.key, within=connection)
            detail = {"views": list(arguments.views), "run": run, "reason": order.reason}
            subject = ",".join(sorted({key.partition("@")[0] for key in arguments.views}))[:200]
            store.audit.append(scope, by.id, "features.backfill", subject, detail, within=connection)
            return store.runs.get(scope, run, within=connection)

    def list(self, scope: Scope, limit: int = 50) -> tuple[BackfillLine, ...]:
        """Backfills, latest first."""
        runs = self._store.runs.list(scope, limit, workflow=WORKFLOW)
        return tuple(_line(run, self._store.backfills.list(scope, run.id)) for run in runs)

    def report(self, scope: Scope, run: str) -> BackfillReport:
        """A backfill with its partitions; raises ``NotFoundError`` when there is none of this run."""
        found = self._run(scope, run)
        partitions = self._store.backfills.list(scope, run)
        return BackfillReport(_line(found, partitions), tuple(partitions))

    def promote(
        self, scope: Scope, by: Principal, run: str, *, reason: str, older: bool = False, dry_run: bool = False
    ) -> BackfillPromotion:
        """Publish the newest snapshots of a backfill together.

        Raises:
            ForbiddenError: ``by`` may not publish these views.
            ConflictError: it has not ended well; or as :meth:`SnapshotPromotion.promote`.
            NotFoundError: there is no such backfill, or nothing is kept of it.
        """
        found, store = self._run(scope, run), self._store
        require_cancel(store, by, found)
        if found.status not in ("succeeded", "succeeded_with_failures"):
            raise ConflictError(
                f"The backfill {run} is {found.status}.", where="run",
                next_step="Order another one."
                if found.status == "cancelled"
                else f"`antiphon runs show {run}` says how far it is; promote it once it succeeded.",
            )  # fmt: skip
        promotion = SnapshotPromotion(
            self._platform.catalog,
            publisher=self._platform.publisher,
            transaction=store.database.transaction,
            audit=store.audit.append,
            declared=self._platform.views,
        )
        views = msgspec.convert(found.arguments, BackfillArguments).views
        return promotion.promote(run, views, reason=reason, principal=by.id, older=older, dry_run=dry_run)

    def discard(self, scope: Scope, by: Principal, run: str, *, reason: str) -> BackfillReport:
        """Give up what is kept of a backfill, on record; returns what that was. Files that nothing else needs are
        deleted by the next pruning. What was promoted of it stays.

        Raises:
            ForbiddenError: ``by`` may not publish these views.
            ConflictError: it has not ended. NotFoundError: there is no such backfill.
            InvalidInputError: no reason.
        """
        found, store = self._run(scope, run), self._store
        if not reason.strip():
            raise InvalidInputError("A backfill is discarded for a reason.", where="reason", next_step="Say why.")
        require_cancel(store, by, found)
        if found.status not in ENDED:
            raise ConflictError(
                f"The backfill {run} is {found.status}.", where="run",
                next_step=f"`antiphon runs cancel {run}` ends it first.",
            )  # fmt: skip
        report = self.report(scope, run)
        with store.database.transaction() as connection:
            store.backfills.discard(scope, run, within=connection)
            detail = {"run": run, "reason": reason, "number": len(report.partitions)}
            store.audit.append(scope, by.id, "features.discard", run, detail, within=connection)
        return report

    def _run(self, scope: Scope, run: str) -> Run:
        found = self._store.runs.get(scope, run)
        if found.workflow != WORKFLOW or not self._platform.serves(scope):
            raise NotFoundError(
                f"{run} is no backfill.", where="run", next_step="`antiphon features backfills` lists them."
            )
        return found

    def _arguments(self, scope: Scope, order: BackfillOrder, principal: str) -> BackfillArguments:
        now = self._store.database.clock.now()
        until = order.until or now
        if until > now:
            raise InvalidInputError(
                f"{until:%Y-%m-%d %H:%M:%SZ} is to come: its values are not known.",
                where="until",
                next_step="Name a moment of the past.",
            )
        views = tuple(spec.key for spec in self._views(scope, order.views))
        arguments = BackfillArguments(
            views, order.since, until, order.every, order.rate, order.reason or "backfill", principal
        )
        if order.since > until:
            raise InvalidInputError(
                "The first moment comes after the last one.", where="since", next_step="Name an earlier one."
            )
        partitions = (1 - (order.since - until) // timedelta(seconds=order.every)) * len(views)
        if partitions > MOST_PARTITIONS:
            raise InvalidInputError(
                f"The backfill has {partitions:,} partitions; {MOST_PARTITIONS:,} at most are computed.",
                where="every",
                next_step="Name a longer step, a shorter time or fewer views.",
            )
        return arguments

    def _views(self, scope: Scope, names: Iterable[str]) -> builtins.list[FeatureViewSpec]:
        """The definitions that are meant, each once; of a name the one that is applied."""
        serves = self._platform.serves(scope)
        known = self._platform.views() if serves else {}
        applied = self._store.applied.project(scope).views if serves else {}
        found = {name: known.get(name) or applied.get(name) for name in dict.fromkeys(names)}
        if unknown := [name for name, spec in found.items() if spec is None]:
            raise unknown_views(unknown, {view.name for view in known.values()}, str(scope))
        specs = list({spec.key: spec for spec in found.values() if spec is not None}.values())
        for spec in specs:
            if spec.source.kind == "feast":
                raise InvalidInputError(
                    f"The view {spec.name!r} is read from Feast, which keeps no history.", where="views",
                    next_step="Read the table behind it: `antiphon features import-feast` translates that.",
                )  # fmt: skip
        return specs

    def _outlook(self, scope: Scope, order: BackfillOrder, arguments: BackfillArguments) -> BackfillOutlook:
        moments = arguments.moments
        took = [self._last(scope, view) for view in arguments.views]
        partitions = len(moments) * len(arguments.views)
        known = [one for one in took if one is not None]
        complete = len(known) == len(took)
        seconds = sum(one[0] for one in known) * len(moments)
        slowest = 0.0 if order.rate is None else 60.0 / order.rate * partitions
        size = sum(one[1] for one in known) * len(moments)
        free = self._free()
        if free is not None and size > free - LEAST_FREE:
            raise InvalidInputError(
                f"The backfill takes about {size / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free.",
                where="lake",
                next_step="Free disk space, discard earlier backfills, or name a longer step or a shorter time.",
            )
        return BackfillOutlook(
            arguments.views, moments[0], moments[-1], len(moments), partitions,
            max(seconds, slowest) if complete else None, size if complete else None, free,
        )  # fmt: skip

    def _last(self, scope: Scope, key: str) -> tuple[float, int] | None:
        """Seconds and bytes that a snapshot of a view took lately, of any definition where this one has none."""
        view, _, version = key.partition("@")
        snapshots = self._store.snapshots
        made = snapshots.list(scope, view, version, limit=_LAST, backfilled=True)
        made = made or snapshots.list(scope, view, limit=_LAST, backfilled=True)
        if not made:
            return None
        middle = statistics.median
        return middle(one.duration_seconds for one in made), round(middle(one.cost.bytes_written for one in made))

    def _free(self) -> int | None:
        if self._platform.shared_lake is not None:
            return None
        folder = self._store.paths.lake
        return shutil.disk_usage(folder if folder.is_dir() else self._store.paths.root).free


def _line(run: Run, partitions: Sequence[BackfillPartition]) -> BackfillLine:
    arguments = msgspec.convert(run.arguments, BackfillArguments)
    return BackfillLine(
        run.id, arguments.views, arguments.since, arguments.until, arguments.every, run.status, run.paused_by, run.done,
        run.total, len(partitions), sum(one.snapshot is None for one in partitions),
        sum(one.bytes for one in partitions if one.snapshot is not None), run.created_at, arguments.reason,
    )  # fmt: skip
