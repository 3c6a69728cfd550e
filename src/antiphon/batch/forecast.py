"""Forecasts the end and the cost of a batch job from measurements of batch work and its supply.

Three things are asked of the measurements, each by itself:

- *Cost* of a token computed and of one written, in engine seconds: a regression over jobs, drawn towards
  :data:`PREFILL_SHARE` while there are few.
- *Supply*: the engine seconds that batch work gets in a wall second while it has any; what online leaves. It is
  forecast by the hour of the day of the week before, as far as hours differ more than days do, and by how it stands
  now, which is forgotten as fast as it was seen to change.
- *Share*: jobs under way get it in the order in which they take turns (``fair_queue``).

The interval comes from futures of the supply drawn from its measured shocks (a bootstrap of a first-order
autoregression: Efron & Tibshirani 1986, section 6), times an error of the work itself that shrinks as the job's own
rows end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt

import msgspec
import numpy as np
from numpy.typing import NDArray

from antiphon.batch.fair_queue import ESCALATED_SHARE, SlotRequest
from antiphon.catalog.batch.batch_work import EngineSupply, OpenJob, RowUsage

BUCKET_SECONDS = 300.0
"""Of one measurement of the supply."""

PREFILL_SHARE = 0.3
"""Assumed cost of a prompt token beside that of an output token, until it is measured."""

TOKENS_A_BYTE = 0.25
KEPT_SHARE = 0.9
"""Of what a prompt shares with others, the part that the engine finds kept, before it was measured: it keeps a
beginning when it sees it for the second time."""

OUTPUT_SHARE = 0.8
"""Of the bound to its output that a request writes, before it was measured."""

WORK_ERROR, OWN_WEIGHT = 0.25, 24.0
"""Standard deviation of the logarithm of a new job's work, and after how many rows of its own half of it is known."""

LEAST_RATE = 1e-5
"""Engine seconds a second; below it batch work is taken to get this little."""

PERSISTENCE, SHOCK = 0.9, 0.2
"""Of the logarithm of the supply from one bucket to the next, before it was measured."""

HORIZON_HOURS = 72
INTERVAL = (0.1, 0.9)
_FUTURES = 128
_PRIOR_BUCKETS = 12
_SHARE_STEPS = 200
_HOUR = 3_600.0
_DAY = 86_400.0

Floats = NDArray[np.float64]


class Work(msgspec.Struct, frozen=True):
    """Work left: tokens to compute, to write, and the engine seconds for both."""

    rows: int
    prompt_tokens: float
    output_tokens: float
    engine_seconds: float


class EndForecast(msgspec.Struct, frozen=True):
    """End of a job (seconds since 1970): as likely sooner as later; and between ``earliest`` and ``latest`` four
    times of five."""

    ends: float
    earliest: float
    latest: float


class TokenCost(msgspec.Struct, frozen=True):
    """Engine seconds of a token computed and of one written."""

    computed: float
    written: float


def cost_of(usages: Sequence[RowUsage]) -> TokenCost | None:
    """Least squares over jobs, each weighed by its engine seconds; ``None`` when nothing was measured."""
    measured = [one for one in usages if one.engine_seconds > 0]
    if not measured:
        return None
    computed = np.array([one.prompt_tokens - one.cached_tokens for one in measured], dtype=float)
    written = np.array([one.output_tokens for one in measured], dtype=float)
    seconds = np.array([one.engine_seconds for one in measured])
    usual = seconds.sum() / max((PREFILL_SHARE * computed + written).sum(), 1e-9)
    scale = np.sqrt(seconds)
    # Two rows more draw both costs towards the usual ones, as one job of mean size that cost just that would.
    pull = np.diag([computed.mean() + 1.0, written.mean() + 1.0]) / scale.mean()
    rows = np.concatenate([np.stack([computed, written], axis=1) / scale[:, None], pull])
    targets = np.concatenate([seconds / scale, pull @ np.array([PREFILL_SHARE * usual, usual])])
    found, *_ = np.linalg.lstsq(rows, targets, rcond=None)
    return TokenCost(
        *(float(max(each, 0.1 * usual * share)) for each, share in zip(found, (PREFILL_SHARE, 1.0), strict=True))
    )


