"""A project in a notebook: frames in and out, rows kept, values those that are served, policy asked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow
import pyarrow.parquet
import pytest
from tests.integration.services.shops import START, shops

import antiphon
from antiphon.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from antiphon.definitions.application import Freshness
from antiphon.services.export.frames import Project
from antiphon.services.learning.outcomes import dataset_builder, declared_applications


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    opened = shops(tmp_path_factory.mktemp("shops"))
    yield opened
    opened.close()


def rows() -> dict[str, list[Any]]:
    moments = [START + timedelta(days=days) for days in (2.5, 9.5, 0.5, 5)]
    return {"shop": ["tea", 'o"ne|two, ü', "nobody", "bakery"], "moment": moments, "label": [1, 0, 1, 0]}


EXPECTED = {"orders.placed": [3, 10, 0, 6], "orders.latest": [7.0, 29.0, None, 15.0]}


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (pyarrow.table(rows()), pyarrow.Table),
        (pyarrow.table(rows()).to_batches()[0], pyarrow.Table),
        (rows(), pyarrow.Table),
        (pyarrow.table(rows()).to_pylist(), pyarrow.Table),
        (pandas.DataFrame(rows(), index=[7, 7, 3, 1]), pandas.DataFrame),
        (polars.DataFrame(rows()), polars.DataFrame),
        (polars.DataFrame(rows()).lazy(), polars.DataFrame),
    ],
    ids=["table", "batch", "columns", "rows", "pandas", "polars", "lazy"],
)
def test_a_training_set_is_the_rows_with_features(project: Project, given: Any, kind: type) -> None:
    made = project.training_set(given, list(EXPECTED), as_of="moment")
    assert isinstance(made, kind)
    if kind is pandas.DataFrame:
        assert made.index.tolist() == [7, 7, 3, 1]
        made = pyarrow.Table.from_pandas(made, preserve_index=False)
    table = made.to_arrow() if kind is polars.DataFrame else made
    assert table.column_names == ["shop", "moment", "label", *EXPECTED]
    assert table["label"].to_pylist() == [1, 0, 1, 0]
    assert {name: table[name].to_pylist() for name in EXPECTED} == EXPECTED


def test_moments_of_pandas_in_any_unit_and_zone_are_the_same_instants(project: Project) -> None:
    plain = pandas.DataFrame(rows())
    expected = project.training_set(plain, ["orders.placed"], as_of="moment")["orders.placed"].tolist()
    for unit in ("s", "ms", "us", "ns"):
        for zone in ("UTC", "Europe/Berlin", None):
            moment = plain["moment"].dt.tz_convert("UTC" if zone is None else zone)
            moment = (moment.dt.tz_localize(None) if zone is None else moment).dt.as_unit(unit)
            made = project.training_set(plain.assign(moment=moment), ["orders.placed"], as_of="moment")
            assert made["orders.placed"].tolist() == expected, (unit, zone)


def test_a_contract_holds_in_training(project: Project) -> None:
    def with_contract(max_age: str, when_stale: Any) -> list[Any]:
        freshness = {"orders": Freshness(max_age, when_stale=when_stale)}
        made = project.training_set(rows(), ["orders.latest"], as_of="moment", freshness=freshness)
        return list(made["orders.latest"].to_pylist())

    assert with_contract("12h", "default") == EXPECTED["orders.latest"], "exactly as old as allowed"
    assert with_contract("11h", "default") == [None, None, None, 15.0]
    assert with_contract("11h", "reject") == [None, None, None, 15.0]
    assert with_contract("11h", "flag") == EXPECTED["orders.latest"]


def test_on_demand_features_are_computed_of_the_rows_and_of_what_contracts_left(project: Project) -> None:
    given = {**rows(), "cups": [2.0, 4.0, 1.0, None]}
    made = project.training_set(given, ["wait", "orders.placed"], as_of="moment")
    assert made.column_names == [*given, "wait.many", "wait.per_cup", "orders.placed"], "what is read stays away"
    assert made["wait.per_cup"].to_pylist() == [3.5, 7.25, None, None]
    assert made["wait.many"].to_pylist() == [False, True, False, None]
    freshness = {"orders": Freshness("11h", when_stale="default")}
    held = project.training_set(given, ["wait.per_cup"], as_of="moment", freshness=freshness, event_times=True)
    assert held["wait.per_cup"].to_pylist() == [None, None, None, None], "the values are twelve hours old"
    assert held["wait.per_cup.event_time"].to_pylist()[:2] == [START + timedelta(days=days) for days in (2, 9)]
    at = START + timedelta(days=30)
    online = project.online({"shop": ["tea", "nobody"], "cups": [2.0, 2.0]}, ["wait"], event_times=True)
    batch = project.training_set(
        {"shop": ["tea", "nobody"], "cups": [2.0] * 2, "as_of": [at] * 2}, ["wait"], event_times=True
    )
    assert online.to_pylist() == batch.drop_columns(["as_of"]).to_pylist()
    assert online["wait.per_cup"].to_pylist() == [14.0, None]
    with pytest.raises(InvalidInputError, match="no column 'cups'"):
        project.online({"shop": ["tea"]}, ["wait"])


def test_online_and_training_agree(project: Project) -> None:
    asked = {"shop": ["tea", "nobody", "bakery"]}
    at = START + timedelta(days=30)
    online = project.online(asked, ["orders"], event_times=True, to="polars")
    batch = project.training_set({**asked, "as_of": [at] * 3}, ["orders"], event_times=True, to="polars")
    unwindowed = [name for name in online.columns if name != "orders.minutes" and name != "orders.minutes.event_time"]
    assert online.select(unwindowed).to_dicts() == batch.select(unwindowed).to_dicts()
    assert online["orders.courier"].to_list() == ["c9", None, "c9"]
    assert project.online({"shop": []}, ["orders.latest"]).num_rows == 0


def test_several_entities_in_one_table(project: Project) -> None:
    made = project.online(pandas.DataFrame({"shop": ["tea"], "clerk": [1]}), ["orders.placed", "clerks.placed"])
    assert made[["orders.placed", "clerks.placed"]].to_numpy().tolist() == [[10, 10]]


LEARNING = """
from antiphon import FineTune, Outcome, TrainingWindow

