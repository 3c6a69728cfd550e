"""The simulation finds planted faults and replays. ``make simulate`` plays more."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.simulator import SCENARIOS, hunt, kind_of, play, world_of

WITHIN = 2_000
"""Seeds within which a planted fault must be found."""


def _found() -> dict[str, list[int]]:
    lines = Path(__file__).parents[2].joinpath("benchmarks/results/simulation.jsonl").read_text().splitlines()
    return {name: [seed] for line in lines for name, seed in json.loads(line)["found_at"].items() if seed is not None}


FOUND = _found()
"""The seed by which ``make simulate`` found each planted fault last; where code changed since, another may."""

_BROKEN = re.compile("unexpected (Attribute|Name|Statement|Type|Value)Error")
"""What a planted fault raises that no longer fits its function; such a one is found whatever is checked."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_fault_is_found(file: CatalogFile, mutant: Mutant) -> None:
    """First by the seed that found it last. ``make simulate`` hunts each from the first seed."""
    found = hunt(file, mutant, [*FOUND.get(mutant.name, []), *range(WITHIN)])
    assert found is not None
    assert not _BROKEN.match(found.violations[0]), found.violations[0]
    assert play(file, found.seed, mutant=mutant) == found


def test_every_mutant_changes_what_stands_in_the_source() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12
    for mutant in MUTANTS:
        assert mutant.kind in SCENARIOS
        with mutant.planted():
            pass


def test_a_seed_replays_byte_by_byte(file: CatalogFile) -> None:
    """Here twice, and in processes that hash texts otherwise."""
    seeds = [next(seed for seed in range(100) if kind_of(seed) == kind) for kind in SCENARIOS]
    here = []
    for _ in range(2):
        worlds = [world_of(file, seed) for seed in seeds]
        here.append("\n".join(line for world in worlds for line in [*world.trace, world.digest]))
    assert here[0] == here[1]
    elsewhere = {_played_by_another_process(seeds, hashing) for hashing in ("1", "2")}
    assert len(elsewhere) == 1
    for world in worlds:
        assert world.digest in next(iter(elsewhere))


def _played_by_another_process(seeds: list[int], hashing: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", *map(str, seeds)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": hashing},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout
