"""Contract tests run against every implementation of a port; embedded, that is SQLite on a real file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.catalog.examples import NOON, open_database

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def database(tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    opened = open_database(tmp_path, clock)
    yield opened
    opened.close()
