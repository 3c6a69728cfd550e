"""A small airport: views of two sources, and flights to fill them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tests.integration.features.world import NOON, minutes

from antiphon import Entity, Source, col, count, feature_view, last, mean
from antiphon.definitions.feature_view import FeatureViewSpec

ORIGIN = Entity("origin", ["origin"])
ROUTE = Entity("route", ["origin", "dest"])


def flight(number: int, scheduled: datetime, delay: float | None, origin: str = "EWR", dest: str = "SFO") -> Any:
    departed = scheduled + minutes(delay if delay is not None else 180)
    return {
        "id": f"f{number}",
        "origin": origin,
        "dest": dest,
        "scheduled": scheduled,
        "departed": departed,
        "dep_delay": delay,
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("origin", pa.string()),
            ("dest", pa.string()),
            ("scheduled", stamp),
            ("departed", stamp),
            ("dep_delay", pa.float64()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def history() -> list[dict[str, Any]]:
    """Thirty days of one flight an hour from two origins, before noon; delays from -9 to 40 minutes."""
    return [
        flight(n, NOON - minutes(60 * (n // 2 + 1)), float(n * 7 % 50 - 9), "EWR" if n % 2 else "LGA")
        for n in range(2 * 24 * 30)
    ]


def specs(path: Path) -> tuple[FeatureViewSpec, FeatureViewSpec]:
    departures = Source.stream(
        "departures", history=str(path), event_time="scheduled", available_at="departed", event_id="id"
    )

    @feature_view(entity=ORIGIN, source=departures)
    class Congestion:
        departures_2h = count(window="2h")
        delay_2h = mean(col.dep_delay, window="2h", scale="0.01")
        latest = last(col.dep_delay)

    @feature_view(entity=ROUTE, source=departures)
    class RouteHistory:
        late_share = mean(col.dep_delay > 15, window="28d")
        flights = count(window="28d")

    return Congestion.spec(), RouteHistory.spec()
