"""What freshness contracts and policy leave of rows that were looked up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from antiphon.core.clock import microseconds, parse_duration
from antiphon.definitions.application import Freshness
from antiphon.features.entity_rows import SnapshotRows
from antiphon.features.evaluate import EVER, EntityRow
from antiphon.features.expressions.compile_python import MeasureValue
from antiphon.features.remedies import Remedied
from antiphon.serving.freshness import REMEDIES
from antiphon.serving.lookup_values import LookedUp, LookupPlan, LookupValue

_NOTHING: dict[str, str | None] = {}
_WITHHELD = {"default": "defaulted", "reject": "rejected"}


class Judge:
    """A view's contract and choice of features, ready to be applied to rows of one snapshot."""

    __slots__ = ("_age", "_fresh", "_picked", "_poor", "_stale", "asks", "names", "plan", "view")

    def __init__(self, plan: LookupPlan, one: SnapshotRows) -> None:
        self.plan, self.view = plan, one.view
        asked = plan.features[one.view]
        place = {name: index for index, name in enumerate(one.names)}
        self.names = one.names if asked is None else tuple(f"{one.view}.{name}" for name in asked)
        self._picked = None if self.names == one.names else tuple(place[name] for name in self.names)
        contract = plan.contracts.get(one.view)
        self._age = 2**62
        self._stale, self._poor, self.asks = "fresh", False, False
        if contract is not None:
            self._age = int(parse_duration(contract.max_age).total_seconds() * 1e6)
            self._stale = {"flag": "flagged", **_WITHHELD}[contract.withheld]
            self.asks = contract.when_stale in REMEDIES
            facts = one.opened.meta.facts
            quality = facts.source_quality if facts is not None else None
            wanted = contract.min_source_quality
            self._poor = wanted > 0 and (quality is None or quality < wanted)
        self._fresh = ("fresh",) * len(self.names)

    def judged(self, rows: Sequence[EntityRow], as_of: int) -> list[LookedUp]:
        """What is left of each row. Most are fresh throughout, which one comparison tells."""
        picked, fresh = self._picked, self._fresh
        oldest = as_of - self._age
        enough = EVER if self._poor else oldest
        looked: list[LookedUp] = []
        append, made = looked.append, LookedUp
        for row in rows:
            if picked is None:
                values, times = row.values, row.event_times
            else:
                values, times = self._columns(row)
            if row.oldest >= enough:
                append(made(values, times, fresh, _NOTHING))
            else:
                append(self._one_by_one(values, times, oldest))
        return looked

    def _columns(self, row: EntityRow) -> tuple[tuple[MeasureValue, ...], tuple[int | None, ...]]:
        if self._picked is None:
            return row.values, row.event_times
        picked = self._picked
        return tuple([row.values[index] for index in picked]), tuple([row.event_times[index] for index in picked])

    def stale(self, row: EntityRow, as_of: int) -> bool:
        """Whether a value of the row does not meet the contract."""
        oldest = as_of - self._age
        values, times = self._columns(row)
        return any(
            value is not None and (self._poor or (moment is not None and moment < oldest))
            for value, moment in zip(values, times, strict=True)
        )

    def with_remedies(self, row: EntityRow, as_of: int, instead: Mapping[str, Remedied]) -> LookedUp:
        """The row with other values in the place of stale ones."""
        values, times = self._columns(row)
        oldest = as_of - self._age
        line = self._one_by_one(values, times, oldest)
        changed = list(zip(line.values, line.event_times, line.contracts, strict=True))
        snapshots: dict[str, str | None] = {}
        for place, (name, value, moment) in enumerate(zip(self.names, values, times, strict=True)):
            other = instead.get(name)
            if other is None or value is None or not (self._poor or (moment is not None and moment < oldest)):
                continue
            at = None if other.event_time is None else microseconds(other.event_time)
            changed[place] = (other.value, at, other.contract)
            snapshots[name] = other.snapshot
        kept, at_, contracts = zip(*changed, strict=True)
        return LookedUp(tuple(kept), tuple(at_), tuple(contracts), snapshots)

    def _one_by_one(self, values: tuple[MeasureValue, ...], times: tuple[int | None, ...], oldest: int) -> LookedUp:
        contracts = []
        for value, moment in zip(values, times, strict=True):
            if value is None:
                contracts.append("absent")
            elif self._poor or (moment is not None and moment < oldest):
                contracts.append(self._stale)
            else:
                contracts.append("fresh")
        withheld = _WITHHELD.values()
        kept = tuple(None if said in withheld else value for value, said in zip(values, contracts, strict=True))
        return LookedUp(kept, times, tuple(contracts))


def held(
    value: LookupValue, event_time: int | None, contract: Freshness | None, quality: float | None, as_of: int
) -> tuple[LookupValue, str]:
    """One value under a contract, and what the contract did; another value never stands in here.

    Args:
        quality: the share of the source's rows without a defect.
    """
    if value is None:
        return None, "absent"
    if contract is None:
        return value, "fresh"
    oldest = as_of - int(parse_duration(contract.max_age).total_seconds() * 1e6)
    wanted = contract.min_source_quality
    poor = wanted > 0 and (quality is None or quality < wanted)
    if not poor and (event_time is None or event_time >= oldest):
        return value, "fresh"
    said = {"flag": "flagged", **_WITHHELD}[contract.withheld]
    return (None if said in _WITHHELD.values() else value), said


def joined(parts: Sequence[LookedUp]) -> LookedUp:
    values: tuple[LookupValue, ...] = ()
    times: tuple[int | None, ...] = ()
    contracts: tuple[str, ...] = ()
    instead: dict[str, str | None] = {}
    for part in parts:
        values += part.values
        times += part.event_times
        contracts += part.contracts
        instead |= part.instead
    return LookedUp(values, times, contracts, instead)


def masked(names: Sequence[str], line: LookedUp, mask: Sequence[str]) -> LookedUp:
    hidden = [name in mask or f"{name.partition('.')[0]}.*" in mask for name in names]
    if not any(hidden):
        return line
    return LookedUp(
        tuple(None if hide else value for hide, value in zip(hidden, line.values, strict=True)),
        tuple(None if hide else moment for hide, moment in zip(hidden, line.event_times, strict=True)),
        tuple("masked" if hide else said for hide, said in zip(hidden, line.contracts, strict=True)),
        {name: one for name, one in line.instead.items() if not hidden[names.index(name)]},
    )
