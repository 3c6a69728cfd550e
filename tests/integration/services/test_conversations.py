"""Conversations are shown and deleted over HTTP, on the dashboard and from the terminal, by who may."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import msgspec
import pytest
import pytest_asyncio
import sqlalchemy as sa
from tests.harness import fakes
from tests.harness.assistant import ENTITY, assistant
from tests.harness.gateway_client import sign_in
from tests.harness.small_desk import ASKER, SCOPE, START
from tests.integration.gateway.generating_world import MODEL, World, simulated

from antiphon.catalog import schema
from antiphon.catalog.learning.annotations import Annotation, Annotations, annotation_id
from antiphon.catalog.learning.outcomes import OutcomeRecord, Outcomes
from antiphon.catalog.learning.regressions import Expectation, RegressionCase, RegressionSets
from antiphon.governance.identity.keys import Keys
from antiphon.services.conversations import ProjectConversations
from antiphon.serving.request import Answer, Message

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = await simulated(stack, tmp_path_factory.mktemp("conversations") / "world")
        made.desk.features.set(START, account__open_tickets=2)
        made.desk.publish(assistant(model=MODEL))
        yield made


async def talk(world: World, *questions: str, customer: str = "acme") -> list[Answer]:
    answers: list[Answer] = []
    for question in questions:
        own = answers[-1].receipt.conversation if answers else None
        request = world.desk.request(
            application="assistant",
            entity={**ENTITY, "customer": customer},
            question=question,
            messages=(Message("user", question),),
            conversation=own.id if own is not None else None,
        )
        answers.append(await world.desk.answerer.answer(request))
    return answers


def id_of(answers: list[Answer]) -> str:
    assert answers[-1].receipt.conversation is not None
    return answers[-1].receipt.conversation.id or ""


async def asked(world: World, method: str, path: str, role: str = "admin", who: str = "boss") -> Any:
    key = Keys(world.desk.database, fakes.SECRET).create("default", who, role)[0]  # type: ignore[arg-type]
    base = str(world.client.base_url).removesuffix("/v1/")
    async with httpx2.AsyncClient(base_url=base, headers={"authorization": f"Bearer {key}"}) as client:
        return await client.request(method, path)


async def test_a_conversation_is_listed_and_shown_with_its_turns(world: World) -> None:
    answers = await talk(world, "One?", "Two?")
    listed = (await asked(world, "GET", "/admin/conversations?application=assistant")).json()["conversations"]
    assert (listed[0]["id"], listed[0]["turns"]) == (id_of(answers), 2)
    shown = (await asked(world, "GET", f"/admin/conversations/{id_of(answers)}")).json()
    assert [turn["question"] for turn in shown["turns"]] == ["One?", "Two?"]
    assert [turn["prediction"] for turn in shown["turns"]] == [answer.prediction for answer in answers]
    assert (await asked(world, "GET", "/admin/conversations/conv_none")).status_code == 404


async def test_a_conversation_is_deleted_by_who_had_it_or_an_administrator(world: World) -> None:
    own, others = await talk(world, "Mine?"), await talk(world, "Yours?")
    foreign = await asked(world, "DELETE", f"/admin/conversations/{id_of(own)}", "service", "stranger")
    assert foreign.status_code == 403
    deleted = await asked(world, "DELETE", f"/admin/conversations/{id_of(own)}", "service", ASKER.id)
    assert deleted.json() == {
        "conversations": 1, "turns": 1, "texts": 0, "dry_run": False, "remarks": 0, "cases": 0,
    }  # fmt: skip
    assert (await asked(world, "DELETE", f"/admin/conversations/{id_of(others)}")).status_code == 200
    assert (await asked(world, "GET", f"/admin/conversations/{id_of(own)}")).status_code == 404
    # The receipt is evidence and stays.
    assert (await world.desk.replay(own[0].receipt)).identical


async def test_the_texts_of_its_answers_go_too_where_that_is_ordered(world: World) -> None:
    answers = await talk(world, "A secret?", "And more?")
    refused = await asked(world, "DELETE", f"/admin/conversations/{id_of(answers)}?texts=true", "service", ASKER.id)
    assert refused.status_code == 403
    done = (await asked(world, "DELETE", f"/admin/conversations/{id_of(answers)}?texts=true")).json()
    assert done["texts"] > 0
    rows = [bytes(row[0] or b"") for row in world.desk.database.rows(_payloads())]
    assert not any(b"A secret?" in row for row in rows)
    assert world.desk.receipts.get(SCOPE, answers[0].prediction).prediction == answers[0].prediction


async def test_what_people_said_of_its_answers_goes_with_the_texts(world: World) -> None:
    answer, kept = (await talk(world, "A secret?"))[0], (await talk(world, "Another?"))[0]
    notes, sets = Annotations(world.desk.database), RegressionSets(world.desk.database)
    outcomes = Outcomes(world.desk.database)
    for one in (answer, kept):
        told = OutcomeRecord(f"out-{one.prediction}", SCOPE, "assistant", "text", "joined", "My name is", START, START)
        outcomes.add(msgspec.structs.replace(told, prediction=one.prediction))
        name = annotation_id(one.prediction, "ann", "correction")
        notes.put(Annotation(name, SCOPE, one.prediction, "assistant", "ann", "correction", "Better.", START))
        case = RegressionCase(
            one.prediction, SCOPE, "bad", "assistant", (Expectation("lacks", "no"),), "ann", START, one.prediction
        )
        sets.add_cases(SCOPE, "bad", [(case, "visible")], author="ann", reason="a test")
    path = f"/admin/conversations/{id_of([answer])}?texts=true"
    done = (await asked(world, "DELETE", path)).json()
    assert (done["remarks"], done["cases"]) == (2, 1)
    assert [one.prediction for one in notes.list(SCOPE)] == [kept.prediction]
    assert list(sets.version(SCOPE, "bad").cases) == [kept.prediction]
    assert sets.cases(sets.version(SCOPE, "bad", 2))[answer.prediction] is None
    assert [one.prediction for one in outcomes.list(SCOPE)] == [kept.prediction]


async def test_every_conversation_about_an_entity_is_forgotten(world: World) -> None:
    kept = await talk(world, "Kept?")
    for number in range(3):
        await talk(world, f"Gone {number}?", customer="globex")
    conversations = world_conversations(world)
    subject = {"customer": "globex"}
    counted = conversations.forget(SCOPE, subject, by="root", dry_run=True)
    assert (counted.conversations, counted.turns, counted.dry_run) == (3, 3, True)
    assert len(conversations.list(SCOPE, entity=subject)) == 3
    done = conversations.forget(SCOPE, subject, by="root")
    assert (done.conversations, done.turns) == (3, 3)
    assert conversations.list(SCOPE, entity=subject) == []
    assert conversations.show(SCOPE, ASKER, id_of(kept)).conversation.turns == 1


def world_conversations(world: World) -> ProjectConversations:
    """The conversations of the desk, by whose key its subjects are named."""
    store = fakes._store(world.desk.database, fakes.gateway_services(world.desk.database).settings)
    store.secret = lambda name: world.desk.services.subject_key  # type: ignore[method-assign]
    return ProjectConversations(store, fakes.records(store))


def _payloads() -> Any:
    return sa.select(schema.blobs.c.payload)


async def test_the_dashboard_lists_conversations_and_leads_to_their_answers(world: World) -> None:
    answers = await talk(world, "One <b>?", "Two?")
    key = Keys(world.desk.database, fakes.SECRET).create("default", "viewer", "admin")[0]
    base = str(world.client.base_url).removesuffix("/v1/")
    async with httpx2.AsyncClient(base_url=base) as browser:
        await sign_in(browser, key)
        listed = (await browser.get("/conversations?application=assistant")).text
        assert f'href="/conversations/{id_of(answers)}"' in listed
        page = (await browser.get(f"/conversations/{id_of(answers)}")).text
        assert "One &lt;b&gt;?" in page
        assert f'href="/requests/{answers[1].prediction}"' in page
        assert (await browser.get("/conversations/conv_none")).status_code == 404
