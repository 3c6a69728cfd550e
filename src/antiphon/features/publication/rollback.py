"""Rollback: a view's earlier snapshot is published again, as publication N + 1.

Invariant: what the old snapshot needs to be read (its online file, the streamed events after it) is in place before the
flip, and no collection of garbage takes it: files are spared for an hour, events by the fence of their view
(``prune_fence``). Flip, hold and evidence are one transaction: a crash before it leaves files without a reference,
after it everything is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.features.publications import Publication
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.publication.publish import Publisher, race
from antiphon.features.selection import unknown_views

MOST_BACK = 1_000
"""Number of publications searched for an earlier snapshot."""


class Move(msgspec.Struct, frozen=True):
    """The rollback of one definition version of a view.

    Attributes:
        before: the current snapshot; ``None`` without one.
        snapshot: the restored one, with its ``as_of`` and ``made_at``.
        last_in: the last publication in which it was current.
        events: number of pruned streamed events that are read again from the log.
    """

    view: str
    definition_version: str
    before: str | None
    snapshot: str
    as_of: datetime
    made_at: datetime
    last_in: int
    events: int = 0

    @property
    def key(self) -> str:
        """``view@definition_version``."""
        return f"{self.view}@{self.definition_version}"


class ViewRollback(msgspec.Struct, frozen=True):
    """Result of a rollback, or of its dry run, of which ``publication`` is ``None``; ``held`` when the views are put on
    hold until they are resumed."""

    publication: int | None
    moves: tuple[Move, ...]
    held: bool
    reason: str
    principal: str


@dataclass
class SnapshotRollback:
    """Rolls back views of one scope, puts them on hold and resumes them, each in a ``transaction`` of the catalog and
    on record by ``audit`` within it; ``declared`` are the refreshed views by ``view@definition_version``."""

    catalog: FeatureCatalog
    publisher: Publisher
    transaction: Callable[[], AbstractContextManager[Connection]]
    audit: Callable[..., Any]
    declared: Callable[[], Mapping[str, FeatureViewSpec]]

    @property
    def _scope(self) -> Scope:
        return self.catalog.scope

    def view(
        self,
        view: str | None,
        to: str | int | None = None,
        *,
        reason: str,
        principal: str,
        hold: bool = False,
        dry_run: bool = False,
        seen: int | None = None,
    ) -> ViewRollback:
        """Publish an earlier snapshot of a view again; every other view stays as it is.

        Args:
            view: its name; ``None`` for every view of publication ``to`` in a definition version that is still
                declared.
            to: a snapshot, or a publication's number; by default the snapshot that was current before this one.
            hold: nothing replaces it until :meth:`resume`.
            seen: the publication that the caller has seen as current.

        Raises:
            NotFoundError: there is no such view, snapshot or publication, or nothing earlier.
            ConflictError: it is current already, was never published, waits for the end of an embargo, its definition
                version is not declared any more, or ``seen`` is not current any more.
            CorruptionError: its files are gone.
        """
        require_reason(reason)
        history = self.catalog.publications.list(self._scope, MOST_BACK)
        current = history[0].number if history else 0
        if seen is not None and seen != current:
            raise ConflictError(
                f"Publication {seen} is not current any more; {current} is.", where="publication",
                next_step="Look again at what is published now.",
            )  # fmt: skip
        moves = self._all_moves(to, history) if view is None else self._moves(view, to, history)
        return self._flip(moves, reason=reason, principal=principal, hold=hold, dry_run=dry_run, seen=seen)

    def _all_moves(self, to: str | int | None, history: Sequence[Publication]) -> tuple[Move, ...]:
        assert isinstance(to, int)
        then = self.catalog.publications.get(self._scope, to)
        current, declared = history[0], self.declared()
        moves = tuple(
            self._move(key, snapshot, then.number, current)
            for key, snapshot in sorted(then.snapshots.items())
            if key in declared and current.snapshots.get(key) != snapshot
        )
        if not moves:
            raise ConflictError(
                f"Every view has the snapshot of publication {to} already.", where=str(self._scope),
                next_step="Name an earlier publication: `antiphon features history VIEW` shows what was made when.",
            )  # fmt: skip
        return moves

    def hold(self, view: str, *, reason: str, principal: str) -> None:
        """Put a view on hold: refreshes replace its published snapshot no more; raises ``NotFoundError`` when no such
        view is declared."""
        require_reason(reason)
        self._require_declared(view)
        with self.transaction() as connection:
            self.catalog.holds.put(self._scope, view, reason=reason, principal=principal, within=connection)
            detail = {"view": view, "reason": reason}
            self.audit(self._scope, principal, "features.hold", view, detail, within=connection)

    def resume(self, view: str, *, reason: str, principal: str) -> None:
        """End the hold of a view, from its next refresh on; raises ``ConflictError`` when it is not held."""
        require_reason(reason)
        with self.transaction() as connection:
            if not self.catalog.holds.remove(self._scope, view, within=connection):
                raise ConflictError(f"The view {view!r} is not held.", where=str(self._scope))
            detail = {"view": view, "reason": reason}
            self.audit(self._scope, principal, "features.resume", view, detail, within=connection)

    def _moves(self, view: str, to: str | int | None, history: Sequence[Publication]) -> tuple[Move, ...]:
        declared = self._require_declared(view)
        current = history[0] if history else None
        if current is None:
            raise NotFoundError("Nothing is published yet.", where=str(self._scope), next_step="Refresh the view.")
        if isinstance(to, str):
            return (self._to_snapshot(view, to, history, declared),)
        if to is not None:
            then = self.catalog.publications.get(self._scope, to)
            named = {key: snapshot for key, snapshot in then.snapshots.items() if key.partition("@")[0] == view}
            if not named:
                raise NotFoundError(f"Publication {to} has no snapshot of {view!r}.", where=str(self._scope))
            found = tuple(
                self._move(key, snapshot, then.number, current) for key, snapshot in named.items() if key in declared
            )
            if not found:
                raise undeclared(view, next(iter(named)).partition("@")[2])
        else:
            found = tuple(
                self._move(key, earlier.snapshots[key], earlier.number, current)
                for key in declared
                if (earlier := _earlier(key, history)) is not None
            )
            if not found:
                raise NotFoundError(
                    f"The last {len(history)} publications have one snapshot of {view!r}.", where=str(self._scope),
                    next_step="There is nothing to go back to; `antiphon features history` shows what was made.",
                )  # fmt: skip
        moved = tuple(one for one in found if one.before != one.snapshot)
        if not moved:
            raise _current(found[0].snapshot)
        return moved

    def _to_snapshot(
        self, view: str, to: str, history: Sequence[Publication], declared: Mapping[str, FeatureViewSpec]
    ) -> Move:
        manifest = self.catalog.snapshots.get(self._scope, to)
        if manifest.view != view:
            raise InvalidInputError(f"{to} is a snapshot of {manifest.view}, not of {view}.", where="to")
        waiting = next((one for one in self.catalog.staged.list(self._scope) if one.snapshot == to), None)
        if waiting is not None and waiting.publish_at > self.catalog.clock.now():
            raise ConflictError(
                f"{to} is under an embargo until {waiting.publish_at:%Y-%m-%d %H:%M:%SZ}.", where=str(self._scope),
                next_step="Wait for its end, or name a snapshot that was published.",
            )  # fmt: skip
        if manifest.key not in declared:
            raise undeclared(view, manifest.definition_version)
        last = next((one for one in history if one.snapshots.get(manifest.key) == to), None)
        if last is None:
            raise ConflictError(
                f"{to} was never published, or longer ago than {len(history)} publications.", where=str(self._scope),
                next_step="A rollback brings back what was served; `antiphon features history` says what the gates "
                "said about the others.",
            )  # fmt: skip
        if history[0].snapshots.get(manifest.key) == to:
            raise _current(to)
        return self._move(manifest.key, to, last.number, history[0])

    def _move(self, key: str, snapshot: str, last_in: int, current: Publication) -> Move:
        try:
            manifest = self.catalog.snapshots.get(self._scope, snapshot)
        except NotFoundError as error:
            raise CorruptionError(
                f"The snapshot {snapshot} is gone.", where=str(self._scope), next_step="Name another one, or refresh."
            ) from error
        return Move(
            manifest.view, manifest.definition_version, current.snapshots.get(key), snapshot, manifest.as_of,
            manifest.created_at, last_in, self.publisher.missing_events([manifest]).get(snapshot, 0),
        )  # fmt: skip

    def _flip(
        self, moves: tuple[Move, ...], *, reason: str, principal: str, hold: bool, dry_run: bool, seen: int | None
    ) -> ViewRollback:
        specs, going = self.declared(), []
        for one in moves:
            if one.key not in specs:  # A release that pinned it was in use until now.
                raise undeclared(one.view, one.definition_version)
            going.append((self.catalog.snapshots.get(self._scope, one.snapshot), specs[one.key]))
        for manifest, _ in going:
            self.publisher.require_files(manifest)
        if dry_run:
            return ViewRollback(None, moves, hold, reason, principal)
        published = self._published(moves, going, reason=reason, principal=principal, hold=hold, seen=seen)
        return ViewRollback(published.number, moves, hold, reason, principal)

    def _published(
        self,
        moves: tuple[Move, ...],
        going: Sequence[tuple[SnapshotManifest, FeatureViewSpec]],
        *,
        reason: str,
        principal: str,
        hold: bool,
        seen: int | None,
    ) -> Publication:
        views = sorted({one.view for one in moves})

        def evidence(connection: Connection, number: int) -> None:
            for view in views if hold else ():
                self.catalog.holds.put(self._scope, view, reason=reason, principal=principal, within=connection)
            detail = {
                "views": views, "publication": number, "to": min(one.last_in for one in moves),
                "state": "held" if hold else "free", "reason": reason,
            }  # fmt: skip
            subject = ",".join(views)[:200]
            self.audit(self._scope, principal, "features.rollback", subject, detail, within=connection)

        def attempt(number: int) -> Publication:
            return flip(self.publisher, self.transaction, going, number, evidence, reason=reason, principal=principal)

        if seen is not None:
            return attempt(seen)
        return race(self.catalog, lambda current: attempt(current.number if current is not None else 0))

    def _require_declared(self, view: str) -> dict[str, FeatureViewSpec]:
        found = {key: spec for key, spec in self.declared().items() if spec.name == view}
        if not found:
            raise unknown_views([view], {spec.name for spec in self.declared().values()}, str(self._scope))
        return found


def flip(
    publisher: Publisher,
    transaction: Callable[[], AbstractContextManager[Connection]],
    going: Sequence[tuple[SnapshotManifest, FeatureViewSpec]],
    expected: int,
    evidence: Callable[[Connection, int], None],
    *,
    before: Callable[[Connection], None] = lambda connection: None,
    reason: str,
    principal: str,
) -> Publication:
    """Make recorded snapshots current in publication ``expected + 1``, also ones older than the current ones, and
    return it served. In the same transaction ``before`` is called, and ``evidence`` is written with its number.

    Raises:
        WriteConflictError: another publication came first.
        NotFoundError: files of a snapshot were pruned. CorruptionError: they are gone.
    """
    catalog = publisher.catalog
    for manifest, spec in going:
        publisher.bring_back(manifest, spec, expected + 1)
    changes = {spec.key: manifest.id for manifest, spec in going}
    with transaction() as connection:
        before(connection)
        made = catalog.publications.publish(
            catalog.scope, changes, expected=expected, reason=reason, principal=principal, within=connection
        )
        evidence(connection, made.number)
    return catalog.publications.serve(made)


def _earlier(key: str, history: Sequence[Publication]) -> Publication | None:
    """The last publication with another snapshot than the current one has."""
    current = history[0].snapshots.get(key)
    return next((one for one in history if one.snapshots.get(key) not in (None, current)), None)


def require_reason(reason: str) -> None:
    """Raise ``InvalidInputError`` where none is given."""
    if not reason.strip():
        raise InvalidInputError("A reason is missing.", where="reason", next_step="Say why, for the record.")


def _current(snapshot: str) -> ConflictError:
    return ConflictError(f"{snapshot} is current already.", where="to", next_step="Name an earlier one.")


def undeclared(view: str, version: str) -> ConflictError:
    """The error about a definition version that nothing declares any more."""
    return ConflictError(
        f"The definition version {version} of {view!r} is not declared any more, and no release in use pins it.",
        where="to",
        next_step="Apply the definition as it was then, and roll back after that.",
    )
