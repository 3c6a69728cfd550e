"""Lineage of trainings and of batches over a catalog in which there are versions, datasets and evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.gateway.learned_desk import LearnedDesk
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.batch.batches import Batches
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import Run
from antiphon.services.lineage.graph import LineageGraph
from antiphon.services.lineage.openlineage import document
from antiphon.services.lineage.project import ProjectLineage


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearnedDesk]:
    made = LearnedDesk(tmp_path)
    made.train()
    yield made
    made.close()


@pytest.fixture
def lineage(desk: LearnedDesk) -> ProjectLineage:
    return desk.services().work.run_lineage


def claimed(desk: LearnedDesk, workflow: str, arguments: dict[str, Any]) -> Run:
    desk.runs.submit(DEV, workflow, arguments)
    run = desk.runs.claim("worker", ServedRuns("dev", (workflow,)), timedelta(minutes=1))
    assert run is not None
    return run


def test_a_training_is_told_with_its_datasets_versions_and_evaluations(
    desk: LearnedDesk, lineage: ProjectLineage
) -> None:
    run = claimed(desk, "train", {"application": "desk"})
    (begun,) = lineage.events(DEV, run.id)
    for name, result in {
        "pin": {"parent": "desk.v1", "before": None, "cutoff": NOON.isoformat()},
        "plan": {"training": {"views": {"congestion": "v1"}, "origins": ["history", "receipts"]}},
        "build training set": "data_1",
        "register versions": ["desk.v2"],
    }.items():
        desk.runs.record(run, name, 0, result, desk.clock.now())
    release = next(one for one in desk.releases.list(DEV, "desk") if one.bundle.model.version == "desk.v2")
    desk.runs.end(run, {"model": "desk.v2", "release": release.id, "evaluation": "eval_2"})
    first, last = lineage.events(DEV, run.id)
    assert first == begun, "what was sent while it worked stays as it was"
    event = document(last)
    assert event["job"]["name"] == "train.desk"
    assert [one["name"] for one in event["inputs"]] == ["view/congestion@v1", "answers/desk", "model/desk"]
    made = {one["name"]: one for one in event["outputs"]}
    assert list(made) == ["dataset/desk/training", "model/desk", "release/desk", "evaluation/desk"]
    assert made["model/desk"]["facets"]["version"]["datasetVersion"] == "desk.v2"
    assert made["dataset/desk/training"]["outputFacets"]["outputStatistics"]["rowCount"] == 100
    assert made["model/desk"]["outputFacets"]["outputStatistics"]["size"] == 30
    assert event["run"]["facets"]["nominalTime"]["nominalStartTime"] == NOON.isoformat(timespec="microseconds")


def kinds(graph: LineageGraph) -> set[str]:
    return {node.kind for node in graph.nodes}


def test_a_version_is_walked_back_to_sources_and_on_to_releases(desk: LearnedDesk, lineage: ProjectLineage) -> None:
    graph = lineage.graph(DEV, "desk.v2")
    assert {"model", "dataset", "view", "source", "base-model", "release", "evaluation", "safety-report"} == (
        kinds(graph) - {"answers"}
    )
    assert {edge.run for edge in graph.before("model:desk.v2")} == {"run_1"}
    assert {edge.source for edge in graph.before("model:desk.v2")} == {
        "base-model:smollm2-135m", "dataset:data_1", "model:desk.v1",
    }  # fmt: skip
    (source,) = (node for node in graph.nodes if node.kind == "source")
    assert source.label == "flown (flown.parquet)", "the folder of a file outside the project is not told"
    on = lineage.graph(DEV, "data_1", "downstream")
    assert {"model:desk.v1", "model:desk.v2"} <= {node.id for node in on.nodes}


def test_a_batch_has_one_name_from_its_start_to_its_end(desk: LearnedDesk, lineage: ProjectLineage) -> None:
    batches = Batches(desk.database)
    batch = batches.create(
        DEV, endpoint="/v1/chat/completions", input_file="file-1", principal="ada", settings={}, window="24h",
        expires_at=NOON + timedelta(days=1), output_kept=timedelta(days=30),
    )  # fmt: skip
    run = claimed(desk, "openai_batch", {"batch": batch.id})
    (begun,) = lineage.events(DEV, run.id)
    batches.begin(DEV, batch.id, batches.take_over(DEV, batch.id), model="desk", total=0)
    desk.runs.end(run, {"batch": batch.id})
    first, last = lineage.events(DEV, run.id)
    assert first == begun
    assert (last.job, [one.name for one in last.inputs]) == ("openai_batch", ["file/file-1"])
    assert "answers" in {one.kind for one in last.outputs}
