"""Incremental reading: rows that the previous snapshot has read from unchanged files and the log are taken over.

Invariant: rows taken over and new rows together are the rows of a full read. So nothing is taken over when that is not
certain: after a file changed or went, with withheld rows that become available later, for events beyond the retained
ones, after a column changed its kind, or for a rule over all rows of a source together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from antiphon.catalog.features.snapshot_facts import RuleCheck, SourceQuality
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import microseconds
from antiphon.core.errors import CorruptionError
from antiphon.core.ids import content_hash
from antiphon.definitions.nodes import Kind
from antiphon.definitions.quality import PythonRule, QualitySpec, ReferenceRule, SqlRule, UniquenessRule
from antiphon.features.expressions.compile_sql import rows_sql
from antiphon.features.lake.content import Lake
from antiphon.features.monitoring.quality.row_rules import admitted_relation
from antiphon.features.offline.compute import one_row, parquet_reader, types_of
from antiphon.features.plan import ViewPlan
from antiphon.features.sources.opened import OpenedSource
from antiphon.features.tiles.row_batches import NO_SEQUENCE

if TYPE_CHECKING:
    import duckdb

EVENTS = "taken_over_events"
"""The table of the rows that are taken over: k0 …, event_time, available_at, seq, m0 …"""


class TakenOver(msgspec.Struct, frozen=True):
    """Rows in :data:`EVENTS`, and where reading goes on.

    Attributes:
        snapshot: the one that they come from.
        files: paths that are not read again.
        offset: of the log, the last one that is in them.
        alone: nothing but the log is read beside them, whatever the source's files are now.
    """

    snapshot: SnapshotManifest
    files: frozenset[str]
    offset: int
    alone: bool = False

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Of each measure's column."""
        return self.snapshot.read.kinds


def taken_over(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    rows: OpenedSource | None,
    previous: SnapshotManifest | None,
    lake: Lake,
    *,
    as_of: int,
    through: int | None,
) -> TakenOver | str:
    """Fill :data:`EVENTS` from the snapshot before, or say in words why all of the source is read.

    Args:
        rows: the source's files with their contents' hashes; ``None`` for a stream without history.
        as_of, through: of the snapshot that is to be made.
    """
    if previous is None:
        return "there is no snapshot before"
    reason = _unsuitable(plan, rows, previous, as_of, through)
    if reason is not None:
        return reason
    known = frozenset(path for path, _ in previous.read.files)
    if rows is not None and (reason := _other_columns(connection, plan, rows, known, previous)) is not None:
        return reason
    try:
        lake.verify(previous.files[0].path, previous.files[0].sha256)
        with lake.open(previous.files[0].path) as stream:
            connection.register("taken_over_file", parquet_reader(stream))
            connection.execute(f"CREATE OR REPLACE TEMP TABLE {EVENTS} AS SELECT * FROM taken_over_file")
            connection.unregister("taken_over_file")
        if rows is not None and _in_doubt(connection, plan, rows.without(known)):
            return "new rows share entity and instant with rows that have no sequence"
    except CorruptionError as error:
        return f"the snapshot before cannot be read: {error.what}"
    return TakenOver(previous, known, previous.stream_offset or 0)


def _unsuitable(
    plan: ViewPlan, rows: OpenedSource | None, previous: SnapshotManifest, as_of: int, through: int | None
) -> str | None:
    source, rules = plan.spec.source, (plan.spec.quality or QualitySpec()).rules
    if source.url is not None or source.sql is not None or source.documents is not None:
        return "its source is a query, a database or documents"
    if previous.definition_version != plan.spec.definition_version or not previous.read.kinds:
        return "the snapshot before is of another definition"
    if plan.unbounded:
        return "a feature looks at all time"
    if microseconds(previous.as_of) > as_of or (through is not None and through < (previous.stream_offset or 0)):
        return "the snapshot before is a later one"
    if previous.read.withheld:
        return f"{previous.read.withheld} rows were not known yet"
    if previous.quarantined is not None or any(rule.action == "quarantine" for rule in rules):
        return "rows are kept aside"
    if any(
        isinstance(rule, (UniquenessRule, ReferenceRule))
        or (isinstance(rule, (SqlRule, PythonRule)) and rule.over == "source")
        for rule in rules
    ):
        return "a rule looks at all rows together"
    now = {} if rows is None else dict(zip(rows.files, rows.contents(), strict=True))
    changed = sum(now.get(path) != sha256 for path, sha256 in previous.read.files)
    if changed:
        return f"{changed} of its files changed"
    if source.kind == "stream" and len(now) > len(previous.read.files):
        # Of one event in a file and in the log the file's counts, and events taken over no longer tell which they are.
        return "files were added beside the log"
    return None


def _other_columns(
    connection: duckdb.DuckDBPyConnection,
    plan: ViewPlan,
    rows: OpenedSource,
    known: frozenset[str],
    previous: SnapshotManifest,
) -> str | None:
    """The reason, if new files alone would be read with other column types than all files together.

    Unchanged files are not fetched: when the new ones have the recorded columns, all of them together have them too.
    """
    new = rows.without(known).relation
    all_of_them = new if rows.far else rows.relation
    types = types_of(connection, all_of_them)
    if content_hash(list(types.items())) != previous.read.columns:
        return "its columns are of other types"
    _, kinds = rows_sql(plan, admitted_relation(plan.spec, all_of_them, types), types)
    if tuple(kinds) != previous.read.kinds:
        return "its columns are of other types"
    if types_of(connection, new) != types:
        return "the columns of new files are of other types"
    return None


def _in_doubt(connection: duckdb.DuckDBPyConnection, plan: ViewPlan, new: OpenedSource) -> bool:
    """True when a new row shares entity and instant with a row that was stored without a sequence."""
    if plan.spec.source.event_id is not None:
        return False
    selected, _ = rows_sql(plan, new.relation, types_of(connection, new.relation), hashed=False)
    same = ", ".join([*plan.key_columns, "event_time"])
    (found,) = one_row(
        connection,
        f"SELECT count(*) FROM ({selected}) AS new SEMI JOIN "
        f"(SELECT * FROM {EVENTS} WHERE seq = {NO_SEQUENCE!r}) AS known USING ({same})",
    )
    return bool(found)


def merged_quality(before: SourceQuality | None, new: SourceQuality) -> SourceQuality:
    """The quality of rows taken over and rows read together; figures about new rows stay those of the new ones."""
    if before is None or not before.rows:
        return new
    rows = before.rows + new.rows

    def share(name: str) -> float:
        found: float = (getattr(before, name) * before.rows + getattr(new, name) * new.rows) / rows
        return found

    instants = [one.latest_event_time for one in (before, new) if one.latest_event_time is not None]
    shares = (
        "null_share", "late_share", "duplicate_share", "out_of_range_share", "rejected_share", "future_share", "score",
    )  # fmt: skip
    return msgspec.structs.replace(
        new,
        rows=rows,
        latest_event_time=max(instants, default=None),
        # Nothing new says nothing about the columns.
        kinds=new.kinds if new.rows else before.kinds,
        duplicates_estimated=before.duplicates_estimated or new.duplicates_estimated,
        **{name: share(name) for name in shares},
    )


def merged_check(before: RuleCheck | None, new: RuleCheck) -> RuleCheck:
    """The findings of a rule over single rows, for rows taken over and rows read together."""
    if before is None or before.error is not None or new.error is not None:
        return new
    return msgspec.structs.replace(
        new, offenders=before.offenders + new.offenders, of=before.of + new.of, seen=new.seen or before.seen
    )
