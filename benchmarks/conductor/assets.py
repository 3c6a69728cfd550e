"""Graphs of a thousand assets: what a late partition reaches, what equal outputs cut off, and the time to decide.

The real graph, staleness and decisions over runs that end at once. What must be made is counted from the drawn graph by
a walk of its own, which shares no code with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random

import msgspec
import numpy as np

from antiphon.catalog.asset_parts import PartRecord
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.definitions.assets import AssetPart, asset_graph
from antiphon.definitions.partitions import DailyPartitions
from antiphon.definitions.schedules import ScheduleSpec, WorkflowWork
from antiphon.definitions.triggers import NewStaleness
from antiphon.definitions.workflows import WorkflowSpec
from antiphon.orchestration.conductor.assets import assess, work_of
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.state import Observation, PlannedRun, ScheduleState

NOW = datetime(2026, 11, 11, 12, tzinfo=UTC)
DAYS = tuple(f"2026-11-{day:02d}" for day in range(1, 11))
ASSETS = 1_000


class DrawnAsset(msgspec.Struct):
    """A workflow as it was drawn: numbers of those before it that it reads, whether a file of its own, and by day."""

    reads: tuple[int, ...] = ()
    file: bool = False
    daily: bool = False


class AssetFigures(msgspec.Struct, frozen=True):
    """Counts of one shape, over all seeds together.

    Attributes:
        parts: that there are; ``made_first``: made in the beginning.
        reached: that are made of the late partition; ``rerun``: made when it came; ``missed`` and ``extra`` are the
            differences as sets, ``twice`` what was made more than once, ``early`` what was made before an input.
        cut_reached, cut_rerun: the same for a change after which two of five workflows come out as before;
            ``cut_wrong``: parts made, or not, against the count.
        decide_ms: p50 and p99 of a decision about all of them.
    """

    assets: int
    parts: int
    made_first: int
    reached: int
    rerun: int
    missed: int
    extra: int
    twice: int
    early: int
    cut_reached: int
    cut_rerun: int
    cut_wrong: int
    decide_ms: Mapping[str, float]


def _chains(random: Random) -> list[DrawnAsset]:
    return [DrawnAsset((number - 1,)) if number % 50 else DrawnAsset(file=True) for number in range(ASSETS)]


def _fans(random: Random) -> list[DrawnAsset]:
    """Of ten layers: each asset reads up to five of the layer before."""
    width, made = ASSETS // 10, list[DrawnAsset]()
    for number in range(ASSETS):
        begin = number // width * width - width
        reads = random.sample(range(begin, begin + width), random.randint(1, 5)) if begin >= 0 else ()
        made.append(DrawnAsset(tuple(reads), file=begin < 0))
    return made


def _days(random: Random) -> list[DrawnAsset]:
    """One of three is partitioned by ten days; each reads up to three of the fifty before it."""
    made = list[DrawnAsset]()
    for number in range(ASSETS):
        near = range(max(number - 50, 0), number)
        reads = random.sample(near, min(len(near), random.randint(0, 3)))
        made.append(DrawnAsset(tuple(reads), not reads or random.random() < 0.1, random.random() < 0.33))
    return made


SHAPES: Mapping[str, Callable[[Random], list[DrawnAsset]]] = {"chains": _chains, "fans": _fans, "days": _days}


def asset_figures(seeds: Sequence[int]) -> Mapping[str, AssetFigures]:
    """The figures of every shape."""
    found = {}
    print(f"\n{'assets':<8} {'parts':>6} {'reached':>8} {'rerun':>6} {'missed':>7} {'extra':>6} {'twice':>6} "
          f"{'cut off':>15} {'decided in, ms':>15}")  # fmt: skip
    for name, draw in SHAPES.items():
        several = [_figures(draw(Random(seed)), Random(seed)) for seed in seeds]
        sums = {
            field: sum(getattr(one, field) for one in several)
            for field in AssetFigures.__struct_fields__
            if field not in ("assets", "decide_ms")
        }
        worst = {point: max(one.decide_ms[point] for one in several) for point in ("p50", "p99")}
        one = found[name] = AssetFigures(assets=ASSETS, decide_ms=worst, **sums)
        cut = f"{one.cut_rerun} of {one.cut_reached}"
        print(f"{name:<8} {one.parts:>6} {one.reached:>8} {one.rerun:>6} {one.missed:>7} {one.extra:>6} {one.twice:>6} "
              f"{cut:>15} {worst['p50']:>7} / {worst['p99']}")  # fmt: skip
    return found


def is_exact(one: AssetFigures) -> bool:
    """Tells whether each part was made when it had to be, once and after its inputs, and no other."""
    return not any((one.missed, one.extra, one.twice, one.early, one.cut_wrong, one.made_first - one.parts))


def _figures(drawn: list[DrawnAsset], random: Random) -> AssetFigures:
    world = AssetWorld(drawn)
    # Of ten files the one that reaches most: one that reaches nothing shows nothing.
    late = max(random.sample(sorted(world.files), 10), key=lambda one: len(_reached(drawn, one, frozenset())))
    arrives = world.files.pop(late)
    world.make_all()
    held = _reached(drawn, late, frozenset())
    first = len(world.made)
    world.files[late] = arrives
    made = world.make_all()
    equal = frozenset(number for number in range(len(drawn)) if random.random() < 0.4)
    world.equal = equal
    # Once more of everything, so that those that come out equal have a version of that kind.
    world.files = {part: f"{version}+" for part, version in world.files.items()}
    world.make_all()
    changed = max(random.sample(sorted(world.files), 10), key=lambda one: len(_reached(drawn, one, equal)))
    world.files[changed] += "+"
    again = set(world.make_all())
    expected = _reached(drawn, changed, equal)
    place = {part: at for at, part in enumerate(made)}
    early = sum(
        any(place.get(one, -1) > place[part] for one in _inputs(drawn, _number(part), part.partition)) for part in made
    )
    return AssetFigures(
        ASSETS, world.count, first + len(set(made)), len(held), len(made), len(held - set(made)),
        len(set(made) - held), len(made) - len(set(made)), early, len(_reached(drawn, changed, frozenset())),
        len(again), len(again ^ expected), world.decide_ms(),
    )  # fmt: skip


class AssetWorld:
    """Files, and what runs made of them; each run ends at once.

    Attributes:
        made: parts in the order in which they were made.
        equal: numbers of workflows that come out as before, whatever they read.
        count: parts of workflows.
    """

    def __init__(self, drawn: list[DrawnAsset]) -> None:
        self._specs = _schedules(drawn)
        self.graph = asset_graph({}, {}, self._specs)
        self.files = {
            part: "1" for asset in self.graph.assets.values() if asset.kind == "file" for part in asset.parts(NOW)
        }
        self.count = sum(len(one.parts(NOW)) for one in self.graph.assets.values() if one.schedule)
        self.made: list[AssetPart] = []
        self.equal: frozenset[int] = frozenset()
        self._records: dict[AssetPart, PartRecord] = {}
        self._schedules = [
            (asset, spec, ScheduleRecord(spec.name, 1, NOW, NOW))
            for asset in self.graph.assets.values()
            if (spec := self._specs.get(asset.schedule or "")) is not None
        ]

    def decided(self) -> Sequence[PlannedRun]:
        """The orders of one look: staleness of everything, and a decision about every schedule."""
        states = assess(self.graph, NOW, self.files, self._records)
        schedules = []
        for asset, spec, record in self._schedules:
            observed = Observation(asset=work_of(asset, states, NOW, timedelta()))
            schedules.append(ScheduleState(spec, record, observed=observed))
        return decide(schedules, NOW).orders

    def make_all(self) -> list[AssetPart]:
        """Look and make until nothing is ordered any more; the parts in that order."""
        before = len(self.made)
        while orders := self.decided():
            for one in orders:
                assert one.order is not None
                part, number = one.order.part, _number(one.order.part)
                version = "same" if number in self.equal else msgspec.json.encode(one.order.inputs).decode()
                record = PartRecord(*part, "run", one.order.inputs, one.order.definition, NOW)
                self._records[part] = record.settled("succeeded", str(hash(version)), NOW)
                self.made.append(part)
        return self.made[before:]

    def decide_ms(self, times: int = 50) -> Mapping[str, float]:
        """Milliseconds of a look, one part in ten of the files being another each time."""
        took = []
        for number in range(times):
            changed = {part: f"{version}{number}" for part, version in list(self.files.items())[number % 10 :: 10]}
            self.files |= changed
            began = time.perf_counter()
            self.decided()
            took.append(1e3 * (time.perf_counter() - began))
        return {"p50": round(float(np.median(took)), 2), "p99": round(float(np.quantile(took, 0.99)), 2)}


def _schedules(drawn: list[DrawnAsset]) -> dict[str, ScheduleSpec]:
    schedules = {}
    for number, one in enumerate(drawn):
        own = f"file/{number}-{{day}}" if one.daily else f"file/{number}"
        reads = (*(f"workflow/w{read}" for read in one.reads), *([own] if one.file else []))
        parts = DailyPartitions(DAYS[0]) if one.daily else None
        workflow = WorkflowSpec(f"w{number}", f"module:w{number}", reads=reads, partitions=parts)
        schedules[f"w{number}"] = ScheduleSpec(f"w{number}", "", WorkflowWork(workflow), NewStaleness())
    return schedules


def _number(part: AssetPart) -> int:
    """The number of a workflow, or of the one whose file it is."""
    return int(part.asset.partition("/")[2].removeprefix("w").partition("-")[0])


def _inputs(drawn: Sequence[DrawnAsset], number: int, day: str) -> set[AssetPart]:
    """The parts of workflows that a part reads, as they were drawn."""
    found = set()
    for read in drawn[number].reads:
        days = (day,) if drawn[read].daily and drawn[number].daily else DAYS if drawn[read].daily else ("",)
        found |= {AssetPart(f"workflow/w{read}", one) for one in days}
    return found


def _reached(drawn: Sequence[DrawnAsset], file: AssetPart, equal: frozenset[int]) -> set[AssetPart]:
    """The parts that a change of a file makes anew, where these workflows come out as before: by one pass over the
    workflows in the order in which they were drawn."""
    made: set[AssetPart] = set()
    different: set[AssetPart] = set()
    for number, one in enumerate(drawn):
        for day in DAYS if one.daily else ("",):
            own = number == _number(file) and day == file.partition
            if own or _inputs(drawn, number, day) & different:
                part = AssetPart(f"workflow/w{number}", day)
                made.add(part)
                if number not in equal:
                    different.add(part)
    return made
