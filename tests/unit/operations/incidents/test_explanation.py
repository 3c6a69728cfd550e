"""Root sets, classes and abstention, whatever the order of symptoms."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.unit.catalog.examples import NOON

from antiphon.definitions.project import ProjectSpec, load
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.explanation import explain
from antiphon.operations.incidents.topology import Topology, topology_of

DEFINITIONS = """
from antiphon import Application, Entity, Prompt, Source, col, feature_view, mean

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.csv", event_time="at", available_at="at")

@feature_view(entity=shop, source=orders)
class Delays:
    delay = mean(col.minutes, window="1h", scale="0.01")

desk = Application("desk", entities=[shop], features=[Delays], purpose="help", prompt=Prompt("{{ question }}"),
                   model="tiny")
triage = Application("triage", features=[], purpose="help", prompt=Prompt("{{ question }}"), model="tiny")
"""


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    project: ProjectSpec = load(tmp_path)
    return topology_of(project, ["engine/engine"], ["table_job"])


def seen(signal: str, component: str, seconds: float = 0.0, **more: float) -> Symptom:
    return Symptom(NOON + timedelta(seconds=seconds), signal, component, sentence=f"{signal} of {component}.")


FELT = [
    seen(signal, f"application/{name}", 10 * place)
    for place, signal in enumerate(("failed", "engine_errors", "slow", "stand_ins", "refused"))
    for name in ("desk", "triage")
]


def test_ten_symptoms_of_an_engine_are_one_incident_in_any_order(topology: Topology) -> None:
    symptoms = [*FELT, seen("restarted", "engine/engine", 5), seen("run_failed", "workflow/table_job", 20)]
    (expected,) = explain(symptoms, topology)
    assert [(root.component, root.class_) for root in expected.roots] == [("engine/engine", "infrastructure")]
    assert ("engine/engine", "application/desk") in expected.roots[0].paths
    assert len(expected.symptoms) == 12
    for seed in range(20):
        random.Random(seed).shuffle(symptoms)
        assert explain(symptoms, topology) == (expected,)


def test_without_evidence_of_a_cause_none_is_named(topology: Topology) -> None:
    (found,) = explain([seen("slow", "application/desk"), seen("failed", "application/desk")], topology)
    assert (found.class_, found.roots) == ("no cause found", ())


def test_a_blocked_source_explains_what_lies_downstream_and_another_fault_stays_another(topology: Topology) -> None:
    data, engine = explain(
        [
            seen("blocked", "view/delays"), seen("stale", "application/desk", 300),
            seen("pace", "engine/engine", 400), seen("slow", "application/triage", 400),
        ],
        topology,
    )  # fmt: skip
    assert [(root.component, root.class_) for root in data.roots] == [("source/orders", "data quality")]
    assert ("source/orders", "view/delays", "application/desk") in data.roots[0].paths
    assert [root.component for root in engine.roots] == ["engine/engine"]


def test_a_release_is_blamed_where_chance_is_unlikely_and_for_its_application_alone(topology: Topology) -> None:
    released = seen("released", "release/desk", -60)
    (found,) = explain([released, seen("invalid", "application/desk")], topology)
    assert (found.class_, found.roots[0].component) == ("change", "release/desk")
    (found,) = explain([released, seen("invalid", "application/desk")], topology, {"release/desk": 200.0})
    assert (found.class_, len(found.considered)) == ("no cause found", 1)
    (found,) = explain([released, seen("invalid", "application/triage")], topology)
    assert found.roots == ()
    assert explain([released], topology) == ()


def test_a_cause_does_not_begin_long_after_its_effect(topology: Topology) -> None:
    found = explain([seen("failed", "application/desk"), seen("restarted", "engine/engine", 300)], topology)
    assert {one.class_ for one in found} == {"no cause found", "infrastructure"}


def test_overload_needs_traffic_and_a_queue(topology: Topology) -> None:
    traffic, slow = seen("traffic", "application/desk", -20), seen("slow", "application/triage")
    (found,) = explain([traffic, slow], topology)
    assert found.class_ == "no cause found"
    (found,) = explain([traffic, slow, seen("queue", "gateway", -10)], topology)
    assert (found.class_, found.roots[0].component) == ("overload", "application/desk")
    assert explain([traffic, seen("queue", "gateway")], topology) == ()


def test_the_disk_explains_processes_and_an_engine_its_breaker(topology: Topology) -> None:
    (found,) = explain([seen("disk_full", "host"), seen("restarted", "worker", 20), *FELT], topology)
    assert [root.component for root in found.roots] == ["host"]
    (found,) = explain([seen("breaker", "engine/engine", 10), seen("restarted", "engine/engine"), *FELT], topology)
    assert [root.component for root in found.roots] == ["engine/engine"]


def test_processors_that_others_take_are_blamed_for_what_nothing_else_explains(topology: Topology) -> None:
    taken = seen("processors_taken", "host", 5)
    assert explain([taken], topology) == ()
    (found,) = explain([taken, seen("slow", "application/desk"), seen("pace", "engine/engine", 10)], topology)
    assert (found.class_, [root.component for root in found.roots]) == ("infrastructure", ["host"])
    (found,) = explain([taken, seen("slow", "application/desk", 20), seen("restarted", "engine/engine", -20)], topology)
    assert [root.component for root in found.roots] == ["engine/engine"]


def test_a_gateway_that_comes_late_is_blamed_unless_load_or_a_release_keep_it_busy(topology: Topology) -> None:
    late, slow = seen("late", "gateway", 5), seen("slow", "application/triage", 10)
    assert explain([late], topology) == ()

    def roots(*more: Symptom) -> list[tuple[str, str]]:
        (found,) = explain([late, slow, *more], topology)
        return [(root.component, root.class_) for root in found.roots]

    assert roots() == [("gateway", "infrastructure")]
    assert roots(seen("traffic", "application/desk", -5)) == [("application/desk", "overload")]
    assert roots(seen("prompt_load", "application/desk", -5)) == [("application/desk", "overload")]
    assert roots(seen("released", "release/desk", -20)) == [("release/desk", "change")]
    assert roots(seen("denied", "gateway", -5)) == [("gateway", "security")]
    taken = seen("processors_taken", "host", 5)
    assert roots(taken) == [("host", "infrastructure")]
    # Whoever floods the gateway may do so on its own machine.
    assert roots(taken, seen("traffic", "application/desk", -5)) == [("application/desk", "overload")]
    assert roots(taken, seen("denied", "gateway", -5)) == [("gateway", "security")]


def test_many_times_the_usual_load_needs_no_queue_to_be_blamed(topology: Topology) -> None:
    slow = seen("slow", "application/desk", 20)
    more = msgspec.structs.replace(seen("traffic", "application/desk"), value=60.0, usual=30.0)
    (found,) = explain([more, slow], topology)
    assert found.class_ == "no cause found"
    (found,) = explain([msgspec.structs.replace(more, value=600.0), slow], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("application/desk", "overload")]


def test_loads_that_come_together_are_blamed_together(topology: Topology) -> None:
    slow, names = seen("slow", "application/desk", 20), ("application/desk", "application/triage")
    loads = [msgspec.structs.replace(seen("traffic", name), value=600.0, usual=30.0) for name in names]
    (found,) = explain([*loads, slow], topology)
    assert [(root.component, root.class_) for root in found.roots] == [(name, "overload") for name in names]
    changed = seen("released", "release/desk", 5)
    assert explain([*loads, changed, slow], topology)[0].roots == ()


def test_all_processes_that_come_late_at_once_are_their_machine(topology: Topology) -> None:
    felt = [seen("slow", "application/desk", 10), seen("failed", "application/triage", 10)]
    late = [seen("late", "gateway"), seen("paused", "host")]
    (found,) = explain([*felt, *late, seen("pace", "engine/engine", 10)], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("host", "infrastructure")]
    load = [seen("traffic", "application/triage"), seen("queue", "gateway", 5)]
    (found,) = explain([*felt, *late, *load], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("application/triage", "overload")]
    assert explain(late, topology) == ()


def test_a_process_that_its_limit_holds_back_keeps_the_catalog_from_the_others(topology: Topology) -> None:
    away, limit = seen("catalog_away", "catalog", 5), seen("processor_limit", "gateway", 10)
    felt = [seen("slow", "application/desk", 10), seen("late", "gateway", 10)]
    (found,) = explain([away, limit, *felt], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "infrastructure")]
    assert ("gateway", "catalog") in found.roots[0].paths
    (found,) = explain([away, *felt], topology)
    assert [root.component for root in found.roots] == ["catalog"]
    assert explain([limit], topology) == ()


def test_other_settings_are_a_change_of_the_process_that_took_them(topology: Topology) -> None:
    (found,) = explain([seen("reconfigured", "gateway"), seen("refused", "application/desk", 20)], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "change")]
    both = [seen("reconfigured", "gateway"), seen("reconfigured", "worker"), seen("refused", "application/desk", 20)]
    assert [root.component for root in explain(both, topology)[0].roots] == ["gateway"]
    (found,) = explain([seen("reconfigured", "gateway"), seen("refused", "application/desk", 3_600)], topology)
    assert found.class_ == "no cause found"


def test_half_open_connections_are_an_attack_also_where_they_take_what_is_free(topology: Topology) -> None:
    (found,) = explain([seen("half_open", "gateway"), seen("no_descriptors", "gateway", 20)], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "security")]


def test_two_processes_that_are_killed_at_once_are_both_blamed(topology: Topology) -> None:
    killed = [seen("restarted", "engine/engine", 1), seen("restarted", "gateway")]
    for felt in (FELT, []):
        (found,) = explain([*killed, *felt], topology)
        assert [root.component for root in found.roots] == ["gateway", "engine/engine"]
    later = seen("restarted", "engine/engine", 120)
    assert len(explain([later, killed[1]], topology)) == 2
    assert len(explain([seen("denied", "gateway"), seen("restarted", "worker")], topology)) == 2


def test_two_roots_of_one_symptom_are_one_incident(topology: Topology) -> None:
    (found,) = explain(
        [seen("pace", "engine/engine"), seen("store_away", "online-store"), seen("slow", "application/desk", 20)],
        topology,
    )
    assert [root.component for root in found.roots] == ["engine/engine", "online-store"]


def test_a_breaker_that_gateways_have_of_the_main_engine_is_the_engine_that_answers_for_it(topology: Topology) -> None:
    felt = [seen("engine_errors", "application/desk"), seen("engine_errors", "application/triage")]
    (found,) = explain([seen("breaker", "engine/main"), *felt], topology)
    assert [root.component for root in found.roots] == ["engine/engine"]
    (found,) = explain([seen("breaker", "engine/main", 10), seen("disk_full", "host"), *felt], topology)
    assert [root.component for root in found.roots] == ["host"]


def test_a_way_to_the_engine_that_lags_is_the_engine_s_unless_the_gateway_is_late(topology: Topology) -> None:
    felt = [seen("slow", "application/desk", 10), seen("slow", "application/triage", 10)]
    (found,) = explain([seen("way", "link/main"), *felt], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("engine/engine", "infrastructure")]
    (found,) = explain([seen("way", "link/main", 10), seen("late", "gateway"), *felt], topology)
    assert [root.component for root in found.roots] == ["gateway"]
    (found,) = explain([seen("way", "link/main"), seen("pace", "engine/engine"), *felt], topology)
    assert [root.component for root in found.roots] == ["engine/engine"]


def test_all_applications_together_are_explained_as_each_is(topology: Topology) -> None:
    together = seen("refused", "applications", 30)
    (found,) = explain([seen("reconfigured", "gateway"), together], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "change")]
    (found,) = explain([seen("restarted", "engine/engine"), seen("slow", "applications", 20)], topology)
    assert found.roots[0].paths == (("engine/engine", "application/desk", "applications"),)
    (found,) = explain([seen("slow", "applications", 20)], topology)
    assert found.roots == ()


def test_keys_that_were_revoked_just_now_are_no_attack(topology: Topology) -> None:
    denied = seen("denied", "gateway", 20)
    (found,) = explain([seen("governed", "access"), denied], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("access", "change")]
    (found,) = explain([seen("governed", "access", -3600), denied], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "security")]


def test_a_gateway_that_does_not_answer_is_the_root_only_where_nothing_else_explains_it(topology: Topology) -> None:
    (found,) = explain([seen("unanswered", "gateway")], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "infrastructure")]
    load = Symptom(NOON, "traffic", "application/desk", 900.0, 20.0)
    (found,) = explain([load, seen("unanswered", "gateway", 10), seen("slow", "application/desk", 10)], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("application/desk", "overload")]


def test_reports_that_keep_the_gateway_busy_are_a_load(topology: Topology) -> None:
    reports = Symptom(NOON, "other_load", "gateway", 300.0, 20.0)
    felt = [seen("slow", "application/desk", 10), seen("slow", "application/triage", 10), seen("late", "gateway", 10)]
    (found,) = explain([reports, *felt], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "overload")]


def test_settings_by_which_nothing_starts_are_a_change(topology: Topology) -> None:
    (found,) = explain([seen("settings_broken", "gateway", 10), seen("away", "gateway")], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "change")]


@pytest.mark.parametrize("host", ["disk_full", "disk_read_only"])
def test_a_disk_that_takes_nothing_is_the_host_s(topology: Topology, host: str) -> None:
    (found,) = explain([seen(host, "host"), seen("catalog_away", "catalog"), seen("catalog_errors", "catalog")],
                       topology)  # fmt: skip
    assert [root.component for root in found.roots] == ["host"]


def test_mistakes_of_callers_are_told_only_with_a_cause(topology: Topology) -> None:
    rejected = seen("rejected", "applications", 20)
    assert explain([rejected], topology) == ()
    (found,) = explain([rejected, seen("reconfigured", "gateway")], topology)
    assert [(root.component, root.class_) for root in found.roots] == [("gateway", "change")]
