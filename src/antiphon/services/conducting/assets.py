"""Assets of one project as people read them: what is stale, why, what is made next, and what waits for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.core.suggestions import nearest
from antiphon.definitions.assets import Asset
from antiphon.definitions.project import ProjectSpec
from antiphon.orchestration.conductor.assets import PartStage, PartState, causes, descendants
from antiphon.services.conducting.asset_states import AssetStates, asset_states
from antiphon.services.conducting.schedule_lines import declared
from antiphon.services.project.store import Store

_WORST: tuple[PartStage, ...] = ("failed", "stale", "running", "waits", "missing", "current")
MOST_PARTS = 20
"""Parts of an asset of which the plan of runs tells one by one."""


class AssetLine(msgspec.Struct, frozen=True):
    """An asset as it stands.

    Attributes:
        stage: of the part that needs attention most, for its ``reason``.
        parts: by stage, how many there are.
        stale: parts that are to be made, now or once what they wait for is there.
        made_by: the schedule that makes it, and ``when``; nothing where none does.
        reads, feeds: keys of the assets that it is made of, and of those that are made of it.
        made_at: when a part of it was made last by its schedule.
    """

    key: str
    kind: str
    stage: PartStage
    reason: str
    parts: Mapping[str, int]
    stale: int
    made_by: str | None
    when: str | None
    reads: tuple[str, ...]
    feeds: tuple[str, ...]
    made_at: datetime | None


class AssetPartLine(msgspec.Struct, frozen=True):
    """A part of an asset as it stands; ``causes`` lead from what it is stale by, or waits for, to the first cause."""

    partition: str
    stage: PartStage
    reason: str
    version: str | None = None
    made_by: str | None = None
    made_at: datetime | None = None
    run: str | None = None
    made_of: Mapping[str, str] = {}
    causes: tuple[str, ...] = ()


class AssetDetail(msgspec.Struct, frozen=True):
    """An asset with its parts, the latest first, and everything that is made of it, directly or not."""

    asset: AssetLine
    parts: tuple[AssetPartLine, ...]
    descendants: tuple[str, ...]


class StaleParts(msgspec.Struct, frozen=True):
    """Parts of an asset that a change of definitions makes stale, and the reason of the first."""

    asset: str
    parts: int
    reason: str
    made_by: str | None


class ProjectAssets:
    """Assets of one tenant in one project's environment."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope

    def list(self, *, stale: bool = False) -> tuple[AssetLine, ...]:
        """Every asset of what is applied, inputs first; or only those with a part that is not as it should be."""
        project = self._store.applied.project(self._scope)
        found = asset_states(self._store, self._scope, project)
        lines = _lines(found, project)
        return tuple(one for one in lines if not stale or one.stale)

    def show(self, key: str) -> AssetDetail:
        """One asset with its parts.

        Raises:
            NotFoundError: no asset of this key is declared by what is applied.
        """
        project = self._store.applied.project(self._scope)
        found = asset_states(self._store, self._scope, project)
        asset = found.graph.assets.get(key)
        if asset is None:
            raise NotFoundError(
                f"There is no asset {key!r}.",
                where=str(self._scope),
                next_step=nearest(key, found.graph.assets, "`antiphon assets list` shows those that are applied."),
            )
        parts = [found.states[part] for part in asset.parts(found.at)]
        lines = tuple(_part_line(one, found) for one in reversed(parts))
        return AssetDetail(_line(asset, found, project, _feeds(found)), lines, tuple(descendants(found.graph, key)))


def newly_stale(store: Store, scope: Scope, project: ProjectSpec) -> tuple[StaleParts, ...]:
    """Parts that are stale under declarations and were not under those that are applied, by asset."""
    if not any(asset.schedule for asset in project.assets().assets.values()):
        return ()
    before = asset_states(store, scope, store.applied.project(scope)).states
    after = asset_states(store, scope, project)
    found = []
    for asset in after.graph.assets.values():
        parts = [state for state in _parts(asset, after) if state.stale]
        new = [one for one in parts if (was := before.get(one.part)) is None or not was.stale]
        if new and asset.schedule is not None:
            found.append(StaleParts(asset.key, len(new), new[0].reason, asset.schedule))
    return tuple(found)


def stale_parts(store: Store, scope: Scope, project: ProjectSpec) -> Iterator[PartState | str]:
    """The parts that staleness makes and that are not as they should be, inputs first, of assets with several of them;
    of one with many the first ones, then a sentence about the others."""
    found = asset_states(store, scope, project)
    for asset in found.graph.assets.values():
        if not asset.by_staleness:
            continue
        waiting = [one for one in _parts(asset, found) if one.stage in ("stale", "waits", "failed")]
        if len(waiting) > 1:  # Of a single one its schedule tells.
            yield from waiting[:MOST_PARTS]
        if len(waiting) > MOST_PARTS:
            yield f"{len(waiting) - MOST_PARTS} more of {asset.key}"


def _parts(asset: Asset, found: AssetStates) -> list[PartState]:
    return [found.states[part] for part in asset.parts(found.at)]


def _lines(found: AssetStates, project: ProjectSpec) -> Iterator[AssetLine]:
    feeds = _feeds(found)
    for asset in found.graph.assets.values():
        yield _line(asset, found, project, feeds)


def _feeds(found: AssetStates) -> dict[str, list[str]]:
    feeds: dict[str, list[str]] = {}
    for asset in found.graph.assets.values():
        for key in asset.reads:
            feeds.setdefault(key, []).append(asset.key)
    return feeds


def _line(asset: Asset, found: AssetStates, project: ProjectSpec, feeds: Mapping[str, list[str]]) -> AssetLine:
    parts = _parts(asset, found)
    counts: Counter[str] = Counter(one.stage for one in parts)
    none: PartStage = "missing"
    stage = next((one for one in _WORST if counts[one]), none)
    first = next((one for one in parts if one.stage == stage), None)
    spec = project.schedules.get(asset.schedule or "")
    made = [one.record.made_at for one in parts if one.record is not None and one.record.made_at is not None]
    reason = "it has no partition yet: the first day is not over" if first is None else first.reason
    if first is not None and first.part.partition and stage != "current":
        reason = f"{first.part.partition}: {reason}"
    return AssetLine(
        asset.key,
        asset.kind,
        stage,
        reason,
        dict(counts),
        sum(one.stale for one in parts),
        asset.schedule,
        None if spec is None else declared(spec),
        asset.reads,
        tuple(feeds.get(asset.key, ())),
        max(made, default=None),
    )


def _part_line(state: PartState, found: AssetStates) -> AssetPartLine:
    record = state.record
    chain = tuple(f"{one.part}: {one.reason}" for one in causes(found.states, state.part)[1:])
    if record is None:
        return AssetPartLine(state.part.partition, state.stage, state.reason, state.version, causes=chain)
    return AssetPartLine(
        state.part.partition,
        state.stage,
        state.reason,
        state.version,
        record.made_by,
        record.made_at,
        record.run or None,
        record.made_inputs,
        chain,
    )
