"""Lineage of runs that the product's own workflows did: what they read and made, and nothing of anybody's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.services.lineage.lineage_bakery import BAKER, PRIVATE, QUESTION, LineageBakery

from antiphon.core.errors import NotFoundError
from antiphon.durable.claims import ServedRuns
from antiphon.services.features.refreshing import finish_apply
from antiphon.services.lineage.graph import LineageGraph, dot, outline
from antiphon.services.lineage.openlineage import document
from antiphon.services.lineage.project import ProjectLineage


@pytest.fixture
async def bakery(tmp_path: Path) -> AsyncIterator[LineageBakery]:
    made = LineageBakery(tmp_path)
    yield made
    await made.close()


def ended(bakery: LineageBakery, run: str) -> dict[str, Any]:
    """The last event of a run, as it is sent."""
    return document(ProjectLineage(bakery.store).events(bakery.scope, run)[-1])


def named(datasets: list[dict[str, Any]]) -> dict[str, str | None]:
    """Datasets to their versions."""
    return {
        one["name"]: one.get("facets", {}).get("version", {}).get("datasetVersion") for one in datasets
    }  # fmt: skip


async def test_a_refresh_is_told_from_source_to_snapshot(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    event = ended(bakery, bakery.latest("refresh").id)
    (manifest,) = bakery.store.snapshots.list(bakery.scope)
    assert (event["eventType"], event["job"]["name"]) == ("COMPLETE", "refresh.today")
    assert named(event["inputs"]) == {"file/orders.csv": manifest.source_hash}
    assert named(event["outputs"]) == {f"view/{manifest.key}": manifest.id}
    (read,), (made,) = event["inputs"], event["outputs"]
    assert {one["name"] for one in read["facets"]["schema"]["fields"]} >= {"customer", "paid", "wish"}
    assert {one["name"]: one["type"] for one in made["facets"]["schema"]["fields"]}.items() >= {
        ("customer", "string"), ("orders", "integer"), ("paid", "number"),
    }  # fmt: skip
    assert read["inputFacets"]["dataQualityMetrics"]["rowCount"] == 2
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 2


async def test_gates_are_told_from_release_to_the_report_that_decided(bakery: LineageBakery) -> None:
    event = ended(bakery, await bakery.open_shop())
    live = bakery.live("replies")
    assert live is not None
    report = bakery.store.safety_reports.latest(bakery.scope, live.id)
    assert report is not None
    assert event["job"]["name"] == "gates.replies"
    assert named(event["inputs"]) == {"release/replies": live.id}
    assert named(event["outputs"]) == {"safety-report/replies": report.id}


async def test_a_table_job_is_told_from_table_release_and_view_to_answers(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    event = ended(bakery, await bakery.table())
    live, (job,) = bakery.live("replies"), bakery.store.jobs.list(bakery.scope)
    assert live is not None
    view = next(f"view/{spec.key}" for spec in bakery.store.definitions.list(bakery.scope))
    assert event["job"]["name"] == "table_job.replies"
    assert named(event["inputs"]) == {"file/customers.csv": None, "release/replies": live.id, view: None}
    made = named(event["outputs"])
    assert made["answers/replies"] == job.id
    assert made["file/answers.jsonl"] == job.written[-1]
    assert event["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 2


async def test_a_refresh_that_failed_is_told_with_its_source_and_without_its_reason(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    (bakery.folder / "orders.csv").unlink()
    event = ended(bakery, await bakery.refresh(ends="failed"))
    assert (event["eventType"], event.get("outputs", [])) == ("FAIL", [])
    assert list(named(event["inputs"])) == ["file/orders.csv"]
    assert event["run"]["facets"]["errorMessage"]["message"].startswith("`antiphon runs show run_")


async def test_an_apply_is_the_parent_of_the_gates_that_it_ordered(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    text = (bakery.folder / "definitions.py").read_text()
    applied = bakery.apply(text.replace("count(window=None)", 'count(window="900d")'))
    assert applied.run is not None
    await asyncio.to_thread(finish_apply, bakery.store, applied.run, platform=bakery.wired.features)
    begun = document(ProjectLineage(bakery.store).events(bakery.scope, applied.run)[0])
    event = ended(bakery, applied.run)
    assert event["job"]["name"] == "apply.replies"
    assert list(named(event["inputs"])) == ["file/orders.csv"]
    (gates,) = (run for run in bakery.store.runs.list(bakery.scope, workflow="gates") if run.status == "queued")
    (check,) = await bakery.work(gates.id)
    assert check.state == "passed"
    parent = ended(bakery, gates.id)["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == begun["run"]["runId"]
    assert parent["job"]["name"] == "apply.replies"


async def test_nothing_of_anybody_is_in_any_event_or_graph(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    answer = await bakery.question()
    await bakery.table()
    (bakery.folder / "orders.csv").write_text("id,customer,at,paid,wish\n1,Wilhelmina Featherstone,no time,x,y\n")
    await bakery.refresh(ends="failed")
    bakery.store.runs.submit(bakery.scope, "drift", {})
    run = bakery.store.runs.claim("worker", ServedRuns("dev", ("drift",)), timedelta(minutes=1))
    assert run is not None
    bakery.store.runs.fail(run, f"{PRIVATE[0]!r} is no number, as {QUESTION!r} says.")
    lineage = ProjectLineage(bakery.store)
    events = lineage.events(bakery.scope)
    assert {event.type for event in events} == {"START", "COMPLETE", "FAIL"}
    told = json.dumps([document(event) for event in events]) + msgspec.json.encode(events).decode()
    graphs = [lineage.graph(bakery.scope, name) for name in (None, answer.prediction, bakery.latest("gates").id)]
    told += "".join(dot(graph) + "\n".join(outline(graph)) for graph in graphs)
    assert [one for one in PRIVATE if one in told] == []
    assert str(bakery.folder) not in told, "the project's folder has a name of its own on every host"
    kept = msgspec.json.encode(bakery.store.receipts.get(bakery.scope, answer.prediction)).decode()
    assert BAKER.id in kept, "it would be found where it is"


def kinds(graph: LineageGraph) -> set[str]:
    return {node.kind for node in graph.nodes}


async def test_an_answer_is_walked_back_to_its_sources(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    answer = await bakery.question()
    graph = ProjectLineage(bakery.store).graph(bakery.scope, answer.prediction)
    assert kinds(graph) == {"prediction", "release", "base-model", "view", "snapshot", "source"}
    (snapshot,) = (node for node in graph.nodes if node.kind == "snapshot")
    (source,) = (node for node in graph.nodes if node.kind == "source")
    assert source.label == "orders (orders.csv)"
    assert [edge.run for edge in graph.before(snapshot.id)] == [bakery.latest("refresh").id]
    assert {edge.target for edge in graph.after(snapshot.id)} >= {f"prediction:{answer.prediction}"}


async def test_a_view_is_walked_on_to_what_reads_it(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    await bakery.table()
    lineage, live = ProjectLineage(bakery.store), bakery.live("replies")
    assert live is not None
    assert kinds(lineage.graph(bakery.scope, "today", "downstream")) == {"view", "release", "safety-report", "job"}
    assert kinds(lineage.graph(bakery.scope, live.id, "upstream")) == {
        "release", "base-model", "view", "snapshot", "source",
    }  # fmt: skip
    assert lineage.graph(bakery.scope).begins == (f"release:{live.id}",)
    run = bakery.latest("table_job").id
    assert {"run", "source", "release", "job"} <= kinds(lineage.graph(bakery.scope, run))


async def test_a_name_that_is_nothing_is_refused_with_what_there_is(bakery: LineageBakery) -> None:
    await bakery.open_shop()
    with pytest.raises(NotFoundError, match="nothing of the name 'todday'") as refused:
        ProjectLineage(bakery.store).graph(bakery.scope, "todday")
    assert "today" in str(refused.value.next_step)
    for name in ("run_none", "pred_none", "rel_none"):
        with pytest.raises(NotFoundError):
            ProjectLineage(bakery.store).graph(bakery.scope, name)
