from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.features.desk import history, specs, write
from tests.integration.features.world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The small airport with thirty days of history and nothing published."""
    write(tmp_path / "departures.parquet", history())
    world = World(tmp_path, *specs(tmp_path / "departures.parquet"))
    yield world
    world.close()
