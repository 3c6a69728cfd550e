"""``antiphon features import-feast`` as a user runs it, over repositories read from their syntax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.cli.conftest import run_in

REPOSITORY = """
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Array, Float32

driver = Entity(name="driver", join_keys=["driver_id"])
stats = FileSource(name="stats", path="stats.parquet", timestamp_field="at")
view = FeatureView(name="driver_stats", entities=[driver], source=stats, schema=[Field(name="rate", dtype=Float32)])
"""
UNKNOWN = "lists = FeatureView(name='lists', entities=[driver], source=stats, schema=[Field('v', Array(Float32))])\n"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "rides"
    folder.mkdir()
    (folder / "feature_store.yaml").write_text("project: Rides_1\n")
    (folder / "rides.py").write_text(REPOSITORY)
    return folder


def imported(folder: Path, *arguments: str) -> tuple[int, Any, str]:
    ran = run_in(folder)("features", "import-feast", "rides", *arguments, "--json")
    return ran.code, ran.json() if ran.out else None, ran.err


def test_a_whole_repository_becomes_a_project(repository: Path, tmp_path: Path) -> None:
    code, report, _ = imported(tmp_path, "--to", "mine")
    assert code == 0
    assert report["translated"]["views"] == {"driver_stats": ["rate"]}
    planned = run_in(tmp_path / "mine")("plan", "--json")
    assert planned.code == 0, planned.err
    assert planned.json()["project"] == "rides-1"
    assert imported(tmp_path, "--to", "mine")[0] == 5, "definitions that are there stay"
    assert imported(tmp_path, "--to", "mine", "--replace")[0] == 0


def test_nothing_is_written_while_something_is_left_out(repository: Path, tmp_path: Path) -> None:
    (repository / "rides.py").write_text(REPOSITORY + UNKNOWN)
    code, report, _ = imported(tmp_path, "--to", "mine")
    assert code == 5
    assert [(one["noun"], one["name"], one["file"], one["line"]) for one in report["left_out"]] == [
        ("feature", "lists:v", "rides.py", 8),
        ("view", "lists", "rides.py", 8),
    ]
    assert report["files"] == []
    assert not (tmp_path / "mine").exists()
    code, report, _ = imported(tmp_path, "--to", "mine", "--partial")
    assert code == 0
    assert report["files"] == ["antiphon.toml", "definitions.py"]
    assert "lists" not in (tmp_path / "mine" / "definitions.py").read_text()


def test_a_dry_run_writes_nothing(repository: Path, tmp_path: Path) -> None:
    code, report, _ = imported(tmp_path, "--to", "mine", "--dry-run")
    assert code == 0
    assert "class DriverStats:" in report["definitions"]
    assert not (tmp_path / "mine").exists()
    shown = run_in(tmp_path)("features", "import-feast", "rides", "--to", "mine", "--dry-run")
    assert "class DriverStats:" in shown.out
    assert "dry run" in shown.err


def test_wrong_options_are_told(repository: Path, tmp_path: Path) -> None:
    assert imported(tmp_path, "--event-id", "nonsense")[0] == 2
    assert imported(tmp_path, "--online", "ftp://somewhere")[0] == 2
    code, _, said = imported(tmp_path, "--python", "/nowhere/python")
    assert code == 7
    assert "does not run" in said
    assert run_in(tmp_path)("features", "import-feast", "nowhere").code == 3
