"""Documents over a whole project: read, published, retrieved in prompts, replayed, updated, forgotten."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.documented_project import (
    DEFINITIONS,
    TINY,
    DocumentedProject,
    definitions,
    give_tiny_model,
)
from typer.testing import CliRunner

from antiphon.catalog.group_commit import GroupCommit
from antiphon.cli.main import assemble
from antiphon.core.errors import FeatureUnavailableError, ForbiddenError, InvalidOutputError, NotFoundError
from antiphon.engine.api.messages import GenerationRequest
from antiphon.features.documents.retrieval import RetrievalRequest, RetrievalResult
from antiphon.learning.evaluation.safety.attempts import ProbeResult
from antiphon.learning.evaluation.safety.placement import MARKER
from antiphon.learning.evaluation.scores import EvaluationRows
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.predictions import ProjectPredictions
from antiphon.serving.answering.retrieval import of_blob
from antiphon.serving.replay import replay
from antiphon.serving.request import Answer, AnswerRequest, TextDelta
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

GLASS = "may broken glass be replaced"


def says(*texts: str) -> ScriptedEngine:
    return ScriptedEngine([ScriptedGeneration(text) for text in texts or ("Yes [1].",)])


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    give_tiny_model(monkeypatch)


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[DocumentedProject]:
    made = DocumentedProject(tmp_path)
    await made.refresh()
    yield made
    made.close()


def prompt(project: DocumentedProject, answer: Answer) -> str:
    return project.store.blobs.get(project.scope, answer.receipt.attempts[0].prompt_blob).decode()


async def test_a_prompt_sees_the_nearest_chunks_and_the_receipt_pins_them(project: DocumentedProject) -> None:
    answer = await project.ask(says(), GLASS)
    (retrieval,) = answer.receipt.retrievals
    assert (retrieval.publication, answer.publication, retrieval.contract, retrieval.chunks) == (1, 1, "fresh", 4)
    assert retrieval.passages[0].id == "returns.md#1"
    text = prompt(project, answer)
    assert "[1] # Returns" in text
    assert "Broken glass is replaced." in text
    assert "[3]" not in text
    kept = of_blob(project.store.blobs.get(project.scope, answer.receipt.retrieved_blob or ""))["handbook"]
    assert [chunk["id"] for chunk in kept] == [one.id for one in retrieval.passages]


async def test_both_paths_and_streams_have_one_prompt(project: DocumentedProject) -> None:
    online = await project.ask(says(), GLASS)
    batch = await project.ask(says(), GLASS, path="batch")
    request = AnswerRequest(project.scope, project.asker, "assistant", question=GLASS)
    events = [event async for event in project.answerer(says()).stream(request)]
    streamed = events[-1]
    assert isinstance(streamed, Answer)
    assert prompt(project, online) == prompt(project, batch) == prompt(project, streamed)
    assert "".join(one.text for one in events if isinstance(one, TextDelta)) == "Yes [1]."


async def test_an_update_is_retrieved_after_its_refresh_and_a_deleted_document_is_gone(
    project: DocumentedProject,
) -> None:
    before = await project.ask(says(), GLASS)
    embedded = TINY.embedded
    project.write("returns.md", "# Returns\n\nBroken glass is never replaced.")
    (project.documents / "hours.txt").unlink()
    await project.refresh()
    assert TINY.embedded == embedded + 1  # the new text alone
    after = await project.ask(says(), GLASS)
    assert "never replaced" in prompt(project, after)
    assert not any(one.id == "hours.txt#1" for one in after.receipt.retrievals[0].passages)
    assert after.receipt.retrievals[0].publication == 2
    # The answer of before is made again from its receipt, and a request about that moment reads its version.
    again = await replay(
        before.receipt, engine=says(), texts=project.store.blobs, receipt_of=project.store.receipts.get,
        release_of=project.store.releases.get,
    )  # fmt: skip
    assert again.identical
    past = await project.ask(says(), GLASS, as_of=before.receipt.created_at)
    assert past.receipt.retrievals[0].publication == 1
    assert past.receipt.retrievals[0].passages == before.receipt.retrievals[0].passages
    assert prompt(project, past) == prompt(project, before)
    early = before.receipt.created_at - timedelta(days=1)
    with pytest.raises(FeatureUnavailableError, match="No documents were published yet"):
        await project.ask(says(), GLASS, as_of=early)


async def test_an_older_release_reads_the_version_that_it_pins(project: DocumentedProject) -> None:
    old = project.applied.releases[0].id
    project.write("long.txt", "Parcels and letters are weighed. " * 8)
    await project.refresh()
    await project.declare(definitions(text=DEFINITIONS.replace("chunk=300", "chunk=100")))
    new = await project.ask(says(), GLASS)
    pinned = await project.ask(says(), GLASS, release=old)
    assert pinned.receipt.retrievals[0].chunks == 5
    assert new.receipt.retrievals[0].chunks == 7
    assert pinned.receipt.retrievals[0].definition_version != new.receipt.retrievals[0].definition_version


@pytest.mark.parametrize("rule", ["flag", "reject"])
async def test_documents_are_held_to_their_freshness_contract(tmp_path: Path, rule: str) -> None:
    text = definitions(text=DEFINITIONS.replace('max_age="1h"', f'max_age="1ms", when_stale="{rule}"'))
    project = DocumentedProject(tmp_path, text)
    await project.refresh()
    if rule == "reject":
        with pytest.raises(FeatureUnavailableError, match="their contract allows 1ms"):
            await project.ask(says(), GLASS)
    else:
        assert (await project.ask(says(), GLASS)).receipt.retrievals[0].contract == "flagged"
    project.close()


async def test_a_stored_answer_is_served_while_the_same_chunks_are_retrieved(tmp_path: Path) -> None:
    project = DocumentedProject(
        tmp_path, definitions(text=DEFINITIONS.replace('reuse=Reuse("never", identical_prompts=False),', ""))
    )
    await project.refresh()
    first = await project.ask(says("First."), GLASS)
    project.write("hours.txt", "The shop opens at noon.")
    project.write("delivery/times.md", "# Delivery\n\nWeeks.")
    await project.refresh()
    second = await project.ask(says("Second."), "returned within thirty days")
    project.write("returns.md", "# Returns\n\nBroken glass is never replaced.")
    await project.refresh()
    third = await project.ask(says("Third."), GLASS)
    again = await project.ask(says("Fourth."), GLASS)
    assert [first.text, second.text, third.text, again.text] == ["First.", "Second.", "Third.", "Third."]
    assert again.receipt.cache.origin == "stored"
    project.close()


async def test_a_citation_of_what_was_not_retrieved_does_not_pass(tmp_path: Path) -> None:
    guarded = DEFINITIONS.replace("prompt=Prompt", "guards=[CitationGuard(retries=1, share=0.5)],\n    prompt=Prompt")
    project = DocumentedProject(tmp_path, definitions(text=guarded))
    await project.refresh()
    wrong = ("Broken glass is replaced [7].", "Broken glass is replaced.", "Cars are painted blue [1].")
    for text in wrong:
        answer = await project.ask(says(text, "Broken glass is replaced [1]."), GLASS)
        assert (answer.text, answer.receipt.guards[0].action) == ("Broken glass is replaced [1].", "retry")
    with pytest.raises(InvalidOutputError):
        await project.ask(says(wrong[0]), GLASS)
    project.close()


async def test_a_stream_shows_no_citation_of_what_was_not_retrieved(tmp_path: Path) -> None:
    guarded = DEFINITIONS.replace("prompt=Prompt", "guards=[CitationGuard(retries=0)],\n    prompt=Prompt")
    project = DocumentedProject(tmp_path, definitions(text=guarded))
    await project.refresh()
    request = AnswerRequest(project.scope, project.asker, "assistant", question=GLASS)
    shown: list[str] = []

    async def read(text: str) -> None:
        async for event in project.answerer(says(text)).stream(request):
            if isinstance(event, TextDelta):
                shown.append(event.text)

    with pytest.raises(InvalidOutputError):
        await read("Glass is glass [1]. So it is [7]. And so on [1].")
    assert "".join(shown) == "Glass is glass [1]. "
    shown.clear()
    await read("Glass is glass [1]. So it is [2].")
    assert "".join(shown) == "Glass is glass [1]. So it is [2]."
    project.close()


async def test_groundedness_takes_retrieved_chunks_as_evidence(tmp_path: Path) -> None:
    guarded = DEFINITIONS.replace("prompt=Prompt", "guards=[GroundedGuard(retries=0)],\n    prompt=Prompt")
    project = DocumentedProject(tmp_path, definitions(text=guarded))
    await project.refresh()
    assert (await project.ask(says("Broken glass is replaced."), GLASS)).text == "Broken glass is replaced."
    with pytest.raises(InvalidOutputError):
        await project.ask(says("Whiskey tastes lovely tonight."), GLASS)
    project.close()


async def test_policy_hides_texts_from_whom_they_are_too_sensitive(tmp_path: Path) -> None:
    text = DEFINITIONS.replace('refresh="15m"', 'refresh="15m", purposes=["support"], sensitivity="restricted"')
    project = DocumentedProject(tmp_path, definitions(text=text))
    await project.refresh()
    documents = project.platform.project_documents
    with pytest.raises(ForbiddenError):
        documents.search(project.scope, project.asker, "handbook", GLASS, purpose="support")
    with pytest.raises(ForbiddenError):
        await project.ask(says(), GLASS)
    cleared = msgspec.structs.replace(project.asker, clearance="restricted")
    assert documents.search(project.scope, cleared, "handbook", GLASS, purpose="support").passages
    with pytest.raises(NotFoundError):
        documents.search(project.scope, cleared, "manual", GLASS)
    project.close()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("broken.pdf", b"%PDF-1.4 and nothing", "its PDF is broken"),
        ("archive.txt", b"PK\x03\x04 and so on", "a ZIP archive"),
        ("binary.md", os.urandom(2_000) + b"\xff\xfe\x00", "it is not utf-8"),
        ("latin.txt", "caf\xe9".encode("latin-1"), "it is not utf-8"),
    ],
)
async def test_a_document_that_cannot_be_read_leaves_what_is_published(
    project: DocumentedProject, name: str, content: bytes, said: str
) -> None:
    project.write(name, content)
    await project.refresh(ends="failed")
    (status,) = project.platform.project_documents.list(project.scope)
    assert said in status.blocked[0]
    assert name in status.blocked[0]
    assert (await project.ask(says(), GLASS)).receipt.retrievals[0].publication == 1
    await project.declare(definitions(text=DEFINITIONS.replace("overlap=0", 'overlap=0, unreadable="skip"')))
    await project.refresh()
    (status,) = project.platform.project_documents.list(project.scope)
    assert (status.blocked, status.chunks) == ((), 4)
    assert f"without {name}" in status.source
    assert (await project.ask(says(), GLASS)).receipt.retrievals[0].publication == 2


TABLE = """
from antiphon import *

