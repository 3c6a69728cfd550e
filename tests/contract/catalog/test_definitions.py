from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import AppliedProjects, DefinitionVersions
from antiphon.core.errors import NotFoundError
from antiphon.definitions import project
from antiphon.definitions.project import ProjectSpec

DEFINITIONS = """
from antiphon import Entity, Source, count, feature_view

origin = Entity("origin", keys=["origin"])
departures = Source.table("departures", path="departures.csv", event_time="scheduled")


@feature_view(entity=origin, source=departures, owner="{owner}")
class Congestion:
    departures_2h = count(window="{window}")
"""


def declared(folder: Path, window: str = "2h", owner: str = "ops") -> ProjectSpec:
    path = folder / "definitions.py"
    path.write_text(DEFINITIONS.format(window=window, owner=owner))
    return project.load(path, "desk")


def test_definitions_are_kept_by_version(database: Database, tmp_path: Path) -> None:
    definitions = DefinitionVersions(database)
    two, six = declared(tmp_path).views["congestion"], declared(tmp_path, "6h").views["congestion"]
    definitions.put(DEV, two)
    definitions.put(DEV, two)
    definitions.put(DEV, six)
    assert definitions.get(DEV, "congestion", two.definition_version) == two
    assert {spec.definition_version for spec in definitions.list(DEV, "congestion")} == {
        two.definition_version,
        six.definition_version,
    }
    assert definitions.list(DEV, "weather") == []
    with pytest.raises(NotFoundError):
        definitions.get(OTHER, "congestion", two.definition_version)


def test_what_differs_without_meaning_is_replaced(database: Database, tmp_path: Path) -> None:
    definitions = DefinitionVersions(database)
    ops, desk = declared(tmp_path).views["congestion"], declared(tmp_path, owner="desk").views["congestion"]
    assert ops.definition_version == desk.definition_version
    definitions.put(DEV, ops)
    definitions.put(DEV, desk)
    assert definitions.list(DEV) == [desk]


def test_a_project_is_applied_when_it_changed(database: Database, tmp_path: Path) -> None:
    applied = AppliedProjects(database)
    assert applied.current(DEV) is None
    first = applied.apply(DEV, declared(tmp_path), principal="me")
    assert applied.apply(DEV, declared(tmp_path), principal="you") == first
    second = applied.apply(DEV, declared(tmp_path, "6h"), principal="me")
    assert (first.number, second.number) == (1, 2)
    assert applied.current(DEV) == second
    assert applied.list(DEV) == [second, first]
    assert len(DefinitionVersions(database).list(DEV)) == 2
    assert applied.current(OTHER) is None
