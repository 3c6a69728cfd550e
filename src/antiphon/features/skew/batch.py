"""The batch side of a comparison: a view's source read once, and its values at many moments of what was known then.

Invariant: nothing here was written by the online path. Rows come from the source and the log, values from the batch
query; tiles, sealed files and the overlay are not looked at.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.core.clock import Clock, microseconds
from antiphon.core.scope import Scope
from antiphon.features.batch_values import Computed, values_at
from antiphon.features.plan import Plan, midnight_before
from antiphon.features.ports import LogReader
from antiphon.features.sources.source_rows import ROWS, load_rows, one_of_each

if TYPE_CHECKING:
    import duckdb

Entity = tuple[str, ...]


class Deadline:
    """When work has to end: asked between two pieces of it, and a query under way is interrupted."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self._clock.monotonic() >= self._end

    @contextmanager
    def interrupting(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Interrupt the connection's queries when the time is up."""
        timer = threading.Timer(max(0.0, self._end - self._clock.monotonic()), connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


class BatchSide:
    """The rows that one snapshot and the log after it could know, of some entities.

    Args:
        through: the last log offset that any reading knew.
        entities: those that will be asked about.

    Raises:
        SetupError, Unavailable, InvalidInput: the source cannot be read.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        plan: Plan,
        manifest: SnapshotManifest,
        *,
        scope: Scope,
        log: LogReader | None,
        through: int | None,
        entities: Collection[Entity],
    ) -> None:
        self._connection = connection
        self._plan = plan
        self._known_by = microseconds(manifest.as_of)
        # An encoding is set against all entities together.
        loaded = load_rows(
            connection,
            plan,
            scope=scope,
            log=log,
            known_by=self._known_by,
            through=through,
            entities=None if plan.fitted_windows else entities,
            merged=False,
        )
        self.changed = loaded.source_hash != manifest.source_hash
        """Whether the source is not what the snapshot was made from. Values may be the same all the same."""

    def values(self, entities: Sequence[Entity], as_of: int, through: int | None) -> dict[Entity, dict[str, Computed]]:
        """Every feature of these entities as of a moment (microseconds), from events with ``offset <= through``."""
        import pyarrow

        keys = [f"k{index}" for index in range(len(self._plan.keys))]
        wanted = dict.fromkeys(entities)
        self._connection.register(
            "asked_entities",
            pyarrow.table(
                {key: pyarrow.array([one[index] for one in wanted], pyarrow.string()) for index, key in enumerate(keys)}
            ),
        )
        known = [] if through is None else [f"(log_offset IS NULL OR log_offset <= {through})"]
        if not self._plan.fitted_windows:
            these = " AND ".join(f"asked.{key} = every.{key}" for key in keys)
            known.append(f"EXISTS (SELECT 1 FROM asked_entities AS asked WHERE {these})")
        filtered = f" WHERE {' AND '.join(known)}" if known else ""
        rows = one_of_each(self._plan, f"(SELECT * FROM {ROWS} AS every{filtered})")
        self._connection.execute(f"CREATE OR REPLACE TEMP TABLE known_rows AS {rows}")
        same = " AND ".join(f"asked.{key} = known.{key}" for key in keys)
        picked = ", ".join(f"asked.{key}" for key in keys)
        asked = (
            f"(SELECT {picked}, known.* EXCLUDE ({', '.join(keys)}) FROM asked_entities AS asked "
            f"LEFT JOIN known_rows AS known ON {same})"
        )
        found = values_at(
            self._connection,
            self._plan,
            as_of,
            fitted_at=midnight_before(min(as_of, self._known_by)),
            rows=asked,
            together="known_rows",
        )
        try:
            return dict(found)
        finally:
            self._connection.unregister("asked_entities")
