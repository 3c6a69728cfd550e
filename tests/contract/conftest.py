"""Contract tests run against every implementation of a port: those of the catalog on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.catalogs import KINDS, catalog_url, drop
from tests.unit.catalog.examples import NOON

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> Iterator[Database]:
    url = catalog_url(tmp_path, request.param)
    opened = Database.open(url, clock=clock)
    opened.migrate()
    yield opened
    drop(opened)
