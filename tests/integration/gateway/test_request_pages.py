"""The page *Requests*: search by facets, span, entity and text, with the whole of it in the address."""

from __future__ import annotations

import html
import re

import httpx2
import msgspec
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import serve

from antiphon.catalog.serving.receipt import GuardReceipt
from antiphon.core.scope import Scope
from antiphon.core.settings_governance import EncryptionSettings
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.services import prediction_search
from antiphon.serving.answering.context import subject_of
from antiphon.serving.request import AnswerRequest

SCOPE = Scope("default", "dev")


@pytest.fixture
async def browser(running, keys):
    async with httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        await sign_in(client, keys["viewer"])
        yield client


@pytest.fixture
def made(services, database):
    """Five predictions: the third by a guard's template, the fourth of a hostile name, the fifth a shadow's."""
    who = Principal("asker", "default", "service")
    made = []
    for number in range(5):
        request = AnswerRequest(
            scope=SCOPE, principal=who, application="desk", question=f"Is parcel {number} Late?", path="online"
        )
        receipt, texts = fakes.make_receipt(request, f"answer {number}", database.clock)
        changes = {
            2: {"guards": (GuardReceipt("words", "template"),)},
            3: {"application": "<img src=x onerror=alert(1)>"},
            4: {"role": "shadow"},
        }.get(number, {})
        receipt = msgspec.structs.replace(receipt, **changes)
        services.predictions.receipts.add(receipt, texts)
        made.append(receipt.prediction)
    return made


def shown(page: str) -> list[str]:
    return re.findall(r'<tr id="(pred_[^"]+)"', page)


async def test_facets_are_counted_and_lead_to_what_they_count(browser, made) -> None:
    page = (await browser.get("/requests?span=1d")).text
    assert set(shown(page)) == set(made[:4])
    assert "4 of 5 predictions match" in page
    link = html.unescape(
        re.search(r'<a href="(/requests\?verdict=template[^"]*)">template</a> <span class="soft">1<', page)[1]
    )
    assert "span=1d" in link
    narrowed = (await browser.get(link)).text
    assert shown(narrowed) == [made[2]]
    assert 'name="verdict" value="template"' in narrowed  # A search of the form keeps it.
    both = (await browser.get("/requests?verdict=template&verdict=pass")).text
    assert set(shown(both)) == set(made[:4])
    assert shown((await browser.get("/requests?role=shadow")).text) == [made[4]]
    assert "of this kind" in (await browser.get("/requests?verdict=template&path=batch")).text


async def test_names_with_markup_are_escaped_and_can_be_chosen(browser, made) -> None:
    page = (await browser.get("/requests")).text
    assert "<img" not in page.replace('<img src="/static/mark.svg"', "")
    answer = await browser.get("/requests", params={"application": "<img src=x onerror=alert(1)>"})
    assert shown(answer.text) == [made[3]]


async def test_texts_of_questions_and_answers_are_searched(browser, made, monkeypatch) -> None:
    assert shown((await browser.get("/requests", params={"text": "PARCEL 1 late"})).text) == [made[1]]
    assert shown((await browser.get("/requests", params={"text": "answer 0"})).text) == [made[0]]
    answer = await browser.get("/requests", params={"text": made[1]})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/requests/{made[1]}")
    monkeypatch.setattr(prediction_search, "MOST_READ", 2)
    monkeypatch.setattr(prediction_search, "_AT_ONCE", 2)
    page = (await browser.get("/requests", params={"text": "answer 0"})).text
    assert shown(page) == []
    further = html.unescape(re.search(r'<a href="([^"]+)">Look further back', page)[1])
    assert shown((await browser.get(further)).text) == [made[0]]


async def test_a_text_finds_no_prediction_that_policy_keeps_from_the_reader(services, keys, made, monkeypatch) -> None:
    kept = made[1]
    may = services.access.records.may_read_prediction
    search = services.predictions.search
    monkeypatch.setattr(
        search._records,
        "may_read_prediction",
        lambda scope, who, receipt, texts: receipt.prediction != kept and may(scope, who, receipt, texts),
    )
    async with serve(services) as running, httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        await sign_in(client, keys["viewer"])
        assert set(shown((await client.get("/requests?text=parcel")).text)) == {made[0], made[2], made[3]}


async def test_sealed_texts_are_not_searched_and_the_page_says_so(services, keys, made) -> None:
    store = services.predictions.search._store
    store.settings = msgspec.structs.replace(store.settings, encryption=EncryptionSettings(mode="encrypted"))
    async with serve(services) as running, httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        await sign_in(client, keys["viewer"])
        answer = await client.get("/requests?text=parcel")
        assert answer.status_code == 400
        assert "sealed here, and cannot be searched" in answer.text
        assert shown((await client.get("/requests?verdict=template")).text) == [made[2]]


async def test_another_tenant_finds_nothing_of_it(browser, made, database) -> None:
    other, _ = Keys(database, fakes.SECRET).create("other", "stranger", "admin")
    await sign_in(browser, other)
    page = (await browser.get("/requests?text=parcel&role=live&role=shadow")).text
    assert shown(page) == []
    assert "0 of 0 predictions" in page


@pytest.mark.parametrize(
    "query", ["span=forever", "before=yesterday", "until=x", "entity=shop", "path=sideways", f"model={'x' * 400}"]
)
async def test_an_address_that_cannot_be_read_is_refused(browser, query) -> None:
    assert (await browser.get(f"/requests?{query}")).status_code == 400


async def test_an_entity_is_found_by_its_keys(browser, services, database) -> None:
    receipts, store = services.predictions.receipts, services.predictions.search._store
    request = AnswerRequest(scope=SCOPE, principal=Principal("asker", "default", "service"), application="desk")
    for shop in ("tea", "cake"):
        receipt, texts = fakes.make_receipt(request, "said", database.clock)
        subject = subject_of(store.secret("subject"), SCOPE, {"shop": shop, "city": "Rome"})
        receipts.add(msgspec.structs.replace(receipt, prediction=f"pred_{shop}", subject=subject), texts)
    answer = await browser.get("/requests", params={"entity": "shop=tea, city=Rome"})
    assert shown(answer.text) == ["pred_tea"]
    assert "1 of 1 predictions match" in answer.text
    assert "Nothing has been asked" in (await browser.get("/requests?entity=shop%3Dtea")).text
