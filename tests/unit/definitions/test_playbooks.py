"""A declared playbook is checked, and one that is wrong is told with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.playbooks import Playbook, PlaybookStep
from antiphon.definitions.project import load
from antiphon.definitions.shipped_playbooks import SHIPPED, all_playbooks, chain

FREEZE = PlaybookStep("freeze")


def mistakes(name: str = "calm", steps: Any = (FREEZE,), **settings: Any) -> str:
    return " ".join(Playbook(name, steps, **settings).mistakes())


def test_a_declared_one_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(
        "from antiphon import Playbook, PlaybookStep\n"
        'Playbook("freeze-batch", [PlaybookStep("freeze", work=("batch",), duration="10m")], classes=["overload"])\n'
    )
    declared = load(tmp_path).playbooks
    assert declared["freeze-batch"].steps == (PlaybookStep("freeze", work=("batch",), duration="10m"),)
    found = all_playbooks(declared)
    assert found.keys() == SHIPPED.keys()
    assert found["freeze-batch"].mode == "approve"


def test_mistakes_are_told_with_their_place(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(
        "from antiphon import Playbook, PlaybookStep\n"
        'Playbook("a", [PlaybookStep("freeze")], color="red")\n'
        'Playbook("b", [PlaybookStep("freeze")])\n'
        'Playbook("b", [PlaybookStep("page")])\n'
    )
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(tmp_path)
    said = str(raised.value)
    assert "definitions.py:2: playbook 'a': there is no setting 'color'" in said
    assert "definitions.py:4: playbook 'b' is declared already" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "Calm down"}, "its name is not small letters"),
        ({"steps": ()}, "it has 0 steps"),
        ({"steps": ["freeze"]}, "steps is a list of PlaybookStep"),
        ({"classes": ["slow"]}, "classes: 'slow' is none"),
        ({"classes": "overload"}, "classes is a list"),
        ({"roots": ["cpu"]}, "roots: 'cpu' is none"),
        ({"mode": "always"}, "Invalid enum value 'always'"),
        ({"cooldown": "soon"}, "cooldown"),
        ({"least_cases": 0}, "least_cases"),
        ({"most_wrong": 1.0}, "most_wrong"),
        ({"steps": [PlaybookStep("reboot")]}, "Invalid enum value 'reboot'"),  # type: ignore[arg-type]
        ({"steps": [PlaybookStep("freeze", duration="8d")]}, "it is 7d at most"),
        ({"steps": [PlaybookStep("freeze", most_per_hour=0)]}, "most_per_hour"),
        ({"steps": [PlaybookStep("limit-batch", slots=0)]}, "slots is a number from 1 to 64"),
        ({"steps": [PlaybookStep("page", undo="at_end")]}, "it cannot be undone"),
        ({"once": "mended"}, "once is about the playbook that it comes after"),
        ({"after": "calm-first", "once": "over"}, "Invalid enum value 'over'"),
        ({"steps": [PlaybookStep("rotate-key")]}, "for incidents of the class security alone"),
        ({"steps": [PlaybookStep("freeze", key="shop")]}, "key is of the step rotate-key"),
        ({"steps": [PlaybookStep("restart-engine")]}, "it is about engine: name that in roots"),
    ],
)
def test_each_mistake_has_a_sentence(given: dict[str, Any], said: str) -> None:
    assert said in mistakes(**given)


CHAIN = """
from antiphon import Playbook, PlaybookStep

Playbook("rerun-refresh", [PlaybookStep("rerun-refresh")], after="{first}")
Playbook("second", [PlaybookStep("freeze")], after="rerun-refresh")
Playbook("third", [PlaybookStep("page")], after="second", once="mended")
"""


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("freeze-bach", "playbook 'rerun-refresh': after: there is no playbook 'freeze-bach'."),
        (
            "rerun-refresh",
            "playbook 'rerun-refresh': rerun-refresh after rerun-refresh: none of them would ever begin.",
        ),
        ("third", "playbook 'second': second after rerun-refresh after third after second: none of them would ever"),
    ],
)
def test_a_chain_that_never_begins_is_told_with_its_place(tmp_path: Path, first: str, said: str) -> None:
    (tmp_path / "definitions.py").write_text(CHAIN.replace("{first}", first))
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(tmp_path)
    assert f"definitions.py:{5 if 'second' in said else 4}: {said}" in str(raised.value)


def test_a_chain_goes_back_to_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "definitions.py").write_text(CHAIN.replace("{first}", "freeze-batch"))
    known = all_playbooks(load(tmp_path).playbooks)
    assert [one.name for one in chain(known, "third")] == ["second", "rerun-refresh", "freeze-batch"]
    assert (known["third"].turn, known["freeze-batch"].turn) == ("after second, once it has done its steps", "")


def test_a_good_one_has_none() -> None:
    assert mistakes(classes=["overload"], mode="alone", roots=["engine"]) == ""


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ones_have_no_mistake(name: str) -> None:
    one = SHIPPED[name]
    settings = {field: getattr(one, field) for field in one.__struct_fields__ if field not in ("name", "steps")}
    assert mistakes(name, one.steps, **settings) == ""
