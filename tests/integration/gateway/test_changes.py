"""The change log over HTTP: for who has a key, and for outsiders where the settings publish it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import httpx2
import pytest
from tests.harness.gated_project import GatedProject
from tests.harness.gateway_client import sign_in
from tests.integration.services.test_gate_runs import COMPETITOR, UNGATED, obeys, replies

from antiphon.gateway.application import create_app
from antiphon.governance.identity.keys import Keys

ENTRY = "{http://www.w3.org/2005/Atom}entry"


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys, settings='[changes]\npublic = ["replies"]\n')
    made.apply(replies(more=UNGATED))
    made.apply(replies(COMPETITOR, UNGATED))
    yield made
    await made.close()


@pytest.fixture
async def http(project: GatedProject) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(create_app(project.wired.gateway_services()))
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk") as client:
        yield client


def key_of(project: GatedProject, role: str = "viewer") -> str:
    return Keys(project.store.database, project.store.secret("server")).create("default", f"the-{role}", role)[0]


async def test_outsiders_read_the_public_form_of_what_the_settings_publish(http: httpx2.AsyncClient) -> None:
    page = await http.get("/public/changes/replies")
    assert page.status_code == 200
    assert "The instructions of replies changed." in page.text
    listed = (await http.get("/public/changes/replies.json")).json()["changes"]
    assert [note["sentence"] for note in listed] == [
        "The instructions of replies changed.", "replies is available.",
    ]  # fmt: skip
    feed = await http.get("/public/changes/replies.atom")
    assert feed.headers["content-type"].startswith("application/atom+xml")
    assert len(ElementTree.fromstring(feed.content).findall(ENTRY)) == 2
    for text in (page.text, feed.text, str(listed)):
        assert [one for one in (COMPETITOR, "rel_", "ann", "ungated") if one in text] == []
    for path in ("/public/changes/other", "/public/changes/other.json", "/public/changes/other.atom"):
        assert (await http.get(path)).status_code == 404


async def test_the_full_form_takes_a_key_or_a_session(http: httpx2.AsyncClient, project: GatedProject) -> None:
    assert (await http.get("/admin/releases/replies/notes")).status_code == 401
    assert (await http.get("/changes.atom?application=replies")).status_code == 303
    headers = {"authorization": f"Bearer {key_of(project)}"}
    notes = (await http.get("/admin/releases/replies/notes", headers=headers)).json()["notes"]
    assert notes[0]["changes"][0]["lines"][-1] == f"+ {COMPETITOR}"
    feed = await http.get("/admin/releases/replies/changes.atom", headers=headers)
    assert COMPETITOR in feed.text
    await sign_in(http, key_of(project, "engineer"))
    page = await http.get("/changes")
    assert page.status_code == 200, page.text
    assert COMPETITOR in page.text
    assert COMPETITOR in (await http.get("/changes.atom?application=replies")).text
    releases = await http.get("/releases?application=replies")
    assert "Declared ungated: a test shows what gates are for" in releases.text
