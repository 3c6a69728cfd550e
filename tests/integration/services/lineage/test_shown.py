"""Lineage in the terminal, over HTTP and on its page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.harness.gateway_client import sign_in
from tests.integration.services.lineage.lineage_bakery import PRIVATE, LineageBakery
from tests.integration.services.lineage.receiver import Receiver
from typer.testing import CliRunner

from antiphon.cli.main import assemble
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.gateway.application import create_app
from antiphon.gateway.dashboard.lineage_pages import drawn, link
from antiphon.governance.identity.keys import Keys
from antiphon.services.lineage.project import ProjectLineage


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
async def bakery(tmp_path: Path, receiver: Receiver) -> AsyncIterator[LineageBakery]:
    made = LineageBakery(tmp_path, f'[lineage]\nurl = "{receiver.url}"\n')
    await made.open_shop()
    yield made
    await made.close()


@pytest.fixture
async def http(bakery: LineageBakery) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(bakery.wired.gateway_services()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk") as client:
        yield client


def key_of(bakery: LineageBakery, role: str = "viewer") -> str:
    return Keys(bakery.store.database, bakery.store.secret("server")).create("default", f"the-{role}", role)[0]


def run(bakery: LineageBakery, *arguments: str) -> str:
    """Standard output of a command; raises as it does."""
    done = CliRunner().invoke(assemble(), ["lineage", *arguments, "--project", str(bakery.folder)])
    if isinstance(done.exception, AntiphonError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_events_are_listed_and_printed_as_they_are_sent(bakery: LineageBakery) -> None:
    listed = run(bakery, "events")
    assert "refresh.today" in listed
    assert "file/orders.csv" in listed
    events = json.loads(run(bakery, "events", "--run", bakery.latest("refresh").id, "--json"))
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    assert json.loads(run(bakery, "events", "--since", "2100-01-01T00:00:00Z", "--json")) == []


def test_a_graph_is_printed_as_outline_json_and_dot(bakery: LineageBakery) -> None:
    live = bakery.live_id("replies")
    assert live is not None
    outline = run(bakery, "graph")
    assert outline.startswith("release replies release 1\n")
    assert "from source orders (orders.csv)  by run_" in outline
    assert json.loads(run(bakery, "graph", "--of", live, "--json"))["begins"] == [f"release:{live}"]
    assert run(bakery, "graph", "--of", "today", "--dot").startswith("digraph lineage {")
    assert "into release" not in run(bakery, "graph", "--of", "today", "--direction", "upstream")
    with pytest.raises(InvalidInputError, match="'sideways' is no direction"):
        run(bakery, "graph", "--direction", "sideways")


def test_events_are_sent_on_request(bakery: LineageBakery, receiver: Receiver) -> None:
    assert "4 events would be sent" in run(bakery, "send", "--since", "2020-01-01T00:00:00Z", "--dry-run")
    assert receiver.bodies == []
    assert "2 events were sent" in run(bakery, "send", "--run", bakery.latest("refresh").id)
    assert receiver.jobs("COMPLETE") == ["refresh.today"]
    with pytest.raises(InvalidInputError, match="which events"):
        run(bakery, "send")


async def test_graph_and_events_over_http(bakery: LineageBakery, http: httpx2.AsyncClient) -> None:
    assert (await http.get("/admin/lineage")).status_code == 401
    headers = {"authorization": f"Bearer {key_of(bakery)}"}
    answer = await bakery.question()
    graph = (await http.get("/admin/lineage", params={"of": answer.prediction}, headers=headers)).json()
    assert {"prediction", "source"} <= {node["kind"] for node in graph["nodes"]}
    events = (await http.get("/admin/lineage-events", headers=headers)).json()["events"]
    assert [event["job"] for event in events if event["type"] == "COMPLETE"] == ["refresh.today", "gates.replies"]
    assert (await http.get("/admin/lineage?of=rel_none", headers=headers)).status_code == 404
    assert (await http.get("/admin/lineage?direction=up", headers=headers)).status_code == 400


async def test_the_page_leads_from_an_answer_to_its_sources_by_links(
    bakery: LineageBakery, http: httpx2.AsyncClient
) -> None:
    answer = await bakery.question()
    await sign_in(http, key_of(bakery, "engineer"))
    prediction = await http.get(f"/requests/{answer.prediction}")
    assert f'href="/lineage?of={answer.prediction}"' in prediction.text
    page = await http.get("/lineage", params={"of": answer.prediction})
    assert page.status_code == 200, page.text
    (snapshot,) = bakery.store.snapshots.list(bakery.scope)
    for address in (f"/lineage?of={snapshot.id}", f"/lineage?of={bakery.latest('refresh').id}"):
        assert f'href="{address}"' in page.text
        assert (await http.get(address)).status_code == 200
    assert "orders (orders.csv)" in page.text
    assert page.text.count("<svg") == 1
    assert "style=" not in page.text, "the content security policy permits none"
    assert [one for one in PRIVATE if one in page.text.replace("the-engineer", "")] == []


async def test_the_page_says_what_is_not_there(bakery: LineageBakery, http: httpx2.AsyncClient) -> None:
    await sign_in(http, key_of(bakery, "engineer"))
    missing = await http.get("/lineage?of=todday")
    assert missing.status_code == 404
    assert "Did you mean" in missing.text
    assert "replies release 1" in (await http.get("/lineage")).text
    hostile = await http.get("/lineage", params={"of": '"><script>alert(1)</script>'})
    assert "<script>alert" not in hostile.text


def test_boxes_lie_apart_and_edges_lead_to_the_right(bakery: LineageBakery) -> None:
    picture = drawn(ProjectLineage(bakery.store).graph(bakery.scope), link)
    places = [(one.x, one.y) for one in picture.boxes]
    assert len(set(places)) == len(places)
    assert all(0 <= x < picture.width and 0 <= y < picture.height for x, y in places)
    assert len(picture.paths) >= len(picture.boxes) - 1
    assert sum(one.begins for one in picture.boxes) == 1
