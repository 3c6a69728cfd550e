"""Moves the online store: sealed snapshots are built again from the lake, and streamed events are copied.

Invariants: a snapshot is a function of its lake files, so it is not copied; it is built in the target and every byte of
it is read. An overlay's offsets move last, together with what was counted, so a copy that was cut off is gone on with;
an older overlay in the target, as the way back finds it, is brought up to date by what came after its offsets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from itertools import islice

import msgspec

from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.online.overlay_records import (
    OverlayEvent,
    OverlayState,
    ProgressMove,
    ViewPartition,
    encode_event,
)
from antiphon.features.ports import OnlineSnapshots, StreamedOverlay
from antiphon.features.publication.publish import KEPT_PUBLICATIONS, kept_publications

_BATCH = 1_000
Tell = Callable[[int, int], object]
"""Takes the snapshots, or the events, done and in all."""


class MovedOverlay(msgspec.Struct, frozen=True):
    """Streamed events of one view that are the same in both stores: the consumer's offset, how many, their digest (the
    sum of the SHA-256 of each, independent of order), and how many were written now."""

    view: str
    offset: int
    events: int
    sha256: str
    copied: int


def needed_snapshots(catalog: FeatureCatalog) -> list[tuple[str, str]]:
    """Snapshots that stay in the online store, of the publications that are kept for a rollback, as (key, snapshot)."""
    kept = kept_publications(catalog, KEPT_PUBLICATIONS)
    needed = {(key, snapshot) for one in kept for key, snapshot in one.snapshots.items()}
    return sorted(
        (key, snapshot) for key, snapshot in needed if catalog.snapshots.pruned_at(catalog.scope, snapshot) is None
    )


def build_snapshots(
    catalog: FeatureCatalog,
    target: OnlineSnapshots,
    tell: Tell = lambda done, total: None,
    lost: Collection[str] = (),
    *,
    ahead: bool = False,
) -> tuple[int, int]:
    """Build the needed snapshots of a scope from the catalog's lake, unless they are there whole; return how many are
    there, and how many were built now.

    Args:
        lost: files without which snapshots are left out, for the healer to ask their source.
        ahead: leave out snapshots whose files are not in the lake yet; they were published since it was copied.

    Raises:
        CorruptionError: the lake has lost a file of one. UnavailableError: the store is full or away.
    """
    needed = needed_snapshots(catalog)
    there = built = 0
    for done, (key, snapshot) in enumerate(needed, 1):
        manifest, spec = catalog.snapshots.get(catalog.scope, snapshot), catalog.definition(key)
        if any(file.path in lost or (ahead and not catalog.lake.has(file.path)) for file in manifest.files):
            continue
        made = target.build(manifest, spec, catalog.lake)
        if not made and target.condemn(catalog.scope, manifest.view, snapshot):
            made = target.build(manifest, spec, catalog.lake)
        if not target.whole(catalog.scope, manifest.view, snapshot):
            raise CorruptionError(
                f"The snapshot {snapshot} of {key} is damaged as soon as it was built.",
                where="online store",
                next_step="Look at the disk or the server of the target; the project goes on with the store that it "
                "has.",
            )
        there, built = there + 1, built + made
        tell(done, len(needed))
    return there, built


def copy_overlay(
    source: StreamedOverlay, target: StreamedOverlay, views: dict[bytes, str], publication: int
) -> list[MovedOverlay]:
    """Bring the streamed events of views, prefix to key, into the target, and compare them.

    Args:
        publication: number of the latest one, as of which the source was pruned.

    Raises:
        ConflictError: the source is being filled again, or the target holds events that this project does not have.
        UnavailableError: a store is away or full.
    """
    ours, theirs = source.read(views), target.read(views)
    if any(map(ours.lacking, views)):
        raise ConflictError(
            "The online store was damaged and is being filled again from the log.",
            where="online store",
            next_step="Let the project run until `antiphon features streams` says that it has caught up.",
        )
    copied = dict.fromkeys(views, 0)
    for view in views:
        if any(one.offset > own.offset for one, own in zip(theirs.progress[view], ours.progress[view], strict=True)):
            raise _foreign(views[view])
        copied[view] = _copy(source, target, view, ours, theirs, publication)
    moved, there = [], target.read(views)
    for view, key in views.items():
        floor = max(ours.pruned[view], there.pruned[view])
        found = _digest(source.events(view), floor), _digest(target.events(view), floor)
        if found[0] != found[1] or there.progress[view] != ours.progress[view]:
            raise _foreign(key)
        moved.append(MovedOverlay(key, there.offsets[view], *found[0], copied[view]))
    target.caught_up()
    return moved


def _copy(
    source: StreamedOverlay,
    target: StreamedOverlay,
    view: bytes,
    ours: OverlayState,
    theirs: OverlayState,
    publication: int,
) -> int:
    """Bring one view's events into the target; return how many were written, but for those of a rollback."""
    pruned = ours.pruned[view]
    if pruned < theirs.pruned[view]:  # A rollback has brought back what the target had pruned.
        back = (one for one in source.events(view) if pruned < one.event.offset <= theirs.pruned[view])
        target.restore(view, pruned, back, theirs.pruned[view], publication)
    elif pruned > theirs.pruned[view]:
        target.prune(view, pruned, publication)
    if ours.progress[view] == theirs.progress[view]:
        return 0
    after, through = max(theirs.offsets[view], pruned), max(one.offset for one in ours.progress[view])
    lacking = (one for one in source.events(view) if after < one.event.offset <= through)
    written = 0
    while some := list(islice(lacking, _BATCH)):
        target.apply({}, some)
        written += len(some)
    target.apply(
        {
            ViewPartition(view, number): ProgressMove(before, now)
            for number, (before, now) in enumerate(zip(theirs.progress[view], ours.progress[view], strict=True))
            if before != now
        },
        (),
    )
    return written


def _digest(events: Iterable[OverlayEvent], floor: int) -> tuple[int, str]:
    total = number = 0
    for one in events:
        if one.event.offset > floor:
            total += int.from_bytes(hashlib.sha256(one.entity + encode_event(one.event)).digest(), "big")
            number += 1
    return number, f"{total % 2**256:064x}"


def _foreign(key: str) -> ConflictError:
    return ConflictError(
        f"The target's streamed events of {key} are not this project's.",
        where="online store",
        next_step="Remove what is there (the folder `online`; on Redis the keys TENANT:ENVIRONMENT:*), or name another "
        "server or database; the project goes on with the store that it has.",
    )
