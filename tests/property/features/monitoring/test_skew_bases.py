"""What batch computes from what a snapshot keeps in the lake is what it computes from the source, value for value."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.integration.features.world import NOON, World, event, minutes
from tests.property.features.sources.test_taking_over import KINDS, known, later, made, views, write

from antiphon.core.clock import microseconds
from antiphon.features.monitoring.skew.batch import batch_side
from antiphon.features.monitoring.skew.lake_state import SourceQuery
from antiphon.features.offline.batch_values import BatchValue
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.plan import plan_of

ENTITIES = [("a",), ("b",), ("c",), ("nobody",)]


def values(world: World, wanted: SourceQuery, moments: list[int]) -> tuple[str | None, list[Any]]:
    with compute(ComputeLimits()) as connection:
        side = batch_side(connection, wanted, lake=world.lake, log=world.log)
        return side.basis, [side.values(ENTITIES, moment, wanted.through) for moment in moments]


@given(st.sampled_from(KINDS), known, later, st.lists(st.integers(-6 * 1_440, 900), min_size=1, max_size=3))
@example("ever", [("a", -2_900, 0, 1, 1.5), ("a", 0, 0, 2, None)], [], [0, 500])
@example("ever", [("a", -20_000, 0, 1, 1.5), ("a", -20_000, 19_990, 3, 2.5), ("a", -1, 0, 2, None)], [], [0, 500])
@example("stream", [("a", 0, 0, 1, 1.5)], [("a", 0, 60, 1, -2.0), ("a", 3, 0, 2, 7.25)], [10, 100])
@settings(max_examples=6)
def test_the_lake_judges_as_the_source_does(kind: str, first: Any, then: Any, asked: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = views(folder, kind)
        write(folder / "part-000.parquet", first)
        world = World(folder, spec)
        manifest = made(world, spec, NOON + minutes(6), None, False)
        if kind == "stream":
            happened = [
                event(f"e{n}", NOON + minutes(at), NOON + minutes(at + late), shop=shop, amount=amount)
                for shop, at, late, n, amount in then
            ]
            world.append("sales", *happened)
        through = world.log.end(world.scope, "sales") if kind == "stream" else None
        moments = [microseconds(NOON + minutes(6) + timedelta(minutes=offset)) for offset in asked]
        wanted = SourceQuery(world.scope, plan_of(spec), manifest, through, ENTITIES)
        basis, by_source = values(world, wanted, moments)
        assert basis == "source"
        write(folder / "part-001.parquet", then)
        basis, by_files = values(world, wanted, moments)
        assert (basis, by_files) == ("files", by_source)
        write(folder / "part-000.parquet", [*then, ("a", 1, 0, 50, 99.0)])
        basis, by_lake = values(world, wanted, moments)
        assert basis == "lake"
        for at_source, at_lake in zip(by_source, by_lake, strict=True):
            for entity in ENTITIES:
                for feature, one in at_source[entity].items():
                    assert isinstance(one, BatchValue)
                    assert at_lake[entity][feature] == one, (entity, feature)
        world.close()
