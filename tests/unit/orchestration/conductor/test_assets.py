"""Staleness of assets: what a change makes stale, what is made next, and what the rest waits for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.catalog.asset_parts import PartRecord
from antiphon.definitions.assets import Asset, AssetGraph, AssetPart, asset_graph
from antiphon.definitions.partitions import DailyPartitions, KeyedPartitions, Partitions
from antiphon.definitions.schedules import ScheduleSpec, WorkflowWork
from antiphon.definitions.triggers import Interval, NewStaleness
from antiphon.definitions.workflows import WorkflowSpec
from antiphon.orchestration.conductor.assets import PartState, assess, causes, descendants, order_of, work_of

NOW = datetime(2026, 11, 5, 12, tzinfo=UTC)
DAYS = DailyPartitions("2026-11-01")
KEYS = KeyedPartitions(("de", "fr"))
SETTLE = timedelta(minutes=1)


def graph_of(reads: Mapping[str, Any], partitions: Mapping[str, Partitions] | None = None, **more: Any) -> AssetGraph:
    """The graph of workflows with these inputs, each made by staleness."""
    schedules = {}
    for name, keys in reads.items():
        parts = (partitions or {}).get(name)
        workflow = WorkflowSpec(name, f"module:{name}", reads=tuple(keys), partitions=parts)
        schedules[name] = ScheduleSpec(name, "", WorkflowWork(workflow), more.get(name, NewStaleness()))
    return asset_graph({}, {}, schedules)


class World:
    """Files and what was made of them, which runs change as they do in a project.

    Attributes:
        made: parts in the order in which they were made.
        equal: parts that come out as before.
    """

    def __init__(self, graph: AssetGraph) -> None:
        self.graph = graph
        self.files: dict[AssetPart, str] = {}
        self.records: dict[AssetPart, PartRecord] = {}
        self.made: list[AssetPart] = []
        self.equal: set[str] = set()
        for asset in graph.assets.values():
            if asset.kind == "file":
                self.files |= dict.fromkeys(asset.parts(NOW), "1")

    def states(self) -> dict[AssetPart, PartState]:
        return assess(self.graph, NOW, self.files, self.records)

    def state(self, key: str, partition: str = "") -> PartState:
        return self.states()[AssetPart(key, partition)]

    def order(self, part: AssetPart) -> PartRecord:
        order = order_of(self.graph.assets[part.asset], self.states()[part])
        fields = {"run": f"run-{len(self.made)}", "inputs": order.inputs, "definition": order.definition}
        known = self.records.get(part) or PartRecord(*part, **fields, ordered_at=NOW)
        self.records[part] = msgspec.structs.replace(known, **fields, ordered_at=NOW, outcome=None, ended_at=None)
        return self.records[part]

    def end(self, part: AssetPart, outcome: str = "succeeded") -> None:
        record = self.records[part]
        version = "same" if part.asset in self.equal else f"{sorted(record.inputs.items())}"
        self.records[part] = record.settled(outcome, version if outcome == "succeeded" else None, NOW)

    def make_all(self) -> list[AssetPart]:
        """Make what is ready, one after another as schedules do, until there is nothing; the parts in that order."""
        before = len(self.made)
        while True:
            states = self.states()
            assets = [asset for asset in self.graph.assets.values() if asset.schedule]
            ready = [work.ready for asset in assets if (work := work_of(asset, states, NOW, timedelta())).ready]
            if not ready:
                return self.made[before:]
            for one in ready:
                assert one is not None
                self.made.append(one.part)
                self.order(one.part)
            for one in ready:
                assert one is not None
                self.end(one.part)


def test_what_was_never_made_is_made_inputs_first_and_then_nothing_is_stale() -> None:
    world = World(graph_of({"report": ["workflow/clean"], "clean": ["file/a.csv"]}))
    assert world.state("workflow/clean").reason == "it was never made"
    waits = world.state("workflow/report")
    assert (waits.stage, waits.reason) == ("waits", "it was never made; workflow/clean is made first")
    assert [part.asset for part in world.make_all()] == ["workflow/clean", "workflow/report"]
    assert {state.stage for state in world.states().values()} == {"current"}


def test_a_late_day_makes_its_own_descendants_stale_and_no_others() -> None:
    reads = {"clean": ["file/{day}.csv"], "total": ["workflow/clean"], "rich": ["workflow/clean"], "other": ["file/b"]}
    world = World(graph_of(reads, {"clean": DAYS, "rich": DAYS}))
    late = AssetPart("file/{day}.csv", "2026-11-02")
    del world.files[late]
    world.make_all()
    total = world.state("workflow/total")
    assert (total.stage, total.cause) == ("waits", AssetPart("workflow/clean", "2026-11-02"))
    world.files[late] = "1"
    made = [str(part) for part in world.make_all()]
    assert made == ["workflow/clean 2026-11-02", "workflow/total", "workflow/rich 2026-11-02"]


def test_an_output_that_comes_out_equal_makes_nothing_stale() -> None:
    world = World(graph_of({"clean": ["file/a"], "total": ["workflow/clean"], "page": ["workflow/total"]}))
    world.equal.add("workflow/total")
    world.make_all()
    world.files[AssetPart("file/a")] = "2"
    assert [part.asset for part in world.make_all()] == ["workflow/clean", "workflow/total"]
    assert world.state("workflow/page").stage == "current"


def test_what_failed_is_passed_over_until_its_inputs_change() -> None:
    world = World(graph_of({"clean": ["file/{day}.csv"], "rich": ["workflow/clean"]}, {"clean": DAYS, "rich": DAYS}))
    bad = AssetPart("workflow/clean", "2026-11-01")
    world.order(bad)
    assert world.state(*bad).stage == "running"
    world.end(bad, "failed")
    failed = world.state(*bad)
    assert failed.stage == "failed"
    assert failed.reason.endswith("its run run-0 failed, and it is made again when an input or its definition changes")
    world.make_all()
    assert world.state("workflow/clean", "2026-11-04").stage == "current"
    waits = world.state("workflow/rich", "2026-11-01")
    assert (waits.stage, waits.reason) == (
        "waits",
        "it was never made; it waits for workflow/clean 2026-11-01, which failed",
    )
    world.files[AssetPart("file/{day}.csv", "2026-11-01")] = "mended"
    assert [str(part) for part in world.make_all()] == ["workflow/clean 2026-11-01", "workflow/rich 2026-11-01"]


def test_a_change_of_definition_makes_all_parts_stale() -> None:
    world = World(graph_of({"clean": ["file/a"], "rich": ["workflow/clean"]}, {"rich": KEYS}))
    world.make_all()
    clean = world.graph.assets["workflow/clean"]
    world.graph.assets["workflow/clean"] = msgspec.structs.replace(clean, definition="other")
    assert world.state("workflow/clean").reason == "its definition changed"
    assert world.state("workflow/rich", "de").stage == "waits"
    world.equal.add("workflow/clean")
    assert [str(part) for part in world.make_all()] == ["workflow/clean", "workflow/rich de", "workflow/rich fr"]


def test_an_input_that_is_gone_since_changes_nothing_until_it_is_needed() -> None:
    world = World(graph_of({"clean": ["file/{day}.csv", "file/rates"], "total": ["workflow/clean"]}, {"clean": DAYS}))
    world.make_all()
    del world.files[AssetPart("file/{day}.csv", "2026-11-01")]
    assert world.state("workflow/clean", "2026-11-01").stage == "current"
    assert world.state("workflow/total").stage == "current"
    world.files[AssetPart("file/rates")] = "2"
    gone = world.state("workflow/clean", "2026-11-01")
    assert gone.stage == "waits"
    assert gone.reason == (
        "file/rates changed; it waits for file/2026-11-01.csv, which was there when it was made and is gone"
    )


def test_what_another_trigger_makes_is_taken_as_it_is() -> None:
    graph = graph_of({"clean": ["file/a"], "total": ["workflow/clean"]}, clean=Interval("24h"))
    world = World(graph)
    assert world.state("workflow/total").stage == "waits"
    world.order(AssetPart("workflow/clean"))
    world.end(AssetPart("workflow/clean"))
    world.files[AssetPart("file/a")] = "2"
    assert world.state("workflow/clean").stage == "stale"
    assert world.state("workflow/total").stage == "stale"


def test_the_chain_of_causes_leads_to_the_first() -> None:
    world = World(graph_of({"a": ["file/x"], "b": ["workflow/a"], "c": ["workflow/b"]}))
    world.files.clear()
    states = world.states()
    chain = [str(state.part) for state in causes(states, AssetPart("workflow/c"))]
    assert chain == ["workflow/c", "workflow/b", "workflow/a", "file/x"]
    assert list(descendants(world.graph, "workflow/a")) == ["workflow/b", "workflow/c"]


def test_a_partition_that_has_just_been_made_waits_and_another_does_not() -> None:
    world = World(graph_of({"clean": ["file/{key}"]}, {"clean": KEYS}))
    asset = world.graph.assets["workflow/clean"]
    world.order(AssetPart("workflow/clean", "de"))
    world.end(AssetPart("workflow/clean", "de"))
    world.files[AssetPart("file/{key}", "de")] = "2"
    work = work_of(asset, world.states(), NOW, SETTLE)
    assert work.ready is not None
    assert work.ready.part.partition == "fr"
    world.order(work.ready.part)
    world.end(work.ready.part)
    rests = work_of(asset, world.states(), NOW, SETTLE)
    assert (rests.ready, rests.earliest) == (None, NOW + SETTLE)
    assert rests.sentence == "1 stale, whose last run has only just ended"
    assert work_of(asset, world.states(), NOW + SETTLE, SETTLE).ready is not None


def test_days_that_come_are_waited_for() -> None:
    world = World(graph_of({"clean": ["file/{day}.csv"]}, {"clean": DAYS}))
    world.make_all()
    work = work_of(world.graph.assets["workflow/clean"], world.states(), NOW, SETTLE)
    assert (work.sentence, work.earliest) == ("nothing of it is stale", datetime(2026, 11, 6, tzinfo=UTC))


@pytest.mark.parametrize(("zone", "hour", "days"), [("UTC", 23, 4), ("Europe/Berlin", 22, 4), ("Europe/Berlin", 23, 5)])
def test_a_day_has_its_part_once_it_is_over_in_its_zone(zone: str, hour: int, days: int) -> None:
    moment = datetime(2026, 11, 5, hour, 30, tzinfo=UTC)
    names = DailyPartitions("2026-11-01", zone).names(moment)
    assert (len(names), names[0]) == (days, "2026-11-01")


def drawn(random: Random) -> AssetGraph:
    """A graph of a few layers with days, keys, whole assets and files, of which each may read any before it."""
    reads: dict[str, list[str]] = {}
    parts: dict[str, Partitions] = {}
    for number in range(random.randint(1, 12)):
        kind: Partitions | None = random.choice((None, None, DAYS, KEYS))
        name = f"w{number}"
        if kind is not None:
            parts[name] = kind
        own = f"file/{number % 3}-{{{kind.parameter}}}" if kind is not None else f"file/{number % 3}"
        earlier = list(reads)
        picked = random.sample(earlier, min(len(earlier), random.randint(0, 3)))
        reads[name] = [f"workflow/{one}" for one in picked] + ([own] if not picked or random.random() < 0.3 else [])
    return graph_of(reads, parts)


def reached(graph: AssetGraph, begin: AssetPart) -> set[AssetPart]:
    """Every part that is made of one, found edge by edge."""
    found, waiting = set[AssetPart](), [begin]
    while waiting:
        at = waiting.pop()
        for asset in graph.assets.values():
            if at.asset not in asset.reads:
                continue
            same = at.partition and type(asset.partitions) is type(graph.assets[at.asset].partitions)
            for part in asset.parts(NOW):
                if (not same or part.partition == at.partition) and part not in found:
                    found.add(part)
                    waiting.append(part)
    return found


@given(st.integers(0, 10_000))
def test_a_change_reaches_exactly_its_descendants_and_each_is_made_once(seed: int) -> None:
    random = Random(seed)
    world = World(drawn(random))
    world.make_all()
    assert all(state.stage == "current" for state in world.states().values())
    changed = random.choice(sorted(world.files))
    world.files[changed] = "2"
    expected = reached(world.graph, changed)
    assert {part for part, state in world.states().items() if state.stale} == expected
    made = world.make_all()
    assert len(made) == len(set(made))
    assert set(made) == expected
    place = {part: number for number, part in enumerate(made)}
    for part in made:
        assert all(place[part] < place[one] for one in reached(world.graph, part))


@given(st.integers(0, 10_000))
def test_equal_outputs_cut_the_change_off(seed: int) -> None:
    random = Random(seed)
    world = World(drawn(random))
    world.equal = {asset.key for asset in world.graph.assets.values() if asset.schedule and random.random() < 0.4}
    world.make_all()
    changed = random.choice(sorted(world.files))
    world.files[changed] = "2"
    made = set(world.make_all())
    assert all(state.stage == "current" for state in world.states().values())
    cut = {part for part in made if part.asset in world.equal}
    for part in made:
        inputs = world.graph.assets[part.asset].reads
        below = {one.asset for one in made - cut} | {changed.asset}
        assert set(inputs) & below, f"{part} was made, and nothing that it reads came out otherwise"


def test_an_asset_is_found_by_its_schedule() -> None:
    graph = graph_of({"clean": ["file/a"], "total": ["workflow/clean"]})
    assert graph.of_schedule("total") == graph.assets["workflow/total"]
    assert graph.of_schedule("none") is None
    assert Asset("file/{day}.csv", partitions=DAYS).file("2026-11-01") == "2026-11-01.csv"
