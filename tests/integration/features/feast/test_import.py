"""A real Feast repository: both readings of it agree, and what it becomes has the values that Feast serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.feast_environment import feast_python
from tests.feast_world import COMPUTED, PREPARE, READ, FeastWorld
from tests.harness import warm_program
from tests.integration.features.world import World

import antiphon
from antiphon.core.errors import DeadlineExceededError, InvalidInputError, SetupError
from antiphon.definitions import project
from antiphon.features.feast.feast_process import read_with_feast
from antiphon.features.feast.repository import FeastRepository, Location
from antiphon.features.feast.syntax import read_syntax


@pytest.fixture(scope="module")
def feast(tmp_path_factory: pytest.TempPathFactory) -> FeastWorld:
    return FeastWorld(feast_python(), tmp_path_factory.mktemp("feast") / "rides")


def import_feast(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*warm_program.PROGRAM, "features", "import-feast", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **warm_program.environment()}
    )


def test_feast_and_the_syntax_tell_the_same(feast: FeastWorld) -> None:
    def plain(read: FeastRepository) -> FeastRepository:
        return msgspec.structs.replace(
            read, read_by="syntax", feast_version="",
            sources=tuple(sorted(read.sources, key=lambda source: source.name)),
            views=tuple(
                msgspec.structs.replace(view, fields=tuple(sorted(view.fields, key=lambda field: field.name)))
                for view in sorted(read.views, key=lambda view: view.name)
            ),
            # Feast names every feature of a view that is taken whole.
            services=tuple(
                msgspec.structs.replace(
                    service, uses=tuple(msgspec.structs.replace(use, features=None) for use in service.uses)
                )
                for service in read.services
            ),
        )  # fmt: skip

    by_feast = read_with_feast(feast.root, feast.python)
    assert by_feast.read_by == "feast"
    assert by_feast.feast_version == "0.67.0"
    assert by_feast.views[0].at == Location("rides.py", 13)
    assert plain(by_feast) == plain(read_syntax(feast.root))


def test_what_is_imported_has_the_values_that_feast_serves(feast: FeastWorld, tmp_path: Path) -> None:
    ended = import_feast(feast.root, "--to", tmp_path / "mine", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["left_out"] == report["notes"] == []
    assert report["files"] == ["antiphon.toml", "definitions.py"]
    specs = project.load(tmp_path / "mine").views
    world = World(tmp_path, *specs.values())
    try:
        now = datetime.now(UTC)
        world.publish(now)
        rows = [{"driver_id": driver, "rider_id": rider} for driver in range(1001, 1006) for rider in ("a", "b|c")]
        names = [f"{view}:{feature}" for view, spec in specs.items() for feature in spec.features]
        served = feast.online(names, rows)
        for index, row in enumerate(rows):
            vector = world.read(now, driver_id=str(row["driver_id"]), rider_id=row["rider_id"])
            mine = {name.partition(".")[2]: value.value for name, value in vector.values.items()}
            assert mine == {name: served[name][index] for name in mine}
        assert len(set(served["rate"])) == 5
        assert set(map(type, (served["tier"][0], served["active"][0]))) == {str, bool}
    finally:
        world.close()


DESK = """
from antiphon import Application, Prompt

desk = Application("desk", ungated="a test asks at once",
    entities=[{entities}], features=list({service}), model="scripted", purpose="pricing",
                   prompt=Prompt("Hello."))
