"""Evidence that a mean has risen above a ceiling at an unknown moment, which may be looked at after every event.

Invariant: while the mean of each value, given all before it, is at most its ceiling, the evidence ever reaches 1/α
with probability at most α, however long it goes on and however often it is looked at (Ville's inequality).

A value x from 0 to 1 is bet on: 1 + s (x − m) / m with a stake 0 < s < 1 is non-negative and has expectation at most 1
where the mean is at most m (Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", JRSS B
86, 2024). Products over the values of a block are kept as sums of logarithms, one for each stake.

A release that was good for a week must not live on the capital that it lost meanwhile: a bettor begins with each block,
and bettor k has the weight 1/((k+1)(k+2)). The weights sum to 1, so that the mixture is such a process as well; a
change in block k costs a factor of (k+1)(k+2) and not the evidence of all blocks before it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]

STAKES = np.array([0.03, 0.08, 0.2, 0.45, 0.9])
"""Shares of the capital at stake; below 1, so that no value ruins a bettor."""


def gains(values: ArrayLike, ceiling: ArrayLike) -> Floats:
    """The logarithmic gain of each stake, added up over the first axis of the values; ceilings are between 0 and 1."""
    drawn, bound = np.asarray(values, np.float64)[..., None], np.asarray(ceiling, np.float64)[..., None]
    return np.asarray(np.log1p(STAKES * (drawn - bound) / bound).sum(axis=0))


def counted_gains(bad: ArrayLike, total: ArrayLike, ceiling: ArrayLike) -> Floats:
    """The same of events that are bad or not, by their counts: arrays that are broadcast, with the stakes behind."""
    bound = np.asarray(ceiling, np.float64)[..., None]
    failures = np.asarray(bad, np.float64)[..., None]
    others = np.asarray(total, np.float64)[..., None] - failures
    return np.asarray(failures * np.log1p(STAKES * (1 - bound) / bound) + others * np.log1p(-STAKES))


def log_evidence(blocks: ArrayLike, numbers: ArrayLike | None = None) -> float:
    """The natural logarithm of the evidence.

    Args:
        blocks: logarithmic gains, the first axis are blocks in their order; all other axes are bettors of equal weight,
            which must go by one clock (stakes, and parts that each event is counted in).
        numbers: of the blocks, which a block keeps from its first event on; by default from 0 on.
    """
    by_begin = _by_begin(blocks, numbers)
    return 0.0 if not by_begin.size else _log_sum(by_begin)


def likeliest_begin(blocks: ArrayLike, numbers: ArrayLike | None = None) -> int:
    """The place of the block whose bettors have most: in it the mean rose, if it did."""
    return int(np.argmax(_by_begin(blocks, numbers)))


def _by_begin(blocks: ArrayLike, numbers: ArrayLike | None) -> Floats:
    gained = np.asarray(blocks, np.float64)
    if not len(gained):
        return np.zeros(0)
    flat = gained.reshape(len(gained), -1)
    # The capital of a bettor who began with block k: what was gained from there on.
    capital = np.cumsum(flat[::-1], axis=0)[::-1]
    number = np.arange(len(flat), dtype=np.float64) if numbers is None else np.asarray(numbers, np.float64)
    weights = -np.log((number + 1) * (number + 2)) - np.log(flat.shape[1])
    highest: Any = capital.max(axis=1)
    return np.asarray(weights + highest + np.log(np.exp(capital - highest[:, None]).sum(axis=1)))


def _log_sum(terms: Floats) -> float:
    highest = float(terms.max())
    return highest + float(np.log(np.exp(terms - highest).sum()))
