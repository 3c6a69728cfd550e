"""Names of datasets by their places, without secrets and without the project's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.core.scope import Scope
from antiphon.definitions.feature import FeatureSpec
from antiphon.definitions.following import FileDrop, NatsSubject, PostgresTable
from antiphon.definitions.nodes import ColumnNode
from antiphon.definitions.source import SourceSpec
from antiphon.services.lineage.naming import DatasetNames, _type

NAMES = DatasetNames.of(Scope("shop", "prod"), Path("/srv/desk"), None)
OWN = "antiphon://shop/prod"


def source(kind: str = "table", **fields: object) -> SourceSpec:
    return SourceSpec("orders", kind, "at", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        (source(path="/srv/desk/data/orders.csv"), [(OWN, "file/data/orders.csv")]),
        (source(path="/mnt/shared/*.parquet"), [("file", "/mnt/shared/*.parquet")]),
        (source(path="s3://lake/orders/*.parquet"), [("s3://lake", "orders/*.parquet")]),
        (
            source(url="postgresql://reader@db:6432/shop", table="sales.orders"),
            [("postgres://db:6432", "shop.sales.orders")],
        ),
        (source(url="postgresql://reader@db/shop", table="orders"), [("postgres://db:5432", "shop.public.orders")]),
        (source(url="postgres://db/shop", query="SELECT 'ann'"), [("postgres://db:5432", "shop.query of orders")]),
        (source("stream", path="/srv/desk/old.csv"), [(OWN, "source/stream/orders"), (OWN, "file/old.csv")]),
        (
            source(
                "stream", follow=PostgresTable(url="postgresql://reader@db:6432/shop", table="orders", watermark="n")
            ),
            [(OWN, "source/stream/orders"), ("postgres://db:6432", "shop.public.orders")],
        ),
        (
            source("stream", follow=NatsSubject(url="nats://bus", stream="WEB", subject="web.>")),
            [(OWN, "source/stream/orders"), ("nats://bus:4222", "WEB.web.>")],
        ),
        (
            source("stream", follow=FileDrop("/srv/desk/inbox/*.csv")),
            [(OWN, "source/stream/orders"), (OWN, "file/inbox/*.csv")],
        ),
        (source("feast", feast="sales"), [(OWN, "source/feast/sales")]),
    ],
)
def test_a_source_is_named_by_its_place(declared: SourceSpec, named: list[tuple[str, str]]) -> None:
    assert [(one.namespace, one.name) for one in NAMES.sources(declared)] == named


def test_a_query_over_sources_reads_each_of_them() -> None:
    parts = (source(path="/srv/desk/a.csv"), source(path="/srv/desk/b.csv"))
    found = list(NAMES.sources(source(sql="SELECT 1", over=parts)))
    assert [one.name for one in found] == ["file/a.csv", "file/b.csv"]
    assert {one.alias for one in found} == {(OWN, "source/orders")}


def test_a_pattern_below_a_folder_with_special_characters_is_named_without_it() -> None:
    names = DatasetNames.of(Scope(), Path("/srv/[old] desk"), None)
    assert names.place("source", "/srv/[[]old] desk/a*.csv").name == "file/a*.csv"


def test_the_settings_may_name_the_namespace() -> None:
    assert DatasetNames.of(Scope(), Path("/srv"), "prod-desk").own("model", "desk", "desk.v1").namespace == "prod-desk"


@pytest.mark.parametrize(
    ("feature", "type"),
    [
        (FeatureSpec("count", None, None, None, None), "integer"),
        (FeatureSpec("mean", ColumnNode("paid"), None, None, "0.01"), "number"),
        (FeatureSpec("last", ColumnNode("paid"), None, None, None), "double"),
        (FeatureSpec("last", ColumnNode("other"), None, None, None), "unknown"),
        (FeatureSpec("last", ColumnNode("paid"), None, None, "0.5"), "number"),
    ],
)
def test_a_feature_has_the_type_of_what_it_aggregates(feature: FeatureSpec, type: str) -> None:
    assert _type(feature, {"paid": "double"}) == type
