"""Moves a project to other stores: ``move`` is the whole of it, from top to bottom.

Invariants: until the switch the project's stores are only read, and what was copied is gone on with by the next move.
The switch is one transaction of the catalog that counts before it, with the record of the move in its audit log. If the
catalog moves, the target has the marks of all stores, the homes of all streams and the same record by then, and nothing
opens it before; else they are in that transaction. The settings file is replaced last; a project that still has the old
one is refused by the marks. ``live.py`` moves a project that runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.features.events import EventLog, StreamHomes
from antiphon.catalog.learning.models import ModelVersion
from antiphon.catalog.moves import count_move
from antiphon.core.errors import ConflictError, CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.lake.content import Lake
from antiphon.features.online.overlay_records import view_prefix
from antiphon.governance.audit.record import Act
from antiphon.learning.registry.files import ModelFiles
from antiphon.operations.preflight import directory_lock
from antiphon.services.governance.identity import at_terminal
from antiphon.services.moving import settings_file
from antiphon.services.moving.catalog import CatalogMove, MovedTable, end_move, require_unused
from antiphon.services.moving.files import CheckedFiles, MovedFiles, copy_files, copy_models, missing
from antiphon.services.moving.log import MovedStream, copy_stream
from antiphon.services.moving.marks import MOVED_TO, read_marks, require_present, set_marks, store_places
from antiphon.services.moving.online import MovedOverlay, build_snapshots, copy_overlay, needed_snapshots
from antiphon.services.moving.order import MoveOrder, MoveOrders
from antiphon.services.moving.sides import Side, moving_parts, sides

MOVE = "project.move"
"""The action that records a move: its subject is the project, its detail where each part was and where it is."""

Tell = Callable[[str, int, int], object]
"""Takes what is moved, how much of it is done, and how much there is."""


class MovedPart(msgspec.Struct, frozen=True):
    """One part of a project.

    Attributes:
        items: tables' rows, files, snapshots or events; ``moved`` of them were written now, ``bytes`` in all.
        seconds: how long it took, the check included.
    """

    part: str
    source: str
    target: str
    items: int
    moved: int
    bytes: int = 0
    seconds: float = 0.0


class ProjectMove(msgspec.Struct, frozen=True):
    """A project that was moved, or the plan of its move.

    Attributes:
        tables, streams, overlays: what was compared on both sides, with its digest.
        lost: files that the source had lost before.
        frozen_seconds: how long the project could not be written to; of a live move, how long no gateway took requests.
        expected_seconds: how long that would last, as far as a copy ahead has shown.
        processes: by kind, pid and host those that went on with the new stores in a live move, or those that would have
            to begin again; ``missing`` are not back yet.
        passes: seconds of each copy ahead of the freeze.
    """

    parts: tuple[MovedPart, ...] = ()
    tables: tuple[MovedTable, ...] = ()
    streams: tuple[MovedStream, ...] = ()
    overlays: tuple[MovedOverlay, ...] = ()
    lost: tuple[str, ...] = ()
    frozen_seconds: float = 0.0
    expected_seconds: float | None = None
    processes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    passes: tuple[float, ...] = ()


def copy_ahead(root: Path, text: str, tell: Tell = lambda *_: None) -> ProjectMove:
    """Copy what a move will copy while the project goes on, so that the move itself is short; nothing is switched.

    Raises:
        As :func:`move`, but for processes that have the project open.
    """
    with sides(root, text) as (source, target):
        return ahead_pass(source, target, tell)


def ahead_pass(source: Side, target: Side, tell: Tell) -> ProjectMove:
    """As :func:`copy_ahead`, between stores that are open; its seconds are remembered until the move."""
    began = time.monotonic()
    moving, parts = moving_parts(source, target), list[MovedPart]()
    lost = _copy_files(source, target, moving, parts, tell)
    if "catalog" in moving:
        catalog = CatalogMove(source.store.database, target.store.database, ahead=True)
        _, spent = _timed(catalog.copy, _rows_telling(tell), _elsewhere(moving))
        parts.append(_part("catalog", source, target, catalog.written, catalog.written, 0, spent))
    if "log" in moving:
        parts.append(_copy_log(source, target, tell)[0])
    if "online" in moving:
        (snapshots, built), spent = _timed(_build_snapshots, source, target, tell, lost, True)
        parts.append(_part("online", source, target, snapshots, built, 0, spent))
    seconds = time.monotonic() - began
    _seconds_file(source).write_text(f"{seconds:.3f}", encoding="ascii")
    return ProjectMove(tuple(parts), lost=tuple(lost), passes=(seconds,))


def remembered_pass(source: Side) -> float | None:
    """Seconds of the last copy ahead, if one was made since the last move."""
    try:
        return float(_seconds_file(source).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def move(root: Path, text: str, tell: Tell = lambda *_: None, *, leave_lost: bool = False) -> ProjectMove:
    """Move the project in ``root`` to the stores that a settings file of this text names, or go on with a move that was
    cut off. Nothing may run.

    Args:
        leave_lost: also without files that the project has lost already.

    Raises:
        InvalidInputError: the settings differ in more than stores, or in none. ConflictError: a process has the project
            open, or a target holds what is another project's. SetupError: a store refuses access, or a target's.
        CorruptionError: files are lost, or what was written is not what was read; the project stays as it was.
        UnavailableError: a store is away or full.
    """
    began = time.monotonic()
    with sides(root, text) as (source, target), directory_lock(source.store.paths.run):
        moving_parts(source, target)
        if ended(root, text, source, target):
            return ProjectMove()
        require_unused(source.store.database)
        moved = last_pass(root, text, source, target, tell, leave_lost=leave_lost)
        return msgspec.structs.replace(moved, frozen_seconds=time.monotonic() - began)


def last_pass(
    root: Path, text: str, source: Side, target: Side, tell: Tell, *, leave_lost: bool, order: MoveOrder | None = None
) -> ProjectMove:
    """Copy what is left, compare it, and switch; nothing may write to the source meanwhile. Raises as :func:`move`.

    Args:
        order: of a live move, which must still stand at the switch.
    """
    moving, parts = moving_parts(source, target), list[MovedPart]()
    lost = _copy_files(source, target, moving, parts, tell)
    _require_whole(lost, leave_lost)
    catalog = CatalogMove(source.store.database, target.store.database) if "catalog" in moving else None
    streams: list[MovedStream] = []
    if "log" in moving:  # Before the rows: a log on a server records in the catalog how far it was read.
        part, streams = _copy_log(source, target, tell)
        parts.append(part)
    copying = 0.0
    if catalog is not None:
        _, copying = _timed(catalog.copy, _rows_telling(tell), _elsewhere(moving))
    overlays: list[MovedOverlay] = []
    if "online" in moving:
        (snapshots, built), spent = _timed(_build_snapshots, source, target, tell, lost)
        overlays, more = _timed(_copy_overlays, source, target)
        events, copied = sum(one.events for one in overlays), sum(one.copied for one in overlays)
        parts.append(_part("online", source, target, snapshots + events, built + copied, 0, spent + more))

    act = _act(source, target, moving, live=order is not None)
    marks = _marks(source, target, moving)

    def change(connection: Connection, leaving: Connection) -> None:
        set_marks(connection, marks)
        for one in streams:
            StreamHomes(target.store.database).switch(connection, one.scope, one.stream, one.home)
        source.store.audit.append_all([act], leaving, alike=None if connection is leaving else connection)

    def decide(connection: Connection) -> None:
        _require_ends(source, streams)
        MoveOrders(source.store).decide(connection, order)

    tables: tuple[MovedTable, ...] = ()
    if catalog is not None:
        tables, spent = _timed(catalog.switch, change, _elsewhere(moving), decide, _telling(tell, "rows compared"))
        rows = sum(table.rows for table in tables)
        parts.append(_part("catalog", source, target, rows, catalog.written, 0, copying + spent))
    else:
        with source.store.database.transaction() as connection:
            require_unused(source.store.database)
            decide(connection)
            change(connection, connection)
            count_move(connection, source.store.backend.place)
    settings_file.replace(root, text)
    CheckedFiles.forget(source.store.paths.run)
    return ProjectMove(tuple(parts), tables, tuple(streams), tuple(overlays), tuple(lost))


def plan(root: Path, text: str) -> ProjectMove:
    """Tell what a move would write, without writing; raises as :func:`move`, for what can be seen before."""
    with sides(root, text, dry=True) as (source, target):
        moving = moving_parts(source, target)
        parts = []
        for part, ours, theirs in _file_stores(source, target):
            if part in moving:
                found = missing(ours, theirs)
                parts.append(_part(part, source, target, found.files, found.copied, found.copied_bytes, 0.0))
        database = source.store.database
        if "catalog" in moving:
            counts = [sa.select(sa.func.count()).select_from(table) for table in schema.metadata.sorted_tables
                      if table not in _elsewhere(moving)]  # fmt: skip
            rows = sum(int(database.scalar(count)) for count in counts)
            parts.append(_part("catalog", source, target, rows, rows, 0, 0.0))
        if "log" in moving:
            events = sum(source.store.events.end(scope, stream) for scope, stream in _streams(source))
            parts.append(_part("log", source, target, events, events, 0, 0.0))
        if "online" in moving:
            snapshots = sum(len(needed_snapshots(_features(source, scope))) for scope in _scopes(source))
            parts.append(_part("online", source, target, snapshots, snapshots, 0, 0.0))
        return ProjectMove(tuple(parts), lost=tuple(_lost(source)) if moving & {"lake", "online"} else ())


def ended(root: Path, text: str, source: Side, target: Side) -> bool:
    """End a move that was decided and then cut off; tell whether there is one."""
    if read_marks(source.store.database).get(MOVED_TO) != target.places["catalog"]:
        return False
    end_move(source.places["catalog"], target.store.database)
    require_present(target.store.database, store_places(target.store.settings))
    settings_file.replace(root, text)
    return True


def _file_stores(source: Side, target: Side) -> Iterator[tuple[str, Lake, Lake]]:
    yield "lake", source.features.lake, target.features.lake
    yield "files", source.contents, target.contents


def _named(source: Side, part: str) -> Iterator[str]:
    """Files of a store that the catalog names."""
    if part == "files":
        paths = source.store.database.rows(sa.select(schema.files.c.path))
        yield from (str(row.path) for row in paths)
        return
    store = source.store
    for scope in _scopes(source):
        for manifest in store.snapshots.list(scope, limit=1_000_000, pruned=False, backfilled=True):
            yield from (file.path for file in manifest.files)
        yield from store.datasets.files(scope)
        yield from store.verdicts.files(scope)


def _models(source: Side) -> list[ModelVersion]:
    return [version for scope in _scopes(source) for version in source.store.models.list(scope)]


def _lost(source: Side) -> Iterator[str]:
    lake = source.features.lake
    yield from (path for path in sorted(set(_named(source, "lake"))) if not lake.has(path))


def _require_whole(lost: list[str], leave: bool) -> None:
    if lost and not leave:
        raise CorruptionError(
            f"The project has lost {len(lost)} of its files, the first is {lost[0]}.",
            where="lake",
            next_step="Restore them from a backup, or refresh and rebuild what needs them; `antiphon migrate "
            "--leave-lost` moves the project without them.",
        )


def _scopes(source: Side) -> list[Scope]:
    return sorted({*source.features.scopes(), source.store.scope})


def _marks(source: Side, target: Side, moving: set[str]) -> dict[str, str]:
    """The places of the project's stores, and those to which another scope's part of them has moved: that scope's
    project, whose settings name the old place, is refused as well. A scope that had left the old place before keeps its
    mark: files that a move leaves behind are no part of this one."""
    stores = {"lake": source.features.lake, "online": source.features.online, "files": source.contents}
    moved = {part: store.scopes() for part, store in stores.items() if part in moving}
    before, settings = store_places(source.store.settings, moved), target.store.settings
    known = read_marks(source.store.database)
    elsewhere = {name for name, place in before.items() if known.get(name, place) != place}
    marks = {name: place for name, place in store_places(settings, moved).items() if name not in elsewhere}
    return marks | store_places(settings)


def _features(source: Side, scope: Scope, lake: Lake | None = None) -> FeatureCatalog:
    return FeatureCatalog(source.store.database, scope, lake or source.features.lake)


def _streams(source: Side) -> list[tuple[Scope, str]]:
    """Streams of the log that counts."""
    homes, here = StreamHomes(source.store.database), isinstance(source.store.events, EventLog)
    return [(scope, stream) for scope, stream, home in homes.all() if (home.log is None) is here]


def _copy_files(source: Side, target: Side, moving: set[str], parts: list[MovedPart], tell: Tell) -> list[str]:
    """Copy lake, files and models, as far as they move; return what is lost."""
    lost = list(_lost(source)) if "online" in moving and "lake" not in moving else []  # Snapshots are built from them.
    found: MovedFiles
    for part, ours, theirs in _file_stores(source, target):
        if part in moving:
            checked = CheckedFiles(source.store.paths.run, f"{part} {target.places[part]}")
            telling = _telling(tell, f"bytes of {part}")
            try:
                found, spent = _timed(copy_files, ours, theirs, _named(source, part), telling, checked)
            finally:
                checked.close()
            lost += found.lost
            parts.append(_part(part, source, target, found.files, found.copied, found.copied_bytes, spent))
    if "models" in moving and (models := _models(source)):
        files = ModelFiles(source.store.paths.models, source.features.shared_lake)
        found, spent = _timed(copy_models, files, target.features.shared_lake, models)
        lost += found.lost
        parts.append(_part("models", source, target, found.files, found.copied, found.copied_bytes, spent))
    return lost


def _copy_log(source: Side, target: Side, tell: Tell) -> tuple[MovedPart, list[MovedStream]]:
    began = time.monotonic()
    streams = [
        copy_stream(source.store.events, target.store.events, scope, stream, _telling(tell, f"events of {stream}"))
        for scope, stream in _streams(source)
    ]
    events, copied = sum(one.events for one in streams), sum(one.copied for one in streams)
    return _part("log", source, target, events, copied, 0, time.monotonic() - began), streams


def _act(source: Side, target: Side, moving: set[str], *, live: bool) -> Act:
    """The record of the move, which the catalogs of both sides keep."""
    store, parts = source.store, sorted(moving)
    detail = {
        "kind": "live" if live else "stopped",
        "from": [f"{part} {source.places[part]}" for part in parts],
        "to": [f"{part} {target.places[part]}" for part in parts],
    }
    return store.audit.act(store.scope, at_terminal(store).id, MOVE, store.settings.project.name, detail)


def _require_ends(source: Side, streams: list[MovedStream]) -> None:
    """Refuse a switch when a stream has grown since it was copied: by a process that hung and was taken for ended."""
    for one in streams:
        if source.store.events.end(one.scope, one.stream) != one.events:
            raise ConflictError(
                "Events were appended while nothing was to be written.",
                where=f"stream {one.stream}",
                next_step="The project stays where it is; run `antiphon migrate` again.",
            )


def _build_snapshots(source: Side, target: Side, tell: Tell, lost: list[str], ahead: bool = False) -> tuple[int, int]:
    there = built = 0
    for scope in _scopes(source):
        catalog, telling = _features(source, scope, target.features.lake), _telling(tell, f"snapshots of {scope}")
        found = build_snapshots(catalog, target.features.online, telling, lost, ahead=ahead)
        there, built = there + found[0], built + found[1]
    return there, built


def _copy_overlays(source: Side, target: Side) -> list[MovedOverlay]:
    overlays = list[MovedOverlay]()
    for scope in _scopes(source):
        catalog = _features(source, scope)
        streamed = [spec.key for spec in catalog.definitions.list(scope) if spec.source.kind == "stream"]
        if streamed and source.features.has_overlay(scope):
            latest = catalog.publications.latest(scope)
            with (
                closing(source.features.open_overlay(scope)) as ours,
                closing(target.features.open_overlay(scope)) as theirs,
            ):
                views = {view_prefix(key): key for key in streamed}
                overlays += copy_overlay(ours, theirs, views, 0 if latest is None else latest.number)
    return overlays


def _elsewhere(moving: set[str]) -> list[sa.Table]:
    """Tables that a copy of the catalog leaves out: events that move between a log server and the catalog."""
    return [schema.events] if "log" in moving else []


def _seconds_file(source: Side) -> Path:
    return source.store.paths.run / f"{CheckedFiles.PREFIX}seconds"  # Forgotten with the files that were checked.


def _rows_telling(tell: Tell) -> Callable[[str, int, int], object]:
    return lambda table, done, total: tell(f"rows of {table}", done, total)


def _part(part: str, source: Side, target: Side, items: int, moved: int, size: int, seconds: float) -> MovedPart:
    return MovedPart(part, source.places[part], target.places[part], items, moved, size, seconds)


def _telling(tell: Tell, label: str) -> Callable[[int, int], object]:
    return lambda done, total: tell(label, done, total)


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    began = time.monotonic()
    found = work(*arguments)
    return found, time.monotonic() - began
