"""Staleness: which parts of assets are as they should be, which are to be made, and what the others wait for.

A pure function of the declared graph, the versions of what is read and the records of what was made.

Invariants:
- A part is stale when it was never made, when it was made under another definition, or when an input's version is
  another than it was made of. Versions are of content where they can be: an input that came out as before makes nothing
  stale.
- What is stale is made inputs first: a part waits while an input is missing, or is itself to be made.
- A part that failed for good is made again only with other inputs or under another definition.
- An input that is gone since is as it was: what it was made into stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from antiphon.catalog.asset_parts import PartRecord
from antiphon.core.ids import content_hash
from antiphon.definitions.assets import Asset, AssetGraph, AssetPart
from antiphon.definitions.partitions import alike

PartStage = Literal["current", "stale", "waits", "running", "failed", "missing"]

Versions = Mapping[AssetPart, str]
Records = Mapping[AssetPart, PartRecord]

_OK = ("succeeded", "succeeded_with_failures")


# Untracked: thousands are made at each look, and refer to nothing that refers to them.
class PartState(msgspec.Struct, frozen=True, gc=False):
    """A part of an asset as it stands.

    Attributes:
        stage: ``current``; ``stale``, and its inputs are there; ``waits`` for an input that is missing or to be made;
            ``running``; ``failed`` for good with these inputs; ``missing``, of what is not made by a schedule.
        version: of the part that there is.
        reason: a sentence.
        cause: the input that it is stale by, or waits for.
        inputs: keys of assets to versions, as far as they are there: what it would be made of now.
        stale: it is to be made, now or once what it waits for is there.
    """

    part: AssetPart
    stage: PartStage
    version: str | None
    reason: str
    cause: AssetPart | None = None
    inputs: Mapping[str, str] = {}
    stale: bool = False
    record: PartRecord | None = None


States = Mapping[AssetPart, PartState]
"""The state of every part, inputs before what is made of them."""


class _Whole(msgspec.Struct):
    """All parts of an asset together, as an input of one that has no such parts."""

    version: str | None
    latest: AssetPart | None
    hindrance: PartState | None


def assess(
    graph: AssetGraph, now: datetime, versions: Versions, records: Records, unread: Mapping[str, str] = {}
) -> dict[AssetPart, PartState]:
    """The state of every part of every asset as of an instant.

    Args:
        versions: of what no schedule makes.
        records: of what schedules made, and of evaluations, whoever ordered them.
        unread: by key of an asset, why the versions of its parts could not be read.
    """
    found: dict[AssetPart, PartState] = {}
    wholes: dict[str, _Whole] = {}
    for asset in graph.assets.values():
        inputs = [graph.assets[key] for key in asset.reads if key in graph.assets]
        read = _reader(asset, inputs, found, wholes, now)
        for part in asset.parts(now):
            record = records.get(part)
            if asset.schedule is None and record is None:
                found[part] = _there(asset, part, versions.get(part), unread.get(asset.key))
            else:
                found[part] = _made(asset, part, read(part), record)
    return found


class _Input(msgspec.Struct, gc=False):
    """An input of a part: its version, and the state that hinders its use, if one does."""

    key: str
    version: str | None
    part: AssetPart
    hindrance: PartState | None = None
    by_staleness: bool = False


def _reader(
    asset: Asset,
    inputs: Sequence[Asset],
    found: Mapping[AssetPart, PartState],
    wholes: dict[str, _Whole],
    now: datetime,
) -> Callable[[AssetPart], list[_Input]]:
    """The function from a part of an asset to its inputs. Those that are the same for all parts are made once."""
    shared: list[_Input] = []
    by_part: list[Asset] = []
    for one in inputs:
        if alike(asset.partitions, one.partitions):
            by_part.append(one)
        elif one.partitions is None:
            state = found[AssetPart(one.key)]
            shared.append(_Input(one.key, state.version, state.part, _hindrance(one, state), one.by_staleness))
        else:
            if one.key not in wholes:
                wholes[one.key] = _whole(one, [found[part] for part in one.parts(now)])
            whole = wholes[one.key]
            latest = whole.latest or AssetPart(one.key)
            shared.append(_Input(one.key, whole.version, latest, whole.hindrance, one.by_staleness))
    if not by_part:
        return lambda _: shared

    def read(part: AssetPart) -> list[_Input]:
        own = []
        for one in by_part:
            at = AssetPart(one.key, part.partition)
            state = found.get(at)
            if state is None:  # Of a clock that is not ours: it comes with the next look.
                state = PartState(at, "missing", None, "there is no such partition yet")
            own.append(_Input(one.key, state.version, at, _hindrance(one, state), one.by_staleness))
        return [*own, *shared]

    return read


def _whole(asset: Asset, states: Sequence[PartState]) -> _Whole:
    hindrance = next((one for state in states if (one := _hindrance(asset, state)) is not None), None)
    if not states:
        hindrance = PartState(AssetPart(asset.key), "missing", None, "it has no partition yet")
    known = [(state.part.partition, state.version) for state in states if state.version is not None]
    made = [
        (state.record.made_at, state.part)
        for state in states
        if state.record is not None and state.record.made_at is not None
    ]
    version = content_hash(known)[:32] if states and len(known) == len(states) else None
    return _Whole(version, max(made)[1] if made else None, hindrance)


def _hindrance(asset: Asset, state: PartState) -> PartState | None:
    """The state itself, where it keeps others from being made of it. What its schedule does not make by staleness is
    taken as it is, once there is one."""
    if state.version is None or (asset.by_staleness and state.stage != "current"):
        return state
    return None


def _there(asset: Asset, part: AssetPart, version: str | None, unread: str | None) -> PartState:
    if version is not None:
        return PartState(part, "current", version, "it is there")
    if asset.kind == "source":
        return PartState(part, "current", None, "refreshes of its views read it")
    return PartState(part, "missing", None, unread or _MISSING.get(asset.kind, "there is none"))


_MISSING = {
    "file": "there is no such file",
    "view": "no snapshot of it is published",
    "release": "none is live",
    "model": "none was trained",
    "dataset": "none was built",
    "evaluation": "the live release was not evaluated",
}


def _made(asset: Asset, part: AssetPart, inputs: Sequence[_Input], record: PartRecord | None) -> PartState:
    has = record is not None and record.version is not None
    made_of: Mapping[str, str] = record.made_inputs if record is not None and has else {}
    current: dict[str, str] = {}
    changed = hindered = None
    for one in inputs:
        before = made_of.get(one.key)
        version, hindrance = one.version, one.hindrance
        if version is None and before is not None and (hindrance is None or hindrance.stage == "missing"):
            version, hindrance = before, None  # It is gone since; as such it changes nothing.
        if version is not None:
            current[one.key] = version
            if has and changed is None and version != before:
                changed = one
        if hindered is None and hindrance is not None:
            hindered = one
    why, cause = _why(asset, record, changed, made_of.keys() - current.keys(), inputs)

    def state(stage: PartStage, reason: str, cause: AssetPart | None = None, *, stale: bool = False) -> PartState:
        version = None if record is None else record.version
        return PartState(part, stage, version, reason, cause, current, stale, record)

    if record is not None and record.outcome is None:
        return state("running", f"its run {record.run} has not ended", stale=True)
    if hindered is not None and hindered.hindrance is not None:
        stop, wait = hindered.hindrance, _wait(hindered.hindrance, hindered.by_staleness)
        return state("waits", f"{why}; {wait}" if why else wait, stop.part, stale=why is not None or stop.stale)
    if why is None:
        return state("current", "it is made of what there is")
    gone = next((one for one in inputs if one.version is None), None)
    if gone is not None:
        wait = f"it waits for {gone.part}, which was there when it was made and is gone"
        return state("waits", f"{why}; {wait}", gone.part, stale=True)
    if record is not None and record.outcome not in _OK and _same(record, current, asset.definition):
        words = "was canceled" if record.outcome == "cancelled" else "failed"
        sentence = f"{why}; its run {record.run} {words}, and it is made again when an input or its definition changes"
        return state("failed", sentence, cause, stale=True)
    return state("stale", why, cause, stale=True)


def _why(
    asset: Asset, record: PartRecord | None, changed: _Input | None, left: Set[str], inputs: Sequence[_Input]
) -> tuple[str | None, AssetPart | None]:
    """The reason for which a part is to be made, and the input that is one."""
    if record is None or record.version is None:
        return "it was never made", inputs[0].part if inputs else None
    if record.made_definition != asset.definition:
        return "its definition changed", None
    if changed is not None:
        return f"{changed.part} changed", changed.part
    if left:
        return f"it reads {min(left)} no more", None
    return None, None


_WAITS_FOR: Mapping[PartStage, str] = {"failed": "failed", "running": "is being made", "waits": "waits itself"}


def _wait(stop: PartState, by_staleness: bool) -> str:
    if stop.stage == "missing":
        return f"it waits for {stop.part}: {stop.reason}"
    if stop.stage in _WAITS_FOR:
        return f"it waits for {stop.part}, which {_WAITS_FOR[stop.stage]}"
    if not by_staleness:
        return f"it waits for {stop.part}, which its schedule has not made yet"
    return f"{stop.part} is made first"


def _same(record: PartRecord, inputs: Mapping[str, str], definition: str) -> bool:
    return record.inputs == inputs and record.definition == definition


class PartOrder(msgspec.Struct, frozen=True):
    """An order of a part of an asset, with what it is made of."""

    part: AssetPart
    inputs: Mapping[str, str]
    definition: str
    reason: str


class AssetWork(msgspec.Struct, frozen=True):
    """Work on the asset that a schedule makes.

    Attributes:
        ready: the part to make next; ``None``: none can be made now.
        sentence: why that one, or why none.
        earliest: when there may be one, where a time is known.
    """

    asset: str
    partitioned: bool
    ready: PartOrder | None
    sentence: str
    earliest: datetime | None = None


def order_of(asset: Asset, state: PartState) -> PartOrder:
    """The order of a part as it stands."""
    return PartOrder(state.part, state.inputs, asset.definition, f"{state.part}: {state.reason}")


def work_of(asset: Asset, states: States, now: datetime, settle: timedelta) -> AssetWork:
    """The part of an asset to make next, the oldest first.

    Args:
        settle: a partition is not made sooner than this after its last run ended; of an asset without any the schedule
            sees to that.
    """
    partitions, stale, later = asset.partitions, list[PartState](), list[datetime]()
    others: dict[PartStage, list[PartState]] = {"failed": [], "waits": []}
    for one in map(states.__getitem__, asset.parts(now)):
        if one.stage != "stale":
            if one.stage in others:
                others[one.stage].append(one)
            continue
        ended = None if one.record is None or partitions is None else one.record.ended_at
        if ended is not None and ended + settle > now:
            later.append(ended + settle)
        else:
            stale.append(one)
    if stale:
        more = f", and {len(stale) - 1} more" if len(stale) > 1 else ""
        return AssetWork(
            asset.key, partitions is not None, order_of(asset, stale[0]), f"{stale[0].part}: {stale[0].reason}{more}"
        )
    following = None if partitions is None else partitions.next_at(now)
    earliest = min([*later, *([] if following is None else [following])], default=None)
    return AssetWork(asset.key, partitions is not None, None, _idle(others, len(later)), earliest)


def _idle(others: Mapping[PartStage, Sequence[PartState]], settling: int) -> str:
    """The reason for which no part is made now."""
    said = []
    for stage, found in others.items():
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            said.append(f"{found[0].part} {stage}{more}: {found[0].reason}")
    if settling:
        said.append(f"{settling} stale, whose last run has only just ended")
    return "; ".join(said) or "nothing of it is stale"


def causes(states: States, part: AssetPart) -> tuple[PartState, ...]:
    """The chain of causes of a part's state: itself first, then what it is stale by or waits for, and so on."""
    chain: list[PartState] = []
    seen: set[AssetPart] = set()
    at: AssetPart | None = part
    while at is not None and at not in seen and at in states:
        seen.add(at)
        chain.append(states[at])
        at = states[at].cause
    return tuple(chain)


def descendants(graph: AssetGraph, key: str) -> Iterator[str]:
    """Keys of everything that is made of an asset, directly or not, inputs first."""
    reached = {key}
    for asset in graph.assets.values():
        if not reached.isdisjoint(asset.reads):
            reached.add(asset.key)
            yield asset.key
