"""A Feast repository is read from its syntax: what is declared is read, what is computed is told, and nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.features.feast.repository import FeastField, FeastRepository, Location
from antiphon.features.feast.syntax import places, read_syntax

YAML = "project: rides\nprovider: local\nonline_store:\n  type: redis\n  connection_string: x\n"


def read(folder: Path, **files: str) -> FeastRepository:
    (folder / "feature_store.yaml").write_text(YAML)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return read_syntax(folder)


ENTITIES = 'from feast import Entity\n\ndriver = Entity(name="driver", join_keys=["driver_id"])\n'
VIEWS = """import os
from datetime import timedelta

import feast as f
from feast import FeatureService, Field
from feast.types import Array, Float32, Int64

from entities import driver

FOLDER = os.path.join("data", "v" + "1")
DAY = timedelta(hours=24)
stats = f.FileSource(path=f"{FOLDER}/stats.parquet", timestamp_field="at", created_timestamp_column="made")
fields = [Field(name="rate", dtype=Float32)] + [Field(name="trips", dtype=Int64), Field("tags", Array(Int64))]
view = f.FeatureView(name="stats", entities=[driver], schema=fields, ttl=DAY * 7, source=stats, owner="ops")
service = FeatureService(name="pricing", features=[view[["rate"]], view])
"""


def test_what_is_declared_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, entities=ENTITIES, views=VIEWS)
    assert (found.project, found.unread) == ("rides", ())
    (entity,), (source,), (view,), (service,) = found.entities, found.sources, found.views, found.services
    assert (entity.name, entity.join_keys, entity.at) == ("driver", ("driver_id",), Location("entities.py", 3))
    assert (source.name, source.kind, source.timestamp, source.created) == (
        "data/v1/stats.parquet", "file", "at", "made",
    )  # fmt: skip
    assert (view.entities, view.source, view.ttl, view.owner) == (("driver",), source.name, 7 * 86_400.0, "ops")
    assert view.fields[:2] == (FeastField("rate", "FLOAT"), FeastField("trips", "INT64"))
    assert view.fields[2].type == "ARRAY(INT64)"
    assert [use.features for use in service.uses] == [("rate",), None]
    assert places(tmp_path)["view", "stats"] == Location("views.py", 14)


def test_nothing_of_the_repository_runs(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    text = f"open({str(ran)!r}, 'w').close()\nraise SystemExit(9)\n"
    found = read(tmp_path, entities=text + ENTITIES)
    assert [entity.name for entity in found.entities] == ["driver"]
    assert not ran.exists()


@pytest.mark.parametrize(
    ("text", "noun", "said", "line"),
    [
        ('import os\nfrom feast import FileSource\ns = FileSource(path=os.environ["P"])\n', "FileSource", "environ", 3),
        ('from feast import Entity\nfor n in "ab":\n    e = Entity(name=n)\n', "Entity", "only running the file", 3),
        ('from feast import Entity\nall = [Entity(name=n) for n in "ab"]\n', "Entity", "only running the file", 2),
        ('from feast import Entity\ne = Entity(name="a")\ne = Entity(name="b")\n', "Entity", "only running", 2),
        ("from feast import Entity\ndef make(n):\n    return Entity(name=n)\n", "Entity", "only running the file", 3),
        ("def broken(:\n", "file", "it is not Python", 1),
    ],
)  # fmt: skip
def test_what_is_computed_is_told_with_its_place(tmp_path: Path, text: str, noun: str, said: str, line: int) -> None:
    found = read(tmp_path, some=text)
    assert found.unread, "silence would lose it"
    first = found.unread[0]
    assert (first.noun, first.at) == (noun, Location("some.py", line))
    assert said in first.reason


def test_decorated_functions_are_views(tmp_path: Path) -> None:
    text = (
        "from feast import Field, RequestSource\nfrom feast.on_demand_feature_view import on_demand_feature_view\n"
        "from feast.types import Int64\n"
        'asked = RequestSource(name="asked", schema=[Field(name="n", dtype=Int64)])\n'
        '@on_demand_feature_view(sources=[asked], schema=[Field(name="m", dtype=Int64)], mode="python")\n'
        "def doubled(inputs):\n    return {'m': inputs['n']}\n"
    )
    found = read(tmp_path, some=text)
    (view,) = found.on_demand
    assert (view.name, view.sources, view.mode, view.fields) == (
        "doubled", ("asked",), "python", (FeastField("m", "INT64"),),
    )  # fmt: skip


def test_a_folder_without_settings_is_no_repository(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="feature_store"):
        read_syntax(tmp_path)
    (tmp_path / "feature_store.yaml").write_text("provider: local\n")
    with pytest.raises(InvalidInputError, match="project"):
        read_syntax(tmp_path)
