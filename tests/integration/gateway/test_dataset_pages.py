"""The pages *Datasets* without a browser: each says what it was read from, and which models were trained on it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from tests.contract.catalog.test_datasets import dataset
from tests.contract.catalog.test_models import version
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client
from tests.integration.gateway.learned_desk import LearnedDesk
from tests.unit.catalog.examples import NOON, OTHER

from antiphon.catalog.learning.datasets import Datasets, DatasetSource
from antiphon.catalog.learning.models import ModelVersions
from antiphon.governance.identity.keys import Keys

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearnedDesk]:
    desk = LearnedDesk(tmp_path)
    yield desk
    desk.close()


@pytest.fixture
async def browser(desk: LearnedDesk) -> AsyncIterator[httpx2.AsyncClient]:
    key, _ = Keys(desk.database, fakes.SECRET).create("default", "the-viewer", "viewer")
    async with gateway_client(desk.services(), key, page=True) as client:
        yield client


async def test_a_dataset_leads_to_its_sources_and_to_the_models_that_learned_from_it(
    desk: LearnedDesk, browser: httpx2.AsyncClient
) -> None:
    assert "antiphon datasets build" in (await browser.get("/datasets")).text
    datasets, models = Datasets(desk.database), ModelVersions(desk.database)
    datasets.add(dataset("data_1", sources=(DatasetSource(HOSTILE, "file", "ab" * 32, 12),)))
    datasets.add(dataset("data_2", kind="evaluation", created_at=NOON + timedelta(hours=1)))
    datasets.add(dataset("data_3", scope=OTHER))
    models.add(version(1))
    models.add(version(2, dataset="data_9", replay_datasets=("data_1",)))
    listed = (await browser.get("/datasets")).text
    assert listed.index("data_2") < listed.index("data_1")
    assert "data_3" not in listed
    assert '<a href="/models/desk.v1">' in listed
    assert "data_2" not in (await browser.get("/datasets?kind=training")).text
    assert (await browser.get("/datasets?kind=odd")).status_code == 400
    page = (await browser.get("/datasets/data_1")).text
    for part in ("&lt;img src=x", "learned again", "desk.v2", "immature", "left out", "/features/congestion", "hh"):
        assert part in page
    assert HOSTILE not in page
    assert (await browser.get("/datasets/data_3")).status_code == 404


async def test_datasets_are_paged_and_none_is_shown_twice(desk: LearnedDesk, browser: httpx2.AsyncClient) -> None:
    for number in range(43):
        Datasets(desk.database).add(dataset(f"data_{number:02}"))
    first = (await browser.get("/datasets?application=desk")).text
    older = re.search(r'href="(/datasets\?[^"]*before=[^"]+)"', first)
    assert older is not None
    second = (await browser.get(older[1].replace("&amp;", "&"))).text
    seen = [re.findall(r'<tr id="(data_\d+)"', page) for page in (first, second)]
    assert [len(one) for one in seen] == [40, 3]
    assert len({*seen[0], *seen[1]}) == 43
