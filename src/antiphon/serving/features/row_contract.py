"""Freshness contracts and masks applied to rows of a lookup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from antiphon.core.clock import microseconds
from antiphon.features.freshness import ContractOutcome, rule_of
from antiphon.features.online.entity_rows import SnapshotRows
from antiphon.features.online.remedies import SubstituteValue
from antiphon.features.values import EVER, EntityRow, MeasureValue
from antiphon.serving.features.lookup_values import EntityFeatures, LookupPlan, LookupValue

_MET = ("fresh", "absent")
_WITHHELD = ("defaulted", "rejected")
_NOTHING: dict[str, str | None] = {}


class RowContract:
    """A view's contract and selected features, applied to rows of one snapshot."""

    __slots__ = ("_fresh", "_picked", "_rule", "_source", "asks", "names", "plan", "view")

    def __init__(self, plan: LookupPlan, one: SnapshotRows) -> None:
        self.plan, self.view = plan, one.view
        selected = plan.features[one.view]
        place = {name: index for index, name in enumerate(one.names)}
        self.names = one.names if selected is None else tuple(f"{one.view}.{name}" for name in selected)
        self._picked = None if self.names == one.names else tuple(place[name] for name in self.names)
        self._rule = rule_of(plan.contracts.get(one.view))
        self.asks = self._rule.substitutes
        facts = one.opened.meta.facts
        self._source = self._rule.accepts_source(None if facts is None else facts.source_quality)
        self._fresh = ("fresh",) * len(self.names)

    def apply(self, rows: Sequence[EntityRow], as_of: int) -> list[EntityFeatures]:
        """Apply the contract to each row. Most are fresh throughout, which one comparison tells."""
        picked, fresh = self._picked, self._fresh
        enough = self._rule.oldest(as_of) if self._source else EVER
        lines: list[EntityFeatures] = []
        append, made = lines.append, EntityFeatures
        for row in rows:
            if picked is None:
                values, times = row.values, row.event_times
            else:
                values, times = self._columns(row)
            if row.oldest >= enough:
                append(made(values, times, fresh, _NOTHING))
            else:
                append(self._one_by_one(values, times, as_of))
        return lines

    def _columns(self, row: EntityRow) -> tuple[tuple[MeasureValue, ...], tuple[int | None, ...]]:
        if self._picked is None:
            return row.values, row.event_times
        picked = self._picked
        return tuple([row.values[index] for index in picked]), tuple([row.event_times[index] for index in picked])

    def stale(self, row: EntityRow, as_of: int) -> bool:
        """Tells whether a value of the row violates the contract."""
        return any(outcome not in _MET for outcome in self._outcomes(*self._columns(row), as_of))

    def with_remedies(self, row: EntityRow, as_of: int, instead: Mapping[str, SubstituteValue]) -> EntityFeatures:
        """The row with other values in the place of stale ones."""
        values, times = self._columns(row)
        line = self._one_by_one(values, times, as_of)
        changed = list(zip(line.values, line.event_times, line.contracts, strict=True))
        snapshots: dict[str, str | None] = {}
        for place, (name, outcome) in enumerate(zip(self.names, line.contracts, strict=True)):
            other = instead.get(name)
            if other is None or outcome in _MET:
                continue
            at = None if other.event_time is None else microseconds(other.event_time)
            changed[place] = (other.value, at, other.contract)
            snapshots[name] = other.snapshot
        kept, at_, contracts = zip(*changed, strict=True)
        return EntityFeatures(tuple(kept), tuple(at_), tuple(contracts), snapshots)

    def _one_by_one(
        self, values: tuple[MeasureValue, ...], times: tuple[int | None, ...], as_of: int
    ) -> EntityFeatures:
        outcomes = self._outcomes(values, times, as_of)
        kept = tuple(None if one in _WITHHELD else value for value, one in zip(values, outcomes, strict=True))
        return EntityFeatures(kept, times, outcomes)

    def _outcomes(
        self, values: tuple[MeasureValue, ...], times: tuple[int | None, ...], as_of: int
    ) -> tuple[ContractOutcome, ...]:
        outcome, source = self._rule.outcome, self._source
        return tuple([outcome(value, moment, as_of, source) for value, moment in zip(values, times, strict=True)])


def joined(parts: Sequence[EntityFeatures]) -> EntityFeatures:
    values: tuple[LookupValue, ...] = ()
    times: tuple[int | None, ...] = ()
    contracts: tuple[str, ...] = ()
    instead: dict[str, str | None] = {}
    for part in parts:
        values += part.values
        times += part.event_times
        contracts += part.contracts
        instead |= part.instead
    return EntityFeatures(values, times, contracts, instead)


def masked(names: Sequence[str], line: EntityFeatures, mask: Sequence[str]) -> EntityFeatures:
    hidden = [name in mask or f"{name.partition('.')[0]}.*" in mask for name in names]
    if not any(hidden):
        return line
    return EntityFeatures(
        tuple(None if hide else value for hide, value in zip(hidden, line.values, strict=True)),
        tuple(None if hide else moment for hide, moment in zip(hidden, line.event_times, strict=True)),
        tuple("masked" if hide else said for hide, said in zip(hidden, line.contracts, strict=True)),
        {name: one for name, one in line.instead.items() if not hidden[names.index(name)]},
    )
