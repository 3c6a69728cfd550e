"""Inspection of a source while it is materialized: its quality, its rules, and its quarantined rows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.features.snapshot_facts import RuleCheck, SourceQuality
from antiphon.catalog.features.snapshots import QuarantinedRows, SnapshotFile, SnapshotManifest
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import ColumnTypesRule, QualitySpec
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.lake.content import Lake
from antiphon.features.monitoring.quality.source_quality import (
    REASON,
    Raw,
    check_rows,
    open_source,
    profile,
    quarantine_sql,
)
from antiphon.features.monitoring.quality.statistics import TextNames
from antiphon.features.offline.compute import one_row, write_parquet
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import marks_of
from antiphon.features.sources.taking_over import TakenOver, merged_check, merged_quality

if TYPE_CHECKING:
    import duckdb


@dataclass
class Inspection:
    """Findings about one source while one snapshot is made of it, and the time that they took."""

    connection: duckdb.DuckDBPyConnection
    spec: FeatureViewSpec
    scope: Scope
    previous: SnapshotManifest | None
    names: TextNames
    quality: SourceQuality | None = None
    seconds: float = 0.0
    kept_aside: int = 0
    bytes_read: int = 0
    _checks: dict[str, RuleCheck] = field(default_factory=dict, init=False)
    _quarantined: QuarantinedRows | None = field(default=None, init=False)
    _raw: Raw = field(default=Raw({}, ()), init=False)

    @property
    def rules(self) -> QualitySpec:
        """Quality rules of the view."""
        return self.spec.quality or QualitySpec()

    def read(self, log: LogReader | None, through: int | None, now: int, before: TakenOver | None = None) -> None:
        """Open the source and look at all of its rows but for those that are taken over; ``now`` in microseconds.
        Raises ``SetupError`` when its file is missing, ``InvalidInputError`` when it cannot be read."""
        with self.timed():
            after = self.previous.stream_offset if self.previous is not None else None
            known = before.files if before is not None else frozenset()
            self._raw = open_source(
                self.connection, self.spec, scope=self.scope, log=log, after=after or 0, through=through, known=known
            )
            self.bytes_read = sum(file.size for file in self._raw.marks if file.name not in known)
            self.quality, found = profile(
                self.connection, self.spec, self._raw, now=now, previous=self.previous, names=self.names
            )
            if before is not None:
                checked = {check.rule: check for check in before.snapshot.checks}
                self.quality = merged_quality(before.snapshot.source_quality, self.quality)
                found = {name: merged_check(checked.get(name), check) for name, check in found.items()}
            self._checks.update(found)
            self.add(check_rows(self.connection, self.spec, self._raw, self.quality.rows))

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count what the block takes as time spent on quality."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """An error of reading the rows, told with what the declared types say about the columns; a file that is gone
        all of a sudden, as a source that changed."""
        try:
            yield
        except OSError as error:
            raise self._changed() from error
        except InvalidInputError as error:
            kinds = self.quality.kinds if self.quality is not None else {}
            said = [
                reason
                for rule in self.rules.rules
                if isinstance(rule, ColumnTypesRule)
                for reason in typed_reasons(rule, kinds)
            ]
            if not said:
                raise
            raise InvalidInputError(
                f"{' '.join(said)} {error.what}", where=error.where, next_step=error.next_step
            ) from error

    def require_unchanged(self) -> None:
        """Refuse a source that was not the same files from the first look to the last row. Objects of a store are: each
        is fetched once, as it was listed; raises ``UnavailableError`` when it changed."""
        if marks_of(self.spec.source, self.connection) != self._raw.marks:
            raise self._changed()

    def _changed(self) -> UnavailableError:
        return UnavailableError(
            "The source changed while it was read.",
            where=f"source {self.spec.source.name}",
            next_step="Write a file elsewhere and rename it into place; the refresh is tried again.",
        )

    def keep_aside(self, lake: Lake) -> QuarantinedRows | None:
        """Write the rows that rules keep out to the lake, with their reasons; ``None`` when there are none."""
        with self.timed():
            sql = quarantine_sql(self.spec, self._raw)
            if sql is None:
                return None
            counted = f"SELECT {REASON}, count(*) FROM ({sql}) GROUP BY ALL ORDER BY ALL"
            reasons: dict[str, int] = dict(self.connection.execute(counted).fetchall())
            if not reasons:
                return None
            columns = ", ".join(map(quoted, self._raw.types))
            rows = f"SELECT {columns}, {REASON} FROM ({sql}) ORDER BY ALL"
            # A row that offends two rules stands there twice, and is one row kept out.
            (kept_aside,) = one_row(
                self.connection,
                f"SELECT sum(n) FROM (SELECT max(n) AS n FROM (SELECT {columns}, {REASON}, count(*) AS n "
                f"FROM ({sql}) GROUP BY ALL) GROUP BY {columns})",
            )
            self.kept_aside = int(kept_aside)
            with lake.writing(self.scope, ".parquet") as draft:
                written = write_parquet(self.connection, rows, draft)
            self._quarantined = QuarantinedRows(
                SnapshotFile(draft.path, draft.sha256, written, draft.size), self.kept_aside, reasons
            )
            return self._quarantined

    def add(self, checks: Iterable[RuleCheck]) -> None:
        """Add results of rules."""
        self._checks.update({check.rule: check for check in checks})

    def checks(self) -> tuple[RuleCheck, ...]:
        """Results of all rules over rows, in the order of their declaration."""
        return tuple(self._checks[rule.name] for rule in self.rules.rules if rule.name in self._checks)

    def rejections(self, unusable: int) -> dict[str, int]:
        """Rejected rows by reason; a row may count under several rules."""
        found = {"without usable keys or times": unusable} if unusable else {}
        return {**found, **(self._quarantined.reasons if self._quarantined is not None else {})}


def typed_reasons(rule: ColumnTypesRule, kinds: Mapping[str, str]) -> Iterator[str]:
    """Defects of a source's columns, a sentence each."""
    for column, expected in rule.columns.items():
        found = kinds.get(column)
        if found is None:
            yield f"The column {column} is missing."
        elif found == "empty":
            yield f"The column {column} has no value in any row."
        elif found != expected:
            yield f"The column {column} is {found}, not {expected}."
    if rule.closed and (others := sorted(kinds.keys() - rule.columns.keys())):
        yield f"There are columns that are not declared: {', '.join(others)}."


class QuarantinedRow(msgspec.Struct, frozen=True):
    """A source row and the rule that it offends."""

    rule: str
    columns: dict[str, Any]


def quarantined_rows(manifest: SnapshotManifest, lake: Lake, limit: int = 100) -> list[QuarantinedRow]:
    """The first rows that a snapshot's rules kept aside; a row stands once for each rule that it offends. Raises
    ``CorruptionError`` when the lake's file is gone or changed."""
    import pyarrow.parquet

    if manifest.quarantined is None:
        return []
    found: list[QuarantinedRow] = []
    with lake.open(manifest.quarantined.file.path) as stream:
        for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(min(limit, 10_000)):
            for row in batch.to_pylist():
                if len(found) == limit:
                    return found
                found.append(QuarantinedRow(row.pop(REASON), row))
    return found
