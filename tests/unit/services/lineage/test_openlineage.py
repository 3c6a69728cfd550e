"""Events as OpenLineage has them: the official client accepts and writes them, and they hold what they should."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.unit.services.lineage.records import NOON, a_run

from antiphon.core.errors import SetupError
from antiphon.services.lineage.events import events_of
from antiphon.services.lineage.openlineage import document, encode
from antiphon.services.lineage.values import Column, LineageDataset, LineageEvent, RunReferences

NAMESPACE = "antiphon://shop/dev"
READ = LineageDataset(
    "source", NAMESPACE, "file/orders.csv", "ab12", (Column("shop", "string"), Column("paid", "double")), 40,
    alias=(NAMESPACE, "source/orders"),
)  # fmt: skip
MADE = LineageDataset("snapshot", NAMESPACE, "view/today@0123", "snap_1", (Column("orders", "integer"),), 2, 900, 1)
ORDERED = RunReferences("today", parent="run_00", moment=NOON - timedelta(hours=1))


def events(status: str = "succeeded", references: RunReferences = ORDERED) -> tuple[LineageEvent, ...]:
    run = a_run("refresh", {}, status=status)  # type: ignore[arg-type]
    return events_of(run, references, [READ], [MADE], namespace=NAMESPACE, parent_job="apply.desk")


def facet(found: dict[str, Any], name: str) -> dict[str, Any]:
    """A facet without its producer and schema."""
    return {key: value for key, value in found[name].items() if not key.startswith("_")}


def test_an_event_has_the_parts_that_the_specification_requires() -> None:
    begun, ended = map(document, events())
    assert (begun["eventType"], ended["eventType"]) == ("START", "COMPLETE")
    assert begun["run"]["runId"] == ended["run"]["runId"]
    assert ended["job"]["namespace"] == NAMESPACE
    assert ended["job"]["name"] == "refresh.today"
    assert ended["eventTime"] == "2026-03-02T12:01:00.000000+00:00"
    assert ended["schemaURL"].startswith("https://openlineage.io/spec/")
    assert ended["schemaURL"].endswith("#/$defs/RunEvent")
    assert all({"_producer", "_schemaURL"} <= facet.keys() for facet in ended["run"]["facets"].values())
    assert (begun.get("inputs", []), begun.get("outputs", [])) == ([], [])


def test_datasets_have_version_schema_and_counts_in_the_standard_facets() -> None:
    ended = document(events()[-1])
    (read,), (made,) = ended["inputs"], ended["outputs"]
    assert (read["namespace"], read["name"]) == (NAMESPACE, "file/orders.csv")
    assert facet(read["facets"], "version") == {"datasetVersion": "ab12"}
    assert [(one["name"], one["type"]) for one in read["facets"]["schema"]["fields"]] == [
        ("shop", "string"), ("paid", "double"),
    ]  # fmt: skip
    assert read["facets"]["symlinks"]["identifiers"] == [
        {"namespace": NAMESPACE, "name": "source/orders", "type": "SOURCE"}
    ]
    assert facet(read["inputFacets"], "dataQualityMetrics")["rowCount"] == 40
    statistics = facet(made["outputFacets"], "outputStatistics")
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (2, 900, 1)


def test_a_run_has_its_parent_its_moment_and_where_its_failure_is_explained() -> None:
    facets = document(events("failed")[-1])["run"]["facets"]
    job = facets["parent"]["job"]
    assert (job["namespace"], job["name"]) == (NAMESPACE, "apply.desk")
    assert facets["nominalTime"]["nominalStartTime"].startswith("2026-03-02T11:00:00")
    assert "antiphon runs show run_01" in facets["errorMessage"]["message"]
    assert facets["processing_engine"]["name"] == "Antiphon"
    alone = document(events("succeeded", RunReferences("today"))[-1])["run"]["facets"]
    assert not {"parent", "nominalTime", "errorMessage"} & alone.keys()


def test_the_same_event_is_the_same_bytes() -> None:
    assert [encode(event) for event in events()] == [encode(event) for event in events()]


def test_the_clients_checks_refuse_what_is_no_event() -> None:
    event = events()[0]
    with pytest.raises(ValueError, match="badly formed"):
        encode(msgspec.structs.replace(event, run_id="run_01"))


def test_without_the_client_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client.event_v2", None)
    with pytest.raises(SetupError, match="client is not installed") as refused:
        encode(events()[0])
    assert "antiphon[lineage]" in str(refused.value.next_step)
