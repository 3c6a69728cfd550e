"""Samples the entities whose values are compared between batch and online."""

from __future__ import annotations

import random
from collections.abc import Iterator

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.scope import Scope
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.expressions.compile_python import key_texts
from antiphon.features.lake.content import Lake
from antiphon.features.plan import ViewPlan
from antiphon.features.ports import LogReader

WORKFLOW = "skew"
"""The workflow's name in the registry."""

_RECENT = 2_000
"""So many of the latest events are looked through for entities."""
_BATCH = 50_000


def sample_entities(
    plan: ViewPlan,
    manifest: SnapshotManifest,
    catalog: FeatureCatalog,
    log: LogReader,
    *,
    through: int | None,
    size: int,
    seed: int,
) -> list[tuple[str, ...]]:
    """At most ``size`` entities: up to half of them from events after the snapshot, the others drawn from it.
    ``through`` is the last log offset that was consumed, of a stream. Raises ``CorruptionError`` when the snapshot's
    files are gone from the lake."""
    chosen: dict[tuple[str, ...], None] = {}
    for entity in _streamed(plan, manifest, log, catalog.scope, through):
        if len(chosen) >= (size + 1) // 2:
            break
        chosen[entity] = None
    for entity in _drawn(plan, manifest, catalog.lake, size, seed):
        if len(chosen) >= size:
            break
        chosen[entity] = None
    return list(chosen)


def _streamed(
    plan: ViewPlan, manifest: SnapshotManifest, log: LogReader, scope: Scope, through: int | None
) -> Iterator[tuple[str, ...]]:
    """Entities of the latest events that the snapshot does not know, latest first."""
    if through is None:
        return
    after = max(manifest.stream_offset or 0, through - _RECENT)
    for item in reversed(log.read(scope, plan.spec.source.name, after, through - after) if through > after else ()):
        keys = key_texts(plan.keys, item.event.payload)
        if keys is not None:
            yield keys


def _drawn(plan: ViewPlan, manifest: SnapshotManifest, lake: Lake, size: int, seed: int) -> Iterator[tuple[str, ...]]:
    """A simple random sample of the snapshot's entities, in memory only those that were drawn."""
    import pyarrow
    import pyarrow.parquet

    values = manifest.files[-1]
    places = sorted(random.Random(seed).sample(range(values.rows), min(size, values.rows)))
    drawn: list[tuple[str, ...]] = []
    with lake.open(values.path) as stream:
        before = 0
        for batch in pyarrow.parquet.ParquetFile(stream).iter_batches(_BATCH, columns=list(plan.keys)):
            inside = [place - before for place in places if before <= place < before + batch.num_rows]
            before += batch.num_rows
            if inside:
                picked = batch.take(pyarrow.array(inside))
                drawn += zip(*(picked.column(key).to_pylist() for key in plan.keys), strict=True)
    # What comes first is kept when there are streamed entities as well: no part of the alphabet is to be preferred.
    random.Random(seed).shuffle(drawn)
    yield from drawn