def work_left(job: OpenJob, cost: TokenCost, alike: RowUsage) -> Work | None:
    """Computes the work left of a job from what answered rows of the same model took (``alike``, without this job's
    own); ``None`` where nothing says how long its prompts are."""
    rows = max(job.sizes.rows - job.rows_done, 0)
    # A row of this job says as much as any number of others' rows beyond OWN_WEIGHT.
    known = job.usage + _capped(alike, OWN_WEIGHT)
    if job.sizes.prompt_bytes and not known.prompt_bytes:
        known += RowUsage(1, 1_000, 100, int(1_000 * TOKENS_A_BYTE), 0, int(100 * OUTPUT_SHARE))
    if not known.rows:
        return None
    share = rows / job.sizes.rows if job.sizes.rows else 0.0
    if job.sizes.prompt_bytes:
        tokens_a_byte = known.prompt_tokens / known.prompt_bytes
        computed = share * job.sizes.prompt_bytes * tokens_a_byte * _computed_share(job)
    else:
        computed = rows * (known.prompt_tokens - known.cached_tokens) / known.rows
    if known.output_limit:
        written = share * job.sizes.output_limit * known.output_tokens / known.output_limit
    else:
        written = rows * known.output_tokens / known.rows
    seconds = computed * cost.computed + written * cost.written
    if job.usage.rows:
        # What its own rows cost beyond what the tokens say, for example of an output schema.
        own = job.usage
        said = (own.prompt_tokens - own.cached_tokens) * cost.computed + own.output_tokens * cost.written
        weight = own.rows / (own.rows + OWN_WEIGHT)
        seconds *= (own.engine_seconds / max(said, 1e-9)) ** weight if own.engine_seconds else 1.0
    return Work(rows, computed, written, seconds)


def _computed_share(job: OpenJob) -> float:
    """Of the tokens of a job's prompts, those that are computed rather than found kept."""
    sizes, own = job.sizes, job.usage
    shared = 1.0 - sizes.distinct_bytes / sizes.prompt_bytes
    expected = 1.0 - KEPT_SHARE * shared
    if not own.prompt_tokens:
        return expected
    weight = own.rows / (own.rows + OWN_WEIGHT)
    measured = max(1.0 - own.cached_tokens / own.prompt_tokens, 0.01)
    return float(expected ** (1.0 - weight) * measured**weight)


class JobWork(msgspec.Struct, frozen=True):
    """Engine seconds that a job has left, until when it should have ended (seconds since 1970), and the share of its
    tenant."""

    job: str
    tenant: str
    seconds: float
    deadline: float = inf
    share: float = 1.0


def delivered_at_ends(left: Sequence[JobWork], rate: float, now: float) -> dict[str, float]:
    """Engine seconds that all jobs together have got when each of them ends, in the order that jobs take turns in: the
    most pressed one first, the others by shares of tenants and by equal parts of their jobs. ``rate`` (engine seconds a
    second) tells when a deadline begins to press."""
    open_ = {one.job: one for one in left}
    seconds = {one.job: max(one.seconds, 1e-9) for one in left}
    step = sum(seconds.values()) / _SHARE_STEPS
    delivered, ends = 0.0, dict[str, float]()
    while open_:
        part = _parts(list(open_.values()), seconds, rate, now + delivered / rate)
        span = min([step, *(seconds[job] / share for job, share in part.items() if share > 0)])
        delivered += span
        for job, share in part.items():
            seconds[job] -= span * share
            if seconds[job] <= 1e-9:
                ends[job] = delivered
                del open_[job]
    return ends


def _parts(left: Sequence[JobWork], seconds: Mapping[str, float], rate: float, now: float) -> dict[str, float]:
    """Shares of the supply by job."""
    claims = [SlotRequest(one.tenant, one.job, now, one.deadline, seconds[one.job] / rate) for one in left]
    urgent = [claim for claim in claims if claim.escalates(now)]
    others = [claim for claim in claims if not claim.escalates(now)]
    parts = dict.fromkeys((claim.job for claim in claims), 0.0)
    if urgent:
        parts[min(urgent, key=lambda claim: claim.deadline).job] = ESCALATED_SHARE if others else 1.0
    rest = 1.0 - ESCALATED_SHARE if urgent else 1.0
    tenants = Counter(claim.tenant for claim in others)
    of_tenant = {one.tenant: one.share for one in left}
    whole = sum(of_tenant[tenant] for tenant in tenants)
    for claim in others:
        parts[claim.job] = rest * of_tenant[claim.tenant] / whole / tenants[claim.tenant]
    return parts


