"""The rows of a dataset, made from its specification: candidates, the draw, and each one's features.

Features of the past are joined point in time after the draw, so that a large history costs no large join; features
of predictions are those of their receipts, as they were served. Where a specification pins the prompt, rows name the
one that they were served with; the text stays with the receipts, and is erased with theirs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.learning.datasets import DatasetSource, DatasetSpec
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipt import Receipt
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, NotFoundError, WriteConflictError
from antiphon.core.ids import content_hash
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.definitions.source import SourceSpec
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.ports import LogReader
from antiphon.features.sources.opened import version_of
from antiphon.learning.datasets.candidates import Candidate, choose, example_id, inputs_of
from antiphon.learning.datasets.history import read_history
from antiphon.learning.datasets.served_prompts import LeftOutError, ServedPrompts
from antiphon.learning.datasets.table import (
    FURTHER,
    PROMPT,
    USER,
    ColumnType,
    DatasetTable,
    TableColumn,
    Value,
    arrow_types,
    feature_column,
)

if TYPE_CHECKING:
    import pyarrow

_EXAMPLE = "dataset:example"
"""Column of joined features that names the row; no column of a source is likely to be named so."""

RowPolicyDecision = Callable[
    [Scope, str, Sequence[str], Sequence[tuple[Sequence[str], int]]], tuple[str, Sequence[str | None]]
]
"""Policy about rows to learn from: scope, application, entity keys, and entity and moment (seconds since 1970) of each.

Returns the digest of the policies, and for each row the reason to leave it out, or ``None``.
"""


def label_counts(spec: DatasetSpec, values: Sequence[object]) -> dict[str, int]:
    """Label to the number of its rows; nothing where the first outcome is a number or a text."""
    return dict(sorted(Counter(map(str, values)).items())) if spec.shape.form == "label" else {}


class DatasetSurvey(msgspec.Struct, frozen=True):
    """Number of rows and labels that a specification takes, found without joining features."""

    spec: DatasetSpec
    rows: int
    labels: dict[str, int]
    dropped: dict[str, int]
    earliest: datetime | None
    latest: datetime | None


class CandidateSample(msgspec.Struct, frozen=True):
    """Candidates that were drawn, and what they were read from."""

    candidates: list[Candidate]
    sources: tuple[DatasetSource, ...]
    survey: DatasetSurvey

    @property
    def past(self) -> list[Candidate]:
        """Those of the history, whose features are joined."""
        return [one for one in self.candidates if one.origin == "history"]


class JoinedFeatures(NamedTuple):
    """Features of a history's examples that were joined in parts, and the sources that they were read from."""

    tables: Iterable[pyarrow.Table]
    sources: tuple[DatasetSource, ...]


class DatasetContent(msgspec.Struct, frozen=True):
    """Rows with their features, and everything they were read from."""

    rows: DatasetTable
    survey: DatasetSurvey
    sources: tuple[DatasetSource, ...]
    dropped: dict[str, int]


