"""Detectors find an outage, leave what is usual alone, and end with their cause."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.measurements import FINEST, Amount, Measurements
from antiphon.operations.incidents import detection, signals
from antiphon.operations.incidents.causes import CONTEXT
from antiphon.operations.incidents.detection import SignalDetectors, Symptom
from antiphon.operations.incidents.signals import SignalKey, SignalSample, readings

FAILED = SignalKey("failed", "application/desk")


def requests(chance: random.Random, failing: float, count: int = 30) -> Measurements:
    failed = sum(chance.random() < failing for _ in range(count))
    return Measurements(
        {
            ("antiphon_requests", ("desk", "online", "200", "none")): Amount(float(count - failed)),
            ("antiphon_requests", ("desk", "online", "503", "platform")): Amount(float(failed)),
        }
    )


def watch(failing: list[float]) -> list[tuple[Symptom, ...]]:
    chance, detectors = random.Random(5), SignalDetectors()
    return [
        detectors.take(NOON + place * FINEST, readings(requests(chance, share), Measurements()))
        for place, share in enumerate(failing)
    ]


def test_an_outage_is_found_within_two_periods_and_is_over_after_it() -> None:
    found = watch([0.01] * 40 + [0.9] * 10 + [0.01] * 10)
    assert not any(found[:40])
    (symptom,) = found[41]
    # A single failure right before the outage may belong to it.
    assert symptom.key == FAILED
    assert NOON + 38 * FINEST <= symptom.since <= NOON + 40 * FINEST
    assert symptom.affected > 15
    assert found[-1] == ()


def test_a_switched_off_detector_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "of_share", lambda *_: 0.0)
    assert not any(watch([0.01] * 40 + [0.9] * 10))


def test_one_bad_period_and_a_day_of_chance_are_no_symptom() -> None:
    assert not any(watch([0.01] * 40 + [0.9] + [0.01] * 20))
    assert not any(watch([0.015] * 8_640))


def test_a_season_is_no_change() -> None:
    def traffic(season: dict[SignalKey, SignalSample] | None) -> tuple[Symptom, ...]:
        detectors, key = SignalDetectors(), SignalKey("traffic", "application/desk")
        for place in range(60):
            found = detectors.take(NOON + place * FINEST, {key: SignalSample(300.0 if place >= 50 else 20.0)}, season)
        return found

    assert traffic(None)
    assert traffic({SignalKey("traffic", "application/desk"): SignalSample(310.0)}) == ()


def test_an_engine_that_tells_nothing_is_silent_while_the_worker_that_writes_it_does() -> None:
    engine = SignalKey("silent", "engine/engine")
    alone = {SignalKey("traffic", "application/desk"): SignalSample(20.0)}
    other = {**alone, SignalKey("memory", "worker"): SignalSample(1e8)}
    detectors = SignalDetectors()
    for place in range(10):
        assert detectors.take(NOON + place * FINEST, {**other, engine: SignalSample(0.0, 1.0)}) == ()
    later = NOON + timedelta(minutes=5)
    found = [detectors.take(later + place * FINEST, other) for place in range(3)]
    assert [one.key for one in found[-1]] == [engine]
    for place in range(30):
        detectors.take(later + place * FINEST, {**other, engine: SignalSample(0.0, 1.0)})
    later += timedelta(minutes=10)
    assert detectors.take(later, {}) == ()
    for place in range(3):
        assert detectors.take(later + place * FINEST, alone) == ()


@pytest.mark.parametrize(
    ("label", "component"),
    [("default/gateway@vm", "gateway"), ("tea/worker-2@a-host", "worker"), ("engine-2", "engine/engine-2")],
)
def test_memory_is_of_the_component_that_the_topology_has(label: str, component: str) -> None:
    measured = Measurements({("process_resident_memory_bytes", (label,)): Amount(3e9, 10.0, 3e8)})
    (found,) = (key for key in readings(Measurements(), measured) if key.signal == "memory")
    assert found.component == component


def test_a_gateway_that_comes_late_is_seen_with_the_others_that_do_not() -> None:
    detectors = SignalDetectors()
    for number in range(40):
        measured = Measurements()
        for name, late in (("gateway@a", 0.2), ("gateway-2@b", 9.5 if number >= 35 else 0.1)):
            measured[("process_resident_memory_bytes", (f"default/{name}",))] = Amount(1e9, 10.0, 1e8)
            measured[("antiphon_loop_late_seconds", (f"default/{name}",))] = Amount(late)
        found = detectors.take(NOON + number * FINEST, readings(Measurements(), measured))
        assert number >= 35 or not found
    (symptom,) = found
    assert (symptom.signal, symptom.component) == ("late", "gateway")
    assert 0.4 < symptom.value < 0.6


def test_a_machine_pauses_where_its_gateway_and_worker_are_late_at_once() -> None:
    detectors = SignalDetectors()
    late = {"gateway@a": 9.0, "worker@a": 8.0, "gateway@b": 0.1, "worker@b": 0.1}
    for number in range(48):
        measured = Measurements()
        for name, seconds in late.items():
            measured[("process_resident_memory_bytes", (f"default/{name}",))] = Amount(1e9, 10.0, 1e8)
            share = seconds if number >= 40 or (name == "gateway@a" and number == 20) else 0.1
            measured[("antiphon_loop_late_seconds", (f"default/{name}",))] = Amount(share)
        found = detectors.take(NOON + number * FINEST, readings(Measurements(), measured))
        assert number >= 40 or not found
    assert {(one.signal, one.component) for one in found} == {("late", "gateway"), ("paused", "host")}


def test_what_a_symptom_says_is_its_worst() -> None:
    detectors = SignalDetectors()
    for number in range(45):
        measured = Measurements()
        measured[("process_resident_memory_bytes", ("default/gateway@a",))] = Amount(1e9, 10.0, 1e8)
        bad = {40: 8.0, 41: 9.0, 42: 8.0}.get(number, 0.1)
        measured[("antiphon_loop_late_seconds", ("default/gateway@a",))] = Amount(bad)
        found = detectors.take(NOON + number * FINEST, readings(Measurements(), measured))
    (symptom,) = found
    assert round(symptom.value, 2) == 0.9
    assert "90%" in symptom.sentence


def several(share: float, statuses: tuple[str, str] = ("503", "platform"), count: int = 15) -> Measurements:
    """A period of four applications, and of requests that name none, of which this share fails."""
    measured = Measurements()
    for name in ("one", "two", "three", "four", "unknown"):
        failed = round(share * count)
        measured["antiphon_requests", (name, "online", "200", "none")] = Amount(float(count - failed))
        measured["antiphon_requests", (name, "online", *statuses)] = Amount(float(failed))
    return measured


def periods_until(symptom: str, measured: Measurements, *, changed: bool = False) -> tuple[int, set[str]]:
    detectors = SignalDetectors()
    for place in range(40):
        detectors.take(NOON + place * FINEST, readings(several(0.0), Measurements()))
    for place in range(40, 60):
        found = detectors.take(NOON + place * FINEST, readings(measured, Measurements()), changed=changed)
        if any(one.signal == symptom for one in found):
            return place - 39, {one.component for one in found}
    return 99, set()


def test_what_hits_each_application_a_little_is_seen_in_their_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    needed, components = periods_until("failed", several(0.14))
    assert needed <= 4
    assert components == {"applications"}
    monkeypatch.setattr(signals, "_TOGETHER", frozenset())
    assert periods_until("failed", several(0.14))[0] > 8


def test_the_sum_is_not_asked_while_an_application_tells_by_itself() -> None:
    detectors = SignalDetectors()
    for place in range(50):
        measured = several(0.0)
        if place >= 40:
            measured["antiphon_requests", ("one", "online", "503", "platform")] = Amount(15.0)
        found = detectors.take(NOON + place * FINEST, readings(measured, Measurements()))
    assert {one.component for one in found} == {"application/one"}


def test_less_evidence_is_enough_after_a_change_and_never_one_period() -> None:
    slight = several(0.07)
    usual, after = (periods_until("failed", slight, changed=changed)[0] for changed in (False, True))
    assert 2 <= after < usual
    assert periods_until("failed", several(1.0), changed=True)[0] == 2


def test_requests_of_no_application_that_are_all_refused_are_seen() -> None:
    needed, components = periods_until("rejected", several(0.9, ("413", "caller")))
    assert needed == 2
    assert "application/one" in components
    assert periods_until("rejected", several(0.1, ("413", "caller")))[0] == 99


def test_errors_of_the_catalog_are_a_symptom_and_other_requests_are_context() -> None:
    detectors = SignalDetectors()
    for place in range(50):
        measured = Measurements({("antiphon_engine_gate", ("limit",)): Amount(10.0, 10.0, 1.0)})
        if place >= 40:
            measured["antiphon_catalog_errors", ("gateway",)] = Amount(30.0)
            measured["antiphon_operation_requests", ()] = Amount(300.0)
            measured["antiphon_engine_waited_seconds", ()] = Amount(60.0)
            measured["antiphon_engine_way_seconds", ()] = Amount(55.0)
        else:
            measured["antiphon_engine_waited_seconds", ()] = Amount(20.0)
        found = detectors.take(NOON + place * FINEST, readings(Measurements(), measured))
    assert {one.key for one in found} == {
        SignalKey("catalog_errors", "catalog"), SignalKey("other_load", "gateway"), SignalKey("way", "link/main"),
    }  # fmt: skip
    assert {"other_load", "way"} <= CONTEXT
