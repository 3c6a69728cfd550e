"""Readings leave evidence before they are shown; the audit log is queried, shown and proved over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import Running, serve

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.core.settings import ProjectPaths, Settings
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.audit.record import AuditEntry
from antiphon.governance.verifier import antiphon_verify
from antiphon.services.governance.audit_trail import AuditTrail

SCOPE = Scope()


@pytest.fixture
def trail(database: Database, tmp_path: Path) -> Iterator[AuditTrail]:
    paths = ProjectPaths(root=tmp_path, directory=tmp_path / ".antiphon")
    opened = AuditTrail(AuditLog(database, fakes.SECRET), Settings(), paths)
    yield opened
    opened.close()


@pytest.fixture
async def running(database: Database, answerer: fakes.FakeAnswerer, trail: AuditTrail) -> AsyncIterator[Running]:
    async with serve(fakes.gateway_services(database, answerer, trail=trail)) as started:
        yield started


@pytest.fixture
async def admin(running: Running, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    headers = {"authorization": f"Bearer {keys['admin']}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=10) as client:
        yield client


def readings(trail: AuditTrail) -> list[AuditEntry]:
    return [entry for entry in trail.log.query(SCOPE) if entry.action == "data.read"]


async def predict(admin: httpx2.AsyncClient) -> str:
    asked = await admin.post("/v1/completions", json={"model": "tiny", "prompt": "How late?"})
    assert asked.status_code == 200, asked.text
    listed = await admin.get("/admin/predictions")
    return str(listed.json()["predictions"][0]["prediction"])


async def test_who_reads_a_file_is_on_record(admin: httpx2.AsyncClient, trail: AuditTrail) -> None:
    sent = await admin.post("/v1/files", files={"file": ("in.jsonl", b"{}")}, data={"purpose": "batch"})
    file = sent.json()["id"]
    for path in ("/v1/files", f"/v1/files/{file}"):
        assert (await admin.get(path)).status_code == 200
    assert readings(trail) == [], "what a file is called is not what it holds"
    assert (await admin.get(f"/v1/files/{file}/content")).content == b"{}"
    assert [(entry.subject, entry.principal) for entry in readings(trail)] == [(file, "the-admin")]


async def test_a_reading_is_on_record_before_it_is_shown(admin: httpx2.AsyncClient, trail: AuditTrail) -> None:
    prediction = await predict(admin)
    before = len(readings(trail))
    for path in ("", "/explain"):
        assert (await admin.get(f"/admin/predictions/{prediction}{path}")).status_code == 200
        # The response is here, so the record is on disk: nothing is waited for.
        newest = readings(trail)[0]
        assert (newest.principal, newest.subject, newest.outcome) == ("the-admin", prediction, "done")
        assert newest.detail == {
            "method": "GET", "route": f"/admin/predictions/{{prediction}}{path}", "status": 200,
        }  # fmt: skip
    assert len(readings(trail)) == before + 2
    for nothing in ("/admin/status", "/admin/releases", "/v1/models", "/healthz", "/admin/predictions/pred_none"):
        await admin.get(nothing)
    assert len(readings(trail)) == before + 2
    assert (await admin.post(f"/admin/predictions/{prediction}/replay")).status_code == 200
    assert readings(trail)[0].detail["route"] == "/admin/predictions/{prediction}/replay"  # type: ignore[index]


async def test_what_leaves_no_evidence_is_not_shown(
    admin: httpx2.AsyncClient, trail: AuditTrail, database: Database
) -> None:
    prediction = await predict(admin)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE audit_heads SET peaks = zeroblob(length(peaks))")
    trail.writer.flush = lambda *given, **named: type(trail.writer).flush(trail.writer, seconds=0.2)  # type: ignore[method-assign]
    refused = await admin.get(f"/admin/predictions/{prediction}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert "How late?" not in refused.text
    assert refused.headers["cache-control"] == "no-store"
    assert (await admin.get("/admin/releases")).status_code == 200


async def test_without_the_evidence_a_reading_leaves_no_trace(
    database: Database, answerer: fakes.FakeAnswerer, keys: dict[str, str], trail: AuditTrail
) -> None:
    """The switch: a gateway whose log records nothing shows the same."""
    async with serve(fakes.gateway_services(database, answerer)) as running:
        headers = {"authorization": f"Bearer {keys['admin']}"}
        async with httpx2.AsyncClient(base_url=running.url, headers=headers) as client:
            prediction = await predict(client)
            assert (await client.get(f"/admin/predictions/{prediction}")).status_code == 200
            assert (await client.get("/admin/audit")).json()["records"] == []
    assert readings(trail) == []


async def test_the_log_is_queried_in_pages(admin: httpx2.AsyncClient, trail: AuditTrail) -> None:
    trail.log.append(SCOPE, "ann", "release.activate", "rel_0", {"reason": "it is better"})
    first = trail.log.query(SCOPE)[0].sequence
    for number in range(1, 5):
        trail.log.append(SCOPE, "ann", "release.activate", f"rel_{number}", {"number": number})
    asked = {"who": "ann", "action": "release.*", "limit": 2}
    page = (await admin.get("/admin/audit", params=asked)).json()
    assert [record["subject"] for record in page["records"]] == ["rel_4", "rel_3"]
    page = (await admin.get("/admin/audit", params={**asked, "before": page["next"]})).json()
    assert [record["subject"] for record in page["records"]] == ["rel_2", "rel_1"]
    page = (await admin.get("/admin/audit", params={**asked, "before": page["next"]})).json()
    assert [record["sequence"] for record in page["records"]] == [first]
    assert page["records"][0]["detail"] == {"reason": "it is better"}
    assert page["next"] is None
    assert (await admin.get("/admin/audit", params={"denied": True})).json()["records"] == []
    assert (await admin.get("/admin/audit", params={"since": "yesterday"})).status_code == 400
    assert (await admin.get("/admin/audit", params={"limit": 0})).status_code == 400


async def test_only_administrators_read_the_log(
    admin: httpx2.AsyncClient, keys: dict[str, str], trail: AuditTrail
) -> None:
    trail.log.append(SCOPE, "ann", "release.activate", "rel_0")
    trail.log.append(Scope("other", "dev"), "eve", "release.activate", "secret_release")
    trail.checkpointing.sign(Scope("other", "dev"))
    for path in ("/admin/audit", "/admin/audit/checkpoint", "/admin/audit/0/proof"):
        for role in ("engineer", "service", "viewer"):
            headers = {"authorization": f"Bearer {keys[role]}"}
            assert (await admin.get(path, headers=headers)).status_code == 403
        assert "secret_release" not in (await admin.get(path)).text


async def test_a_proof_is_checked_by_the_verifier(
    admin: httpx2.AsyncClient, trail: AuditTrail, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await admin.get("/admin/audit/checkpoint")).status_code == 404
    trail.log.append(SCOPE, "ann", "release.activate", "rel_0")
    sequence = trail.log.query(SCOPE)[0].sequence
    proof = await admin.get(f"/admin/audit/{sequence}/proof")
    (tmp_path / "proof.json").write_bytes(proof.content)
    newest = (await admin.get("/admin/audit/checkpoint")).json()
    witness = tmp_path / ".antiphon" / "witness" / "checkpoints"
    arguments = [str(tmp_path / "proof.json"), "--key", newest["key"], "--witness", str(witness)]
    assert antiphon_verify.main(arguments) == 0, capsys.readouterr().out
    assert newest["note"] in witness.read_text()
    assert (await admin.get("/admin/audit/999999/proof")).status_code == 404
    assert (await admin.get("/admin/audit/last/proof")).status_code == 400


async def test_the_page_shows_the_log(running: Running, keys: dict[str, str], trail: AuditTrail) -> None:
    trail.log.append(SCOPE, "<b>ann</b>", "release.activate", "rel_0", {"reason": "<i>why</i>"}, originator="zoe")
    for number in range(60):
        trail.log.append(SCOPE, "bob", "data.read", f"pred_{number}")
    trail.checkpointing.sign(SCOPE)
    trail.log.erase(SCOPE, "zoe", principal="ann", reason="asked for it")
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, follow_redirects=True) as browser:
        assert (await sign_in(browser, keys["admin"])).status_code == 200
        shown = await browser.get("/audit", params={"action": "release.*"})
        assert shown.status_code == 200
        for text in (
            "&lt;b&gt;ann&lt;/b&gt;",
            "&lt;i&gt;why&lt;/i&gt;",
            "for somebody erased",
            "antiphon/default/dev+",
        ):
            assert text in shown.text
        newest = await browser.get("/audit", params={"who": "bob"})
        older = re.search(r'href="(/audit\?[^"]+)">Older', newest.text)
        assert older is not None
        following = await browser.get(older[1].replace("&amp;", "&"))
        assert "pred_0<" in following.text
        assert "pred_59<" not in following.text
        assert (
            await browser.get("/audit", params={"since": "2020-01-01T00:00", "until": "2020-01-02T00:00"})
        ).text.count("No record fits.") == 1
        assert (await browser.get("/audit", params={"since": "soon"})).status_code == 400
        assert (await browser.get("/audit", params={"who": "x" * 301})).status_code == 400
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, follow_redirects=True) as browser:
        await sign_in(browser, keys["viewer"])
        assert (await browser.get("/audit")).status_code == 403
