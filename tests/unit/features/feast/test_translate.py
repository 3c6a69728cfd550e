"""A Feast repository becomes definitions that load; what has no counterpart is told with its place, never dropped."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet
import pytest

from antiphon.core.errors import ConflictError
from antiphon.definitions import project
from antiphon.definitions.project import ProjectSpec
from antiphon.features.feast import render
from antiphon.features.feast.repository import (
    FeastEntity,
    FeastField,
    FeastOnDemand,
    FeastRepository,
    FeastService,
    FeastSource,
    FeastUse,
    FeastView,
    Location,
    UnreadObject,
)
from antiphon.features.feast.translate import Translation, TranslationOptions, translate

DRIVER = FeastEntity("driver", ("driver_id",), Location("a.py", 1))
RIDER = FeastEntity("Rider", ("rider_id",), Location("a.py", 2))
FILE = FeastSource(
    "stats_source", "file", "FileSource", path="data/stats.parquet", timestamp="at", at=Location("a.py", 3)
)
VIEW = FeastView(
    "driver_stats", "FeatureView", "FeatureView", ("driver",),
    (FeastField("rate", "FLOAT"), FeastField("Trips", "INT64")), "stats_source", ttl=5400.0, at=Location("a.py", 9),
)  # fmt: skip
SERVICE = FeastService("Pricing", (FeastUse("driver_stats"),), Location("a.py", 20))


def repository(**changed: Any) -> FeastRepository:
    whole = FeastRepository(
        "rides", "syntax", entities=(DRIVER, RIDER), sources=(FILE,), views=(VIEW,), services=(SERVICE,)
    )
    return msgspec.structs.replace(whole, **changed)


def translated(folder: Path, choices: TranslationOptions | None = None, **changed: Any) -> Translation:
    return translate(repository(**changed), folder, folder, choices)


def loaded(folder: Path, translation: Translation) -> ProjectSpec:
    file = folder / "definitions.py"
    file.write_text(render.definitions_text(translation, "rides"))
    return project.load(file)


def test_a_view_is_the_last_of_its_columns(tmp_path: Path) -> None:
    translation = translated(tmp_path)
    assert translation.left_out == ()
    spec = loaded(tmp_path, translation)
    view = spec.views["driver_stats"]
    assert view.entity.keys == ("driver_id",)
    assert (view.source.kind, view.source.path, view.source.event_time) == (
        "table", str(tmp_path / "data/stats.parquet"), "at",
    )  # fmt: skip
    assert {name: feature.aggregation for name, feature in view.features.items()} == {"rate": "last", "trips": "last"}
    assert view.columns() == {"rate", "Trips"}
    text = render.definitions_text(translation, "rides")
    assert 'DriverStats: Freshness(max_age="90m", when_stale="default")' in text
    assert "pricing = (DriverStats,)" in text


def test_several_entities_are_one_with_all_keys(tmp_path: Path) -> None:
    view = msgspec.structs.replace(VIEW, entities=("driver", "Rider"))
    spec = loaded(tmp_path, translated(tmp_path, views=(view,)))
    assert spec.views["driver_stats"].entity.keys == ("driver_id", "rider_id")


def test_a_columns_mapping_is_followed(tmp_path: Path) -> None:
    source = msgspec.structs.replace(FILE, mapping={"r": "rate"})
    assert loaded(tmp_path, translated(tmp_path, sources=(source,))).views["driver_stats"].columns() == {"r", "Trips"}


def test_a_pushed_source_is_a_stream_once_its_events_have_ids(tmp_path: Path) -> None:
    push = FeastSource("pushed", "push", "PushSource", batch="stats_source", at=Location("a.py", 5))
    view = msgspec.structs.replace(VIEW, source="pushed")
    as_table = translated(tmp_path, sources=(push, FILE), views=(view,))
    assert [(note.name, note.at.line) for note in as_table.findings] == [("driver_stats:Trips", 9), ("pushed", 5)][::-1]
    assert loaded(tmp_path, as_table).views["driver_stats"].source.kind == "table"
    as_stream = translated(tmp_path, TranslationOptions(event_id={"pushed": "id"}), sources=(push, FILE), views=(view,))
    source = loaded(tmp_path, as_stream).views["driver_stats"].source
    assert (source.kind, source.name, source.event_id) == ("stream", "pushed", "id")


def test_with_feasts_server_any_source_and_computed_views_are_served(tmp_path: Path) -> None:
    warehouse = FeastSource("stats_source", "other", "BigQuerySource")
    view = msgspec.structs.replace(VIEW, computed="aggregations", name="Driver-Stats")
    translation = translated(
        tmp_path, TranslationOptions(online=True), sources=(warehouse,), views=(view,), services=()
    )
    assert translation.left_out == ()
    found = loaded(tmp_path, translation).views["driver_stats"]
    assert (found.source.kind, found.source.feast, found.columns()) == ("feast", "Driver-Stats", {"rate", "Trips"})
    settings = render.settings_text(translation, "http://127.0.0.1:6566", "Rides")
    assert tomllib.loads(settings)["feast"] == {"url": "http://127.0.0.1:6566", "project": "Rides"}


ASKED = FeastSource("asked", "request", "RequestSource", fields=(FeastField("extra", "DOUBLE"),))
PLUS = FeastOnDemand(
    "rate_plus", ("driver_stats", "asked"), (FeastField("Sum", "FLOAT"),),
    code='def rate_plus(inputs):\n    return {"Sum": inputs["driver_stats__Trips"] + inputs["extra"]}',
    at=Location("a.py", 30),
)  # fmt: skip


def test_an_on_demand_view_reads_features_and_the_request(tmp_path: Path) -> None:
    service = FeastService("Pricing", (FeastUse("rate_plus"),))
    translation = translated(tmp_path, sources=(FILE, ASKED), on_demand=(PLUS,), services=(service,))
    assert translation.left_out == ()
    assert [finding.what for finding in translation.findings if finding.name == "rate_plus"] == [
        "Feast rounds Sum to single precision, here numbers are double"
    ]
    (view,) = translation.on_demand
    assert (view.inputs, view.features) == ({"extra": "number"}, {"sum": "DriverStats.trips + request.extra"})
    assert translation.services[0].views == ("DriverStats", "RatePlus"), "with what it reads"
    loaded(tmp_path, translation)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sources": ("ghost", "asked")}, "'ghost', which it reads, is left out"),
        ({"mode": "substrait"}, "mode substrait"),
        ({"code": ""}, "not found"),
        ({"fields": (FeastField("Sum", "INT64"),)}, "declared INT64"),
        ({"fields": (FeastField("other", "DOUBLE"),)}, "does not give 'other'"),
        ({"name": "driver_stats"}, "a second one"),
    ],
)
def test_an_on_demand_view_without_counterpart_is_told(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    view = msgspec.structs.replace(PLUS, **changed)
    translation = translated(tmp_path, sources=(FILE, ASKED), on_demand=(view,))
    assert said in translation.left_out[0].what
    assert translation.on_demand == ()


LEFT_OUT: list[tuple[dict[str, Any], str, str, str]] = [
    ({"views": (msgspec.structs.replace(VIEW, entities=()),)}, "view", "driver_stats", "no entity"),
    ({"views": (msgspec.structs.replace(VIEW, entities=("ghost",)),)}, "view", "driver_stats", "'ghost'"),
    ({"views": (msgspec.structs.replace(VIEW, kind="LabelView", type="LabelView"),)}, "view", "driver_stats", "Label"),
    ({"views": (msgspec.structs.replace(VIEW, computed="aggregations"),)}, "view", "driver_stats", "aggregations"),
    ({"views": (msgspec.structs.replace(VIEW, name="7days"),)}, "view", "7days", "name"),
    ({"views": (VIEW, msgspec.structs.replace(VIEW, name="DriverStats"))}, "view", "DriverStats", "both be called"),
    (
        {"views": (msgspec.structs.replace(VIEW, fields=(FeastField("v", "FLOAT_LIST"), FeastField("w", "BOOL"))),)},
        "feature", "driver_stats:v", "FLOAT_LIST",
    ),
    (
        {"views": (msgspec.structs.replace(VIEW, fields=(FeastField("class", "BOOL"), FeastField("w", "BOOL"))),)},
        "feature", "driver_stats:class", "name",
    ),
    (
        {"sources": (FeastSource("stats_source", "other", "BigQuerySource"),)},
        "view", "driver_stats", "BigQuerySource",
    ),
    ({"sources": (msgspec.structs.replace(FILE, path="s3://b/k.parquet"),)}, "source", "stats_source", "s3://"),
    ({"sources": (msgspec.structs.replace(FILE, format="DeltaFormat"),)}, "source", "stats_source", "DeltaFormat"),
    ({"sources": (msgspec.structs.replace(FILE, mapping={"id": "driver_id"}),)}, "view", "driver_stats", "join key"),
    (
        {
            "on_demand": (
                FeastOnDemand("plus", ("driver_stats",), (FeastField("x", "DOUBLE"),), at=Location("a.py", 30)),
            )
        },
        "on-demand view", "plus", "Python function",
    ),
    ({"unread": (UnreadObject("Entity", "e", "it is computed", Location("a.py", 40)),)}, "Entity", "e", "computed"),
    ({"services": (FeastService("s", (FeastUse("ghost"),), Location("a.py", 8)),)}, "service", "s", "'ghost'"),
]  # fmt: skip


@pytest.mark.parametrize(("changed", "noun", "name", "said"), LEFT_OUT, ids=[f"{n}-{s}" for _, n, _, s in LEFT_OUT])
def test_what_has_no_counterpart_is_told(
    tmp_path: Path, changed: dict[str, Any], noun: str, name: str, said: str
) -> None:
    found = [finding for finding in translated(tmp_path, **changed).left_out if finding.noun == noun]
    assert [finding.name for finding in found] == [name]
    assert said in found[0].what


def test_rows_that_mean_another_thing_here_are_counted(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    moment = datetime(2024, 5, 1, tzinfo=UTC)
    rows = {"driver_id": [1, 1, 2], "at": [moment] * 3, "rate": [0.1, 0.2, None], "Trips": [1, 2, 3]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data" / "stats.parquet")
    notes = [finding.what for finding in translated(tmp_path).findings if finding.noun == "view"]
    assert [note.split(":")[0] for note in notes] == [
        "1 rows share entity and event time with another",
        "in 1 rows a feature is null",
    ]
    wrong = msgspec.structs.replace(FILE, timestamp="when")
    assert "no column 'when'" in translated(tmp_path, sources=(wrong,)).left_out[0].what


def test_without_a_schema_every_column_is_a_feature(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = {"driver_id": [1], "at": [datetime(2024, 5, 1, tzinfo=UTC)], "rate": [0.1], "list": [[1]]}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "data" / "stats.parquet")
    translation = translated(tmp_path, views=(msgspec.structs.replace(VIEW, fields=()),))
    assert translation.views[0].features == {"rate": "rate"}
    assert [finding.name for finding in translation.left_out] == ["driver_stats:list"]


def test_definitions_are_never_overwritten_unasked(tmp_path: Path) -> None:
    text = render.definitions_text(translated(tmp_path), "rides")
    assert render.write(tmp_path, text, "[project]\n", replace=False) == ["antiphon.toml", "definitions.py"]
    (tmp_path / "definitions.py").write_text("mine")
    with pytest.raises(ConflictError, match="exists"):
        render.write(tmp_path, text, "[project]\n", replace=False)
    assert (tmp_path / "definitions.py").read_text() == "mine"
    assert render.write(tmp_path, text, "", replace=True) == ["definitions.py"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["antiphon.toml", "definitions.py"]
