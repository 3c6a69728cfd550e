"""Promotion: the newest snapshots of a backfill become current, all of its views in one publication.

Invariant: the gates judge each beside what it replaces, and a snapshot that is older than the current one replaces it
only where that is asked for. Mark, verdicts, evidence and publication are one transaction: a crash before it leaves the
snapshots a backfill's, after it everything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.features.backfills import BackfillPartition, verdict_of
from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import GateFinding, Verdict, verdict_id
from antiphon.core.errors import ConflictError, NotFoundError, WriteConflictError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.monitoring.quality.gate import EARLIER, gate
from antiphon.features.publication.publish import Publisher, age
from antiphon.features.publication.rollback import flip, require_reason, undeclared

_ATTEMPTS = 5


class PromotedView(msgspec.Struct, frozen=True):
    """A view of a promotion.

    Attributes:
        before: the snapshot that is replaced, with ``before_as_of``; ``None`` where nothing is published of the view.
        outcome: of the gates beside it.
        events: number of pruned streamed events that are read again from the log.
    """

    view: str
    definition_version: str
    snapshot: str
    as_of: datetime
    before: str | None
    before_as_of: datetime | None
    outcome: Literal["passed", "warned", "blocked"]
    findings: tuple[GateFinding, ...]
    events: int = 0


class BackfillPromotion(msgspec.Struct, frozen=True):
    """Result of a promotion, or of its dry run, of which ``publication`` is ``None``."""

    publication: int | None
    run: str
    as_of: datetime
    views: tuple[PromotedView, ...]
    reason: str
    principal: str


@dataclass
class SnapshotPromotion:
    """Promotes backfills of one scope, each in a ``transaction`` of the catalog and on record by ``audit`` within it;
    ``declared`` are the views by ``view@definition_version``."""

    catalog: FeatureCatalog
    publisher: Publisher
    transaction: Callable[[], AbstractContextManager[Connection]]
    audit: Callable[..., Any]
    declared: Callable[[], Mapping[str, FeatureViewSpec]]

    def promote(
        self, run: str, views: Sequence[str], *, reason: str, principal: str, older: bool = False, dry_run: bool = False
    ) -> BackfillPromotion:
        """Publish the snapshots of a backfill's newest partition.

        Args:
            views: every ``view@definition_version`` of the backfill.
            older: also where a newer snapshot is current.

        Raises:
            NotFoundError: nothing is kept of the backfill, or files were pruned. CorruptionError: files are gone.
            ConflictError: a view was blocked, is held, under an embargo, not declared any more, current already, or
                newer as it is served; or other publishers won every race.
        """
        require_reason(reason)
        for _ in range(_ATTEMPTS - 1):
            with suppress(WriteConflictError):
                return self._promote(run, views, reason, principal, older, dry_run)
        return self._promote(run, views, reason, principal, older, dry_run)

    def _promote(
        self, run: str, views: Sequence[str], reason: str, principal: str, older: bool, dry_run: bool
    ) -> BackfillPromotion:
        current = self.catalog.publications.latest(self.catalog.scope)
        newest = self._newest(run, views)
        promoted, going = [], []
        for partition in newest:
            found, manifest, spec = self._view(partition, current, older)
            promoted.append(found)
            going.append((manifest, spec))
        result = BackfillPromotion(None, run, newest[0].as_of, tuple(promoted), reason, principal)
        if dry_run:
            return result

        scope = self.catalog.scope

        def mark(connection: Connection) -> None:
            if len(self.catalog.backfills.list(scope, run, within=connection)) < len(newest):
                raise _none_kept(run)
            for manifest, _ in going:
                self.catalog.snapshots.restore(scope, manifest.id, within=connection)

        def evidence(connection: Connection, number: int) -> None:
            now = self.catalog.clock.now()
            for partition, view, (manifest, _) in zip(newest, promoted, going, strict=True):
                verdict = _verdict(partition, view, manifest, reason, principal, now, number)
                self.catalog.verdicts.add(verdict, within=connection)
            named = sorted({one.view for one in newest})
            detail = {"views": named, "publication": number, "run": run, "reason": reason}
            self.audit(scope, principal, "features.promote", ",".join(named)[:200], detail, within=connection)

        expected = 0 if current is None else current.number
        made = flip(
            self.publisher, self.transaction, going, expected, evidence,
            before=mark, reason=reason, principal=principal,
        )  # fmt: skip
        return msgspec.structs.replace(result, publication=made.number)

    def _newest(self, run: str, views: Sequence[str]) -> list[BackfillPartition]:
        """The partitions of the latest moment, of every view."""
        partitions = self.catalog.backfills.list(self.catalog.scope, run)
        if not partitions:
            raise _none_kept(run)
        newest = [one for one in partitions if one.as_of == partitions[-1].as_of]
        lacking = sorted({*views} - {one.key for one in newest if one.snapshot is not None})
        if lacking:
            reasons = [finding.reason for one in newest if one.key in lacking for finding in one.findings]
            raise ConflictError(
                f"As of {newest[0].as_of:%Y-%m-%d %H:%M:%SZ} nothing is kept of {', '.join(lacking)}: "
                f"{' '.join(reasons) or 'it was skipped'}",
                where=run,
                next_step="Mend the source or the rule, and order another backfill.",
            )
        return newest

    def _view(
        self, partition: BackfillPartition, current: Publication | None, older: bool
    ) -> tuple[PromotedView, SnapshotManifest, FeatureViewSpec]:
        scope, key = self.catalog.scope, partition.key
        spec = self.declared().get(key)
        if spec is None:
            raise undeclared(partition.view, partition.definition_version)
        if self.publisher.held(spec.name):
            raise ConflictError(
                f"The view {spec.name!r} is held.", where=key,
                next_step=f"`antiphon features resume {spec.name} --reason …` sets it free.",
            )  # fmt: skip
        manifest = self.catalog.snapshots.get(scope, str(partition.snapshot))
        if spec.embargo is not None:
            ends = manifest.created_at + timedelta(microseconds=spec.embargo)
            if ends > self.catalog.clock.now():
                raise ConflictError(
                    f"{manifest.id} is under an embargo until {ends:%Y-%m-%d %H:%M:%SZ}.", where=key,
                    next_step="Wait for its end.",
                )  # fmt: skip
        before = self.catalog.snapshots.find(scope, None if current is None else current.snapshots.get(key))
        if before is not None and before.id == manifest.id:
            raise ConflictError(f"{manifest.id} is current already.", where=key, next_step="Nothing is left to do.")
        if before is not None and age(before) > age(manifest) and not older:
            raise ConflictError(
                f"What is served of {spec.name} is newer: as of {before.as_of:%Y-%m-%d %H:%M:%SZ}, and the backfill's "
                f"as of {manifest.as_of:%Y-%m-%d %H:%M:%SZ}.",
                where=key,
                next_step="Backfill up to now, or say --older to have older values served until the next refresh.",
            )
        earlier = self.catalog.snapshots.list(scope, spec.name, spec.definition_version, limit=EARLIER + 1)
        judged = gate(spec, manifest, before, earlier)
        if not judged.passed:
            raise ConflictError(
                f"{spec.name} is blocked beside what is served: {' '.join(judged.reasons)}", where=key,
                next_step="Mend the source or the rule, and order another backfill.",
            )  # fmt: skip
        self.publisher.require_files(manifest)
        promoted = PromotedView(
            spec.name, spec.definition_version, manifest.id, manifest.as_of, None if before is None else before.id,
            None if before is None else before.as_of, judged.outcome, judged.findings,
            self.publisher.missing_events([manifest]).get(manifest.id, 0),
        )  # fmt: skip
        return promoted, manifest, spec


def _verdict(
    partition: BackfillPartition,
    view: PromotedView,
    manifest: SnapshotManifest,
    reason: str,
    principal: str,
    now: datetime,
    number: int,
) -> Verdict:
    return msgspec.structs.replace(
        # Each promotion has its own: what was rolled back may be promoted again.
        verdict_of(partition, verdict_id(f"{partition.run}/{number}", partition.key)),
        outcome=view.outcome,
        findings=view.findings,
        manifest=manifest,
        reason=reason,
        principal=principal,
        created_at=now,
    )


def _none_kept(run: str) -> NotFoundError:
    return NotFoundError(
        f"Nothing is kept of the backfill {run}.", where="run",
        next_step="It was discarded, or has not come to its first partition: `antiphon features backfills` lists them.",
    )  # fmt: skip