class SupplyForecast:
    """The supply of the hours to come, as futures that may be asked when so much has been delivered; made from
    measurements of the week before, at least one."""

    def __init__(self, measured: Sequence[EngineSupply], now: float) -> None:
        steps = int(HORIZON_HOURS * _HOUR / BUCKET_SECONDS)
        at = now + BUCKET_SECONDS * np.arange(steps, dtype=np.float64)
        usable = sorted((one for one in measured if one.seconds >= BUCKET_SECONDS / 10), key=lambda one: one.began)
        usable = usable or sorted(measured, key=lambda one: one.began)
        began = np.array([one.began for one in usable])
        rates = np.array([max(one.rate, LEAST_RATE) for one in usable])
        profile = _profile(began, rates)
        ratio: Floats = np.log(rates / profile(began))
        stays, shocks = _persistence(began, ratio)
        # Where it stands now: as it last was, forgotten as fast as it changes.
        level = ratio[-1] * stays ** max((now - began[-1]) / BUCKET_SECONDS - 1.0, 0.0)
        draw = np.random.default_rng(0)
        shocked = draw.choice(shocks, size=(steps, _FUTURES))
        # How well the mean is known that it goes back to, of measurements that follow from each other.
        unsure = float(ratio.std()) * sqrt((1 + stays) / (1 - stays) / len(ratio))
        mean = unsure * draw.standard_normal(_FUTURES)
        path = np.empty((steps, _FUTURES))
        state = level - mean
        for step in range(steps):
            state = stays * state + shocked[step]
            path[step] = state + mean
        rate: Floats = profile(at)[:, None] * np.exp(path)
        self._now = now
        self._delivered = np.cumsum(np.minimum(rate, rates.max() * 1.5) * BUCKET_SECONDS, axis=0).T
        self._quantiles = draw.standard_normal(_FUTURES)
        self.rate = float(np.median(rate[: int(_HOUR / BUCKET_SECONDS)].mean(axis=0)))
        """Engine seconds a second, over the next hour."""

    def forecast(self, engine_seconds: float, error: float) -> EndForecast:
        """Forecasts the time at which these engine seconds are delivered; ``error``: deviation of their logarithm."""
        predicted = engine_seconds * np.exp(error * self._quantiles)
        ends = sorted(
            self._when(future, float(seconds)) for future, seconds in zip(self._delivered, predicted, strict=True)
        )
        low, middle, high = (ends[int(share * (len(ends) - 1))] for share in (INTERVAL[0], 0.5, INTERVAL[1]))
        return EndForecast(*(self._now + each for each in (middle, low, high)))

    def _when(self, delivered: Floats, seconds: float) -> float:
        if seconds > delivered[-1]:
            return float(HORIZON_HOURS * _HOUR * seconds / delivered[-1])
        at = int(np.searchsorted(delivered, seconds))
        before = float(delivered[at - 1]) if at else 0.0
        part = (seconds - before) / max(float(delivered[at]) - before, 1e-9)
        return float(BUCKET_SECONDS * (at + part))


def work_error(job: OpenJob) -> float:
    """Standard deviation of the logarithm of the work left, about its prediction."""
    return WORK_ERROR / sqrt(1.0 + job.usage.rows / OWN_WEIGHT)


def _capped(usage: RowUsage, rows: float) -> RowUsage:
    if usage.rows <= rows:
        return usage
    part = rows / usage.rows
    return RowUsage(*(type(each)(round(each * part, 6)) for each in msgspec.structs.astuple(usage)))


def _profile(began: Floats, rates: Floats) -> Callable[[Floats], Floats]:
    """The rate by hour of the day, as far as hours differ more than the same hour does from day to day.

    Hours are drawn towards their mean by the share of their variance that days explain (empirical Bayes: Efron & Morris
    1975); a single day says nothing of hours.
    """
    hours = ((began % _DAY) // _HOUR).astype(int)
    days = (began // _DAY).astype(int)
    logs = np.log(rates)
    overall = float(logs.mean())
    level = np.full(24, overall)
    means = [
        np.array([logs[(hours == hour) & (days == day)].mean() for day in np.unique(days[hours == hour])])
        for hour in range(24)
    ]
    seen_again = [each for each in means if len(each) > 1]
    if seen_again:
        within = float(np.mean([each.var(ddof=1) for each in seen_again]))
        per_day = float(np.mean([len(each) for each in seen_again]))
        between = max(float(np.var([each.mean() for each in seen_again])) - within / per_day, 0.0)
        for hour, each in enumerate(means):
            if len(each) > 1:
                share = between / max(between + within / len(each), 1e-12)
                level[hour] = share * each.mean() + (1 - share) * overall

    def rate(at: Floats) -> Floats:
        found: Floats = np.exp(level[((at % _DAY) // _HOUR).astype(int)])
        return found

    return rate


def _persistence(began: Floats, ratio: Floats) -> tuple[float, Floats]:
    """Persistence of a deviation over a bucket, and the shocks in between (a first-order
    autoregression).

    Of few measurements the persistence is drawn towards :data:`PERSISTENCE`, and shocks of :data:`SHOCK` stand beside
    theirs.
    """
    follow = np.diff(began) < 1.5 * BUCKET_SECONDS
    before, after = ratio[:-1][follow], ratio[1:][follow]
    weight = float(ratio.var()) * _PRIOR_BUCKETS + 1e-9
    stays = (float((before * after).sum()) + weight * PERSISTENCE) / (float((before**2).sum()) + weight)
    stays = min(max(stays, 0.0), 0.98)
    own: Floats = after - stays * before
    usual = np.tile([-SHOCK, SHOCK], max(_PRIOR_BUCKETS - len(own), 2) // 2)
    return stays, np.concatenate([own - own.mean() if len(own) else own, usual])
