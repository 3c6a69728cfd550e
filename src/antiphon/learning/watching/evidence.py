"""Evidence about a live release: values are added to blocks, and blocks are weighed. Pure.

A block is an hour, of a view the snapshot that its values were read from, of requests ten minutes. What is kept grows
with the blocks and not with the answers; of more than :data:`MOST_BLOCKS` the two oldest become one, and the others
keep their numbers: a bettor's weight may not depend on what came later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
import numpy as np

from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.releases.watches import Bins, MeasureEvidence
from antiphon.catalog.serving.receipt import Receipt
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.outcomes.drift import Printed, ValueBins
from antiphon.learning.watching.ceilings import VIEW, output_values
from antiphon.learning.watching.losses import calibration_error, loss_of
from antiphon.releases.ceilings import counted_gains, gains, likeliest_begin, log_evidence

MOST_BLOCKS = 168

COUNTED = timedelta(minutes=10)
"""The block of requests."""

_HOUR = timedelta(hours=1)


def block_of(moment: datetime, length: timedelta = _HOUR) -> str:
    """The block of time that a moment is in; names sort as the blocks do."""
    return f"{int(moment.timestamp() // length.total_seconds()):09d}"


def with_counts(
    measure: MeasureEvidence, counts: Mapping[str, tuple[float, float]], since: datetime
) -> MeasureEvidence:
    """A share of requests, by all counts of bad ones and of all that there are, by block of :data:`COUNTED`.

    Args:
        since: when the release went live.
    """
    found = [(int(name), bad, total) for name, (bad, total) in sorted(counts.items()) if total]
    if measure.ceiling is None or not found:
        return measure
    number, bad, total = (np.array(column, np.float64) for column in zip(*found, strict=True))
    first = min(int(block_of(since, COUNTED)), found[0][0])
    logs = counted_gains(bad, total, measure.ceiling)
    units = float(total.sum())
    return msgspec.structs.replace(
        measure, units=units, mean=float(bad.sum()) / units, evidence=log_evidence(logs, number - first)
    )


def with_outcomes(measure: MeasureEvidence, outcomes: Sequence[OutcomeRecord], shape: OutcomeShape) -> MeasureEvidence:
    """Quality or calibration, with outcomes that are new."""
    if measure.ceiling is None:
        return measure
    value: Callable[[OutcomeRecord, OutcomeShape], float | None] = (
        loss_of if measure.name == "quality" else calibration_error
    )
    by_block: dict[str, list[float]] = {}
    for one in outcomes:
        if (found := value(one, shape)) is not None:
            by_block.setdefault(block_of(one.created_at), []).append(found)
    if not by_block:
        return measure
    added = {name: _sums(measure.name, values, measure.ceiling) for name, values in sorted(by_block.items())}
    return weighed(_with_blocks(measure, _added(measure.blocks, added)))


def with_answers(
    measure: MeasureEvidence, receipts: Sequence[Receipt], application: ApplicationSpec
) -> MeasureEvidence:
    """Outputs, or a view's values, with answers that are new."""
    if not measure.bins or not receipts:
        return measure
    added: dict[str, list[float]] = {}
    if measure.name.startswith(VIEW):
        view = measure.name.removeprefix(VIEW)
        for receipt in receipts:
            of_view = [
                one for one in receipt.features if one.name.partition(".")[0] == view and one.printed is not None
            ]
            seen: dict[str, Sequence[Printed]] = {
                one.name: [one.printed] for one in of_view if one.name in measure.bins
            }
            snapshot = next((one.snapshot for one in of_view if one.snapshot), None)
            if seen and snapshot is not None:
                _add(added, snapshot, _counts(measure.bins, seen))
    else:
        by_block: dict[str, list[Receipt]] = {}
        for receipt in receipts:
            by_block.setdefault(block_of(receipt.created_at), []).append(receipt)
        for name, some in sorted(by_block.items()):
            _add(added, name, _counts(measure.bins, output_values(some, application)))
    if not added:
        return measure
    return weighed(_with_blocks(measure, _added(measure.blocks, added)))


