"""Substitutes for values that violate a freshness contract: an earlier value, or a recomputed one.

Invariants: an *earlier* value is one that met the contract: of the same moment from the newest earlier snapshot whose
source was good enough, or as it was when it was last young enough. A *recomputed* value is what the batch path gives
for the entity as of the same moment, from the source and the log as they are now; it counts only when it meets the
contract, and when it came within its time. Nothing is written anywhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

import msgspec

from antiphon.core.clock import Clock, from_microseconds
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.freshness import FreshnessRule
from antiphon.features.offline.batch_values import values_at
from antiphon.features.offline.compute import ComputeLimits, Deadline, compute
from antiphon.features.online.entity_rows import SnapshotRows
from antiphon.features.plan import plan_of
from antiphon.features.ports import LogReader
from antiphon.features.sources.source_rows import load_rows
from antiphon.features.values import EntityRow, MeasureValue

AT_ONCE = 2
"""Recomputations of one process at the same time; others wait within their time."""

Keys = Mapping[str, str]


class ContractViolation(msgspec.Struct, frozen=True):
    """A view's contract that is not met, in numbers.

    Attributes:
        as_of: the moment (microseconds).
        rule: the contract.
        seconds: how long a recomputation may take.
    """

    view: str
    as_of: int
    rule: FreshnessRule
    seconds: float


class SubstituteValue(msgspec.Struct, frozen=True):
    """A value in the place of a stale one, and where it is from; ``snapshot`` is ``None`` for a recomputed one."""

    contract: Literal["previous", "recomputed"]
    value: MeasureValue
    event_time: datetime | None
    snapshot: str | None
    definition_version: str
    stream_offset: int | None = None
    quality: float | None = None


class EarlierRows(NamedTuple):
    """The rows of a view in publications up to one, the newest first (``lookup.FeatureReader.earlier``)."""

    snapshot: SnapshotRows
    read: Callable[[Sequence[Keys], Sequence[int]], list[EntityRow]]

    @property
    def quality(self) -> float | None:
        """The share of source rows without a defect; ``None`` when the snapshot does not say."""
        facts = self.snapshot.opened.meta.facts
        return None if facts is None else facts.source_quality


def previous(
    earlier: Iterable[EarlierRows], violation: ContractViolation, keys: Sequence[Keys]
) -> list[dict[str, SubstituteValue]]:
    """Of each entity the features that have an earlier value that met the contract, by ``view.feature``."""
    found: list[dict[str, SubstituteValue]] = [{} for _ in keys]
    for one in earlier:
        if not violation.rule.accepts_source(one.quality):
            continue
        try:
            rows = one.read(keys, [violation.as_of] * len(keys))
            for known, key, row in zip(found, keys, rows, strict=True):
                _take(one, violation, key, row, known)
        except AntiphonError:
            # It is gone, pruned or does not reach back so far: an older one may.
            continue
        if all(len(known) == len(one.snapshot.names) for known in found):
            break
    return found


def _take(
    one: EarlierRows, violation: ContractViolation, key: Keys, row: EntityRow, known: dict[str, SubstituteValue]
) -> None:
    """The row's values that are young enough; the others as they were at the last moment at which they were."""
    names = one.snapshot.names
    late: dict[int, list[int]] = {}
    for place, (name, value, moment) in enumerate(zip(names, row.values, row.event_times, strict=True)):
        if name in known or value is None:
            continue
        if violation.rule.accepts_age(moment, violation.as_of):
            known[name] = _earlier(one, row, place)
        elif moment is not None:
            late.setdefault(moment + violation.rule.max_age, []).append(place)
    for moment, places in late.items():
        if moment < one.snapshot.opened.meta.answers_from:
            continue
        (then,) = one.read([key], [moment])
        for place in places:
            at = then.event_times[place]
            if then.values[place] is not None and violation.rule.accepts_age(at, moment):
                known[names[place]] = _earlier(one, then, place)


def _earlier(one: EarlierRows, row: EntityRow, place: int) -> SubstituteValue:
    moment = row.event_times[place]
    return SubstituteValue(
        "previous",
        row.values[place],
        None if moment is None else from_microseconds(moment),
        one.snapshot.snapshot,
        one.snapshot.definition_version,
        None if row.offsets is None else row.offsets[place],
        one.quality,
    )


class Recomputer:
    """Features of few entities by the batch path, now. ``limits``: what one recomputation may use."""

    def __init__(self, log: LogReader, clock: Clock, limits: ComputeLimits) -> None:
        self._log = log
        self._clock = clock
        self._limits = limits
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def recompute(
        self, scope: Scope, spec: FeatureViewSpec, violation: ContractViolation, keys: Sequence[Keys]
    ) -> list[dict[str, SubstituteValue]]:
        """Of each entity the features whose new value meets the contract; none when the time is over or the source
        cannot be read."""
        nothing: list[dict[str, SubstituteValue]] = [{} for _ in keys]
        deadline = Deadline(self._clock, violation.seconds)
        if not violation.rule.accepts_source(None) or not self._places.acquire(timeout=violation.seconds):
            # The present quality of the source is not measured, so a contract that asks for it is not met by it.
            return nothing
        try:
            found = list(self._computed(scope, spec, violation, keys, deadline))
            return nothing if deadline.over else found
        except AntiphonError:
            return nothing
        finally:
            self._places.release()

    def _computed(
        self,
        scope: Scope,
        spec: FeatureViewSpec,
        violation: ContractViolation,
        keys: Sequence[Keys],
        deadline: Deadline,
    ) -> Iterator[dict[str, SubstituteValue]]:
        plan = plan_of(spec)
        entities = [tuple(str(each[key]) for key in plan.keys) for each in keys]
        with compute(self._limits) as connection, deadline.interrupting(connection):
            load_rows(
                connection,
                plan,
                scope=scope,
                log=self._log,
                # An encoding is set against all entities together.
                entities=None if plan.fitted_windows else list(dict.fromkeys(entities)),
            )
            if deadline.over:
                yield from ({} for _ in keys)
                return
            requested = set(entities)
            found = {
                entity: values for entity, values in values_at(connection, plan, violation.as_of) if entity in requested
            }
        for entity in entities:
            yield {
                f"{violation.view}.{name}": SubstituteValue(
                    "recomputed", one.value, from_microseconds(one.event_time), None, spec.definition_version
                )
                for name, one in found.get(entity, {}).items()
                if one.value is not None
                and one.event_time is not None
                and violation.rule.accepts_age(one.event_time, violation.as_of)
            }
