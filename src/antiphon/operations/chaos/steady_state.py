"""Steady state over time: from single measurements to spans of time outside of it.

A measurement holds from its moment to the next one of its probe. The state is outside while any of its probes is. What
is declared as degraded counts as such, for so long in a row as it is declared for, and as broken afterwards. Times are
seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from antiphon.core.clock import parse_duration
from antiphon.operations.chaos.experiment import StopLimit
from antiphon.operations.chaos.tolerance import within


class ProbeSample(msgspec.Struct, frozen=True, tag_field="event", tag="sample"):
    """One measurement.

    Attributes:
        value: as it was measured; of a response or a program its status.
        steady: within the probe's tolerance. ``error``: why there is no value.
    """

    experiment: str
    probe: str
    at: float
    value: Any = None
    steady: bool = False
    error: str = ""


class TimeSpan(msgspec.Struct, frozen=True, order=True):
    """A span of time, from a moment on to another one."""

    begins: float
    ends: float

    @property
    def seconds(self) -> float:
        return self.ends - self.begins


def outside(samples: Sequence[ProbeSample], within_span: TimeSpan) -> tuple[TimeSpan, ...]:
    """The spans in which a probe's measurements were outside of its tolerance.

    Before its first measurement nothing is known of a probe, and nothing is counted."""
    spans = []
    for number, sample in enumerate(samples):
        if sample.steady:
            continue
        ends = samples[number + 1].at if number + 1 < len(samples) else within_span.ends
        begins, ends = max(sample.at, within_span.begins), min(ends, within_span.ends)
        if ends > begins:
            spans.append(TimeSpan(begins, ends))
    return union(spans)


def union(spans: Iterable[TimeSpan]) -> tuple[TimeSpan, ...]:
    """The same time as spans that neither overlap nor touch, in order."""
    found: list[TimeSpan] = []
    for span in sorted(spans):
        if found and span.begins <= found[-1].ends:
            found[-1] = TimeSpan(found[-1].begins, max(found[-1].ends, span.ends))
        else:
            found.append(span)
    return tuple(found)


def intersection(left: Sequence[TimeSpan], right: Sequence[TimeSpan]) -> tuple[TimeSpan, ...]:
    """The time that is in both."""
    return union(
        TimeSpan(max(one.begins, other.begins), min(one.ends, other.ends))
        for one in left
        for other in right
        if max(one.begins, other.begins) < min(one.ends, other.ends)
    )


def seconds(spans: Iterable[TimeSpan]) -> float:
    """Length of spans that do not overlap."""
    return sum(span.seconds for span in spans)


def past(spans: Iterable[TimeSpan], longest: float) -> tuple[TimeSpan, ...]:
    """The part of each span that comes after so many seconds of it."""
    return tuple(TimeSpan(one.begins + longest, one.ends) for one in spans if one.seconds > longest)


class StateTimes(msgspec.Struct, frozen=True):
    """Time outside of the steady state; of it, what was in the degraded mode, and what was in neither."""

    outside: tuple[TimeSpan, ...]
    degraded: tuple[TimeSpan, ...]
    broken: tuple[TimeSpan, ...]


def state_times(
    samples: Mapping[str, Sequence[ProbeSample]],
    steady: Iterable[str],
    degraded: Iterable[str] | None,
    longest: float,
    observed: TimeSpan,
) -> StateTimes:
    """Divide the observed time by the state that its measurements show.

    Args:
        samples: of each probe, in order.
        steady: probes of the steady state; ``degraded``: those of the degraded mode, ``None`` where none is declared.
        longest: seconds for which the degraded mode counts in a row.
    """
    away = union(span for probe in steady for span in outside(samples.get(probe, ()), observed))
    if degraded is None:
        return StateTimes(away, (), away)
    neither = union(span for probe in degraded for span in outside(samples.get(probe, ()), observed))
    broken = union([*intersection(away, neither), *past(away, longest)])
    return StateTimes(away, _without(away, broken), broken)


def _without(spans: Sequence[TimeSpan], taken: Sequence[TimeSpan]) -> tuple[TimeSpan, ...]:
    found = []
    for span in spans:
        begins = span.begins
        for other in taken:
            if other.ends <= begins or other.begins >= span.ends:
                continue
            if other.begins > begins:
                found.append(TimeSpan(begins, other.begins))
            begins = max(begins, other.ends)
        if begins < span.ends:
            found.append(TimeSpan(begins, span.ends))
    return tuple(found)


def exceeded(limit: StopLimit, samples: Sequence[ProbeSample], now: float) -> bool:
    """Tells whether a probe has been outside of a limit for as long as it allows, without a break, up to now."""
    since = None
    for sample in reversed(samples):
        met = sample.steady if limit.tolerance is None else not sample.error and within(sample.value, limit.tolerance)
        if met:
            break
        since = sample.at
    return since is not None and now - since >= parse_duration(limit.lasting).total_seconds()
