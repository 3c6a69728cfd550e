"""A real Feast repository: both readings of it agree, and what it becomes has the values that Feast serves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.feast_environment import feast_python
from tests.feast_world import FeastWorld
from tests.integration.features.world import World

from antiphon.core.errors import DeadlineExceeded, InvalidInput, SetupError
from antiphon.definitions import project
from antiphon.features.feast.repository import At, FeastRepository
from antiphon.features.feast.running import read_with_feast
from antiphon.features.feast.syntax import read_syntax


@pytest.fixture(scope="module")
def feast(tmp_path_factory: pytest.TempPathFactory) -> FeastWorld:
    return FeastWorld(feast_python(), tmp_path_factory.mktemp("feast") / "rides")


def import_feast(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "antiphon.cli.main", "features", "import-feast", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})


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
    assert by_feast.views[0].at == At("rides.py", 13)
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


def test_a_failing_repository_is_told(feast: FeastWorld, tmp_path: Path) -> None:
    (tmp_path / "feature_store.yaml").write_text((feast.root / "feature_store.yaml").read_text())
    broken = tmp_path / "broken.py"
    broken.write_text("print('noise on stdout')\nraise KeyError('SECRET_BUCKET')\n")
    with pytest.raises(InvalidInput, match="SECRET_BUCKET"):
        read_with_feast(tmp_path, feast.python)
    broken.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(DeadlineExceeded):
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
