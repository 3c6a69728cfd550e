"""A playbook fits an incident by its class, the kinds of its causes, the evidence at them and its severity."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.incidents import Incident, IncidentEvidence, IncidentSymptom, RootCause
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.definitions.shipped_playbooks import SHIPPED, chain
from antiphon.operations.playbooks.fitting import fit


def incident(component: str, signal: str, class_: Any, record: str = "", severity: Any = "warning") -> Incident:
    evidence = IncidentEvidence(component, signal, f"{signal}.", NOON, record=record)
    return Incident(
        "inc_1", "open", severity, class_, "It is bad", NOON, NOON, (RootCause(component, class_, (evidence,)),),
        (IncidentSymptom(signal, component, NOON, evidence),),
    )  # fmt: skip


FAULTS = {
    "rerun-refresh": incident("source/orders", "refresh_failed", "data quality", "run/run_1"),
    "restart-engine": incident("engine/engine", "standstill", "infrastructure", "process/engine-two"),
    "drain-engine": incident("engine/default/engine@host", "pace", "infrastructure"),
    "limit-batch": incident("engine/engine", "memory", "infrastructure"),
    "serve-precomputed": incident("application/desk", "traffic", "overload", severity="critical"),
    "freeze-batch": incident("application/desk", "traffic", "overload"),
    "roll-back-features": incident("view/orders", "warned", "data quality"),
    "roll-back-release": incident("release/desk", "released", "change", "release/rel_1"),
    "rotate-key": incident("gateway", "denied", "security"),
    "page-person": incident("host", "disk_full", "infrastructure", severity="critical"),
}
TARGETS = {
    "rerun-refresh": "run_1", "restart-engine": "engine-two", "freeze-batch": "", "roll-back-features": "orders",
    "drain-engine": "default/engine@host", "limit-batch": "", "serve-precomputed": "desk",
    "roll-back-release": "desk", "rotate-key": "", "page-person": "",
}  # fmt: skip


BESIDE = {"serve-precomputed": {"freeze-batch", "page-person"}}
"""Others that fit the same fault: of a critical one a person is paged, and a person approves answers from store."""


def test_every_shipped_one_has_a_fault_here() -> None:
    assert FAULTS.keys() == SHIPPED.keys()


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_one_fits_its_fault_alone(name: str) -> None:
    found = fit(SHIPPED[name], FAULTS[name])
    assert found is not None
    assert [one.target for one in found.plan] == [TARGETS[name]]
    others = {other for other in SHIPPED if other != name and fit(SHIPPED[other], FAULTS[name]) is not None}
    before = {one.name for one in chain(SHIPPED, name)}
    after = {other for other in SHIPPED if name in (one.name for one in chain(SHIPPED, other))}
    assert others - before - after == BESIDE.get(name, set()), "one is tried, and another only once it failed"
    assert before <= others, "those that it comes after would be tried"


@pytest.mark.parametrize("signal", ["pace", "memory"])
def test_of_those_for_a_slow_engine_one_begins_at_a_time(signal: str) -> None:
    slow = incident("engine/engine", signal, "infrastructure", "process/engine")
    assert [name for name, one in SHIPPED.items() if fit(one, slow) is not None and not one.after] == ["restart-engine"]
    followed = [one.after for one in SHIPPED.values() if one.after]
    assert len(followed) == len(set(followed)), "none is followed by two at once"


def test_a_lesser_incident_is_left_alone() -> None:
    assert fit(SHIPPED["freeze-batch"], msgspec.structs.replace(FAULTS["freeze-batch"], severity="info")) is None


def test_without_a_cause_the_symptoms_count() -> None:
    fault = incident("workflow/refresh", "run_failed", "no cause found", "run/run_2")
    found = fit(SHIPPED["rerun-refresh"], msgspec.structs.replace(fault, roots=()))
    assert found is not None
    assert [one.target for one in found.plan] == ["run_2"]


def test_without_a_target_it_does_not_fit() -> None:
    assert fit(SHIPPED["rerun-refresh"], incident("source/orders", "refresh_failed", "data quality")) is None


@pytest.mark.parametrize(
    ("action", "fault", "target"),
    [
        ("drain-engine", FAULTS["restart-engine"], "engine-two"),
        ("drain-engine", incident("engine/default/engine@host", "pace", "infrastructure"), "default/engine@host"),
        ("serve-precomputed", FAULTS["freeze-batch"], "desk"),
        ("serve-precomputed", FAULTS["roll-back-release"], "desk"),
        ("limit-batch", FAULTS["freeze-batch"], ""),
    ],
)
def test_a_step_is_about_its_kind_of_cause(action: Any, fault: Incident, target: str) -> None:
    found = fit(PlaybookSpec("one", "One", (PlaybookStep(action),)), fault)
    assert found is not None
    assert [one.target for one in found.plan] == [target]


def test_a_rotation_is_about_the_key_that_the_step_names() -> None:
    found = fit(PlaybookSpec("one", "One", (PlaybookStep("rotate-key", key="shop"),)), FAULTS["rotate-key"])
    assert found is not None
    assert [one.target for one in found.plan] == ["shop"]


def test_a_step_without_a_target_fits_nothing() -> None:
    assert fit(PlaybookSpec("one", "One", (PlaybookStep("drain-engine"),)), FAULTS["freeze-batch"]) is None
