"""The conductor's scenario shows what it is about: no check of it passes because nothing happens."""

from __future__ import annotations

import pytest
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.simulator import world_of

SEEDS = range(24)


@pytest.fixture(scope="module")
def seen(file: CatalogFile) -> set[str]:
    worlds = [world_of(file, seed, "conductor") for seed in SEEDS]
    assert not [violation for world in worlds for violation in world.violations]
    told = [world.trace[-1].partition(" seen: ")[2] for world in worlds]
    return {what for line in told for what in line.split(", ")}


@pytest.mark.parametrize(
    "what",
    [
        "a new view refreshed by itself",
        "asked to yield",
        "counted later",
        "given back",
        "let past a hold",
        "paused",
        "refused",
        "tried again",
        "two conduct",
    ],
)
def test_some_seed_shows(seen: set[str], what: str) -> None:
    assert what in seen