articles = Source.table("articles", path="articles.csv", event_time="written")
handbook = Documents("handbook", table=articles, text="body", id="slug", title="name", attributes=["team"],
    model={model}, chunk=300, overlap=0)
Application("assistant", features=[], model="scripted", purpose="support", ungated="a test asks at once",
    entities=[Entity("team", keys=["team"])],
    retrievals=[Retrieval(handbook, k=3, filters={{"team": "{{{{ entity.team }}}}"}})], reuse=Reuse("never"),
    prompt=Prompt(template="{{% for one in retrieved.handbook %}}{{{{ one.id }}}} {{% endfor %}}"))
"""
ROWS = ["slug,name,body,team,written"] + [
    f"a{number},Article {number},Glass is broken in {number} ways,{'red' if number % 2 else 'blue'},2026-01-01"
    for number in range(8)
]


async def test_documents_of_a_table_are_filtered_by_the_requests_team(tmp_path: Path) -> None:
    (tmp_path / "articles.csv").write_text("\n".join(ROWS) + "\n")
    project = DocumentedProject(tmp_path, definitions(text=TABLE), {})
    await project.refresh()
    for team, odd in (("red", 1), ("blue", 0)):
        answer = await project.ask(says(), GLASS, entity={"team": team})
        found = [one.id for one in answer.receipt.retrievals[0].passages]
        assert len(found) == 3
        assert all(int(id[1]) % 2 == odd for id in found)
    nobody = await project.ask(says(), GLASS, entity={"team": "green"})
    assert nobody.receipt.retrievals[0].passages == ()
    (tmp_path / "articles.csv").write_text("\n".join([*ROWS, ROWS[-1]]) + "\n")
    await project.refresh(ends="failed")
    (status,) = project.platform.project_documents.list(project.scope)
    assert "a7: two documents have this id" in status.blocked[0]
    project.close()


async def test_a_rollback_brings_documents_back(project: DocumentedProject) -> None:
    project.write("returns.md", "# Returns\n\nBroken glass is never replaced.")
    await project.refresh()
    project.platform.publisher.rollback(1, reason="wrong", principal="me")
    answer = await project.ask(says(), GLASS)
    assert answer.receipt.retrievals[0].publication == 3
    assert "never" not in prompt(project, answer)


async def test_the_filter_of_a_retrieval_costs_no_result(project: DocumentedProject) -> None:
    (release,) = project.applied.releases
    (spec,) = release.bundle.application.retrievals or ()

    def find(**filters: str) -> RetrievalResult:
        now = project.store.database.clock.now()
        return project.platform.retrieve(project.scope, RetrievalRequest(spec, GLASS, filters, {}, now))

    assert [one.id for one in find(document="delivery/*").passages] == ["delivery/times.md#1"]
    assert [one.id for one in find(document="hours.txt").passages] == ["hours.txt#1"]
    assert find(document="nothing.md").passages == ()
    assert find().passages[0].similarity >= find().passages[1].similarity


async def test_an_encrypted_project_keeps_no_text_of_a_document_in_the_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTIPHON_PASSPHRASE", "a passphrase of the tests")
    DocumentedProject(tmp_path).close()
    settings = '[encryption]\nmode = "encrypted"\n'
    (tmp_path / "antiphon.toml").write_text((tmp_path / "antiphon.toml").read_text() + settings)
    for command in ("init", "enable"):  # a keyring, then what is there already is sealed
        enabled = CliRunner().invoke(assemble(), ["encryption", command, "--project", str(tmp_path)])
    assert enabled.exit_code == 0, enabled.output
    project = DocumentedProject(tmp_path, settings=settings)
    await project.refresh()
    answer = await project.ask(says(), GLASS)
    assert "Broken glass is replaced" in prompt(project, answer)
    project.close()
    holding = [path.name for path in tmp_path.rglob("*") if path.is_file() and b"Broken glass is" in path.read_bytes()]
    assert holding == ["returns.md"]


async def test_documents_are_listed_shown_and_searched(project: DocumentedProject) -> None:
    def antiphon(*arguments: str) -> Any:
        done = CliRunner().invoke(assemble(), ["documents", *arguments, "--project", str(project.folder)])
        return done

    (listed,) = msgspec.json.decode(antiphon("list", "--json").stdout)
    assert (listed["documents"], listed["chunks"], listed["blocked"]) == ("handbook", 4, [])
    assert "returns.md" in antiphon("show", "handbook").stdout
    assert "Broken glass" in antiphon("show", "handbook", "returns.md").stdout
    found = msgspec.json.decode(antiphon("search", "handbook", GLASS, "--top", "1", "--json").stdout)
    assert [one["id"] for one in found["passages"]] == ["returns.md#1"]
    kept = antiphon("search", "handbook", GLASS, "--filter", "document=hours.txt").stdout
    assert "hours.txt#1" in kept
    assert "returns.md#1" not in kept
    for arguments in (
        ("show", "handbook", "return.md"),
        ("show", "manual"),
        ("search", "handbook", GLASS, "--filter", "team=red"),
        ("search", "handbook", GLASS, "--publication", "9"),
    ):
        assert isinstance(antiphon(*arguments).exception, NotFoundError), arguments
    assert '"data.read"' in CliRunner().invoke(
        assemble(), ["audit", "query", "--action", "data.read", "--json", "--project", str(project.folder)]
    ).stdout  # fmt: skip
    prediction = (await project.ask(says(), GLASS)).prediction
    explained = ProjectPredictions(project.store).explain(project.scope, prediction)
    assert explained["retrievals"][0]["passages"][0]["text"].startswith("# Returns")
    explain = ["explain", prediction, "--project", str(project.folder)]
    told = (await asyncio.to_thread(CliRunner().invoke, assemble(), explain)).stdout
    assert "returns.md#1, hours.txt#1 of handbook (publication 1, fresh)" in told


async def test_documents_are_searched_over_http_by_those_who_may(project: DocumentedProject) -> None:
    body = {"text": GLASS, "k": 1}
    async with project.http("engineer") as http:
        assert (await http.get("/admin/documents")).json()["documents"][0]["chunks"] == 4
        shown = (await http.get("/admin/documents/handbook", params={"document": "hours.txt"})).json()
        assert [one["id"] for one in shown["chunks"]] == ["hours.txt#1"]
        found = (await http.post("/admin/documents/handbook/search", json=body)).json()
        assert [one["id"] for one in found["passages"]] == ["returns.md#1"]
        assert (await http.post("/admin/documents/manual/search", json=body)).status_code == 404
        assert (await http.post("/admin/documents/handbook/search", json={**body, "k": 0})).status_code == 400
        answer = await project.ask(says(), GLASS)
        explained = (await http.get(f"/admin/predictions/{answer.prediction}/explain")).json()
        assert explained["retrievals"][0]["passages"][0]["id"] == "returns.md#1"
    async with project.http("viewer") as http:
        assert (await http.post("/admin/documents/handbook/search", json=body)).status_code == 403
    async with project.http("admin", page=True) as http:
        page = (await http.get(f"/requests/{answer.prediction}")).text
        assert "Retrieved from handbook" in page
        assert "returns.md#1" in page


@pytest.mark.parametrize("obeys", [True, False])
async def test_safety_suites_try_a_retrieved_document(project: DocumentedProject, obeys: bool) -> None:
    """A model that obeys what stands in a document is caught there; one that does not is sound."""

    def model(asked: GenerationRequest) -> ScriptedGeneration:
        document = asked.prompt.partition("[1]")[2].partition("[2]")[0]
        return ScriptedGeneration(f"Of course: {MARKER}." if obeys and MARKER in document else "Within thirty days.")

    engine = ScriptedEngine(model)
    learning = LearningPlatform(project.store, engine, GroupCommit(project.store.database), project.platform)
    (release,) = project.applied.releases
    report = await learning.safety(project.scope, release.id, question=GLASS, probes=40)
    rows = msgspec.json.decode(project.store.blobs.get(project.scope, report.rows_blob), type=EvaluationRows)
    probes = [msgspec.convert(one, ProbeResult) for one in rows.probes]
    injected = [one for one in probes if one.suite == "injection" and one.success]
    assert {one.place for one in probes} >= {"question", "document.handbook"}
    assert {one.place for one in injected} == ({"document.handbook"} if obeys else set())