"""
SETTINGS = (
    '[project]\nname = "rides"\n[encryption]\nmode = "plaintext"\n[engine]\nkind = "simulated"\nmodels = ["scripted"]\n'
)


def served_here(folder: Path, desk: str, rows: list[dict[str, Any]], features: list[str]) -> list[dict[str, Any]]:
    """What the imported project serves, refreshed and published, once an application takes the features."""
    with (folder / "definitions.py").open("a") as definitions:
        definitions.write(desk)
    (folder / "antiphon.toml").write_text(SETTINGS)
    with antiphon.open(folder) as project:
        project.apply()
        project.refresh()
        made: list[dict[str, Any]] = project.online(rows, features).to_pylist()
        return made


def test_on_demand_views_become_expressions_with_the_values_that_feast_serves(tmp_path: Path) -> None:
    feast = FeastWorld(feast_python(), tmp_path / "rides", definitions=COMPUTED)
    ended = import_feast(feast.root, "--to", tmp_path / "mine", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["left_out"] == []
    assert [note["name"] for note in report["notes"]] == ["stats_pushed"]
    by_feast = read_with_feast(feast.root, feast.python)
    assert by_feast.on_demand == msgspec.structs.replace(read_syntax(feast.root)).on_demand, "code and all"
    rows = [
        {"driver_id": driver, "rider_id": "b|c", "distance": distance, "seats": seats}
        for driver, distance, seats in (
            (1001, 3.0, 1),
            (1002, 12.5, 2),
            (1003, 10.0, 4),
            (1004, 40.25, 3),
            (1005, 11.0, 5),
        )
    ]
    computed = {"offer": ["fare", "places", "far", "label", "sure"], "shared": ["per_seat"]}
    names = [f"{view}:{feature}" for view, features in computed.items() for feature in features]
    theirs = feast.online(names, rows)
    ours = served_here(
        tmp_path / "mine", DESK.format(entities="driver, driver_rider", service="pricing"), rows, list(computed)
    )
    for view, features in computed.items():
        for feature in features:
            assert [row[f"{view}.{feature}"] for row in ours] == theirs[feature], feature
    assert len(set(theirs["fare"])) == 5
    assert set(theirs["far"]) == {True, False}


def test_feasts_own_template_is_imported_and_serves_feasts_values(tmp_path: Path) -> None:
    python = feast_python()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    for script, folder in (
        ("import sys; from feast.cli.cli import cli; cli(['init', '-t', 'local', 'city'])", tmp_path),
        (PREPARE, tmp_path / "city" / "feature_repo"),
    ):
        ended = subprocess.run(
            [str(python), "-W", "ignore", "-c", script],
            cwd=folder,
            env=clean,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert ended.returncode == 0, ended.stderr[-4000:]
    ended = import_feast(tmp_path / "city" / "feature_repo", "--to", tmp_path / "mine", "--partial", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert [(one["noun"], one["name"]) for one in report["left_out"]] == [
        ("feature", f"driver_hourly_stats:driver_{what}") for what in ("config", "metadata", "profile")
    ] + [("feature", f"driver_hourly_stats_fresh:driver_{what}") for what in ("config", "metadata", "profile")] + [
        ("view", "driver_quality_labels")
    ]  # fmt: skip
    drivers = [1001, 1002, 1003, 1004, 1005]
    rows = [{"driver_id": driver, "val_to_add": 1000 + driver, "val_to_add_2": 2} for driver in drivers]
    names = ["driver_hourly_stats:conv_rate", "driver_hourly_stats:acc_rate", "driver_hourly_stats:avg_daily_trips",
             "transformed_conv_rate:conv_rate_plus_val1", "transformed_conv_rate:conv_rate_plus_val2"]  # fmt: skip
    asked = json.dumps({"features": names, "rows": rows})
    read = subprocess.run(
        [str(python), "-W", "ignore", "-c", READ], cwd=tmp_path / "city" / "feature_repo", env=clean, input=asked,
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    theirs = json.loads(read.stdout)
    ours = served_here(
        tmp_path / "mine", DESK.format(entities="driver", service="driver_activity_v2"), rows,
        [name.replace(":", ".") for name in names],
    )  # fmt: skip
    for name in names:
        assert [row[name.replace(":", ".")] for row in ours] == theirs[name.partition(":")[2]], name
    assert None not in theirs["conv_rate_plus_val1"]


def test_a_failing_repository_is_told(feast: FeastWorld, tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text((feast.root / "feature_store.yaml").read_text())
    broken = tmp_path / "broken.py"
    broken.write_text("print('noise on stdout')\nraise KeyError('SECRET_BUCKET')\n")
    with pytest.raises(InvalidInputError, match="SECRET_BUCKET"):
        read_with_feast(tmp_path, feast.python)
    broken.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(DeadlineExceededError):
        read_with_feast(tmp_path, feast.python, seconds=0.2)
    broken.write_text(
        "print('noise')\nfrom feast import Entity\nmade = {n: Entity(name=n) for n in 'ab'}\nlocals().update(made)\n"
    )
    found = read_with_feast(tmp_path, feast.python)
    assert sorted(entity.name for entity in found.entities) == ["a", "b"]


def test_a_python_without_feast_is_told(feast: FeastWorld) -> None:
    with pytest.raises(SetupError, match="has no Feast"):
        read_with_feast(feast.root, Path(sys.executable))
    with pytest.raises(SetupError, match="does not run"):
        read_with_feast(feast.root, Path("/nowhere/python"))
