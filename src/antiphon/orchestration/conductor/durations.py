"""The time that the next run of a schedule takes, predicted from the last ones.

Method: durations are taken for log-normal, as those of batch work mostly are. Their variance is shrunk toward that of
``_PRIOR_SPREAD`` as by ``_PRIOR_RUNS`` runs, so that two runs that happen to agree promise nothing; bounds are those of
the predictive distribution, which is as much wider as the middle is uncertain.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import exp, log, sqrt

import msgspec

from antiphon.durable.run import Run

_PRIOR_SPREAD, _PRIOR_RUNS = 0.3, 3.0
_Z90, _Z999 = 1.645, 3.09
_SHORTEST = 0.1


class RunDurations(msgspec.Struct, frozen=True):
    """The time in seconds that the next run is expected to take.

    Attributes:
        runs: so many it is known from.
        p50: half of the runs take less.
        low, high: 90 of 100 take between the two.
        bound: 999 of 1,000 take less: work with a deadline begins as long before it.
    """

    runs: int
    p50: float
    low: float
    high: float
    bound: float


def expected_end(run: Run, now: datetime, known: RunDurations | None = None) -> datetime | None:
    """The end of a run under way, if it goes on as it went so far, or takes as long as others took; ``None`` where
    neither is known."""
    if run.started_at is None or run.status != "running":
        return None
    if run.total and run.done:
        return now + (now - run.started_at) * (max(run.total - run.done, 0) / run.done)
    return None if known is None else max(run.started_at + timedelta(seconds=known.p50), now)


def durations_of(took: Sequence[float]) -> RunDurations | None:
    """Predicts from durations of runs that ended well; ``None`` of none."""
    if not took:
        return None
    logs = [log(max(one, _SHORTEST)) for one in took]
    middle = sum(logs) / len(logs)
    squares = sum((one - middle) ** 2 for one in logs) + _PRIOR_RUNS * _PRIOR_SPREAD**2
    spread = sqrt(squares / (len(logs) - 1 + _PRIOR_RUNS) * (1 + 1 / len(logs)))
    return RunDurations(
        len(logs),
        exp(middle),
        exp(middle - _Z90 * spread),
        exp(middle + _Z90 * spread),
        exp(middle + _Z999 * spread),
    )
