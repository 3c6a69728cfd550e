"""The batch side of a comparison: a view's source read once, and its values at many moments of what was known then.

Invariants: nothing here was written by the online path: rows come from the source, or from the lake as batch wrote
them, and from the log; sealed files and the overlay are not looked at. Whatever the rows are read from, they are those
that the snapshot read, and the log's after it: where that cannot be had, :attr:`BatchSide.basis` is ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from antiphon.catalog.features.skew_reports import Basis
from antiphon.core.clock import microseconds
from antiphon.core.errors import AntiphonError, CorruptionError
from antiphon.definitions.objects import is_objects
from antiphon.definitions.quality import ReferenceRule
from antiphon.features.lake.content import Lake
from antiphon.features.monitoring.skew.lake_state import (
    Entity,
    KeptTiles,
    SourceQuery,
    entity_table,
    kept_events,
    kept_tiles,
    with_base,
)
from antiphon.features.offline.batch_values import BatchValue, values_at
from antiphon.features.offline.compute import digest_of, files_of, relation_of
from antiphon.features.plan import ViewPlan, midnight_before
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import FileSource, OpenedSource, opened
from antiphon.features.sources.source_rows import ROWS, LoadedRows, load_rows, one_of_each

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class BatchSide:
    """The rows that one snapshot and the log after it could know, of some entities. ``basis`` is what they were read
    from; ``None``: from a source that is not what the snapshot read, and ``lost`` says why."""

    connection: duckdb.DuckDBPyConnection
    query: SourceQuery
    basis: Basis | None
    kept: KeptTiles | None = None
    lost: str = ""

    def values(
        self, entities: Sequence[Entity], as_of: int, through: int | None
    ) -> dict[Entity, dict[str, BatchValue | str]]:
        """Every feature of these entities as of a moment (microseconds), from events with ``offset <= through``; in
        words why there is none."""
        plan = self.query.plan
        keys = plan.key_columns
        self.connection.register("asked_entities", entity_table(dict.fromkeys(entities), keys))
        known = [] if through is None else [f"(log_offset IS NULL OR log_offset <= {through})"]
        if not plan.fitted_windows:
            these = " AND ".join(f"asked.{key} = every.{key}" for key in keys)
            known.append(f"EXISTS (SELECT 1 FROM asked_entities AS asked WHERE {these})")
        filtered = f" WHERE {' AND '.join(known)}" if known else ""
        rows = one_of_each(plan, f"(SELECT * FROM {ROWS} AS every{filtered})")
        self.connection.execute(f"CREATE OR REPLACE TEMP TABLE known_rows AS {rows}")
        same = " AND ".join(f"asked.{key} = known.{key}" for key in keys)
        picked = ", ".join(f"asked.{key}" for key in keys)
        query = (
            f"(SELECT {picked}, known.* EXCLUDE ({', '.join(keys)}) FROM asked_entities AS asked "
            f"LEFT JOIN known_rows AS known ON {same})"
        )
        fitted_at = midnight_before(min(as_of, microseconds(self.query.manifest.as_of)))
        try:
            computed = values_at(self.connection, plan, as_of, fitted_at=fitted_at, rows=query, together="known_rows")
            found: dict[Entity, dict[str, BatchValue | str]] = {entity: dict(values) for entity, values in computed}
            if self.kept is not None:
                with_base(self.connection, plan, self.kept, found, as_of, fitted_at, "known_rows")
            return found
        finally:
            self.connection.unregister("asked_entities")


def batch_side(
    connection: duckdb.DuckDBPyConnection, query: SourceQuery, *, lake: Lake, log: LogReader | None
) -> BatchSide:
    """Read the source as the snapshot saw it: the source itself while it is that, else the files that it was made from
    while they lie there unchanged, else what the snapshot keeps in the lake; last, the source as it is now. Raises the
    source's own ``SetupError``, ``UnavailableError``, ``InvalidInputError`` or ``CorruptionError`` when nothing of that
    can be read."""
    failed: AntiphonError | None = None
    loaded: LoadedRows | None = None
    if not _looks_elsewhere(query.plan):
        try:
            if (own := _own_files(query)) is not None:
                basis = _from_files(connection, query, log, own)
                if basis is not None:
                    return BatchSide(connection, query, basis)
            else:
                loaded = _loaded(connection, query, log)
                if loaded.source_hash == query.manifest.source_hash:
                    return BatchSide(connection, query, "source")
        except AntiphonError as error:
            failed = error
    try:
        before = kept_events(connection, query, lake)
        kept = kept_tiles(connection, query, lake) if query.plan.unbounded else None
        load_rows(
            connection, query.plan, scope=query.scope, log=log, through=query.through, entities=query.among,
            merged=False, before=before,
        )  # fmt: skip
        return BatchSide(connection, query, "lake", kept=kept)
    except CorruptionError as error:
        lost = "the snapshot's files are gone from the lake" if "has no file" in error.what else error.what
    except AntiphonError as error:
        lost = error.what
    if failed is not None:
        raise failed
    if loaded is None:
        _loaded(connection, query, log)
    return BatchSide(connection, query, None, lost=lost)


def _own_files(query: SourceQuery) -> list[Path] | None:
    """The very files that the snapshot was made from; ``None`` when its source is no files, or nobody knows which."""
    source, files = query.plan.spec.source, query.manifest.read.files
    return [Path(path) for path, _ in files] if source.path is not None and source.sql is None and files else None


def _from_files(
    connection: duckdb.DuckDBPyConnection, query: SourceQuery, log: LogReader | None, paths: list[Path]
) -> Basis | None:
    """Load the files that the snapshot was made from; ``None``: one of them changed or is gone.

    They are hashed before they are read, which spares reading what changed, and after it, so that a change meanwhile is
    seen.
    """
    source, were = query.plan.spec.source, query.manifest.read.files
    if is_objects(source.path):
        return _from_objects(connection, query, log)
    for path, sha256 in were:
        if not Path(path).is_file() or digest_of(path) != sha256:
            return None
    if _loaded(connection, query, log, FileSource(relation_of(paths), "", tuple(map(str, paths)))).files != were:
        return None
    try:
        return "source" if files_of(source.path or "") == paths else "files"
    except AntiphonError:
        return "files"


def _from_objects(connection: duckdb.DuckDBPyConnection, query: SourceQuery, log: LogReader | None) -> Basis | None:
    """The same of objects: their store is asked once for the connection, so that nothing changes meanwhile."""
    rows = opened(connection, query.plan.spec.source)
    if rows is None:
        return None
    rows, were = rows.hashed(), dict(query.manifest.read.files)
    now = dict(zip(rows.files, rows.contents(), strict=True))
    if any(now.get(name) != sha256 for name, sha256 in were.items()):
        return None
    added = [name for name in rows.files if name not in were]
    _loaded(connection, query, log, rows.without(added))
    return "files" if added else "source"


def _loaded(
    connection: duckdb.DuckDBPyConnection, query: SourceQuery, log: LogReader | None, rows: OpenedSource | None = None
) -> LoadedRows:
    return load_rows(
        connection,
        query.plan,
        scope=query.scope,
        log=log,
        known_by=microseconds(query.manifest.as_of),
        through=query.through,
        entities=query.among,
        merged=False,
        rows=rows,
    )


def _looks_elsewhere(plan: ViewPlan) -> bool:
    """Tell whether a rule quarantines rows by another file, of which no hash is kept."""
    rules = plan.spec.quality.quarantining if plan.spec.quality is not None else ()
    return any(isinstance(rule, ReferenceRule) for rule in rules)
