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
