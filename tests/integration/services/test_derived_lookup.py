"""Lookups of what is no column: on-demand features from what the request says, and vectors, beside plain values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from tests.integration.services.test_neighbors import TEXTS, TINY, written
from tests.integration.services.watched_project import Project, told

from antiphon.app.wiring import ProcessServices
from antiphon.core.errors import InvalidInputError
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import Decision
from antiphon.services.export.frames import open_project
from antiphon.services.features import platform as features
from antiphon.serving.features.lookup import FeatureLookup
from antiphon.serving.features.lookup_values import LookupRequest
from antiphon.testing.embedding import GivenEmbedders

PATH = "/v1/features/lookup"
MORE = """
from antiphon import when

@on_demand_view(inputs={"minutes": "number", "note": "text", "rush": "boolean"})
class Patience:
    ratio = on_demand(request.minutes / (Said.secret_words + 1))
    shout = on_demand(request.note)
    rushed = on_demand(when(request.rush).then(1).otherwise(0))
    spent = on_demand(Today.takings * request.minutes)


@feature_view(entity=Entity("order", keys=["order"]), source=reviews, purposes=["care"])
class Kept:
    review = embed(col.text, model=MODEL)


Application("careful", ungated="a test asks at once",
    features=[Said, Today, Patience], entities=[shop, Entity("order", keys=["order"])],
    model="smollm2-135m", purpose="care", figures=[Figure(Patience.spent, step=0.1)],
    freshness={"said": Freshness(max_age="10000d", when_stale="default")},
    prompt=Prompt(template="{{ features.patience.spent }}"))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    patch = pytest.MonkeyPatch()
    patch.setattr(features, "LocalEmbedders", lambda: GivenEmbedders(TINY))
    folder = tmp_path_factory.mktemp("derived")
    definitions = written(folder, repr(TINY.model)).replace(
        "    words = last(col.text)\n", "    words = last(col.text)\n    secret_words = count(window=None)\n"
    )
    made = Project(folder, definitions + MORE.replace("MODEL", repr(TINY.model)))
    asyncio.run(made.refresh())
    made.consume()
    yield made
    made.close()
    patch.undo()


def vector(text: str) -> list[float]:
    raw = TINY.embed([text]).vectors[0].astype(numpy.float32)
    return [float(number) for number in raw / numpy.linalg.norm(raw)]


async def test_vectors_are_looked_up_as_lists_of_numbers_by_their_names(project: Project) -> None:
    async with project.http("service") as http:
        body = {
            "features": ["said.review", "said.words"],
            "entities": [{"order": "o1"}, {"order": "o5"}, {"order": "x"}],
        }
        found = told(await http.post(PATH, json=body))
        assert found["features"] == ["said.review", "said.words"], "in the order asked"
        first, empty, unknown = found["entities"]
        assert first["values"][1] == TEXTS["o1"]
        assert first["values"][0] == pytest.approx(vector(TEXTS["o1"]), abs=1e-6)
        assert (empty["values"][0], unknown["values"][0]) == (None, None)
        assert (first["contracts"], empty["contracts"][0], unknown["known"]) == (["fresh", "fresh"], "absent", False)
        assert found["models"]["said.review"]["name"] == TINY.model.name
        assert found["snapshots"].keys() == {"said"}
        alone = told(await http.post(PATH, json={**body, "features": ["said.review"]}))
        assert alone["publication"] == found["publication"]
        assert [one["values"] for one in alone["entities"]] == [one["values"][:1] for one in found["entities"]]
        whole = told(await http.post(PATH, json={**body, "features": ["said"]}))
        assert whole["features"] == ["said.secret_words", "said.words"], "a whole view is without its vectors"
        refused = told(await http.post(PATH, json={**body, "features": ["kept"]}), 400)["error"]["message"]
        assert "Every feature of kept is a vector" in refused
        assert "kept.review" in refused


async def test_a_vector_that_may_not_be_seen_is_not_sent(project: Project) -> None:
    async with project.http("service") as http:
        ask = {"features": ["said.secret", "said.words"], "entities": [{"order": "o1"}]}
        told(await http.post(PATH, json=ask), 403)
        kept = {"features": ["kept.review"], "entities": [{"order": "o1"}]}
        refused = told(await http.post(PATH, json=kept), 403)["error"]
        assert "feature-purpose" in refused["message"]
        assert "declared for care, and none is given" in refused["next_step"]
        wrong = told(await http.post(PATH, json={**kept, "purpose": "fun"}), 403)["error"]["next_step"]
        assert "declared for care, and 'fun' is given" in wrong
        told(await http.post(PATH, json={**kept, "purpose": "care"}))
    async with project.http("viewer") as http:
        told(await http.post(PATH, json={**kept, "purpose": "care"}), 403)


