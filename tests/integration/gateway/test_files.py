"""``/v1/files`` by the official client and by hand: in, listed, read in ranges, gone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests.harness import fakes
from tests.harness.stored_files import file_store
from tests.integration.gateway.conftest import Running
from tests.unit.governance.encryption.test_sealing import Keys as OwnKeys

from antiphon.catalog.batch.files import Files
from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.core.errors import TooLargeError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.encryption.sealing import AesGcmCodec
from antiphon.governance.identity.keys import Keys

LINES = b'{"custom_id": "a"}\n' * 100
SCOPE = Scope("default", "dev")


@pytest.fixture
async def client(running: Running, keys: dict[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=keys["service"], max_retries=0) as made:
        yield made


def contents(database: Database) -> list[Path]:
    return [path for path in (database.path.parent / "files").rglob("*") if path.is_file()]


def form(**fields: str) -> dict[str, Any]:
    return {"files": {"file": ("in.jsonl", LINES)}, "data": {"purpose": "batch", **fields}}


async def upload(http: httpx2.AsyncClient, **fields: str) -> httpx2.Response:
    return await http.post("/v1/files", **form(**fields))


async def test_the_official_client_puts_a_file_in_and_gets_it_back(client: openai.AsyncOpenAI) -> None:
    made = await client.files.create(
        file=("night.jsonl", LINES), purpose="batch", expires_after={"anchor": "created_at", "seconds": 7200}
    )
    assert (made.object, made.status, made.bytes, made.filename) == ("file", "processed", len(LINES), "night.jsonl")
    assert made.id.startswith("file-")
    assert made.expires_at == made.created_at + 7200
    assert await client.files.retrieve(made.id) == made
    assert (await client.files.content(made.id)).content == LINES
    deleted = await client.files.delete(made.id)
    assert (deleted.deleted, deleted.id) == (True, made.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(made.id)


async def test_pages_follow_one_another_in_both_orders(client: openai.AsyncOpenAI) -> None:
    made = [(await client.files.create(file=(f"{n}.jsonl", LINES), purpose="batch")).id for n in range(5)]
    assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc")] == made
    first = await client.files.list(limit=2, order="asc")
    assert (first.has_more, [file.id for file in first.data]) == (True, made[:2])
    assert [file.id async for file in client.files.list(purpose="batch_output")] == []


async def test_ranges_are_sent_as_asked(http: httpx2.AsyncClient) -> None:
    path = f"/v1/files/{(await upload(http)).json()['id']}/content"
    size = len(LINES)
    for header, first, end in (("bytes=0-9", 0, 10), ("bytes=7-", 7, size), ("bytes=-5", size - 5, size)):
        part = await http.get(path, headers={"range": header})
        assert (part.status_code, part.content) == (206, LINES[first:end])
        assert part.headers["content-range"] == f"bytes {first}-{end - 1}/{size}"
    beyond = await http.get(path, headers={"range": f"bytes={size}-"})
    assert (beyond.status_code, beyond.json()["error"]["code"]) == (416, "range_not_satisfiable")
    for odd in ("bytes=9-3", "lines=1-2", "bytes=-", "bytes=0-1,4-5"):
        assert (await http.get(path, headers={"range": odd})).status_code == 200


async def test_a_wrong_field_is_named_and_nothing_is_kept(http: httpx2.AsyncClient, database: Database) -> None:
    wrong: list[tuple[dict[str, str], str]] = [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpos": "batch"}, "purpos"),
        ({"expires_after[seconds]": "7200"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "x"}, "expires_after[seconds]"),
    ]
    for fields, where in wrong:
        refused = await upload(http, **fields)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, where)
    assert contents(database) == []
    assert (await http.get("/v1/files")).json()["data"] == []


async def test_what_is_no_form_is_refused(http: httpx2.AsyncClient, database: Database) -> None:
    head = {"content-type": "multipart/form-data; boundary=x"}
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nabc'
    for body in (b"", b"junk", part, part + b"\r\n--x", b"--x\r\nno colon\r\n\r\n", b"--x\r\n\r\nnameless\r\n--x--"):
        refused = await http.post("/v1/files", content=body, headers=head)
        assert refused.status_code == 400, (body, refused.text)
    assert (await http.post("/v1/files", json={})).json()["error"]["param"] == "content-type"
    nothing = await http.post("/v1/files", files={"file": ("e", b"")}, data={"purpose": "batch"})
    assert "empty" in nothing.json()["error"]["message"]
    twice = await http.post("/v1/files", files=[("file", ("a", b"1")), ("file", ("b", b"2"))])
    assert "twice" in twice.json()["error"]["message"]
    assert contents(database) == []


async def test_a_file_past_the_bound_or_the_quota_is_refused_and_leaves_nothing(
    http: httpx2.AsyncClient, database: Database
) -> None:
    large = {"files": {"file": ("l", b"x" * 1_000_001)}, "data": {"purpose": "batch"}}
    refused = await http.post("/v1/files", **large)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert contents(database) == []
    for _ in range(4):
        full = await http.post("/v1/files", files={"file": ("f", b"x" * 1_000_000)}, data={"purpose": "batch"})
        assert full.status_code == 200
    over = await upload(http)
    assert (over.status_code, "quota" in over.json()["error"]["message"]) == (413, True)
    await http.delete(f"/v1/files/{full.json()['id']}")
    assert (await upload(http)).status_code == 200, "what was deleted counts no longer"


async def test_uploads_at_once_do_not_exceed_the_quota_together(database: Database) -> None:
    store = file_store(database, fakes.SECRET, quota_bytes=1_000)
    uploads = [store.begin(SCOPE, "ada") for _ in range(3)]
    for one in uploads:
        one.write(b"x" * 400)
    for one in uploads[:2]:
        one.keep("batch", "in.jsonl")
    with pytest.raises(TooLargeError, match="would come to 1200"):
        uploads[2].keep("batch", "in.jsonl")
    assert len(contents(database)) == 2


async def test_a_tenant_with_a_quota_of_its_own_is_held_to_that(database: Database) -> None:
    store = file_store(database, fakes.SECRET, quota_bytes=1_000, tenant_bytes={"default": 500, "more": 5_000}.get)
    with pytest.raises(TooLargeError, match="quota of 500 bytes"):
        store.begin(SCOPE, "ada").write(b"x" * 600)
    for tenant in ("more", "other"):
        upload = store.begin(Scope(tenant, "test"), "ada")
        upload.write(b"x" * 600)
        upload.keep("batch", "in.jsonl")


async def test_an_upload_that_breaks_off_leaves_nothing(running: Running, keys: dict[str, str]) -> None:
    database_folder = running.services.work.files.contents._root  # type: ignore[union-attr]
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"y" * 600_000
    writer.write(
        b"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + keys["service"].encode()
        + b"\r\ncontent-type: multipart/form-data; boundary=x\r\ncontent-length: 900000\r\n\r\n" + body
    )  # fmt: skip
    await writer.drain()

    async def holds(begun: bool) -> None:
        async with asyncio.timeout(10):
            while bool([path for path in database_folder.rglob("*") if path.is_file()]) != begun:
                await asyncio.sleep(0.01)

    await holds(True)
    writer.close()
    await holds(False)
    reader.feed_eof()


async def test_another_tenant_sees_and_removes_nothing(
    running: Running, http: httpx2.AsyncClient, database: Database
) -> None:
    file = (await upload(http)).json()["id"]
    key = Keys(database, fakes.SECRET).create("rival", "rita", "admin")[0]
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}) as rival:
        assert (await rival.get("/v1/files")).json()["data"] == []
        for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            assert (await rival.request(method, f"/v1/files/{file}{path}")).status_code == 404
    assert (await http.get(f"/v1/files/{file}/content")).content == LINES


async def test_a_viewer_reads_but_neither_puts_in_nor_removes(running: Running, keys: dict[str, str]) -> None:
    async with httpx2.AsyncClient(
        base_url=running.url, headers={"authorization": f"Bearer {keys['viewer']}"}
    ) as viewer:
        assert (await viewer.get("/v1/files")).status_code == 200
        assert (await upload(viewer)).status_code == 403
        assert (await viewer.delete("/v1/files/file-1")).status_code == 403


async def test_what_has_expired_is_gone_and_its_content_is_removed(database: Database) -> None:
    clock = ManualClock(database.clock.now())
    database.clock = clock
    store = file_store(database, fakes.SECRET)
    brief, lasting = store.begin(SCOPE, "ada"), store.begin(SCOPE, "ada")
    for one in (brief, lasting):
        one.write(LINES)
    first = brief.keep("batch", "a.jsonl", 3_600)
    second = lasting.keep("batch", "b.jsonl")
    assert second.expires_at == clock.now() + timedelta(days=30)
    clock.advance(timedelta(hours=1))
    assert [file.id for file in store.records.list(SCOPE, after=None, limit=9, order="asc", purpose=None)] == [
        second.id
    ]
    assert Files(database).used(SCOPE) == len(LINES)
    assert store.expire() == 1
    assert [path.name for path in contents(database)] == [Path(second.path).name]
    assert store.expire() == 0
    assert first.sha256 == hashlib.sha256(LINES).hexdigest()


async def test_content_that_nobody_names_is_collected_when_it_is_old(database: Database) -> None:
    store = file_store(database, fakes.SECRET)
    with store.writing(SCOPE, "file-left") as draft:
        draft.write(b"a crash came before the commit")
    assert store.collect() == 0
    database.clock = ManualClock(database.clock.now() + timedelta(hours=2))
    assert file_store(database, fakes.SECRET).collect() == 1
    assert contents(database) == []


async def test_uploads_and_deletions_are_on_record(http: httpx2.AsyncClient, database: Database) -> None:
    file = (await upload(http)).json()["id"]
    await http.delete(f"/v1/files/{file}")
    said = [(entry.action, entry.subject, entry.principal) for entry in AuditLog(database, fakes.SECRET).query(SCOPE)]
    for action in ("file.create", "file.delete"):
        assert (action, file, "the-engineer") in said


async def test_in_an_encrypted_project_neither_name_nor_content_is_on_disk(tmp_path: Path) -> None:
    codec = AesGcmCodec(OwnKeys())
    database = Database.open(f"sqlite:///{tmp_path}/catalog.db", codec=codec)
    database.migrate()
    store = file_store(database, fakes.SECRET)
    taken = store.begin(SCOPE, "ada")
    secret = b"qzx7-only-ours " * 10_000
    taken.write(secret)
    kept = taken.keep("batch", "qzx7-only-ours.jsonl")
    assert kept.size == len(secret)
    with store.open(kept) as stream:
        stream.seek(100_000)
        assert stream.read(40) == secret[100_000:100_040]
    database.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"qzx7-only-ours" not in path.read_bytes(), path
