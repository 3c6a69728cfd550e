"""The truth about an airport, an airline or a route at a moment, straight from the source events.

It knows nothing of feature views, tiles or stores: sorted arrays and a mean. Two faces of it: what was *known*
(the event had become available) and what was *so* (it had happened, known or not). A departure's delay exists
only once the aircraft has left, so for departures the two are the same; an observation of the weather is so at
its hour and known after its lag.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy

from examples.flight_desk.data import Events, connected

DELAY_WINDOW = timedelta(hours=2)
SHARE_WINDOW = timedelta(days=28)
WIND_WINDOW = timedelta(hours=3)
LATE_MINUTES = 15


class Series(msgspec.Struct, frozen=True):
    """Events of one subject by event time: when each happened, when it was known (microseconds), its measure."""

    happened: Any
    known: Any
    measure: Any

    def visible(self, at: datetime, window: timedelta, *, known: bool) -> Any:
        """Measures of the events with ``at - window < happened <= at``, in order, known by ``at`` if asked."""
        end = round(at.timestamp() * 1_000_000)
        first = numpy.searchsorted(self.happened, end - window // timedelta(microseconds=1), side="right")
        last = numpy.searchsorted(self.happened, end, side="right")
        chosen = slice(first, last)
        if not known:
            return self.measure[chosen]
        return self.measure[chosen][self.known[chosen] <= end]


class Truth(msgspec.Struct, frozen=True):
    """Looks figures up; ``None`` where nothing has been measured. Shares are percentages."""

    delays: Mapping[str, Series]
    carriers: Mapping[str, Series]
    routes: Mapping[tuple[str, str], Series]
    winds: Mapping[str, Series]

    def delay(self, origin: str, at: datetime) -> float | None:
        """Mean departure delay of the origin's last two hours, in minutes, early departures counted as zero."""
        return _mean(self.delays.get(origin), at, DELAY_WINDOW)

    def figures(self, origin: str, carrier: str, dest: str, at: datetime) -> tuple[float, ...]:
        """What a prompt also sees, unrounded: delay, wind, the airline's and the route's share; missing is ``nan``."""
        known = (self.delay(origin, at), self.wind(origin, at), self.carrier(carrier, at), self.route(origin, dest, at))
        return tuple(float("nan") if value is None else value for value in known)

    def carrier(self, carrier: str, at: datetime) -> float | None:
        """Per cent of the airline's flights of 28 days that left more than 15 minutes late."""
        return _mean(self.carriers.get(carrier), at, SHARE_WINDOW)

    def route(self, origin: str, dest: str, at: datetime) -> float | None:
        """Per cent of the route's flights of 28 days that left more than 15 minutes late."""
        return _mean(self.routes.get((origin, dest)), at, SHARE_WINDOW)

    def wind(self, origin: str, at: datetime, *, known: bool = True) -> float | None:
        """The origin's last observed wind in mph: of those known by then, or of all that had been made."""
        series = self.winds.get(origin)
        measures = [] if series is None else series.visible(at, WIND_WINDOW, known=known)
        return float(measures[-1]) if len(measures) else None


def read(events: Events) -> Truth:
    """Index the prepared events."""
    with connected() as connection:
        flights = connection.execute(
            "SELECT origin, carrier, dest, epoch_us(scheduled) AS happened, epoch_us(departed) AS known,"
            " delay_minutes::DOUBLE AS delay, (dep_delay > $late)::INTEGER * 100.0 AS late FROM read_parquet($file)"
            " WHERE dep_delay IS NOT NULL ORDER BY scheduled, event_id",
            {"file": str(events.departures), "late": LATE_MINUTES},
        ).fetchnumpy()
        weather = connection.execute(
            "SELECT origin, epoch_us(observed) AS happened, epoch_us(reported) AS known, wind_speed AS wind"
            " FROM read_parquet($file) WHERE wind_speed IS NOT NULL ORDER BY observed, event_id",
            {"file": str(events.weather)},
        ).fetchnumpy()
    routes = numpy.char.add(flights["origin"].astype("U3"), flights["dest"].astype("U3"))
    by_route = {(name[:3], name[3:]): series for name, series in _grouped(routes, flights, "late").items()}
    return Truth(
        delays=_grouped(flights["origin"], flights, "delay"),
        carriers=_grouped(flights["carrier"], flights, "late"),
        routes=by_route,
        winds=_grouped(weather["origin"], weather, "wind"),
    )


def _grouped(keys: Any, table: Mapping[str, Any], measure: str) -> dict[str, Series]:
    keys = numpy.asarray(keys, dtype="U8")
    found = {}
    for key in numpy.unique(keys):
        rows = keys == key
        columns = (numpy.asarray(table[name])[rows] for name in ("happened", "known", measure))
        found[str(key)] = Series(*columns)
    return found


def _mean(series: Series | None, at: datetime, window: timedelta) -> float | None:
    measures = [] if series is None else series.visible(at, window, known=True)
    return float(numpy.mean(measures)) if len(measures) else None
