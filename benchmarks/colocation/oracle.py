"""The most batch work that any scheduler could have done beside given online work: a linear programme.

Invariant: every real or simulated run maps to a feasible point, so no run beats the bound; one that does proves the
calibration wrong. A step's work is spread evenly over the buckets that the step covers; then, for each bucket,

- steps n, online prefill C and decode D, batch prefill c and decode b cost at most the bucket's length by the
  calibration's affine lower envelope: alpha n + beta (D + b) + gamma (C + c) + delta k;
- context tokens read k are at least those of the shortest prompt for each decoded token, and 0 for prefill;
- D + b <= slots n, and D <= active n: a step decodes one token of a sequence, so online work that must be quick
  cannot be saved up into few full steps. Active are the requests that have arrived and whose last token is not yet due;
- cumulative online work lies between what is due and what has arrived, prefill and decode each for itself;
- over the window, batch prefill is at least p / (o - 1) of batch decode, and each p prefilled tokens give one output.

What is relaxed: everything is known beforehand, steps may be split, the online work of one request may stand in for
another's of the same kind, prefix order and slots of batch are not held against it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from benchmarks.colocation.calibration import Envelope
from benchmarks.colocation.outcome import SERVICE_TPOT, SERVICE_TTFT, Outcome, Served
from benchmarks.colocation.traces import BATCH_OUTPUT_TOKENS, BATCH_PROMPT_TOKENS
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array

BUCKET = 0.01


class Unfit(ValueError):
    """Online work that was done, or must be, needs more time than the calibration has for it."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Online work of one request: ``due[j]`` is the moment by which token ``j`` must have been delivered."""

    at: float
    prompt_tokens: int
    due: tuple[float, ...]


def due_by_slowdown(alone: Outcome, slowdown: float) -> tuple[Demand, ...]:
    """Each token within (1 + ``slowdown``) of its own time in the online-only run."""
    return tuple(
        Demand(s.at, s.prompt_tokens, tuple(s.at + (token - s.at) * (1 + slowdown) for token in s.tokens))
        for s in alone.served
    )


def due_by_service(alone: Outcome) -> tuple[Demand, ...]:
    """The absolute service level, or the token's own time in the online-only run where that is later."""
    return tuple(
        Demand(
            s.at,
            s.prompt_tokens,
            tuple(max(token, s.at + SERVICE_TTFT + SERVICE_TPOT * index) for index, token in enumerate(s.tokens)),
        )
        for s in alone.served
    )


def later(online: Sequence[Demand], share: float) -> tuple[Demand, ...]:
    """The same with every token due later by a share of its time since arrival, which never lowers the bound."""
    return tuple(
        Demand(each.at, each.prompt_tokens, tuple(due + share * (due - each.at) for due in each.due)) for each in online
    )


def due_as_served(run: Outcome) -> tuple[Demand, ...]:
    """What the run itself achieved: no schedule that is as good to every token does more batch work than the bound.

    A request that was not served is not due."""
    return tuple(Demand(s.at, s.prompt_tokens, _as_delivered(s)) for s in run.served)


def _as_delivered(served: Served) -> tuple[float, ...]:
    return tuple(served.tokens) + (math.inf,) * (served.output_tokens - len(served.tokens))


def most_batch_tokens(
    envelope: Envelope,
    online: Sequence[Demand],
    seconds: float,
    *,
    slots: int = 16,
    prompt_tokens: int = BATCH_PROMPT_TOKENS,
    output_tokens: int = BATCH_OUTPUT_TOKENS,
    bucket: float = BUCKET,
) -> float:
    """Batch output tokens in the window, at most.

    Raises:
        Unfit: the online work alone does not fit (the envelope is too high, or a deadline too early).
    """
    count = math.ceil(seconds / bucket - 1e-9)
    work = _Work(online, count, bucket)
    steps, C, D, c, b, done_C, done_D = (np.arange(count) + count * kind for kind in range(7))
    every = np.arange(count)
    ones = np.ones(count)
    unequal = [
        (every, steps, envelope.alpha * ones),
        (every, C, envelope.gamma * ones),
        (every, c, envelope.gamma * ones),
        (every, D, envelope.beta + envelope.delta * work.shortest),
        (every, b, (envelope.beta + envelope.delta * prompt_tokens) * ones),
        (every + count, D, ones),
        (every + count, b, ones),
        (every + count, steps, -slots * ones),
        (every + 2 * count, D, ones),
        (every + 2 * count, steps, -np.minimum(work.active, slots)),
        (np.full(count, 3 * count), b, prompt_tokens / max(output_tokens - 1, 1) * ones),
        (np.full(count, 3 * count), c, -ones),
    ]
    limits = np.concatenate([np.full(count, bucket), np.zeros(2 * count + 1)])
    equal = []
    for offset, amount, done in ((0, C, done_C), (count, D, done_D)):
        equal += [(every + offset, done, ones), (every + offset, amount, -ones)]
        equal += [(every[1:] + offset, done[:-1], -ones[1:])]
    gain = np.zeros(7 * count)
    gain[b], gain[c] = 1.0, 1.0 / prompt_tokens
    lower, upper = np.zeros(7 * count), np.full(7 * count, np.inf)
    lower[done_C], upper[done_C] = work.due_prefill, work.arrived_prefill
    lower[done_D], upper[done_D] = work.due_decode, work.arrived_decode
    solved = linprog(
        -gain,
        A_ub=_matrix(unequal, 3 * count + 1, 7 * count),
        b_ub=limits,
        A_eq=_matrix(equal, 2 * count, 7 * count),
        b_eq=np.zeros(2 * count),
        bounds=np.column_stack([lower, upper]),
        method="highs-ipm",
    )
    if not solved.success:
        raise Unfit(f"The online work does not fit the window by the calibration: {solved.message}")
    return -float(solved.fun)


class _Work:
    """Cumulative online work at the end of each bucket, and per bucket who is active and reads how much."""

    def __init__(self, online: Sequence[Demand], count: int, bucket: float) -> None:
        prefill_in, prefill_due, decode_in, decode_due, active = (np.zeros(count + 1) for _ in range(5))
        self.shortest: NDArray[np.float64] = np.full(count, np.inf)
        for request in online:
            first = min(int(request.at / bucket), count)
            prefill_in[first] += request.prompt_tokens
            decode_in[first] += len(request.due) - 1
            ends = [self._bucket(due, bucket, count) for due in request.due]
            prefill_due[ends[0]] += request.prompt_tokens
            np.add.at(decode_due, ends[1:], 1.0)
            active[first] += 1
            last = min(max(ends) + 1, count)
            active[last] -= 1
            self.shortest[first:last] = np.minimum(self.shortest[first:last], request.prompt_tokens)
        self.shortest[np.isinf(self.shortest)] = 0.0
        self.active = np.cumsum(active)[:count]
        self.arrived_prefill, self.due_prefill = np.cumsum(prefill_in)[:count], np.cumsum(prefill_due)[:count]
        self.arrived_decode, self.due_decode = np.cumsum(decode_in)[:count], np.cumsum(decode_due)[:count]

    @staticmethod
    def _bucket(due: float, bucket: float, count: int) -> int:
        """The bucket at whose end at the latest the work is done; ``count`` for after the window."""
        return count if due > count * bucket + 1e-9 else max(math.ceil(due / bucket - 1e-9) - 1, 0)


def _matrix(
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]], rows: int, columns: int
) -> csr_array:
    at, of, value = (np.concatenate([part[index] for part in parts]) for index in range(3))
    return coo_array((value, (at, of)), shape=(rows, columns)).tocsr()