def weighed(measure: MeasureEvidence) -> MeasureEvidence:
    """The measure with the evidence of its blocks."""
    blocks = list(measure.blocks.values())
    if not blocks:
        return measure
    logs, numbers = _gains(measure), _numbers(measure)
    if measure.bins:
        units, _ = _excess(measure.bins, [float(one) for one in np.sum(blocks, axis=0)])
        since = np.sum(blocks[likeliest_begin(logs, numbers) :], axis=0)
        _, mean = _excess(measure.bins, [float(one) for one in since])
    else:
        units = sum(block[0] for block in blocks)
        mean = sum(block[1] for block in blocks) / units
    return msgspec.structs.replace(measure, units=units, mean=mean, evidence=log_evidence(logs, numbers))


def first_bad_block(measure: MeasureEvidence) -> str:
    """The block from which on the evidence is strongest."""
    return list(measure.blocks)[likeliest_begin(_gains(measure), _numbers(measure))]


def bound(alpha: float, tests: int) -> float:
    """The evidence, as a natural logarithm, at which one of so many measures is decided."""
    return math.log(tests / alpha)


def _gains(measure: MeasureEvidence) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Logarithmic gains, blocks first."""
    blocks = np.array(list(measure.blocks.values()), np.float64)
    if not measure.bins:
        return blocks[:, 2:]
    parts, begin = [], 0
    for one in measure.bins.values():
        counts = blocks[:, begin : begin + len(one.names)]
        begin += len(one.names)
        ceilings = np.array(one.ceilings)
        bounded = ceilings < 1
        if bounded.any():
            parts.append(counted_gains(counts[:, bounded], counts.sum(axis=1, keepdims=True), ceilings[bounded]))
    if not parts:
        return np.zeros((len(blocks), 1, 1))
    return np.concatenate(parts, axis=1)


def _sums(name: str, values: Sequence[float], ceiling: float) -> list[float]:
    if name == "quality":
        gained = gains(values, ceiling)
    else:  # Either side by itself: forecasts that are too low, and too high.
        bound = (1 + ceiling) / 2
        errors = np.array(values)
        gained = np.concatenate([gains((1 + errors) / 2, bound), gains((1 - errors) / 2, bound)])
    return [float(len(values)), float(sum(values)), *(float(one) for one in gained)]


def _counts(bins: Mapping[str, Bins], values: Mapping[str, Sequence[Printed]]) -> list[float]:
    found: list[float] = []
    for variable, one in bins.items():
        binned = ValueBins(one.cuts, (name[2:] for name in one.names if name.startswith("= ")))
        counts = dict.fromkeys(one.names, 0.0)
        for value in values.get(variable, ()):
            counts[binned(value)] += 1
        found += counts.values()
    return found


def _excess(bins: Mapping[str, Bins], totals: Sequence[float]) -> tuple[float, float]:
    """The values of the variable that has most, and the largest share of a bin beyond its ceiling."""
    most, largest, begin = 0.0, -1.0, 0
    for one in bins.values():
        counts = totals[begin : begin + len(one.names)]
        begin += len(one.names)
        total = sum(counts)
        most = max(most, total)
        if total:
            largest = max(largest, *(count / total - top for count, top in zip(counts, one.ceilings, strict=True)))
    return most, largest


def _add(to: dict[str, list[float]], name: str, sums: Sequence[float]) -> None:
    known = to.get(name)
    to[name] = list(sums) if known is None else [a + b for a, b in zip(known, sums, strict=True)]


def _added(before: Mapping[str, list[float]], added: Mapping[str, list[float]]) -> dict[str, list[float]]:
    found = {name: list(sums) for name, sums in before.items()}
    for name, sums in added.items():
        _add(found, name, sums)
    return found


def _with_blocks(measure: MeasureEvidence, blocks: dict[str, list[float]]) -> MeasureEvidence:
    merged = measure.merged
    while len(blocks) > MOST_BLOCKS:
        (first, sums), (_, second), *rest = blocks.items()
        blocks = {first: [a + b for a, b in zip(sums, second, strict=True)], **dict(rest)}
        merged += 1
    return msgspec.structs.replace(measure, blocks=blocks, merged=merged)


def _numbers(measure: MeasureEvidence) -> list[int]:
    """The oldest block has the number of the first one, whose bettors it has."""
    return [0, *range(measure.merged + 1, measure.merged + len(measure.blocks))]
