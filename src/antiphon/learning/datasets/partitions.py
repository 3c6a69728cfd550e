"""Datasets built by partition: the durable workflow that joins the features of one span of moments after the other.

Invariants: the dataset is the one that a build at once makes, of the same specification and logical hash; each
partition is a step, so that what is joined again after a crash, a freeze or a pause is less than one; all parts are
read from the same versions of the sources, or it fails.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from antiphon.catalog.learning.datasets import DatasetSource, DatasetSpec
from antiphon.core.clock import microseconds
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.durable.context import RunContext
from antiphon.features.offline.materialize import SUFFIX
from antiphon.learning.datasets.builder import DatasetBuilder
from antiphon.learning.datasets.candidates import Candidate
from antiphon.learning.datasets.rows import CandidateSample, JoinedFeatures, require_same

if TYPE_CHECKING:
    import pyarrow

WORKFLOW = "dataset"
"""The workflow's name in the registry."""

MOST_PARTITIONS = 10_000
"""Partitions of one dataset, at most."""

_JOIN = "join "


class DatasetArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a build: the dataset's specification, the seconds that a partition spans, and who ordered it."""

    spec: DatasetSpec
    every: Annotated[float, msgspec.Meta(gt=0)]
    principal: str = "worker"

    @property
    def spans(self) -> tuple[tuple[datetime, datetime], ...]:
        """The partitions: ``first < moment <= last`` of each, the earliest first.

        Raises:
            InvalidInputError: there are more than :data:`MOST_PARTITIONS`.
        """
        step, bounds = timedelta(seconds=self.every), [self.spec.first]
        count = -((self.spec.first - self.spec.last) // step)
        if count > MOST_PARTITIONS:
            raise InvalidInputError(
                f"The dataset has {count:,} partitions; {MOST_PARTITIONS:,} at most are built.",
                where="--by",
                next_step="Name a longer span.",
            )
        bounds += [min(self.spec.first + number * step, self.spec.last) for number in range(1, count + 1)]
        return tuple(pairwise(bounds))


class JoinedPart(msgspec.Struct, frozen=True):
    """The file of the lake with the joined features of a partition, its SHA-256, and how many rows it has."""

    path: str
    sha256: str
    rows: int


class DatasetPartitions:
    """Builds the datasets of one scope by partition."""

    def __init__(self, builder: DatasetBuilder) -> None:
        self._builder = builder

    async def build(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Run the workflow: ``arguments`` is a :class:`DatasetArguments`; the result names the dataset, with its rows
        and logical hash.

        Raises:
            ConflictError: a source changed since the build began.
            As :meth:`DatasetBuilder.build`.
        """
        order = msgspec.convert(arguments, DatasetArguments)
        work = _PartitionedBuild(self._builder, order)
        spans = order.spans
        run.progress(0, len(spans) + 1, "draw the examples")
        sources = tuple(msgspec.convert(await run.step("draw", work.draw), list[DatasetSource]))
        parts: list[JoinedPart] = []
        for done, (first, last) in enumerate(spans):
            named = f"moments after {first:%Y-%m-%dT%H:%M:%SZ} to {last:%Y-%m-%dT%H:%M:%SZ}"
            run.progress(done, len(spans) + 1, named)
            stop = threading.Event()
            joining = partial(work.join, sources, first, last, stop)
            made = await run.step(f"{_JOIN}{named}", joining, stop=stop)
            parts.append(msgspec.convert(made, JoinedPart))
        run.progress(len(spans), len(spans) + 1, "put the parts together")
        built: dict[str, Any] = await run.step(
            "assemble", work.assemble, sources, tuple(zip(spans, parts, strict=True))
        )
        run.progress(len(spans) + 1, len(spans) + 1, f"{built['dataset']}: {built['rows']} rows")
        return built


class _PartitionedBuild:
    """One attempt: the examples are drawn once, and held in memory from partition to partition."""

    def __init__(self, builder: DatasetBuilder, order: DatasetArguments) -> None:
        self._builder, self._spec = builder, order.spec
        self._sample: CandidateSample | None = None

    def draw(self) -> list[dict[str, Any]]:
        """The versions of everything that the dataset is read from."""
        found = self._builder.rows.versions(self._spec, self._drawn())
        versions: list[dict[str, Any]] = msgspec.to_builtins(found)
        return versions

    def join(
        self, sources: tuple[DatasetSource, ...], first: datetime, last: datetime, stop: threading.Event
    ) -> dict[str, Any]:
        """Join the features of the examples of a span, and keep them in the lake."""
        part, _ = self._joined(sources, first, last, stop)
        made: dict[str, Any] = msgspec.to_builtins(part)
        return made

    def assemble(
        self,
        sources: tuple[DatasetSource, ...],
        parts: Sequence[tuple[tuple[datetime, datetime], JoinedPart]],
    ) -> dict[str, Any]:
        """Make the dataset of its parts; one whose file is gone is joined again."""

        def tables() -> Iterator[pyarrow.Table]:
            for (first, last), part in parts:
                if part.rows:
                    yield self._table(sources, first, last, part)

        dataset = self._builder.build(self._spec, JoinedFeatures(tables(), sources))
        return {"dataset": dataset.id, "rows": dataset.rows, "logical_hash": dataset.logical_hash}

    def _table(
        self, sources: tuple[DatasetSource, ...], first: datetime, last: datetime, part: JoinedPart
    ) -> pyarrow.Table:
        import pyarrow.parquet

        try:
            self._builder.lake.verify(part.path, part.sha256)
            with self._builder.lake.open(part.path) as stream:
                return pyarrow.parquet.read_table(stream)
        except CorruptionError:
            # The run had failed for longer than garbage is spared.
            return self._joined(sources, first, last, threading.Event())[1]

    def _joined(
        self, sources: tuple[DatasetSource, ...], first: datetime, last: datetime, stop: threading.Event
    ) -> tuple[JoinedPart, pyarrow.Table]:
        import pyarrow.parquet

        rows, sample = self._builder.rows, self._drawn()
        begin, end = microseconds(first), microseconds(last)
        chosen: list[Candidate] = [one for one in sample.past if begin < one.moment <= end]
        if not chosen or not self._spec.versions():
            return JoinedPart("", "", 0), pyarrow.table({})
        table = rows.join(self._spec, chosen, stop)
        require_same(self._spec, sources, rows.versions(self._spec, sample))
        with self._builder.lake.writing(rows.scope, SUFFIX) as draft:
            pyarrow.parquet.write_table(table, draft, compression="zstd")
        return JoinedPart(draft.path, draft.sha256, len(chosen)), table

    def _drawn(self) -> CandidateSample:
        if self._sample is None:
            self._sample = self._builder.rows.gather(self._spec)
        return self._sample


def joined_by(step: str, result: Any) -> tuple[str, ...]:
    """Lake files that a recorded step of the workflow has written."""
    if not step.startswith(_JOIN) or not isinstance(result, dict) or not result.get("path"):
        return ()
    return (str(result["path"]),)
