"""The course of an incident: opened, merged, mitigated, resolved, reopened, and moved by people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.incidents import Incident
from antiphon.core.errors import ConflictError
from antiphon.operations.incidents.course import (
    NORMAL_FOR,
    NOTHING,
    PeriodImpact,
    acknowledge,
    advance,
    impact_of,
    note,
    resolve,
    silence,
)
from antiphon.operations.incidents.detection import Symptom
from antiphon.operations.incidents.explanation import DiagnosedRoot, Diagnosis
from antiphon.operations.incidents.post_mortem import post_mortem

FAILED = Symptom(NOON, "failed", "application/desk", 0.5, 0.02, affected=5.0, requests=10.0, sentence="Half fail.")
RESTARTED = Symptom(NOON, "restarted", "engine/engine", sentence="It ended.", record="process/engine", lasting=False)
ROOT = DiagnosedRoot("engine/engine", "infrastructure", (RESTARTED,), (("engine/engine", "application/desk"),))
IMPACT = impact_of([FAILED], {"desk": 10.0})


def found(*symptoms: Symptom, roots: Sequence[DiagnosedRoot] = ()) -> list[Diagnosis]:
    return [Diagnosis(tuple(symptoms), tuple(roots))]


def opened() -> Incident:
    (incident,) = advance([], found(FAILED, RESTARTED, roots=[ROOT]), IMPACT, NOON)
    return incident


def test_it_has_cause_impact_and_severity_by_users() -> None:
    incident = opened()
    assert (incident.state, incident.severity, incident.class_) == ("open", "critical", "infrastructure")
    assert (incident.hit, incident.requests, incident.applications) == (5.0, 10.0, ("desk",))
    (quiet,) = advance([], found(msgspec.structs.replace(FAILED, affected=0.0)), NOTHING, NOON)
    assert (quiet.severity, quiet.class_) == ("info", "no cause found")


def test_the_same_again_changes_nothing_but_what_users_felt() -> None:
    incident = opened()
    assert advance([incident], found(FAILED, RESTARTED, roots=[ROOT]), NOTHING, NOON) == ()
    (more,) = advance([incident], found(FAILED, RESTARTED, roots=[ROOT]), IMPACT, NOON)
    assert (more.id, more.hit, len(more.symptoms)) == (incident.id, 10.0, 2)


def test_it_is_mitigated_then_resolved_by_itself_and_reopened_at_the_same_root() -> None:
    incident = opened()
    over = msgspec.structs.replace(FAILED, lasting=False)
    (incident,) = advance([incident], found(over, RESTARTED, roots=[ROOT]), NOTHING, NOON + timedelta(seconds=60))
    assert incident.state == "mitigated"
    later = NOON + timedelta(seconds=60) + NORMAL_FOR
    (incident,) = advance([incident], found(over, RESTARTED, roots=[ROOT]), NOTHING, later)
    assert (incident.state, incident.resolved_at) == ("resolved", later)
    again = msgspec.structs.replace(FAILED, since=later + timedelta(minutes=5))
    (reopened,) = advance([incident], found(again, roots=[ROOT]), IMPACT, later + timedelta(minutes=5))
    assert (reopened.id, reopened.state, reopened.reopened) == (incident.id, "open", 1)
    (new,) = advance([incident], found(again, roots=[ROOT]), IMPACT, later + timedelta(hours=2))
    assert new.id != incident.id


def test_its_timeline_is_in_the_order_of_time_whenever_symptoms_were_known() -> None:
    incident = acknowledge(opened(), "ada", NOON + timedelta(seconds=20))
    known_late = Symptom(NOON + timedelta(seconds=10), "slow", "application/desk", sentence="It is slow.")
    now = NOON + timedelta(seconds=40)
    (incident,) = advance([incident], found(FAILED, RESTARTED, known_late, roots=[ROOT]), IMPACT, now)
    moments = [one.at for one in incident.timeline]
    assert moments == sorted(moments)
    assert [one.kind for one in incident.timeline][-2:] == ["symptom", "acknowledged"]


def test_two_incidents_that_turn_out_to_be_one_are_merged() -> None:
    slow = Symptom(NOON, "slow", "application/triage", sentence="It is slow.")
    (one,) = advance([], found(FAILED), IMPACT, NOON)
    (other,) = advance([], found(slow), NOTHING, NOON)
    changed = {
        item.id: item for item in advance([one, other], found(FAILED, slow, RESTARTED, roots=[ROOT]), IMPACT, NOON)
    }
    assert sorted(item.state for item in changed.values()) == ["open", "resolved"]
    assert any(entry.kind == "merged" for item in changed.values() for entry in item.timeline)


def test_people_take_silence_note_and_resolve_it() -> None:
    incident = acknowledge(opened(), "ada", NOON)
    assert (incident.state, incident.owner) == ("acknowledged", "ada")
    silent = silence(incident, NOON + timedelta(hours=1), "known", "ada", NOON)
    assert silent.state == "silenced"
    (awake,) = advance([silent], found(FAILED, RESTARTED, roots=[ROOT]), NOTHING, NOON + timedelta(hours=1))
    assert awake.state == "open"
    ended = note(resolve(incident, "done", "ada", NOON), "see the log", "ben", NOON)
    assert ended.timeline[-1].principal == "ben"
    with pytest.raises(ConflictError):
        acknowledge(ended, "ada", NOON)
    soon = NOON + timedelta(minutes=1)
    assert advance([ended], found(FAILED, roots=[ROOT]), PeriodImpact({}, {}), soon) == ()
    (back,) = advance([ended], found(FAILED, roots=[ROOT]), NOTHING, NOON + timedelta(minutes=5))
    assert (back.id, back.state) == (ended.id, "open")


def test_a_post_mortem_is_drafted_and_quotes_no_markup() -> None:
    incident = note(opened(), "<script>*bold*", "ada", NOON)
    text = post_mortem(incident)
    assert "engine/engine → application/desk" in text
    assert "5 of 10 requests" in text
    assert "<script>" not in text


def test_an_alert_of_a_budget_that_was_burnt_keeps_it_mitigated_and_does_not_open_it_again() -> None:
    burning = Symptom(NOON, "burning", "application/desk", sentence="Its budget burns.")
    (incident,) = advance([], found(FAILED, burning, RESTARTED, roots=[ROOT]), IMPACT, NOON)
    over = [msgspec.structs.replace(FAILED, lasting=False), burning, RESTARTED]
    now = NOON + timedelta(seconds=60)
    (incident,) = advance([incident], found(*over, roots=[ROOT]), NOTHING, now)
    assert (incident.state, incident.present) == ("mitigated", ())
    assert "budget still burns" in incident.timeline[-1].text
    later = now + timedelta(hours=1)
    assert advance([incident], found(*over, roots=[ROOT]), NOTHING, later) == ()
    (back,) = advance([incident], found(FAILED, burning, roots=[ROOT]), IMPACT, later)
    assert (back.id, back.state) == (incident.id, "open")
    resolved = resolve(incident, "done", "ada", now)
    assert advance([resolved], found(*over, roots=[ROOT]), NOTHING, now + timedelta(minutes=10)) == ()
    afresh = msgspec.structs.replace(burning, since=now + timedelta(minutes=5))
    (again,) = advance([resolved], found(afresh), NOTHING, now + timedelta(minutes=10))
    assert (again.id, again.state) == (incident.id, "open")


def test_a_budget_that_burns_with_no_other_symptom_is_an_incident_that_goes_on() -> None:
    burning = Symptom(NOON, "burning", "application/desk", sentence="Its budget burns.")
    (incident,) = advance([], found(burning), NOTHING, NOON)
    assert incident.state == "open"
    assert advance([incident], found(burning), NOTHING, NOON + timedelta(minutes=5)) == ()
