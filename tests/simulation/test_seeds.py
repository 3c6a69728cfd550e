"""2,000 seeds of the simulation violate nothing. ``make simulate`` plays more."""

from __future__ import annotations

import pytest
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.simulator import play

SEEDS, AT_ONCE = 2_000, 100


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_no_seed_violates_an_invariant(file: CatalogFile, first: int) -> None:
    played = [play(file, seed) for seed in range(first, first + AT_ONCE)]
    wrong = [f"python -m tests.simulation {one.seed}: {one.violations[0]}" for one in played if one.violations]
    assert not wrong, "\n".join(wrong)
    assert sum(one.commits for one in played) > 10 * AT_ONCE
    assert any(one.crashes for one in played)
