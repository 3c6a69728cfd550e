"""A small project of shops, applied and published, for tests of what leaves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

import antiphon
from antiphon.services.export.frames import Project

START = datetime(2024, 5, 1, tzinfo=UTC)

DEFINITIONS = """
from antiphon import Application, Entity, Figure, Prompt, Source, col, count, feature_view, last, mean
from antiphon import on_demand, on_demand_view, request

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.parquet", event_time="at")

@feature_view(entity=shop, source=orders{options})
class Orders:
    placed = count(window=None)
    minutes = mean(col.minutes, window="10d", scale="0.01")
    latest = last(col.minutes)
    courier = last(col.courier)
    never = last(col.never)

@feature_view(entity=Entity("clerk", keys=["clerk"]), source=orders)
class Clerks:
    placed = count(window=None)

@on_demand_view(inputs={{"cups": "number"}})
class Wait:
    per_cup = on_demand(Orders.latest / request.cups)
    many = on_demand(request.cups > 2)

desk = Application(
    "desk", ungated="a test asks at once",
    entities=[shop], features=[Orders, Wait], model="scripted", purpose="billing", prompt=Prompt("Hello."),
)
"""

SETTINGS = """[project]
name = "shops"
environment = "{environment}"
[engine]
kind = "simulated"
models = ["scripted"]
"""


def write_orders(root: Path, days: int = 10) -> None:
    """An order a day for each of three shops; one shop's name needs quoting everywhere."""
    rows: list[dict[str, Any]] = [
        {
            "shop": shop, "clerk": number, "at": START + timedelta(days=day), "minutes": float(day * 3 + number),
            "courier": f"c{day}", "never": None,
        }
        for day in range(days)
        for number, shop in enumerate(("bakery", "tea", 'o"ne|two, ü'))
    ]  # fmt: skip
    types = [
        ("shop", pyarrow.string()), ("clerk", pyarrow.int64()), ("at", pyarrow.timestamp("us", "UTC")),
        ("minutes", pyarrow.float64()), ("courier", pyarrow.string()), ("never", pyarrow.float64()),
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(types)), root / "orders.parquet")


def shops(root: Path, *, options: str = "", more: str = "", environment: str = "dev") -> Project:
    """The project, opened; close it."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "antiphon.toml").write_text(SETTINGS.format(environment=environment) + more)
    (root / "definitions.py").write_text(DEFINITIONS.format(options=options))
    write_orders(root)
    project: Project = antiphon.open(root)
    project.apply()
    project.refresh()
    return project