@dataclass(frozen=True)
class DatasetRowBuilder:
    """Builds the rows of one scope's datasets.

    Attributes:
        texts: where receipts keep what was asked, and prompts.
        log: the event log; ``None`` when no view reads a stream.
        limits: what the point-in-time join may use.
        withheld: policy about what may be learned from; ``None`` leaves nothing out.
    """

    scope: Scope
    _: KW_ONLY
    outcomes: Outcomes
    receipts: Receipts
    texts: Blobs
    releases: Releases
    definitions: DefinitionVersions
    log: LogReader | None = None
    limits: ComputeLimits = field(default_factory=ComputeLimits)
    withheld: RowPolicyDecision | None = None

    def gather(self, spec: DatasetSpec) -> CandidateSample:
        """The examples that the specification takes, without their features.

        Raises:
            SetupError: a source's file is missing.
            InvalidInputError: the history does not fit the specification.
        """
        log = None if self.log is None else _PinnedLog(self.log, spec.offsets)
        candidates: list[Candidate] = []
        sources: list[DatasetSource] = []
        more: dict[str, int] = {}
        if "history" in spec.origins and spec.history is not None:
            sources += _sources([spec.history], spec.offsets)
            candidates, more["unreadable"] = read_history(spec, scope=self.scope, log=log, limits=self.limits)
        if "receipts" in spec.origins:
            outcomes = self.outcomes.scored(
                self.scope, spec.application, spec.shape.name, roles=spec.roles, recorded_until=spec.outcomes_until
            )
            served, more["other-definition"], more["receipt-gone"] = self._served(spec, outcomes)
            candidates += served
            version = content_hash(sorted(outcome.id for outcome in outcomes))
            sources.append(DatasetSource("receipts", "receipts", version, len(outcomes)))
        candidates = self._permitted(spec, candidates, sources, more)
        chosen, dropped = choose(candidates, spec)
        dropped = dict(Counter(dropped) + Counter(more))
        labels = label_counts(spec, [candidate.label for candidate in chosen])
        moments = [candidate.moment for candidate in candidates]
        survey = DatasetSurvey(
            spec=spec,
            rows=len(chosen),
            labels=labels,
            dropped=dict(sorted(dropped.items())),
            earliest=from_microseconds(min(moments)) if moments else None,
            latest=from_microseconds(max(moments)) if moments else None,
        )
        return CandidateSample(chosen, tuple(sources), survey)

    def _permitted(
        self, spec: DatasetSpec, candidates: list[Candidate], sources: list[DatasetSource], more: dict[str, int]
    ) -> list[Candidate]:
        """Without the candidates that policy withholds; they are counted by reason, and the policies are named."""
        if self.withheld is None or not candidates:
            return candidates
        rows = [(one.entity, one.moment // 1_000_000) for one in candidates]
        digest, reasons = self.withheld(self.scope, spec.application, spec.entity_keys, rows)
        kept = [one for one, reason in zip(candidates, reasons, strict=True) if reason is None]
        for reason in reasons:
            if reason is not None:
                more[f"policy: {reason}"] = more.get(f"policy: {reason}", 0) + 1
        if len(kept) < len(candidates):
            sources.append(DatasetSource("policy", "policy", digest, len(candidates) - len(kept)))
        return kept

    def _served(self, spec: DatasetSpec, outcomes: Sequence[OutcomeRecord]) -> tuple[list[Candidate], int, int]:
        """Candidates of predictions; how many were served with other features, or without keys that are still kept."""
        fitting: dict[str, bool] = {}
        found: list[Candidate] = []
        further = [self._further(spec, shape) for shape in spec.further]
        prompts = ServedPrompts(self.scope, self.receipts, self.texts, self.releases)
        other = gone = 0
        for outcome in outcomes:
            assert outcome.as_of is not None and outcome.release is not None  # noqa: PT018
            if outcome.release not in fitting:
                fitting[outcome.release] = self._fits(spec, outcome.release)
            if not fitting[outcome.release]:
                other += 1
            elif any(key not in outcome.entity for key in spec.entity_keys):
                gone += 1
            else:
                entity = tuple(outcome.entity[key] for key in spec.entity_keys)
                moment = microseconds(outcome.as_of)
                question = self._question(spec, outcome.prediction or "")
                prompt, unlearned = _prompt(prompts, spec, outcome.prediction or "")
                found.append(
                    Candidate(
                        example=example_id(entity, moment, question),
                        moment=moment,
                        entity=entity,
                        label=outcome.value,
                        label_at=microseconds(outcome.available_at),
                        origin="receipts",
                        prediction=outcome.prediction,
                        release=outcome.release,
                        question=question,
                        further=tuple(known.get(outcome.prediction or "") for known in further),
                        prompt_blob=prompt,
                        unlearned=unlearned,
                    )
                )
        return found, other, gone

    def _further(self, spec: DatasetSpec, shape: OutcomeShape) -> dict[str, str]:
        """Prediction to the joined value of an outcome beside the first that was known by the cutoff."""
        joined = self.outcomes.scored(
            self.scope, spec.application, shape.name, roles=spec.roles, recorded_until=spec.outcomes_until
        )
        return {
            one.prediction or "": one.value
            for one in joined
            if one.available_at <= spec.cutoff and shape.admits(one.value)
        }

    def _question(self, spec: DatasetSpec, prediction: str) -> str | None:
        """The words of the user, where the specification keeps it and it was not erased."""
        if not spec.question:
            return None
        with suppress(NotFoundError):
            receipt = self.receipts.get(self.scope, prediction)
            if receipt.question_blob is not None:
                return self.texts.get(self.scope, receipt.question_blob).decode()
        return None

    def _fits(self, spec: DatasetSpec, release: str) -> bool:
        try:
            served = self.releases.get(self.scope, release).bundle.application.versions
        except NotFoundError:
            return False
        return all(served.get(view) == version for view, version in spec.versions().items())

    def make(self, spec: DatasetSpec, joined: JoinedFeatures | None = None) -> DatasetContent:
        """The rows, in the order of ``example``.

        Args:
            joined: features that were joined before, in place of a join of all rows at once.

        Raises:
            NotFoundError: a view's definition was never applied here.
            WriteConflictError: a source file changed while it was read.
            ConflictError: it changed since the features were joined.
            As :meth:`gather`.
        """
        views = self._views(spec)
        gathered = self.gather(spec)
        candidates, past = gathered.candidates, gathered.past
        sources = list(self.versions(spec, gathered))
        values: dict[str, Mapping[str, tuple[Value, int | None]]] = {}
        if joined is not None:
            require_same(spec, joined.sources, sources)
        if past and spec.versions():
            tables = joined.tables if joined is not None else (self.join(spec, past),)
            values.update(_values(spec, views, past, tables))
        receipts = {one.example: self._receipt(one) for one in candidates if one.origin == "receipts"}
        values.update({example: _as_served(receipt) for example, receipt in receipts.items() if receipt is not None})
        kept = [one for one in candidates if one.origin == "history" or receipts[one.example] is not None]
        if {*self.versions(spec, gathered)} - {*sources}:
            raise WriteConflictError(
                "A source changed while it was read.", where="sources", next_step="Build the dataset again."
            )
        gone = len(candidates) - len(kept)
        dropped = dict(gathered.survey.dropped)
        if gone:
            dropped["receipt-gone"] = dropped.get("receipt-gone", 0) + gone
        rows = _rows(spec, views, kept, values, _users(kept, receipts))
        return DatasetContent(rows, gathered.survey, tuple(dict.fromkeys(sources)), dropped)

    def versions(self, spec: DatasetSpec, gathered: CandidateSample) -> tuple[DatasetSource, ...]:
        """Versions of all sources of the rows, as they are now."""
        read = [view.source for view in self._views(spec)] if gathered.past else []
        history = [spec.history] if spec.history is not None else []
        return (*gathered.sources, *_sources([*read, *history], spec.offsets))

    def _views(self, spec: DatasetSpec) -> list[FeatureViewSpec]:
        return [self.definitions.get(self.scope, view, version) for view, version in sorted(spec.views.items())]

    def join(self, spec: DatasetSpec, past: Sequence[Candidate], stop: threading.Event | None = None) -> pyarrow.Table:
        """Features of examples of the history, each as readable at its moment, one row each; raises as
        :func:`point_in_time`."""
        import pyarrow

        frame: dict[str, Any] = {
            key: pyarrow.array([one.entity[place] for one in past], pyarrow.string())
            for place, key in enumerate(spec.entity_keys)
        }
        for place, (name, declared) in enumerate(inputs_of(spec).items()):
            # Without a value there is no telling an Arrow type.
            frame[name] = pyarrow.array([one.inputs[place] for one in past], arrow_types()[declared])
        frame["moment"] = pyarrow.array([one.moment for one in past], pyarrow.timestamp("us", tz="UTC"))
        frame[_EXAMPLE] = pyarrow.array([one.example for one in past], pyarrow.string())
        return point_in_time(
            pyarrow.table(frame),
            self._views(spec),
            scope=self.scope,
            log=None if self.log is None else _PinnedLog(self.log, spec.offsets),
            as_of="moment",
            on_demand=spec.on_demand,
            event_times=True,
            limits=self.limits,
            stop=stop,
        )

    def _receipt(self, candidate: Candidate) -> Receipt | None:
        try:
            return self.receipts.get(self.scope, candidate.prediction or "")
        except NotFoundError:
            return None


class _PinnedLog:
    """The event log as it was when the dataset was planned."""

    def __init__(self, log: LogReader, offsets: Mapping[str, int]) -> None:
        self._log = log
        self._offsets = offsets

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> Sequence[Any]:
        return self._log.read(scope, stream, after, min(limit, max(0, self.end(scope, stream) - after)))

    def end(self, scope: Scope, stream: str) -> int:
        return self._offsets.get(stream, 0)


def require_same(spec: DatasetSpec, before: Sequence[DatasetSource], now: Sequence[DatasetSource]) -> None:
    """Refuse to put together what was read from other versions of a source; raises ``ConflictError``."""
    if changed := sorted({one.name for one in {*before} ^ {*now}}):
        raise ConflictError(
            f"What the dataset is made from changed since its build began: {', '.join(changed)}.",
            where=f"{spec.kind} set of {spec.application}",
            next_step="Build it anew.",
        )


def _values(
    spec: DatasetSpec, views: Sequence[FeatureViewSpec], past: Sequence[Candidate], tables: Iterable[pyarrow.Table]
) -> dict[str, dict[str, tuple[Value, int | None]]]:
    """Example to feature to value and event time."""
    import pyarrow

    found: dict[str, dict[str, tuple[Value, int | None]]] = {}
    for table in tables:
        examples = table.column(_EXAMPLE).to_pylist()
        found.update({example: {} for example in examples})
        for name in _features(views, spec):
            read = table.column(name).to_pylist()
            times = table.column(f"{name}.event_time").cast(pyarrow.int64()).to_pylist()
            for example, value, time in zip(examples, read, times, strict=True):
                found[example][name] = (value, time)
    if lost := [one.example for one in past if one.example not in found]:
        raise ConflictError(
            f"{len(lost)} examples have no joined features: they were not there when the build began.",
            where=f"{spec.kind} set of {spec.application}",
            next_step="Build it anew.",
        )
    return found


def _sources(sources: Sequence[SourceSpec], offsets: Mapping[str, int]) -> list[DatasetSource]:
    """Versions and log offsets of these sources, each named once."""
    found: list[DatasetSource] = []
    single: dict[str, SourceSpec] = {}
    for source in sources:
        single.setdefault(source.name, source)
    for name, source in single.items():
        if (version := version_of(source)) is not None:
            found.append(DatasetSource(name, *version))
        if source.kind == "stream" and name in offsets:
            found.append(DatasetSource(name, "log", str(offsets[name])))
    return found


def _features(views: Sequence[FeatureViewSpec], spec: DatasetSpec) -> list[str]:
    # A prompt has no use for a vector, so no example holds one.
    stored = [f"{view.name}.{name}" for view in views for name in sorted(view.features) if name not in view.models]
    return stored + [f"{view.name}.{feature}" for view in spec.on_demand for feature in sorted(view.features)]


def _prompt(prompts: ServedPrompts, spec: DatasetSpec, prediction: str) -> tuple[str | None, str | None]:
    """SHA-256 of the prompt that a prediction was served with, or why it is not learned; where one is pinned."""
    if not spec.served:
        return None, None
    try:
        blob = prompts.blob(prompts.receipt(prediction), spec.served)
        prompts.text(blob)
    except LeftOutError as reason:
        return None, str(reason)
    return blob, None


def _as_served(receipt: Receipt) -> dict[str, tuple[Value, int | None]]:
    return {
        feature.name: (feature.value, None if feature.event_time is None else microseconds(feature.event_time))
        for feature in receipt.features
    }


def _users(candidates: Sequence[Candidate], receipts: Mapping[str, Receipt | None]) -> dict[str, str]:
    """Example to the first example of the same user, by the unit of exposure; without those that were exposed by their
    entity. A dataset tells which rows are of one user, never of whom."""
    first: dict[str, str] = {}
    found: dict[str, str] = {}
    for one in candidates:  # in the order of their examples
        receipt = receipts.get(one.example)
        if receipt is not None and receipt.user:
            found[one.example] = first.setdefault(receipt.user, one.example)
    return found


def _rows(
    spec: DatasetSpec,
    views: Sequence[FeatureViewSpec],
    candidates: Sequence[Candidate],
    values: Mapping[str, Mapping[str, tuple[Value, int | None]]],
    users: Mapping[str, str],
) -> DatasetTable:
    def column(name: str, type: ColumnType) -> TableColumn:
        return TableColumn(name, type, tuple(getattr(one, name) for one in candidates))

    columns = [column("example", "text"), column("moment", "instant")]
    for place, key in enumerate(spec.entity_keys):
        columns.append(TableColumn(key, "text", tuple(one.entity[place] for one in candidates)))
    for name in _features(views, spec):
        read = [values.get(one.example, {}).get(name, (None, None)) for one in candidates]
        columns.append(feature_column(name, [value for value, _ in read]))
        columns.append(TableColumn(f"{name}.event_time", "instant", tuple(time for _, time in read)))
    if spec.question:
        columns.append(column("question", "text"))
    if spec.served:
        columns.append(TableColumn(PROMPT, "text", tuple(one.prompt_blob for one in candidates)))
    for place, shape in enumerate(spec.further):
        values_of = tuple(one.further[place] if one.further else None for one in candidates)
        columns.append(TableColumn(f"{FURTHER}{shape.name}", "text", values_of))
    origins = TableColumn("drawn_from", "text", tuple(one.origin for one in candidates))
    columns += [column("label", "text"), column("label_at", "instant"), origins, column("prediction", "text")]
    if users:
        columns.append(TableColumn(USER, "text", tuple(users.get(one.example) for one in candidates)))
    return DatasetTable(tuple(columns))