async def test_on_demand_features_are_made_of_what_the_request_says(project: Project) -> None:
    async with project.http("service") as http:
        ask = {"features": ["wait", "today.orders"], "entities": [{"shop": "tea"}, {"shop": "cake"}]}
        found = told(await http.post(PATH, json={**ask, "inputs": {"minutes": 90}}))
        assert found["features"] == ["wait.each", "today.orders"]
        assert [one["values"] for one in found["entities"]] == [[4.5, 20], [4.5, 20]]
        assert found["entities"][0]["event_times"][0] == found["entities"][0]["event_times"][1]
        each = told(await http.post(PATH, json={**ask, "inputs": [{"minutes": 90}, {"minutes": None}]}))
        assert [one["values"][0] for one in each["entities"]] == [4.5, None]
        assert [one["contracts"][0] for one in each["entities"]] == ["fresh", "absent"]
        only = told(await http.post(PATH, json={**ask, "features": ["wait.each"], "inputs": {"minutes": 40}}))
        assert (only["features"], only["entities"][0]["values"]) == (["wait.each"], [2.0])
        for inputs, words in (
            ({}, "'minutes' is missing"),
            ({"minutes": "90"}, "must be a number"),
            ({"minutes": 1, "x": 1}, "input 'x'"),
            ([{"minutes": 1}], "2 entities but 1 inputs"),
        ):
            assert words in told(await http.post(PATH, json={**ask, "inputs": inputs}), 400)["error"]["message"]
        plain = {"features": ["today"], "entities": [{"shop": "tea"}], "inputs": {"minutes": 1}}
        assert "input 'minutes'" in told(await http.post(PATH, json=plain), 400)["error"]["message"]
        assert (
            "wait.eech" in told(await http.post(PATH, json={**ask, "features": ["wait.eech"]}), 404)["error"]["message"]
        )


async def test_an_application_brings_its_on_demand_features_and_its_contracts(project: Project) -> None:
    who = Principal(id="cleared", tenant="default", role="service", clearance="restricted")
    wired = ProcessServices(project.store.open(project.folder), "test")
    try:
        entity, inputs = {"shop": "tea", "order": "o1"}, {"minutes": 2, "note": "now", "rush": True}
        at = datetime.now(UTC)
        scope = project.store.scope
        plan = wired.lookups.plan(scope, (), "careful", computed=True)
        found = await wired.lookups.look_up(LookupRequest(scope, who, plan, [entity], at, inputs=inputs))
        line = dict(zip(found.features, found.entities[0].values, strict=True))
        assert line["patience.ratio"] == 1.0
        assert (line["patience.shout"], line["patience.rushed"]) == ("now", 1.0)
        assert line["patience.spent"] == line["today.takings"] * 2  # type: ignore[operator]
        plan = wired.lookups.plan(scope, (), "careful")
        without = await wired.lookups.look_up(LookupRequest(scope, who, plan, [entity], at))
        assert not [name for name in without.features if name.startswith("patience")], "nothing was said"
        # Under the contract the words are stale at last, and so is what is made of them.
        names = ["said.review", "patience.ratio", "patience.shout"]
        late = datetime(2026, 1, 2, tzinfo=UTC) + timedelta(days=10_000)
        plan = wired.lookups.plan(scope, names, "careful", computed=True)
        asked = await wired.lookups.look_up(LookupRequest(scope, who, plan, [entity], late, inputs=inputs))
        assert asked.entities[0].values == (None, None, "now")
        assert asked.entities[0].contracts == ("defaulted", "absent", "fresh")
        with pytest.raises(InvalidInputError, match="'note' is missing"):
            await wired.lookups.look_up(LookupRequest(scope, who, plan, [entity], late, inputs={"minutes": 1}))
    finally:
        await wired.close()


def test_what_policy_hides_is_missing_in_what_is_made_of_it(project: Project) -> None:
    hidden = Decision(True, (), "digest", (), ("today.orders", "said.review"))
    lookup = FeatureLookup(
        project.platform.published,
        lambda principal, action, resource, context: hidden,
        project.store.database.clock,
        vectors=project.platform.vectors,
    )
    wired = ProcessServices(project.store.open(project.folder), "test")
    try:
        names = ["wait.each", "today.paid", "said.review", "said.words"]
        plan = wired.lookups.plan(project.store.scope, names)
        who = Principal(id="asker", tenant="default", role="service")
        entity = {"shop": "tea", "order": "o1"}
        found = lookup.look_up_now(
            LookupRequest(project.store.scope, who, plan, [entity], inputs={"minutes": 90})
        ).entities[0]
        assert found.values == (None, 39.5, None, TEXTS["o1"])
        assert found.contracts == ("absent", "fresh", "masked", "fresh")
        assert found.event_times[2] is None
    finally:
        asyncio.run(wired.close())


def test_both_are_looked_up_in_the_terminal(project: Project, tmp_path: Path) -> None:
    antiphon = project.terminal
    shown = antiphon("features", "get", "said.review", "--entity", "order=o1")
    assert shown.code == 0, shown.err
    assert "numbers]" in shown.out
    found = antiphon("features", "get", "wait.each", "--entity", "shop=tea", "--input", "minutes=90", "--json").json()
    assert found["entities"][0]["values"] == [4.5]
    file = tmp_path / "asked.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"shop": ["tea", "cake", "tea"], "minutes": [90.0, 40.0, None]}), file)
    rows = antiphon("features", "get", "wait.each", "--entities", str(file), "--json").json()
    assert [one["values"] for one in rows["entities"]] == [[4.5], [2.0], [None]]
    assert antiphon("features", "get", "wait.each", "--entity", "shop=tea").code == 2
    assert antiphon("features", "get", "today", "--entity", "shop=tea", "--input", "x=1").code == 2


def test_a_frame_gets_vectors_by_their_names(project: Project) -> None:
    with open_project(project.folder) as opened:
        rows = pyarrow.table({"order": ["o1", "o5"]})
        found = opened.online(rows, ["said.review", "said.words"])
        assert found.column("said.review").to_pylist() == [pytest.approx(vector(TEXTS["o1"]), abs=1e-6), None]
        assert found.column("said.words").to_pylist() == [TEXTS["o1"], None]


async def test_the_interface_is_described(project: Project) -> None:
    async with project.http("service") as http:
        described: dict[str, Any] = told(await http.get("/openapi.json"))["components"]["schemas"]
    assert "inputs" in described["FeatureLookupBody"]["properties"]
    assert "models" in json.dumps(described["FeatureLookupAnswer"])
