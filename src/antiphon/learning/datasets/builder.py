"""Datasets: planned as a specification, built from it alone, and built again to the same hash.

Invariant: a specification decides the values. What it reads is append-only or named by its content (log offsets,
joined outcomes up to an instant, receipts), apart from source files and from policies that withhold rows: their hashes
are recorded, so that a rebuild that differs can say which of them changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec

from antiphon.catalog.learning.datasets import Dataset, DatasetKind, Datasets, DatasetSpec
from antiphon.core.clock import Clock, from_microseconds
from antiphon.core.errors import AntiphonError, ConflictError, InvalidInputError
from antiphon.core.ids import content_hash
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import TrainingWindow
from antiphon.features.lake.content import Lake
from antiphon.learning.datasets import plan as dataset_plan
from antiphon.learning.datasets.rows import (
    DatasetContent,
    DatasetRowBuilder,
    DatasetSurvey,
    JoinedFeatures,
    label_counts,
)
from antiphon.learning.datasets.table import DatasetTable, write


@dataclass(frozen=True)
class DatasetBuilder:
    """Plans and builds the datasets of one scope, from the rows that are built for it."""

    rows: DatasetRowBuilder
    datasets: Datasets
    lake: Lake
    clock: Clock

    def plan(
        self,
        application: ApplicationSpec,
        window: TrainingWindow | None = None,
        *,
        kind: DatasetKind = "training",
        cutoff: datetime | None = None,
        origins: Sequence[str] | None = None,
        examples: int | None = None,
        seed: int | None = None,
        first: datetime | None = None,
        last: datetime | None = None,
    ) -> DatasetSpec:
        """The specification of a dataset, with everything pinned that could change until it is built.

        A training set ends an embargo before the cutoff; an evaluation set is, unless ``first`` and ``last`` say
        otherwise, that embargo: the latest moments that nothing was trained on.

        Args:
            window: of the application's ``FineTune`` by default.
            cutoff: event time; the window's, else now.
            origins: ``history`` and ``receipts``; both by default, ``receipts`` alone when the outcome has no history.
            examples, seed: of the application's ``FineTune`` by default.
            first, last: bounds of the moments, ``first < moment <= last``.

        Raises:
            InvalidInputError: the application declares no outcome, or the window is none.
        """
        spec = dataset_plan.plan(
            application, window, self.clock.now(), kind, cutoff, origins, examples, seed, first, last
        )
        until = self.rows.outcomes.instant() if "receipts" in spec.origins else None
        return msgspec.structs.replace(spec, offsets=self._offsets(spec), outcomes_until=until)

    def split(self, spec: DatasetSpec, share: float) -> tuple[DatasetSpec, DatasetSpec]:
        """Divides a specification in time: the latest ``share`` of its examples come after what is left of the first.

        Raises:
            InvalidInputError: there are too few examples, or all are of one moment.
        """
        moments = sorted(one.moment for one in self.rows.gather(spec).candidates)
        place = len(moments) - max(1, round(len(moments) * share))
        if place < 1 or moments[place - 1] == moments[-1]:
            raise InvalidInputError(
                f"{len(moments)} examples cannot be divided into some to learn from and some to choose by.",
                where=f"{spec.kind} set of {spec.application}",
                next_step="Train a single recipe, or take a longer history.",
            )
        boundary = from_microseconds(moments[place - 1])
        return msgspec.structs.replace(spec, last=boundary), msgspec.structs.replace(
            spec, first=boundary, kind="evaluation", examples=len(moments) - place
        )

    def survey(self, spec: DatasetSpec) -> DatasetSurvey:
        """Counts the rows and labels of the dataset without joining features or storing anything."""
        return self.rows.gather(spec).survey

    def build(self, spec: DatasetSpec, joined: JoinedFeatures | None = None) -> Dataset:
        """Build the dataset and record it; building the same again returns the one that is there.

        Args:
            joined: features that were joined before, in parts.

        Raises:
            InvalidInputError: it would be empty or have one value only, or a source does not fit.
            SetupError: a source's file is missing.
            NotFoundError: a view's definition was never applied here.
            ConflictError: a source file changed while it was read, or since ``joined`` was.
        """
        made = self.rows.make(spec, joined)
        _require_spread(made)
        logical = made.rows.logical_hash()
        path, sha256 = self._keep(made.rows)
        labels = made.rows.column("label").values
        dataset = Dataset(
            id=f"data_{content_hash([str(self.rows.scope), spec, logical])[:26]}",
            scope=self.rows.scope,
            spec=spec,
            sources=made.sources,
            rows=len(labels),
            labels=label_counts(spec, labels),
            dropped=made.dropped,
            columns=made.rows.names,
            path=path,
            sha256=sha256,
            logical_hash=logical,
            created_at=self.clock.now(),
        )
        return self._at(self.datasets.add(dataset), path, sha256)

    def rebuild(self, dataset: str) -> Dataset:
        """Build a dataset again from its own specification; a file that was lost is back afterwards.

        Raises:
            NotFoundError: there is no such dataset.
            ConflictError: it comes out otherwise; names the sources that changed.
        """
        known = self.datasets.get(self.rows.scope, dataset)
        try:
            made = self.rows.make(known.spec)
        except AntiphonError as error:
            raise ConflictError(
                f"The dataset {known.id} cannot be built again: {error}",
                where=error.where or known.id,
                next_step="Restore the source, or build a new dataset.",
            ) from error
        if made.rows.logical_hash() != known.logical_hash:
            raise ConflictError(
                f"The dataset {known.id} does not come out the same: {_changes(known, made)}.",
                where=known.id,
                next_step="Restore what changed, or build a new dataset.",
            )
        return self._at(known, *self._keep(made.rows))

    def _at(self, dataset: Dataset, path: str, sha256: str) -> Dataset:
        """The dataset, told where its file is now."""
        if (dataset.path, dataset.sha256) == (path, sha256):
            return dataset
        return self.datasets.move(self.rows.scope, dataset.id, path, sha256)

    def _offsets(self, spec: DatasetSpec) -> dict[str, int]:
        log, scope = self.rows.log, self.rows.scope
        if log is None or "history" not in spec.origins:
            return {}
        sources = [self.rows.definitions.get(scope, *view).source for view in spec.views.items()]
        sources += [spec.history] if spec.history is not None else []
        streams = sorted({source.name for source in sources if source.kind == "stream"})
        return {stream: log.end(scope, stream) for stream in streams}

    def _keep(self, rows: DatasetTable) -> tuple[str, str]:
        with self.lake.writing(self.rows.scope, ".parquet") as draft:
            write(rows, draft)
        return draft.path, draft.sha256


_AS_SERVED = (
    " Its prompts have retrieved chunks, earlier turns or results of tools, so it learns from outcomes of predictions "
    "alone, which the base model answered with the prompt that the tuned one will have. What people preferred can be "
    "learned too: `antiphon train {} --preferences`."
)


def _require_spread(made: DatasetContent) -> None:
    survey, spec = made.survey, made.survey.spec
    labels = set(made.rows.column("label").values)
    left_out = ", ".join(f"{count} {reason}" for reason, count in made.dropped.items()) or "none was left out"
    window = f"from {spec.first.isoformat()} to {spec.last.isoformat()}, known by {spec.cutoff.isoformat()}"
    if not labels:
        known = (
            f"The moments there are reach from {survey.earliest.isoformat()} to {survey.latest.isoformat()}: "
            if survey.earliest is not None and survey.latest is not None
            else "No outcome was found at all: "
        )
        raise InvalidInputError(
            f"There is no example {window} ({left_out}).",
            where=f"{spec.kind} set of {spec.application}",
            next_step=f"{known}set the cutoff (--cutoff), a longer history, or import outcomes."
            + (_AS_SERVED.format(spec.application) if spec.served else ""),
        )
    if len(labels) == 1:
        raise InvalidInputError(
            f"All {made.rows.count} examples {window} have the outcome {str(labels.pop())[:60]!r} ({left_out}).",
            where=f"{spec.kind} set of {spec.application}",
            next_step="Nothing can be learned from one value: take a longer history or a later cutoff.",
        )


def _changes(known: Dataset, made: DatasetContent) -> str:
    """Says in words which sources differ between a dataset and its rebuild."""
    before = {(source.name, source.kind): source for source in known.sources}
    after = {(source.name, source.kind): source for source in made.sources}
    changes = []
    for place in sorted(before.keys() | after.keys()):
        old, new = before.get(place), after.get(place)
        if old == new:
            continue
        name = place[0] if place[0] == place[1] else f"the {place[1]} of {place[0]}"
        if old is None or new is None:
            changes.append(f"{name} is {'gone' if new is None else 'new'}")
        elif old.rows is not None and old.rows != new.rows:
            changes.append(f"{name} changed: {new.rows} joined outcomes, {old.rows} then")
        else:
            changes.append(f"{name} changed ({old.version[:12]} then, {new.version[:12]} now)")
    gone = made.dropped.get("receipt-gone", 0) - known.dropped.get("receipt-gone", 0)
    if gone > 0:
        changes.append(f"{gone} receipts or their entity keys are gone")
    erased = made.dropped.get("text-erased", 0) - known.dropped.get("text-erased", 0)
    if erased > 0:
        changes.append(f"{erased} prompts were erased")
    return "; ".join(changes) or "its sources are the same, so the code that reads them changed"
