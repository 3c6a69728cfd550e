"""Detectors of a tenant's signals, one for each, fed with one period after the other.

Usual values are those of the last hour without the last minute, and of the same time of earlier days; the higher one
counts, so that a season is no change and a short history is enough. A period in which a detector has risen is no part
of what is usual, so a fault does not become the usual thing while it lasts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import datetime

import msgspec

from antiphon.core.histograms import GRID, quantile, within
from antiphon.operations.incidents.evidence import (
    MOST_OF_A_PERIOD,
    advance,
    of_count,
    of_height,
    of_share,
    spread_of,
    threshold,
    upper_count,
    upper_share,
)
from antiphon.operations.incidents.signals import SIGNALS, SignalKey, SignalRule, SignalSample
from antiphon.operations.incidents.topology import APPLICATIONS

_REMEMBERED = 360
"""Periods of what is usual: an hour."""

_LAG = 6
"""The last periods are not usual yet: what rises slowly must not raise what it is measured by."""

_FIRST = 6
"""Usual periods before anything but a state can be a symptom."""

_CALM = 6
"""Periods in a row without evidence after which a symptom is over."""

_UNSEEN = 30
"""Periods in a row without any reading after which it is over as well."""

_NAMES = {APPLICATIONS: "all applications together"}
_WORKER = SignalKey("memory", "worker")

_MISSING = 1
"""Periods without a word after which an engine is silent."""


class Symptom(msgspec.Struct, frozen=True, order=True):
    """A signal that is not as usual, or a fact that says so by itself.

    Attributes:
        since: begin of the first period of it. ``value`` is the greatest since, ``usual`` what was expected then.
        record: of a fact, such as ``run/run_…``: what a person opens. ``lasting``: it is so still.
        affected: requests of the last period that it hit, of ``requests``.
    """

    since: datetime
    signal: str
    component: str
    value: float = 0.0
    usual: float = 0.0
    affected: float = 0.0
    requests: float = 0.0
    sentence: str = ""
    record: str = ""
    lasting: bool = True

    @property
    def key(self) -> SignalKey:
        return SignalKey(self.signal, self.component)


class _Detector:
    def __init__(self, signal: SignalRule) -> None:
        self.signal = signal
        self.level = 0.0
        self.since: datetime | None = None
        self.rising_since: datetime | None = None
        self.calm = self.unseen = 0
        self.usual = self.value = self.affected = self.requests = 0.0
        self.worst = (0.0, 0.0)
        self._fresh: deque[SignalSample] = deque()
        self._normal: deque[SignalSample] = deque(maxlen=_REMEMBERED)
        self._summary: tuple[float, ...] | None = None
        self._bound = 0.0

    def take(self, at: datetime, reading: SignalSample | None, season: SignalSample | None, limit: float) -> None:
        if reading is None:
            self.unseen += 1
            if self.unseen >= _UNSEEN:
                self._end()
            return
        self.unseen = 0
        evidence = self._evidence(reading, season)
        before = self.level
        self.level = advance(before, evidence, limit)
        if before <= 0 < self.level:
            self.rising_since, self.worst = at, (0.0, 0.0)
        if evidence > 0 and self.value > self.worst[0]:
            self.worst = self.value, self.usual
        if self.level >= limit and self.since is None and self.signal.kind != "state":
            self.since = self.rising_since or at
        elif self.signal.kind == "state" and evidence > 0 and self.level >= 1.5 * MOST_OF_A_PERIOD:
            self.since = self.since or self.rising_since or at
        self.calm = self.calm + 1 if evidence <= 0 else 0
        if self.since is not None and self.calm >= _CALM:
            self._end()
        if self.since is None and self.level <= 0:
            self._fresh.append(reading)
            if len(self._fresh) > _LAG:
                self._normal.append(self._fresh.popleft())
                self._summary = None
        elif evidence > 0:
            # What came before a rise may be its begin.
            self._fresh.clear()

    def _end(self) -> None:
        self.since, self.level, self.rising_since, self.calm = None, 0.0, None, 0

    def _evidence(self, reading: SignalSample, season: SignalSample | None) -> float:
        signal = self.signal
        if signal.kind == "state":
            self.value = reading.value / reading.weight if reading.weight else 0.0
            return MOST_OF_A_PERIOD if self.value > 0.5 else -MOST_OF_A_PERIOD
        if len(self._normal) < _FIRST:
            # Nothing is usual yet. What is bad from the first moment on is told by states, facts and objectives.
            return 0.0
        if signal.kind in ("share", "slow"):
            bad = reading.value
            if signal.kind == "slow":
                bad = reading.weight - within(reading.buckets, self._slow_bound(season))
            self.usual = self._usual_share(season)
            self.value = bad / reading.weight if reading.weight else 0.0
            self.affected, self.requests = bad, reading.weight
            return of_share(bad, reading.weight, self.usual)
        self.value = reading.value
        if signal.kind == "count":
            usual = self._summarized()[0]
            if season is not None:
                usual = max(usual, 1.3 * season.value)
            self.usual, self.requests = usual, reading.value
            return of_count(reading.value, usual)
        usual, spread = self._summarized()
        if season is not None and signal.kind == "ceiling":
            usual = max(usual, season.value)
        self.usual = usual = max(usual, signal.least)
        return of_height(reading.value, usual, spread) if reading.value > usual else -1.0

    def _summarized(self) -> tuple[float, ...]:
        if self._summary is None:
            values, floor = [one.value for one in self._normal], self.signal.floor
            if self.signal.kind == "count":
                self._summary = (upper_count(values, floor),)
            elif self.signal.kind == "ceiling":
                self._summary = (max(values), floor)
            else:
                self._summary = spread_of(values, floor)
        return self._summary

    def _slow_bound(self, season: SignalSample | None) -> float:
        if self._summary is None:
            buckets: dict[int, int] = {}
            for one in self._normal:
                for bucket, count in one.buckets.items():
                    buckets[bucket] = buckets.get(bucket, 0) + count
            bound = (quantile(buckets, 0.9) or GRID[-1]) * 1.3
            self._summary = (bound,)
        bound = max(self._summary[0], self.signal.least)
        if season is not None and season.buckets:
            bound = max(bound, (quantile(season.buckets, 0.9) or 0.0) * 1.3)
        return bound

    def _usual_share(self, season: SignalSample | None) -> float:
        floor = self.signal.floor
        if self.signal.kind == "slow":
            return floor
        bad, total = (sum(getattr(one, name) for one in self._normal) for name in ("value", "weight"))
        usual = upper_share(bad, total, floor)
        return usual if season is None else max(usual, upper_share(season.value, season.weight, floor))


class SignalDetectors:
    """The detectors of one tenant. Periods come in their order, each once."""

    def __init__(self) -> None:
        self._detectors: dict[SignalKey, _Detector] = {}
        self._missing: dict[SignalKey, int] = {}

    def take(
        self,
        at: datetime,
        found: Mapping[SignalKey, SignalSample],
        season: Mapping[SignalKey, SignalSample] | None = None,
        *,
        changed: bool = False,
    ) -> tuple[Symptom, ...]:
        """Take in the period that begins at ``at``; every symptom as it stands after it, the oldest first.

        Args:
            season: readings of the same time of earlier days, in the mean of a period.
            changed: people have changed something of late: less evidence is enough.
        """
        found = {**found, **self._silences(found)}
        for key in found.keys() - self._detectors.keys():
            if key.signal in SIGNALS:
                self._detectors[key] = _Detector(SIGNALS[key.signal])
        limit = threshold(sum(one.signal.kind != "state" for one in self._detectors.values()), changed=changed)
        felt = False
        for key, detector in sorted(self._detectors.items(), key=lambda one: one[0].component == APPLICATIONS):
            together = key.component == APPLICATIONS
            # All applications together are asked only while none of them tells by itself.
            hidden = together and felt and detector.since is None
            detector.take(at, None if hidden else found.get(key), (season or {}).get(key), limit)
            felt = felt or (not together and detector.signal.user and detector.since is not None)
        return self.symptoms()

    def symptoms(self) -> tuple[Symptom, ...]:
        """Every signal that is not as usual, the oldest first."""
        return tuple(
            sorted(
                Symptom(
                    one.since, key.signal, key.component, *one.worst, one.affected, one.requests,
                    sentence_of(key, *one.worst),
                )
                for key, one in self._detectors.items()
                if one.since is not None
            )
        )  # fmt: skip

    def _silences(self, found: Mapping[SignalKey, SignalSample]) -> dict[SignalKey, SignalSample]:
        """An engine is silent while no engine tells anything, though the worker does, who writes what engines tell: of
        several, one may have left."""
        said = {key for key in found if key.signal == "silent"}
        for key in said:
            self._missing[key] = 0
        if said or _WORKER not in found:
            return {}
        silences = {}
        for key in self._missing:
            self._missing[key] += 1
            if _MISSING <= self._missing[key] < _UNSEEN:
                silences[key] = SignalSample(1.0, 1.0, {})
        return silences


def sentence_of(key: SignalKey, value: float, usual: float) -> str:
    """The sentence of a symptom."""
    signal = SIGNALS[key.signal]
    name = key.component.partition("/")[2] or _NAMES.get(key.component, key.component)
    if signal.kind in ("share", "slow"):
        return signal.sentence.format(name=name, value=f"{value:.0%}", usual=f"at most {usual:.0%}")
    return signal.sentence.format(name=name, value=f"{value:.3g}", usual=f"{usual:.3g}")
