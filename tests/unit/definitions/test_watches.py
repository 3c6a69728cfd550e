"""Watches as they are declared, and their mistakes with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import InvalidDefinitionsError
from antiphon.definitions.project import load
from antiphon.definitions.watches import WATCHED, usual_watch

DESK = """
from antiphon import Application, Entity, Prompt, Source, Watch, count, feature_view

orders = Source.table("orders", path="orders.csv", event_time="at", event_id="id")
desk = Application("desk", features=[], purpose="help", prompt=Prompt("{{ question }}"), model="tiny")
"""
VIEW = """
@feature_view(entity=Entity("shop", keys=["shop"]), source=orders, watch="%s")
class Today:
    orders = count(window=None)
"""


def write(folder: Path, text: str) -> Path:
    (folder / "definitions.py").write_text(DESK + text)
    return folder


def test_what_is_not_declared_is_usual(tmp_path: Path) -> None:
    project = load(write(tmp_path, 'Watch(desk, quality="hold", within="7d")' + VIEW % "roll_back"))
    watch = project.watches["desk"]
    assert (watch.action("quality"), watch.action("errors"), watch.within, watch.alpha) == (
        "hold", "roll_back", "7d", 0.01,
    )  # fmt: skip
    assert project.views["today"].watch == "roll_back"
    assert {usual_watch("desk").action(name) for name in WATCHED} == {"roll_back", "hold"}


def test_a_watch_changes_neither_a_view_nor_an_application(tmp_path: Path) -> None:
    first = load(write(tmp_path, VIEW % "tell"))
    second = load(write(tmp_path, 'Watch("desk", mode="off")' + VIEW % "hold"))
    assert first.applications == second.applications
    assert first.views["today"].definition_version == second.views["today"].definition_version


def test_mistakes_are_told_with_their_line(tmp_path: Path) -> None:
    text = 'Watch("disk")\nWatch(desk, quality="undo", alpha=2, burn=0.5, within="soon", speed=1)\n'
    with pytest.raises(InvalidDefinitionsError) as raised:
        load(write(tmp_path, text + VIEW % "undo"))
    told = str(raised.value)
    for part in (
        "definitions.py:6: watch of 'disk': there is no application 'disk'",
        "definitions.py:7: watch of 'desk': quality is 'undo'; it is one of roll_back, hold, tell, off",
        "alpha is 2; it is a share", "burn is 0.5", "within: ", "there is no setting 'speed'",
        "view 'today': watch is 'undo'",
    ):  # fmt: skip
        assert part in told, told


def test_an_application_is_watched_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidDefinitionsError, match="watch 'desk' is declared already"):
        load(write(tmp_path, 'Watch(desk)\nWatch(desk, mode="tell")\n'))
