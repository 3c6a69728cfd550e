"""Measures skew: compares values read online with values that batch computes, on live data.

Invariant: a value counts as different only where both sides knew the same: the source as the snapshot saw it, the log
as far as the reading went. What cannot be brought to that is not compared, and it is said why. So a difference is a
defect of the online path (a sealed value, a dropped event, another definition), never the age of a snapshot.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import msgspec

from antiphon.catalog.features.skew_reports import Difference, SkewReport
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import AntiphonError, NotFoundError, WriteConflictError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.sensitivity import Tags
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.embedding.vector_reader import TextVector
from antiphon.features.monitoring.skew.batch import BatchSide, batch_side
from antiphon.features.monitoring.skew.lake_state import Entity, SourceQuery
from antiphon.features.monitoring.skew.predictions import PredictionFeatures, compare_on_demand, unusable
from antiphon.features.monitoring.skew.report import SkewCounts, ViewCounts, same, shown_value
from antiphon.features.monitoring.skew.selection import sample_entities
from antiphon.features.monitoring.skew.vectors import SkewVectors, Vector, shown
from antiphon.features.offline.batch_values import BatchValue
from antiphon.features.offline.compute import ComputeLimits, Deadline, compute
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.online.overlay_records import view_prefix
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader, StreamedOverlay
from antiphon.features.values import FeatureValue, MeasureValue

SAMPLE = 100
"""Entities of each view, and predictions, by default."""
SECONDS = 60.0
"""Default time limit of a comparison."""
CHANGED = "its source changed since the snapshot, and"
"""And why what the snapshot saw cannot be had any more."""
GONE = "its snapshot is gone"
FOREIGN = "it is read from Feast, which keeps no history"
LATE = "the time was over"
BETWEEN = "another publication came in between"

Progress = Callable[[int, int, str], None]


class _OnlineValues(msgspec.Struct, frozen=True):
    """Values of one view, entity and moment, as the online path gave them; ``through`` is what it knew of the log."""

    keys: Entity
    as_of: int
    through: int | None
    values: dict[str, tuple[MeasureValue | Vector, datetime | None]]
    prediction: str | None = None


class _ServedFeature(NamedTuple):
    prediction: PredictionFeatures
    name: str
    receipt: FeatureReceipt


@dataclass
class Skew:
    """Compares batch and online in one scope. One comparison at a time: it is batch work beside what is served. Without
    ``overlay`` there are no streamed events; without ``vectors``, both sides of them, vectors are not compared."""

    catalog: FeatureCatalog
    reader: FeatureReader
    log: LogReader
    overlay: StreamedOverlay | None = None
    limits: ComputeLimits = field(default_factory=ComputeLimits)
    vectors: SkewVectors | None = None
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False)

    def measure(
        self,
        views: Sequence[FeatureViewSpec],
        served: Iterable[PredictionFeatures] = (),
        *,
        on_demand: Collection[str] | None = None,
        as_of: datetime | None = None,
        sample: int = SAMPLE,
        seed: int = 0,
        seconds: float = SECONDS,
        progress: Progress = lambda done, total, note: None,
    ) -> SkewReport:
        """Compare a sample of what is published, and what predictions used.

        Args:
            views: those that are read online and of which predictions are looked at.
            served: predictions, latest first.
            on_demand: names of views computed from requests that are looked at; all by default.
            as_of: the moment of the online readings; now by default.
            sample: entities of each view. ``seed`` tells which.
            seconds: how long it may take; what is left by then counts as not comparable.

        Raises:
            WriteConflictError: a comparison is under way.
        """
        if not self._busy.acquire(blocking=False):
            raise WriteConflictError(
                "Batch and online are being compared already.", where="skew", next_step="Try again when it is done."
            )
        try:
            started = self.catalog.clock.monotonic()
            deadline = Deadline(self.catalog.clock, seconds)
            counts = SkewCounts()
            moment = as_of or self.catalog.clock.now()
            groups, predictions = self._grouped(served, {spec.name for spec in views}, on_demand, counts)
            total = len(views) + len(groups)
            for done, spec in enumerate(views):
                progress(done, total, f"online {spec.name}")
                counted = counts.of(spec.name, spec.definition_version, "online")
                self._online(spec, moment, sample, seed, counted, deadline)
            for done, ((key, snapshot), features) in enumerate(groups.items(), start=len(views)):
                view, _, version = key.partition("@")
                progress(done, total, f"served {view}")
                self._served(key, snapshot, features, counts.of(view, version, "served"), deadline)
            progress(total, total, "compared")
            compared = counts.features()
            publication = self.reader.publication()
            return SkewReport(
                publication=None if publication is None else publication.number,
                as_of=moment,
                sample=sample,
                predictions=predictions,
                seconds=self.catalog.clock.monotonic() - started,
                complete=not any(LATE in one.not_comparable for one in compared),
                compared=sum(one.compared for one in compared),
                different=sum(one.different for one in compared),
                features=compared,
                seed=seed,
            )
        finally:
            if self.vectors is not None:
                self.vectors.forget()
            self._busy.release()

    def _online(
        self, spec: FeatureViewSpec, moment: datetime, sample: int, seed: int, counts: ViewCounts, deadline: Deadline
    ) -> None:
        if spec.source.kind == "feast":
            return counts.pass_over(spec.features, FOREIGN)
        if deadline.over:
            return counts.pass_over(spec.features, LATE)
        publication = self.reader.publication()
        identity = publication.snapshots.get(spec.key) if publication is not None else None
        if identity is None:
            return counts.pass_over(spec.features, "it is not published")
        plan = plan_of(spec)
        try:
            manifest = self.catalog.snapshots.get(self.catalog.scope, identity)
            consumed = self._consumed(spec)
            if consumed is not None and consumed > self.log.end(self.catalog.scope, spec.source.name):
                return counts.pass_over(spec.features, "the overlay is ahead of the log")
            known = None if manifest.stream_offset is None else max(manifest.stream_offset, consumed or 0)
            entities = sample_entities(plan, manifest, self.catalog, self.log, through=known, size=sample, seed=seed)
            if not entities:
                return counts.pass_over(spec.features, "it has no entities")
            keys = [dict(zip(plan.keys, entity, strict=True)) for entity in entities]
            rows = self.reader.read_many({spec.name: spec.definition_version}, keys, moment)
            vectors = self._read_vectors(spec, keys, moment, counts)
            readings: dict[tuple[Entity, int | None], _OnlineValues] = {}
            for entity, row, near in zip(entities, rows, vectors, strict=True):
                found: dict[str, FeatureValue | TextVector] = {**row.values, **near}
                for name, value in found.items():
                    feature = name.partition(".")[2]
                    if name in near and value.snapshot != manifest.id:
                        counts.pass_over([feature], BETWEEN)
                        continue
                    if value.snapshot != manifest.id:
                        # A publication came in between, or the current one could not be read.
                        assert value.snapshot is not None
                        manifest = self.catalog.snapshots.get(self.catalog.scope, value.snapshot)
                    # What arrived meanwhile is in it as far as its own latest event.
                    through = None if known is None else max(known, value.stream_offset or 0)
                    reading = _OnlineValues(entity, microseconds(moment), through, {})
                    readings.setdefault((entity, through), reading).values[feature] = (value.value, value.event_time)
        except AntiphonError as error:
            return counts.pass_over(spec.features, error.what)
        self._compare(spec, manifest, list(readings.values()), counts, deadline)

    def _read_vectors(
        self, spec: FeatureViewSpec, keys: Sequence[Mapping[str, str]], moment: datetime, counts: ViewCounts
    ) -> list[dict[str, TextVector]]:
        if not spec.models:
            return [{} for _ in keys]
        reason = "vectors are not compared here"
        if self.vectors is not None:
            try:
                return self.vectors.reader.rows({spec.name: spec}, keys, moment).entities
            except AntiphonError as error:
                reason = error.what
        counts.pass_over(spec.models, reason, len(keys))
        return [{} for _ in keys]

    def _consumed(self, spec: FeatureViewSpec) -> int | None:
        """Offset that the view's stream consumer had applied before anything is read."""
        if spec.source.kind != "stream" or self.overlay is None:
            return None
        prefix = view_prefix(spec.key)
        return self.overlay.read([prefix]).offsets[prefix]

    def _grouped(
        self,
        served: Iterable[PredictionFeatures],
        names: set[str],
        on_demand: Collection[str] | None,
        counts: SkewCounts,
    ) -> tuple[dict[tuple[str, str], list[_ServedFeature]], int]:
        """Group the features of predictions by view and snapshot. On-demand features are compared on the way."""
        groups: dict[tuple[str, str], list[_ServedFeature]] = {}
        examined = 0
        for one in served:
            examined += 1
            compare_on_demand(one, on_demand, self.limits, counts)
            made = {f"{view.name}.{name}" for view in one.on_demand for name in view.features}
            for feature in one.features:
                view, _, name = feature.name.partition(".")
                if view not in names or feature.name in made:
                    continue
                if reason := unusable(one, feature):
                    counts.of(view, feature.definition_version, "served").pass_over([name], reason)
                    continue
                assert feature.snapshot is not None
                key = f"{view}@{feature.definition_version}"
                groups.setdefault((key, feature.snapshot), []).append(_ServedFeature(one, name, feature))
        return groups, examined

    def _served(
        self, key: str, snapshot: str, features: Sequence[_ServedFeature], counts: ViewCounts, deadline: Deadline
    ) -> None:
        spec = self.catalog.definition(key)
        if spec.source.kind == "feast":
            return counts.pass_over([each.name for each in features], FOREIGN)
        try:
            manifest = self.catalog.snapshots.get(self.catalog.scope, snapshot)
        except NotFoundError:
            return counts.pass_over([each.name for each in features], GONE)
        readings: dict[tuple[str, int | None], _OnlineValues] = {}
        for one, name, receipt in features:
            # A feature went as far into the log as its own latest event: what came later is not in it.
            through = receipt.stream_offset
            if manifest.stream_offset is not None:
                through = max(manifest.stream_offset, through or 0)
            keys = tuple(str((one.keys or {}).get(key, "")) for key in spec.entity.keys)
            reading = _OnlineValues(keys, microseconds(one.as_of), through, {}, one.prediction)
            reading = readings.setdefault((one.prediction, through), reading)
            reading.values[name] = (receipt.value, receipt.event_time)
        self._compare(spec, manifest, list(readings.values()), counts, deadline)

    def _compare(
        self,
        spec: FeatureViewSpec,
        manifest: SnapshotManifest,
        readings: Sequence[_OnlineValues],
        counts: ViewCounts,
        deadline: Deadline,
    ) -> None:
        left = list(readings)
        offsets = [one.through for one in readings if one.through is not None]
        try:
            with compute(self.limits) as connection, deadline.interrupting(connection):
                entities = {one.keys for one in readings}
                query = SourceQuery(self.catalog.scope, plan_of(spec), manifest, max(offsets, default=None), entities)
                batch = batch_side(connection, query, lake=self.catalog.lake, log=self.log)
                groups: dict[tuple[int, int | None], list[_OnlineValues]] = {}
                for one in readings:
                    groups.setdefault((one.as_of, one.through), []).append(one)
                for (moment, through), together in groups.items():
                    if deadline.over:
                        break
                    computed = batch.values([one.keys for one in together], moment, through)
                    for one in deadline.while_left(together):
                        self._judge(spec, manifest, one, computed[one.keys], batch, counts)
                        left.remove(one)
            reason = LATE
        except AntiphonError as error:
            reason = LATE if deadline.over else error.what
        counts.pass_over([feature for one in left for feature in one.values], reason)

    def _judge(
        self,
        spec: FeatureViewSpec,
        manifest: SnapshotManifest,
        one: _OnlineValues,
        computed: Mapping[str, BatchValue | str],
        batch: BatchSide,
        counts: ViewCounts,
    ) -> None:
        for feature, (value, time) in one.values.items():
            found = computed.get(feature, "its definition has it no more")
            if isinstance(found, str):
                counts.pass_over([feature], found)
                continue
            batch_time = None if found.event_time is None else from_microseconds(found.event_time)
            expected: MeasureValue | Vector = found.value
            if feature in spec.models:
                assert self.vectors is not None
                made = self.vectors.batch(manifest.id, feature, spec.models[feature], found.value)
                if isinstance(made, str):
                    counts.pass_over([feature], made)
                    continue
                expected = made
            equal = same(value, expected) and time == batch_time
            if not equal and batch.basis is None:
                counts.pass_over([feature], f"{CHANGED} {batch.lost}")
                continue
            tags = spec.tags.get(feature, Tags())
            difference = Difference(
                dict(zip(spec.entity.keys, one.keys, strict=True)), from_microseconds(one.as_of), _shown(value, tags),
                _shown(expected, tags), time, batch_time, manifest.id, one.through, one.prediction,
            )  # fmt: skip
            counts.compared(feature, None if equal else difference, batch.basis or "now")


def _shown(value: MeasureValue | Vector, tags: Tags) -> MeasureValue:
    return shown(value) if isinstance(value, tuple) else shown_value(value, tags)
