"""Events of runs: which there are, that they never change, and what they hold."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from tests.unit.services.lineage.records import NOON, a_run

from antiphon.durable.run import Run, RunStatus
from antiphon.services.lineage.events import events_of, run_id
from antiphon.services.lineage.values import LineageDataset, LineageEvent, RunReferences

NAMESPACE = "antiphon://shop/dev"
READ = LineageDataset("source", NAMESPACE, "file/orders.csv", "ab12", rows=40)
MADE = LineageDataset("snapshot", NAMESPACE, "view/today@0123", "snap_1", rows=2)
REFERENCES = RunReferences("today", parent="run_00", moment=NOON)


def events(run: Run, references: RunReferences = REFERENCES) -> tuple[LineageEvent, ...]:
    return events_of(run, references, [READ], [MADE], namespace=NAMESPACE, parent_job="apply.desk")


@pytest.mark.parametrize(
    ("status", "types"),
    [
        ("queued", []),
        ("running", ["START"]),
        ("succeeded", ["START", "COMPLETE"]),
        ("succeeded_with_failures", ["START", "COMPLETE"]),
        ("failed", ["START", "FAIL"]),
        ("cancelled", ["START", "ABORT"]),
    ],
)
def test_a_run_has_the_events_of_its_status(status: RunStatus, types: list[str]) -> None:
    assert [event.type for event in events(a_run("refresh", {}, status=status))] == types


def test_the_first_event_is_the_same_while_a_run_works_and_once_it_has_ended() -> None:
    (working,) = events(a_run("refresh", {}, status="running"))
    begun, ended = events(a_run("refresh", {}, status="failed", error="the key tea is no number"))
    assert working == begun
    assert (begun.inputs, begun.at) == ((), NOON)
    assert (ended.inputs, ended.outputs, ended.run_id) == ((READ,), (MADE,), begun.run_id)
    assert (ended.job, ended.parent_job, ended.moment) == ("refresh.today", "apply.desk", NOON)


def test_the_reason_of_a_failure_stays_here_because_it_quotes_what_was_read() -> None:
    ended = events(a_run("refresh", {}, status="failed", error="the key tea is no number"))[-1]
    assert ended.failed == "`antiphon runs show run_01` says why."
    assert b"tea" not in msgspec.json.encode(ended)


def test_ids_are_uuids_that_follow_from_namespace_and_run() -> None:
    ids = {run_id(namespace, run) for namespace in (NAMESPACE, "other") for run in ("run_1", "run_2")}
    assert len(ids) == 4
    assert {uuid.UUID(id).version for id in ids} == {5}
    # By hand from RFC 9562: receivers have these ids, so they must stay.
    assert run_id(NAMESPACE, "run_1") == "542d1447-3c7c-5b73-a093-509ab4802f4d"


def test_a_run_that_nothing_ordered_has_no_parent() -> None:
    event = events(a_run("refresh", {}), RunReferences(""))[0]
    assert (event.parent_id, event.parent_job, event.job) == (None, None, "refresh")
