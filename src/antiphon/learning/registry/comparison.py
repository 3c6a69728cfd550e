"""Any two models side by side: what they were made from, and what they do on identical rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from antiphon.catalog.learning.evaluations import Evaluation, IntervalEstimate
from antiphon.learning.evaluation.scores import RowResult, differences
from antiphon.learning.registry.card import ModelCard


class FieldDifference(msgspec.Struct, frozen=True):
    """A field that differs between two models; ``None`` where one has none."""

    field: str
    first: Any
    second: Any


class ModelComparison(msgspec.Struct, frozen=True):
    """Two models.

    Attributes:
        recipe: how they were trained. ``lineage``: from what. ``files``: the weights that are served.
        dataset: that both were evaluated on last, ``None`` when there is none; the evaluations are of it.
        measures: measure to its value for both.
        paired: metric to (second − first) on the ``paired_rows`` rows that both answered.
        note: what could not be compared, in words.
    """

    first: str
    second: str
    recipe: tuple[FieldDifference, ...]
    lineage: tuple[FieldDifference, ...]
    dataset: str | None
    evaluations: tuple[str, str] | None
    measures: tuple[FieldDifference, ...]
    paired: dict[str, IntervalEstimate]
    paired_rows: int
    note: str


_LINEAGE = ("base", "base_sha256", "parent", "dataset", "dataset_hash", "code", "seconds")
_MEASURES = (
    "rows", "labels", "metrics", "advantages", "whole_rows", "valid_share", "false_share",
    "guard_share", "seconds_p50", "seconds_p99", "tokens", "engine_seconds",
)  # fmt: skip


def common(first: ModelCard, second: ModelCard) -> tuple[Evaluation, Evaluation] | None:
    """The newest evaluation of each on one dataset, of the dataset that was evaluated last."""
    theirs = {evaluation.dataset: evaluation for evaluation in reversed(_evaluations(second))}
    return next(
        ((one, theirs[one.dataset]) for one in _evaluations(first) if one.dataset in theirs),
        None,
    )


def compare(
    first: ModelCard, second: ModelCard, rows: tuple[Sequence[RowResult], Sequence[RowResult]] | None
) -> ModelComparison:
    """Both side by side; ``rows`` are those of :func:`common`'s evaluations."""
    found = common(first, second)
    paired = differences(found[0].outcomes, rows[1], rows[0]) if rows is not None and found is not None else {}
    note = ""
    if found is None:
        note = "They were never evaluated on one dataset, so their measures cannot be compared."
    elif not paired:
        note = "There are no rows that both answered, so they cannot be compared by pairs."
    return ModelComparison(
        first=first.name,
        second=second.name,
        recipe=tuple(_differing(_recipe(first), _recipe(second))),
        lineage=tuple(_differing(_lineage(first), _lineage(second))),
        dataset=found[0].dataset if found is not None else None,
        evaluations=(found[0].id, found[1].id) if found is not None else None,
        measures=() if found is None else (*_measures(*found), *_safety(*found)),
        paired=paired,
        paired_rows=_pairs(rows) if rows is not None else 0,
        note=note,
    )


def _evaluations(card: ModelCard) -> list[Evaluation]:
    known = [card.evaluation, *card.earlier] if card.evaluation is not None else [*card.earlier]
    return sorted(known, key=lambda one: (one.created_at, one.id), reverse=True)


def _safety(first: Evaluation, second: Evaluation) -> Iterator[FieldDifference]:
    """The held-out half of each safety suite."""
    for name in dict.fromkeys(suite.name for one in (first, second) for suite in one.safety):
        suites = [one.suite(name) for one in (first, second)]
        halves = [None if suite is None else suite.held_out for suite in suites]
        yield FieldDifference(f"{name}_share", *(None if half is None else half.share for half in halves))


def _pairs(rows: tuple[Sequence[RowResult], Sequence[RowResult]]) -> int:
    first, second = ({row.example for row in side if row.first.scored} for side in rows)
    return len(first & second)


def _measures(first: Evaluation, second: Evaluation) -> Iterator[FieldDifference]:
    for name in _MEASURES:
        one, other = getattr(first, name), getattr(second, name)
        if not isinstance(one, dict):
            yield FieldDifference(name, one, other)
            continue
        words = "{} rows" if name == "labels" else "{} advantage" if name == "advantages" else "{}"
        for part in dict.fromkeys([*one, *other]):
            yield FieldDifference(words.format(part), one.get(part), other.get(part))


def _recipe(card: ModelCard) -> dict[str, Any]:
    return dict(card.version.recipe) if card.version is not None else {}


def _lineage(card: ModelCard) -> dict[str, Any]:
    said: dict[str, Any] = {"model": card.releases[0].model if card.releases else card.name}
    if card.version is not None:
        version = card.version
        said |= {name: getattr(version, name) for name in _LINEAGE}
        said |= {"replay_datasets": list(version.replay_datasets), "weights_sha256": version.weights.sha256}
        said |= {f"environment.{name}": value for name, value in version.environment.items()}
        trained = next((line.dataset for line in card.datasets if line.id == version.dataset and line.dataset), None)
        if trained is not None:
            said |= {"dataset.rows": trained.rows, "dataset.labels": trained.labels}
            said |= {f"dataset.{name}": getattr(trained.spec, name) for name in ("first", "last", "cutoff")}
            said["dataset.origins"] = list(trained.spec.origins)
            said |= {f"dataset.source.{source.name}": source.version for source in trained.sources}
    return said


def _differing(first: dict[str, Any], second: dict[str, Any]) -> Iterator[FieldDifference]:
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            yield FieldDifference(name, first.get(name), second.get(name))