asked = Source.table("late", path="late.parquet", event_time="asked", available_at="known", event_id="id")
Application(
    "late-desk", ungated="a test asks at once",
    entities=[shop], features=[Orders], purpose="billing", prompt=Prompt("{{ features.orders.placed }}"),
    figures=[Figure("orders.placed", step=1)],
    output={"type": "object", "properties": {"late": {"type": "string", "enum": ["yes", "no"]}}, "required": ["late"]},
    outcome=Outcome("late", positive="yes", window="1d", history=asked),
    model=FineTune(base="scripted", window=TrainingWindow(history="20d", maturity="1s", embargo="1s"), examples=50),
)
"""


def test_a_dataset_is_a_frame(tmp_path: Path) -> None:
    project = shops(tmp_path, options=", purposes=['billing']")
    try:
        asked = [START + timedelta(days=day, hours=1) for day in range(1, 9)]
        late = {
            "id": [f"q{day}" for day in range(8)], "shop": ["tea", "bakery"] * 4, "asked": asked,
            "known": [moment + timedelta(hours=2) for moment in asked], "late": ["yes", "no", "no", "yes"] * 2,
        }  # fmt: skip
        pyarrow.parquet.write_table(pyarrow.table(late), tmp_path / "late.parquet")
        with (tmp_path / "definitions.py").open("a") as definitions:
            definitions.write(LEARNING)
        project.apply()
        store = project._store
        builder = dataset_builder(store)
        learns = declared_applications(store)(store.scope, "late-desk")
        built = builder.build(builder.plan(learns, kind="training", cutoff=START + timedelta(days=10)))
        with pytest.raises(ForbiddenError, match="feature-purpose"):
            project.dataset(built.id)
        frame = project.dataset(built.id, purpose="billing", to="pandas").sort_values("moment")
        assert frame["label"].tolist() == late["late"]
        # As of each moment, as a training set of the same rows has them.
        again = project.training_set(
            pandas.DataFrame({"shop": late["shop"], "as_of": asked}), ["orders.placed"], purpose="billing"
        )
        assert frame["orders.placed"].tolist() == again["orders.placed"].tolist() == list(range(2, 10))
        with pytest.raises(NotFoundError):
            project.dataset("nothing")
    finally:
        project.close()


def test_published_values_say_what_they_are(project: Project) -> None:
    table = project.values("orders")
    assert sorted(table["shop"].to_pylist()) == sorted(["bakery", "tea", 'o"ne|two, ü'])
    assert table["never"].to_pylist() == [None] * 3
    assert table.schema.metadata[b"antiphon.view"] == b"orders"
    assert isinstance(project.values("orders", to="pandas"), pandas.DataFrame)


@pytest.mark.parametrize(
    ("given", "features", "said"),
    [
        ({"moment": [START]}, ["orders"], "no column 'shop'"),
        ({"shop": ["a"]}, ["orders"], "no column 'moment'"),
        ({"shop": [None], "moment": [START]}, ["orders"], "1 rows have no 'shop'"),
        ({"clerk": [1.0], "moment": [START]}, ["clerks"], "floating-point"),
        ({"shop": ["a"], "moment": [None]}, ["orders"], "moment"),
        ({"shop": ["a"], "moment": [START], "orders.placed": [1]}, ["orders"], "already"),
        ({"shop": ["a", 1], "moment": [START] * 2}, ["orders"], "no table"),
        (7, ["orders"], "int is no table"),
        ("nowhere.parquet", ["orders"], "no file"),
        ({"shop": ["a"], "moment": [START]}, "orders", "list of texts"),
        ({"shop": ["a"], "moment": [START]}, [], "list of texts"),
    ],
)
def test_what_is_no_table_of_entities_is_told(project: Project, given: Any, features: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        project.training_set(given, features, as_of="moment")


def test_unknown_features_are_told(project: Project) -> None:
    for name in ("ghosts", "orders.ghost"):
        with pytest.raises(NotFoundError, match="No such feature is applied"):
            project.online({"shop": ["tea"]}, [name])
    with pytest.raises(InvalidInputError, match="arrow, pandas and polars"):
        project.online({"shop": ["tea"]}, ["orders"], to="spark")
    with pytest.raises(NotFoundError, match=r"antiphon\.toml"):
        antiphon.open("/nowhere")


def test_policy_is_asked_and_the_audit_log_told(tmp_path: Path) -> None:
    project = shops(tmp_path, options=", purposes=['billing']")
    try:
        for read in (
            lambda **more: project.online({"shop": ["tea"]}, ["orders"], **more),
            lambda **more: project.training_set({"shop": ["tea"], "as_of": [START]}, ["orders"], **more),
            lambda **more: project.values("orders", **more),
        ):
            with pytest.raises(ForbiddenError, match="may not export view/orders"):
                read()
            assert read(purpose="billing") is not None
        told = [
            record.action for record in project._store.audit.query(project._store.scope)
            if record.action.startswith("features.")
        ]  # fmt: skip
        assert told == ["features.read"] * 3
    finally:
        project.close()
