"""Objectives as they are declared, their mistakes with file and line, and the usual ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.objectives import usual_objectives
from antiphon.definitions.project import load

DESK = """
from antiphon import SLO, Application, Objective, Prompt

slo = SLO(ttft_p99="900ms")
desk = Application("desk", features=[], purpose="help", prompt=Prompt("{{ question }}"), model="tiny", slo=slo)
"""


def write(folder: Path, text: str) -> Path:
    (folder / "definitions.py").write_text(DESK + text)
    return folder


def test_a_bound_that_is_not_declared_is_that_of_the_service_level(tmp_path: Path) -> None:
    project = load(
        write(tmp_path, 'Objective(desk, "first_byte", target=0.995)\nObjective("desk", "errors", window="7d")')
    )
    first, errors = project.objectives["desk-first_byte"], project.objectives["desk-errors"]
    assert (first.within, first.target, first.window) == ("900ms", 0.995, "28d")
    assert first.sentence == "99.5 % of answers begin within 900ms, over 28d"
    assert (errors.within, errors.sentence) == (None, "99 % of requests are answered, over 7d")


def test_an_application_that_declares_none_has_the_usual_ones(tmp_path: Path) -> None:
    application = load(write(tmp_path, "")).applications["desk"]
    usual = {one.kind: one for one in usual_objectives(application)}
    assert usual.keys() == {"first_byte", "latency", "errors"}  # No view, so nothing that could be too old.
    assert (usual["first_byte"].within, usual["latency"].within) == ("900ms", "10s")


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    text = """
Objective("disk", "errors")
Objective(desk, "happiness")
Objective(desk, "latency", target=99, within="soon")
Objective(desk, "errors", within="1s", window="5m")
"""
    with pytest.raises(InvalidDefinitionsError) as refused:
        load(write(tmp_path, text))
    told = str(refused.value)
    for part in (
        "definitions.py:7: objective 'disk-errors': there is no application 'disk'.",
        "definitions.py:8: objective 'desk-happiness': 'happiness' is no kind of objective",
        "target is 99; it is a share between 0 and 1",
        "within: 'soon' is not a duration",
        "within= is of first_byte and latency alone",
        "window is 5m; it lasts from 1d to 90d",
    ):
        assert part in told, part


JUDGED = """
from antiphon import Application, Objective, Outcome, Prompt

urgency = {"type": "object", "required": ["urgency", "note"], "additionalProperties": False, "properties": {
    "urgency": {"type": "string", "enum": ["low", "high"]}, "note": {"type": "string"}}}
prompt = Prompt("{{ question }}")
triage = Application("triage", features=[], purpose="sort", prompt=prompt, model="tiny", output=urgency,
    outcome=Outcome("urgency"))
notes = Application("notes", features=[], purpose="sort", prompt=prompt, model="tiny", output=urgency,
    outcome=Outcome("note"))
desk = Application("desk", features=[], purpose="help", prompt=prompt, model="tiny")
"""


def test_objectives_of_means_say_what_is_measured(tmp_path: Path) -> None:
    text = """
Objective(triage, "quality", target=0.85)
Objective(triage, "calibration", target=0.95)
Objective(triage, "cost", most=0.002, window="7d")
Objective(notes, "quality", target=0.6)
"""
    (tmp_path / "definitions.py").write_text(JUDGED + text)
    found = load(tmp_path).objectives
    assert [one.sentence for one in found.values()] == [
        "the Brier score is 0.15 or less on average, over 28d",
        "probabilities are within 5 points of how often they come true, on average, over 28d",
        "an answer costs 0.002 or less on average, over 7d",
        "the chrF is 0.6 or more on average, over 28d",
    ]
    assert [one.measured(0.1, "EUR") for one in found.values()] == [
        "Brier score 0.1", "bias +0.100", "0.0002 EUR an answer", "chrF 0.9",
    ]  # fmt: skip
    assert (found["triage-cost"].target, found["triage-cost"].budget) == (None, 1.0)
    assert len({*found.values()}) == 4


def test_mistakes_of_objectives_of_means_say_what_to_do_next(tmp_path: Path) -> None:
    text = """
Objective(desk, "quality", target=0.9)
Objective(notes, "calibration", target=0.9)
Objective(triage, "quality")
Objective(triage, "cost", target=0.9, name="a")
Objective(triage, "cost", most=0, name="b")
Objective(triage, "errors", most=0.1)
Objective(triage, "calibration", target=1.2)
"""
    (tmp_path / "definitions.py").write_text(JUDGED + text)
    with pytest.raises(InvalidDefinitionsError) as refused:
        load(tmp_path)
    told = str(refused.value)
    for part in (
        "definitions.py:13: objective 'desk-quality': desk declares no outcome, and quality is measured by one; "
        "declare outcome=Outcome(…).",
        "the first outcome of notes is no label, so that its answers state no probabilities; declare an outcome of a",
        "objective 'triage-quality': there is no target; declare 1 less the loss that is allowed",
        "objective 'a': cost has no target; declare what an answer may cost on average",
        "objective 'b': most is 0; it is what an answer may cost on average, such as 0.002.",
        "objective 'triage-errors': most= is of cost alone.",
        "target is 1.2; it is a share between 0 and 1",
    ):
        assert part in told, part
