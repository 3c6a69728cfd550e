from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.simulator import catalog_file


@pytest.fixture(scope="session")
def file() -> Iterator[CatalogFile]:
    with catalog_file() as opened:
        yield opened
